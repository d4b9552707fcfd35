//! One file into the cache: gone on with after a cut, compared with its hash, and only then given its name.

use crate::cache::{Cache, make};
use crate::check::{contents, is_hash};
use crate::http::{Http, TRIES, Trouble, Try};
use crate::id::is_commit;
use crate::{Error, ErrorKind, Result};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, IF_RANGE, RANGE};
use reqwest::{StatusCode, Url};
use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use tempfile::{Builder, TempPath};

const PAGE: &str = "a web page came in place of the file";

/// What a server says of a file before it sends it.
pub(crate) struct Meta {
    pub(crate) commit: String,
    /// The contents' name: a hash, for all files that the Hub itself keeps.
    pub(crate) etag: String,
    pub(crate) size: Option<u64>,
    url: Url,
    /// Another host keeps the contents, and calls them by another ETag.
    elsewhere: bool,
}

impl Meta {
    /// Asks for it, `tries` times at most.
    pub(crate) fn ask(http: &Http, url: &Url, tries: u32) -> Result<Self> {
        let (url, answer) = http.again(tries, || http.head(url))?;
        let headers = answer.headers();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let odd = |why: &str| Error::new(ErrorKind::Answer, format!("{why}; is {} a Hub?", host(&url)));
        let elsewhere = answer.status().is_redirection();
        let Some(commit) = text("x-repo-commit") else {
            let page = is_page(headers);
            return Err(odd(if page { PAGE } else { "the answer names no commit" }));
        };
        let etag = text("x-linked-etag").or(text(ETAG.as_str())).unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"').to_string();
        let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !is_commit(commit) || etag.is_empty() || etag.starts_with('.') || etag.len() > 200 || !etag.chars().all(fine)
        {
            return Err(odd("the answer names a commit or an ETag that cannot be"));
        }
        let size =
            if elsewhere { text("x-linked-size") } else { text("x-linked-size").or(text(CONTENT_LENGTH.as_str())) };
        Ok(Self { commit: commit.into(), etag, size: size.and_then(|s| s.parse().ok()), elsewhere, url })
    }
}

/// Sees to it that the contents are in the cache and whole. `told` hears how many bytes there are.
pub(crate) fn fetch(http: &Http, cache: &Cache, meta: &Meta, told: &dyn Fn(u64), waiting: impl FnOnce()) -> Result<()> {
    let blob = cache.blob(&meta.etag);
    if let Some(blobs) = blob.parent() {
        make(blobs)?;
    }
    let lock = cache.lock(&meta.etag, waiting)?;
    if cache.has(&meta.etag, meta.size) {
        return Ok(()); // another process was first
    }
    // Only contents that can be compared in the end are gone on with, and only where nobody else writes there.
    let resumes = is_hash(&meta.etag) && lock.is_some();
    let own = if resumes { None } else { Some(unshared(&blob).map_err(|e| Error::local(&blob, e))?) };
    let shared = blob.with_file_name(format!("{}.incomplete", meta.etag));
    let part = own.as_deref().unwrap_or(&shared);
    let old = resumes && fs::metadata(part).is_ok_and(|meta| meta.len() > 0);
    let page = complete(http, meta, part, resumes, told)?;
    if let Err(why) = contents(part, &meta.etag, meta.size) {
        drop_file(part)?;
        if why.kind() != ErrorKind::Damaged || !old {
            return Err(if page { Error::new(ErrorKind::Damaged, PAGE) } else { why });
        }
        // What lay there from before may be to blame.
        complete(http, meta, part, resumes, told)?;
        if let Err(why) = contents(part, &meta.etag, meta.size) {
            drop_file(part)?;
            return Err(why);
        }
    }
    fs::rename(part, &blob).map_err(|e| Error::local(&blob, e))
}

/// An empty file beside `blob` that nobody else knows of, and that goes away if it is not renamed.
fn unshared(blob: &Path) -> std::io::Result<TempPath> {
    let name = blob.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!("{name}.");
    let mut builder = Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let file = builder.prefix(&prefix).suffix(".incomplete").tempfile_in(blob.parent().unwrap_or(Path::new(".")))?;
    Ok(file.into_temp_path())
}

/// Requests the rest until all is there. A try that brought something does not count as failed. Whether a web page came.
fn complete(http: &Http, meta: &Meta, part: &Path, resumes: bool, told: &dyn Fn(u64)) -> Result<bool> {
    let mut failed = 0;
    loop {
        let before = if resumes { fs::metadata(part).map_or(0, |meta| meta.len()) } else { 0 };
        if meta.size == Some(before) && before > 0 {
            return Ok(false);
        }
        let trouble = match transfer(http, meta, part, before, told) {
            Ok(page) => return Ok(page),
            Err(trouble) => trouble,
        };
        let more = resumes && fs::metadata(part).is_ok_and(|meta| meta.len() > before);
        failed = if more { 1 } else { failed + 1 };
        let trouble = match trouble {
            Trouble::Silent(why) if more => Trouble::Passing { why, after: None },
            other => other,
        };
        http.wait(trouble, failed, TRIES)?;
    }
}

/// One request for what follows the first `have` bytes.
fn transfer(http: &Http, meta: &Meta, part: &Path, have: u64, told: &dyn Fn(u64)) -> Try<bool> {
    let local = |e| Error::local(part, e);
    let mut headers = vec![];
    // More than there should be is no beginning of it.
    let have = if meta.size.is_some_and(|size| have > size) { 0 } else { have };
    if have > 0 {
        headers.push((RANGE, format!("bytes={have}-")));
        if !meta.elsewhere {
            headers.push((IF_RANGE, format!("\"{}\"", meta.etag)));
        }
    }
    let mut answer = http.get(&meta.url, &headers)?;
    if answer.status() == StatusCode::RANGE_NOT_SATISFIABLE {
        drop_file(part)?;
        let why = Error::new(ErrorKind::Unreachable, "the server refuses to go on where the download stopped");
        return Err(Trouble::Passing { why, after: None });
    }
    let start = if answer.status() == StatusCode::PARTIAL_CONTENT { start(answer.headers()) } else { Some(0) };
    if start != Some(0) && start != Some(have) {
        return Err(
            Error::new(ErrorKind::Answer, "the server sent another piece of the file than the one asked for").into()
        );
    }
    let mut done = start.unwrap_or(0);
    let page = is_page(answer.headers());
    let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(part).map_err(local)?;
    file.set_len(done).map_err(local)?;
    file.seek(SeekFrom::End(0)).map_err(local)?;
    let mut piece = vec![0; 1 << 16];
    loop {
        told(done);
        let n = match answer.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(http.cut(&e)),
        };
        done += n as u64;
        if meta.size.is_some_and(|size| done > size) {
            drop_file(part)?;
            let why = if page { PAGE } else { "the server sends more bytes than it announced" };
            return Err(Error::new(ErrorKind::Damaged, why).into());
        }
        if meta.size.is_none() && done > http.most_unannounced {
            drop_file(part)?;
            let why = format!(
                "the server does not say how long the file is, and has sent more than {} bytes; download it by \
                 other means",
                http.most_unannounced
            );
            return Err(Error::new(ErrorKind::Answer, why).into());
        }
        file.write_all(&piece[..n]).map_err(local)?;
    }
    if !page && meta.size.is_some_and(|size| done < size) {
        let why = Error::new(ErrorKind::Unreachable, "the connection was lost (the file ended too soon)");
        return Err(Trouble::Passing { why, after: None });
    }
    file.sync_all().map_err(local)?;
    Ok(page)
}

/// Where a piece starts: `bytes START-END/SIZE`.
fn start(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_RANGE)?.to_str().ok()?.trim().strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

fn is_page(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).is_some_and(|kind| kind.starts_with("text/html"))
}

fn host(url: &Url) -> String {
    url.origin().ascii_serialization()
}

fn drop_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::local(path, e)),
        _ => Ok(()),
    }
}
