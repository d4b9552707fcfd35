//! A folder to the Hub, through hf-hub, which knows how large files are uploaded.

use crate::http::{Http, TRIES};
use crate::{Error, ErrorKind, Id, Result, Settings};
use hf_hub::{HFClient, HFClientSync, HFError, HFRepositorySync, RepoType, RepoTypeDataset, RepoTypeModel};
use std::path::Path;
use std::time::Duration;

/// Hashing and storing a large commit keeps a server silent for long.
const COMMIT_PATIENCE: Duration = Duration::from_secs(600);
/// What is of this machine and not of the model.
const NOT_SENT: [&str; 4] = [".git/**", ".cache/**", "**/.DS_Store", "**/*.incomplete"];

/// What is uploaded, and where to.
#[derive(Clone, Debug)]
pub struct Push<'a> {
    /// The folder.
    pub folder: &'a Path,
    /// The repository, and the branch where it is not `main`. Both are made if they do not exist.
    pub to: Id,
    /// Whether a repository that is made is private.
    pub private: bool,
    /// The commit's title.
    pub message: &'a str,
}

/// Uploads a folder in one commit, and gives the address of the repository.
///
/// # Errors
/// Without a token, without files, and for whatever the server refuses.
pub fn push(what: &Push, settings: &Settings) -> Result<String> {
    let id = &what.to;
    if settings.offline {
        return Err(Error::new(ErrorKind::Input, "HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it"));
    }
    let Some(token) = &settings.token else {
        let page = "https://huggingface.co/settings/tokens";
        return Err(Error::new(
            ErrorKind::Denied,
            format!("uploads need a token: set HF_TOKEN to one that may write ({page})"),
        ));
    };
    if !id.name.contains('/') {
        return Err(Error::new(ErrorKind::Input, format!("`{}` lacks an owner; repositories are owner/name", id.name)));
    }
    let mut files = std::fs::read_dir(what.folder).map_err(|e| Error::local(what.folder, e))?;
    if files.next().is_none() {
        return Err(Error::new(
            ErrorKind::Input,
            format!("{} is empty; there is nothing to upload", what.folder.display()),
        ));
    }
    // hf-hub would wait for a server that is silent or down once for each of its tries.
    let http = Http::new(settings)?;
    let page = http.url(&["api", id.kind()], &id.name)?;
    if let Err(e) = http.json(&page, TRIES)
        && e.kind() == ErrorKind::Unreachable
    {
        return Err(e.of(&format!("{id} at {}", settings.endpoint)));
    }
    let done = match id.dataset {
        true => send(what, settings, token, RepoTypeDataset),
        false => send(what, settings, token, RepoTypeModel),
    };
    done.map_err(|e| Error::new(kind(&e), sentence(&e)).of(&format!("{id} at {}", settings.endpoint)))?;
    Ok(format!("{}/{}", settings.endpoint, id.page()))
}

fn send<T: RepoType + Copy>(
    what: &Push,
    settings: &Settings,
    token: &str,
    kind: T,
) -> std::result::Result<(), HFError> {
    let (owner, name) = what.to.name.split_once('/').unwrap_or_default();
    let quick = client(settings, token, settings.patience)?;
    quick.create_repository().repo_id(&what.to.name).repo_type(kind).private(what.private).exist_ok(true).send()?;
    let revision = what.to.revision.as_str();
    if revision != "main" {
        match HFRepositorySync::new(quick, kind, owner, name).create_branch().branch(revision).send() {
            Err(HFError::Conflict { .. }) | Ok(()) => {} // it is there already, or now
            Err(e) => return Err(e),
        }
    }
    let patient = client(settings, token, COMMIT_PATIENCE.max(settings.patience))?;
    let ignored = NOT_SENT.map(String::from).to_vec();
    let folder = HFRepositorySync::new(patient, kind, owner, name);
    folder
        .upload_folder()
        .folder_path(what.folder)
        .revision(revision)
        .commit_message(what.message)
        .ignore_patterns(ignored)
        .send()?;
    Ok(())
}

/// hf-hub's client with time-outs, which its own lacks.
fn client(settings: &Settings, token: &str, silence: Duration) -> std::result::Result<HFClientSync, HFError> {
    let http = reqwest::Client::builder()
        .user_agent(concat!("langevin/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(settings.patience)
        .read_timeout(silence)
        .build();
    let http = http.map_err(|source| HFError::Request { source, url: None })?;
    let hub = HFClient::builder().endpoint(&settings.endpoint).token(token).client(http);
    hub.retry_base_delay(settings.pause / 2).retry_max_attempts(4).build_sync()
}

fn kind(e: &HFError) -> ErrorKind {
    match e {
        HFError::AuthRequired { .. } | HFError::Forbidden { .. } => ErrorKind::Denied,
        HFError::RepoNotFound { .. } => ErrorKind::NoRepo,
        HFError::RevisionNotFound { .. } => ErrorKind::NoRevision,
        HFError::Request { .. } | HFError::RateLimited { .. } => ErrorKind::Unreachable,
        HFError::Io(_) => ErrorKind::Local,
        _ => ErrorKind::Answer,
    }
}

fn sentence(e: &HFError) -> String {
    let said = |status: reqwest::StatusCode, message: &Option<String>| match message {
        Some(message) => format!("{} ({message})", status.as_u16()),
        None => status.as_u16().to_string(),
    };
    match e {
        HFError::AuthRequired { .. } => "the server refuses the token; set HF_TOKEN to a valid one".into(),
        HFError::Forbidden { context } => {
            format!(
                "the token may not write there: {}; set HF_TOKEN to one that may",
                said(context.status, &context.server_message)
            )
        }
        HFError::RepoNotFound { .. } => "there is no such repository, or the token may not see it".into(),
        HFError::RevisionNotFound { revision, .. } => format!("the repository has no branch {revision}"),
        HFError::Request { source, .. } if source.is_connect() => "no connection; check the network".into(),
        HFError::Request { source, .. } if source.is_timeout() => {
            "the server has sent nothing for too long; HF_HUB_DOWNLOAD_TIMEOUT=SECONDS waits longer".into()
        }
        HFError::Request { .. } => "the connection was lost; try again".into(),
        HFError::Http { context } | HFError::Conflict { context } | HFError::RateLimited { context, .. } => {
            format!("the server answered {}", said(context.status, &context.server_message))
        }
        other => other.to_string(),
    }
}
