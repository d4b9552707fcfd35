//! Names of repositories, revisions and files; none of them may leave the folder that it belongs in.

use crate::{Error, ErrorKind, Result};
use std::fmt;

/// A repository and a revision of it: `owner/name[@revision]`, or `datasets/owner/name[@revision]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id {
    pub(crate) dataset: bool,
    pub(crate) name: String,
    pub(crate) revision: String,
}

impl Id {
    /// Reads `[datasets/]owner/name[@revision]`; without a revision it is `main`.
    ///
    /// # Errors
    /// Where this cannot be the name of a repository or of a revision.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            let text = text.escape_debug();
            Err(Error::new(
                ErrorKind::Input,
                format!("`{text}` {why}; repositories are owner/name or owner/name@revision"),
            ))
        };
        let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (dataset, name) = match name.strip_prefix("datasets/") {
            Some(name) => (true, name),
            None => (false, name),
        };
        if name.split('/').count() > 2 {
            return wrong("has more than one slash");
        }
        let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        for part in name.split('/') {
            if part.is_empty() {
                return wrong("lacks a name");
            }
            let edge = part.starts_with(['-', '.']) || part.ends_with(['-', '.']);
            if part.len() > 96 || edge || part.contains("--") || part.contains("..") || !part.chars().all(fine) {
                return wrong("cannot be the name of a repository");
            }
        }
        if safe(revision).is_err() {
            return wrong("names a revision that cannot be");
        }
        Ok(Self { dataset, name: name.into(), revision: revision.into() })
    }

    /// Whether it is a dataset and not a model.
    pub fn is_dataset(&self) -> bool {
        self.dataset
    }

    /// `owner/name`, or `name` alone for the oldest repositories.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A branch, a tag or a commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// `models` or `datasets`, as the API has it.
    pub(crate) fn kind(&self) -> &'static str {
        if self.dataset { "datasets" } else { "models" }
    }

    /// The path of its page.
    pub(crate) fn page(&self) -> String {
        if self.dataset { format!("datasets/{}", self.name) } else { self.name.clone() }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let revision = if self.revision == "main" { String::new() } else { format!("@{}", self.revision) };
        write!(f, "{}{revision}", self.name)
    }
}

/// Whether a commit is named, which no later push can change.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}

/// That a path of a repository stays inside the folder it is joined to, on any system.
///
/// # Errors
/// For absolute paths, `..`, drives, backslashes and control characters.
pub fn safe(path: &str) -> Result<()> {
    let drive = path.as_bytes().get(1) == Some(&b':') && path.as_bytes()[0].is_ascii_alphabetic();
    let odd = path.contains('\\') || path.chars().any(char::is_control);
    if drive || odd || path.len() > 1000 || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        let path = path.escape_debug().to_string();
        return Err(Error::new(ErrorKind::Input, format!("`{path}` is no path inside a repository, and is refused")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_and_names_that_cannot_be() {
        let id = Id::parse("datasets/ylecun/mnist@refs/convert/parquet").unwrap();
        assert_eq!((id.dataset, &*id.name, &*id.revision), (true, "ylecun/mnist", "refs/convert/parquet"));
        assert_eq!(Id::parse("google/ddpm-cifar10-32").unwrap().revision, "main");
        assert_eq!(Id::parse("gpt2").unwrap().name, "gpt2");
        for wrong in [
            "",
            "/",
            "a/",
            "/b",
            "a/b/c",
            "a/..",
            "../b",
            "a/b@",
            "a/b@../../x",
            "a/b@/etc",
            "a b/c",
            "a--b/c",
            "a/b\0",
        ] {
            assert_eq!(Id::parse(wrong).map_err(|e| e.kind()), Err(ErrorKind::Input), "{wrong:?}");
        }
    }

    #[test]
    fn paths_stay_inside() {
        for fine in ["a", "unet/config.json", "a b/ä.bin", "x..y", "..."] {
            assert!(safe(fine).is_ok(), "{fine:?}");
        }
        for wrong in
            ["", "..", "a/../b", "/etc/passwd", "C:/x", "c:x", "a\\b", "a//b", "a/", "./a", "a\nb", "\\\\host\\share"]
        {
            assert!(safe(wrong).is_err(), "{wrong:?}");
        }
    }
}
