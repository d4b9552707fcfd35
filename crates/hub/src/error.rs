//! One sentence, and what kind of trouble it is, for callers that can go another way.

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The repository has no such file.
    NoFile,
    /// The repository has no such branch, tag or commit.
    NoRevision,
    /// There is no such repository, or it is private: without a token the Hub does not tell which.
    NoRepo,
    /// The token is refused or missing, or may not do this.
    Denied,
    /// `HF_HUB_OFFLINE` is set and the cache does not have it.
    NotCached,
    /// No answer, a lost connection, or a server that is overloaded, after all tries.
    Unreachable,
    /// What came is not what was announced.
    Damaged,
    /// The server answered with something else that cannot be used.
    Answer,
    /// A file or folder of this machine cannot be read or written.
    Local,
    /// A name, path or setting that makes no sense.
    Input,
}

/// A sentence that names the thing, what is wrong with it and what to do.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    kind: ErrorKind,
    text: String,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    /// What kind of trouble this is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Names the thing in front of what is wrong with it.
    pub(crate) fn of(self, what: &str) -> Self {
        Self { text: format!("{what}: {}", self.text), ..self }
    }

    pub(crate) fn local(path: &std::path::Path, e: std::io::Error) -> Self {
        Self::new(ErrorKind::Local, format!("{}: {e}", path.display()))
    }
}
