//! Requests that end: time-outs, redirects followed by hand, new tries where they may help, one sentence where not.

use crate::{Error, ErrorKind, Result, Settings};
use reqwest::blocking::{Client, Response};
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LINK, LOCATION, RETRY_AFTER,
};
use reqwest::{Method, Url, redirect};
use std::io::Read;
use std::time::Duration;

/// Requests of one kind before it is given up.
pub(crate) const TRIES: u32 = 5;
/// A server that asks for a longer pause is taken at its word: the user hears of it.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const REDIRECTS: usize = 10;
/// Of a listing's page, which the Hub keeps far below.
const LARGEST_PAGE: u64 = 64 << 20;

/// Why one try failed.
pub(crate) enum Trouble {
    /// It may pass; the server may have said when.
    Passing { why: Error, after: Option<Duration> },
    /// Nothing came for as long as anybody waits.
    Silent(Error),
    /// It will not pass.
    Lasting(Error),
}

impl From<Error> for Trouble {
    fn from(e: Error) -> Self {
        Self::Lasting(e)
    }
}

impl Trouble {
    fn passing(why: impl Into<String>) -> Self {
        Self::Passing { why: Error::new(ErrorKind::Unreachable, why), after: None }
    }

    fn lasting(kind: ErrorKind, why: impl Into<String>) -> Self {
        Self::Lasting(Error::new(kind, why))
    }

    pub(crate) fn error(self) -> Error {
        match self {
            Self::Passing { why, .. } | Self::Silent(why) | Self::Lasting(why) => why,
        }
    }
}

/// One try.
pub(crate) type Try<T> = std::result::Result<T, Trouble>;

/// The client.
pub(crate) struct Http {
    client: Client,
    hub: Url,
    token: Option<HeaderValue>,
    patience: Duration,
    pause: Duration,
    pub(crate) most_unannounced: u64,
}

impl Http {
    pub(crate) fn new(settings: &Settings) -> Result<Self> {
        let hub = Url::parse(&settings.endpoint);
        let hub = hub.map_err(|e| Error::new(ErrorKind::Input, format!("{} is no address: {e}", settings.endpoint)))?;
        let token = settings.token.as_ref().map(|token| HeaderValue::from_str(&format!("Bearer {token}"))).transpose();
        let token = token.map_err(|_| {
            Error::new(ErrorKind::Input, "the token of the Hub has characters that no token has; set HF_TOKEN anew")
        })?;
        let client = Client::builder()
            .user_agent(concat!("langevin/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .connect_timeout(settings.patience)
            .timeout(settings.patience) // of a blocking client: for the answer, and for each piece of it
            .build()
            .map_err(|e| Error::new(ErrorKind::Local, format!("no connection can be set up: {}", root(&e))))?;
        let Settings { patience, pause, most_unannounced, .. } = *settings;
        Ok(Self { client, hub, token, patience, pause, most_unannounced })
    }

    /// `ENDPOINT/parts.../path`: a part is one segment whatever is in it, a path one for each of its names.
    pub(crate) fn url(&self, parts: &[&str], path: &str) -> Result<Url> {
        let mut url = self.hub.clone();
        let names = parts.iter().copied().chain(path.split('/').filter(|name| !name.is_empty()));
        match url.path_segments_mut() {
            Ok(mut segments) => segments.pop_if_empty().extend(names),
            Err(()) => return Err(Error::new(ErrorKind::Input, format!("{} is no address of a Hub", self.hub))),
        };
        Ok(url)
    }

    /// One request, without following redirects. What is not 2xx, 3xx or 416 is trouble.
    pub(crate) fn ask(&self, method: Method, url: &Url, headers: &[(HeaderName, String)]) -> Try<Response> {
        let mut request = self.client.request(method, url.clone()).header(ACCEPT_ENCODING, "identity");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        // Nobody but the Hub itself learns the token.
        if let Some(token) = self.token.as_ref().filter(|_| url.origin() == self.hub.origin()) {
            request = request.header(AUTHORIZATION, token);
        }
        let answer = request.send().map_err(|e| self.lost(&e))?;
        let status = answer.status();
        if status.is_success() || status.is_redirection() || status.as_u16() == 416 {
            return Ok(answer);
        }
        Err(self.refusal(status.as_u16(), answer.headers()))
    }

    /// A GET whose redirects are followed, to the last answer.
    pub(crate) fn get(&self, url: &Url, headers: &[(HeaderName, String)]) -> Try<Response> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS {
            let answer = self.ask(Method::GET, &url, headers)?;
            if !answer.status().is_redirection() {
                return Ok(answer);
            }
            url = next(&url, answer.headers())?;
        }
        Err(circle(&url))
    }

    /// A HEAD whose redirects are followed until one names the file's ETag. The Hub redirects renamed repositories
    /// to itself, and large files to storage that no longer knows what the Hub calls them.
    pub(crate) fn head(&self, url: &Url) -> Try<(Url, Response)> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS {
            let answer = self.ask(Method::HEAD, &url, &[])?;
            if !answer.status().is_redirection() || answer.headers().contains_key("x-linked-etag") {
                return Ok((url, answer));
            }
            url = next(&url, answer.headers())?;
        }
        Err(circle(&url))
    }

    /// A page of the API, asked for `tries` times at most, and the address of the page after it.
    pub(crate) fn json(&self, url: &Url, tries: u32) -> Result<(serde_json::Value, Option<Url>)> {
        self.again(tries, || {
            let answer = self.get(url, &[])?;
            let link = answer.headers().get(LINK).and_then(|link| link.to_str().ok()).and_then(after).map(String::from);
            let mut text = Vec::new();
            answer.take(LARGEST_PAGE).read_to_end(&mut text).map_err(|e| self.cut(&e))?;
            let value = serde_json::from_slice(&text).map_err(|_| {
                Trouble::lasting(ErrorKind::Answer, format!("what {url} answers is not JSON, so it is no Hub"))
            })?;
            let more = link.and_then(|link| url.join(&link).ok()).filter(|more| more.origin() == url.origin());
            Ok((value, more))
        })
    }

    /// Tries until it works, cannot work, or has failed `tries` times.
    pub(crate) fn again<T>(&self, tries: u32, mut work: impl FnMut() -> Try<T>) -> Result<T> {
        let mut failed = 0;
        loop {
            match work() {
                Ok(value) => return Ok(value),
                Err(trouble) => {
                    failed += 1;
                    self.wait(trouble, failed, tries)?;
                }
            }
        }
    }

    /// Sleeps before the next try, or says why there is none.
    pub(crate) fn wait(&self, trouble: Trouble, failed: u32, tries: u32) -> Result<()> {
        let Trouble::Passing { why, after } = trouble else {
            return Err(trouble.error());
        };
        if let Some(after) = after.filter(|&after| after > LONGEST_PAUSE) {
            let text = format!("{why}, and asks to come back in {} s", after.as_secs());
            return Err(Error::new(why.kind(), text));
        }
        if failed >= tries {
            let text = if tries > 1 { format!("{why}, {tries} times") } else { why.to_string() };
            return Err(Error::new(why.kind(), text));
        }
        std::thread::sleep(after.unwrap_or(self.pause * 2u32.pow(failed - 1).min(16)));
        Ok(())
    }

    /// A connection that does not come about, or an answer that does not.
    fn lost(&self, e: &reqwest::Error) -> Trouble {
        if e.is_connect() {
            let why = format!("no connection ({})", root(e));
            // A certificate that is wrong now is wrong in a second.
            let lasting = why.contains("certificate");
            return if lasting { Trouble::lasting(ErrorKind::Unreachable, why) } else { Trouble::passing(why) };
        }
        if e.is_timeout() {
            return self.silent();
        }
        Trouble::passing(format!("the connection was lost ({})", root(e)))
    }

    /// A body that breaks off.
    pub(crate) fn cut(&self, e: &std::io::Error) -> Trouble {
        if e.kind() == std::io::ErrorKind::TimedOut {
            return self.silent();
        }
        Trouble::passing(format!("the connection was lost ({})", root(e)))
    }

    fn silent(&self) -> Trouble {
        let seconds = self.patience.as_secs_f64();
        let why = format!("the server has sent nothing for {seconds} s; HF_HUB_DOWNLOAD_TIMEOUT=SECONDS waits longer");
        Trouble::Silent(Error::new(ErrorKind::Unreachable, why))
    }

    fn refusal(&self, status: u16, headers: &HeaderMap) -> Trouble {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let message = match text("x-error-message") {
            "" => String::new(),
            said => format!(" ({})", said.chars().filter(|c| !c.is_control()).take(300).collect::<String>()),
        };
        if matches!(status, 408 | 429 | 500 | 502 | 503 | 504) {
            let after = text(RETRY_AFTER.as_str()).trim().parse().ok().map(Duration::from_secs);
            let why = Error::new(ErrorKind::Unreachable, format!("the server answered {status}{message}"));
            return Trouble::Passing { why, after };
        }
        let (kind, why) = match (status, text("x-error-code")) {
            (401 | 403, "GatedRepo") => (
                ErrorKind::Denied,
                "it is gated: accept its terms on its page, and set HF_TOKEN to a token of that account",
            ),
            (401, _) if self.token.is_some() => {
                (ErrorKind::Denied, "the server refuses the token; set HF_TOKEN to a valid one")
            }
            (401, _) => (
                ErrorKind::NoRepo,
                "there is no such repository, or it is private: set HF_TOKEN to a token that may read it",
            ),
            (403, _) => return Trouble::lasting(ErrorKind::Denied, format!("the server forbids it: 403{message}")),
            (404, "EntryNotFound") => (ErrorKind::NoFile, "there is no such file in the repository"),
            (404, "RevisionNotFound") => (ErrorKind::NoRevision, "the repository has no such branch, tag or commit"),
            (404, "RepoNotFound") => (ErrorKind::NoRepo, "there is no such repository, or the token may not see it"),
            _ => return Trouble::lasting(ErrorKind::Answer, format!("the server answered {status}{message}")),
        };
        Trouble::lasting(kind, why)
    }
}

/// Where a redirect leads.
fn next(from: &Url, headers: &HeaderMap) -> Try<Url> {
    let to = headers.get(LOCATION).and_then(|to| to.to_str().ok()).and_then(|to| from.join(to).ok());
    let Some(to) = to else {
        return Err(Trouble::lasting(ErrorKind::Answer, "the server redirects to nowhere"));
    };
    let weaker = from.scheme() == "https" && to.scheme() != "https";
    if weaker || !matches!(to.scheme(), "http" | "https") {
        return Err(Trouble::lasting(
            ErrorKind::Answer,
            format!("the server redirects to {}://, which is refused", to.scheme()),
        ));
    }
    Ok(to)
}

fn circle(url: &Url) -> Trouble {
    let host = url.host_str().unwrap_or_default();
    Trouble::lasting(ErrorKind::Answer, format!("the server redirects in a circle ({REDIRECTS} times, last to {host})"))
}

/// The address in `<address>; rel="next"`.
fn after(link: &str) -> Option<&str> {
    let link = link.split(',').find(|link| link.contains("rel=\"next\""))?;
    Some(link.trim().strip_prefix('<')?.split_once('>')?.0)
}

/// The innermost of an error's causes, which says most in fewest words.
fn root(e: &dyn std::error::Error) -> String {
    let mut e = e;
    while let Some(inner) = e.source() {
        e = inner;
    }
    e.to_string()
}
