//! Where the Hub and the cache are, from the environment variables that Python's huggingface_hub reads.

use crate::{Error, ErrorKind, Result};
use std::env::{home_dir, var, var_os};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// How the Hub is reached and where files are kept.
#[derive(Clone)]
pub struct Settings {
    /// Address of the Hub, without a slash at its end (`HF_ENDPOINT`).
    pub endpoint: String,
    /// Folder of the cache (`HF_HUB_CACHE`, else `$HF_HOME/hub`, else `~/.cache/huggingface/hub`).
    pub cache: PathBuf,
    /// Who asks (`HF_TOKEN`, else the file `HF_TOKEN_PATH` or `$HF_HOME/token`).
    pub token: Option<String>,
    /// Ask nobody, use the cache alone (`HF_HUB_OFFLINE`).
    pub offline: bool,
    /// How long a server may stay silent (`HF_HUB_DOWNLOAD_TIMEOUT`, in seconds; 30 s).
    pub patience: Duration,
    /// The pause before the second try; it doubles for each later one.
    pub pause: Duration,
    /// The most bytes of a file whose length the server does not announce, as the Hub does of every file (1 GiB).
    pub most_unannounced: u64,
}

impl Settings {
    /// What the environment says.
    ///
    /// # Errors
    /// Where a variable makes no sense, or no folder for the cache can be told.
    pub fn from_env() -> Result<Self> {
        let wrong =
            |name: &str, why: &str| Error::new(ErrorKind::Input, format!("the environment variable {name} {why}"));
        let endpoint = text("HF_ENDPOINT").unwrap_or("https://huggingface.co".into());
        let endpoint = endpoint.trim_end_matches('/').to_string();
        let web = reqwest::Url::parse(&endpoint).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        if !web {
            return Err(wrong("HF_ENDPOINT", &format!("is {endpoint}, which is no address; it begins with https://")));
        }
        let home = folder("HF_HOME")
            .or_else(|| folder("XDG_CACHE_HOME").map(|dir| dir.join("huggingface")))
            .or_else(|| home_dir().map(|dir| dir.join(".cache/huggingface")));
        let cache = folder("HF_HUB_CACHE")
            .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| home.as_ref().map(|home| home.join("hub")))
            .ok_or_else(|| {
                wrong("HF_HOME", "is not set and there is no home folder; set it to a folder for downloads")
            })?;
        let patience = match text("HF_HUB_DOWNLOAD_TIMEOUT") {
            None => 30.,
            Some(seconds) => seconds.parse().ok().filter(|s| (0.001..1e6).contains(s)).ok_or_else(|| {
                wrong("HF_HUB_DOWNLOAD_TIMEOUT", &format!("is {seconds}, which is no number of seconds"))
            })?,
        };
        Ok(Self {
            endpoint,
            cache,
            token: if yes("HF_HUB_DISABLE_IMPLICIT_TOKEN") { None } else { token(home) },
            offline: yes("HF_HUB_OFFLINE"),
            patience: Duration::from_secs_f64(patience),
            pause: Duration::from_millis(500),
            most_unannounced: 1 << 30,
        })
    }
}

/// A variable that is set to something.
fn text(name: &str) -> Option<String> {
    var(name).ok().map(|s| s.trim().to_string()).filter(|s| !s.is_empty())
}

fn yes(name: &str) -> bool {
    text(name).is_some_and(|s| matches!(s.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
}

fn folder(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(var_os(name).filter(|s| !s.is_empty())?);
    match (path.strip_prefix("~"), home_dir()) {
        (Ok(rest), Some(home)) => Some(home.join(rest)),
        _ => Some(path),
    }
}

fn token(home: Option<PathBuf>) -> Option<String> {
    let file = || fs::read_to_string(folder("HF_TOKEN_PATH").or_else(|| home.map(|home| home.join("token")))?).ok();
    let token = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")).or_else(file)?;
    Some(token.trim().to_string()).filter(|token| !token.is_empty())
}
