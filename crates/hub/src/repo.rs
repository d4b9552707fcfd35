//! A repository: its list of files, and the files, from the Hub or from the cache.

use crate::cache::Cache;
use crate::download::{self, Meta};
use crate::http::{Http, TRIES};
use crate::id::{Id, safe};
use crate::{Error, ErrorKind, Result, Settings};
use globset::{Glob, GlobSetBuilder};
use reqwest::Url;
use std::path::PathBuf;
use std::sync::OnceLock;

/// Pages of a listing before it is taken for endless.
const PAGES: usize = 1000;

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is in the repository, with `/` between folders.
    pub path: String,
    /// In bytes.
    pub size: u64,
}

/// What is heard of long work.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A file's first `done` bytes are there, of `size` where that is known.
    Bytes {
        /// Its path in the repository.
        file: &'a str,
        /// Bytes that are there.
        done: u64,
        /// Bytes of the whole.
        size: Option<u64>,
    },
    /// A sentence that a user should see: the cache is used in place of the network, or another process is waited for.
    Note(&'a str),
}

type Watch = Box<dyn Fn(Event) + Send + Sync>;

/// A repository at a revision. What the revision stands for is looked up once: all files are of the same commit.
pub struct Repo {
    id: Id,
    settings: Settings,
    cache: Cache,
    http: Http,
    commit: OnceLock<String>,
    watch: Watch,
}

impl Repo {
    /// A repository, `[datasets/]owner/name[@revision]`, with the settings of the environment. Nothing is asked yet.
    ///
    /// # Errors
    /// Where the name or the environment makes no sense.
    pub fn parse(text: &str) -> Result<Self> {
        Self::with(Id::parse(text)?, Settings::from_env()?)
    }

    /// A repository with settings of your own.
    ///
    /// # Errors
    /// Where the settings make no sense.
    pub fn with(id: Id, settings: Settings) -> Result<Self> {
        let (cache, http) = (Cache::new(&settings.cache, &id), Http::new(&settings)?);
        Ok(Self { id, settings, cache, http, commit: OnceLock::new(), watch: Box::new(|_| {}) })
    }

    /// The same, heard by `watch`.
    pub fn watched(self, watch: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self { watch: Box::new(watch), ..self }
    }

    /// What it is called.
    pub fn id(&self) -> &Id {
        &self.id
    }

    /// The address of its page.
    pub fn page(&self) -> String {
        format!("{}/{}", self.settings.endpoint, self.id.page())
    }

    /// A file that is in the cache, by the last commit that was heard of. Asks nobody.
    pub fn cached(&self, path: &str) -> Option<PathBuf> {
        safe(path).ok()?;
        let commit = self.commit.get().cloned().or_else(|| self.cache.commit(&self.id.revision))?;
        self.cache.find(&commit, path)
    }

    /// A file's path in the cache. The Hub is asked whether there is a newer one, unless a commit is named or
    /// this `Repo` has asked before; only what the cache lacks is downloaded, and it is compared with its hash.
    ///
    /// # Errors
    /// One sentence for everything that can go wrong; its [`ErrorKind`] tells apart a missing file, revision and repository.
    pub fn file(&self, path: &str) -> Result<PathBuf> {
        safe(path)?;
        let name = format!("{path} of {}", self.id);
        let known = self.known();
        if let Some(commit) = &known
            && let Some(found) = self.cache.find(commit, path)
        {
            self.cache.note(&self.id.revision, commit)?;
            return Ok(found);
        }
        let cached = self.cached(path);
        if self.settings.offline {
            let note = format!("HF_HUB_OFFLINE is set: {name} is the one in the cache");
            return cached.inspect(|_| self.note(&note)).ok_or_else(|| {
                let why = "HF_HUB_OFFLINE is set, and it is not in the cache; unset it to download";
                Error::new(ErrorKind::NotCached, why).of(&name)
            });
        }
        let of = |e: Error| e.of(&format!("{name} at {}", self.settings.endpoint));
        let revision = known.as_ref().unwrap_or(&self.id.revision);
        let url = self.url(&self.id.page(), &["resolve", revision], path)?;
        // With a copy at hand there is no point in trying for long.
        let meta = match Meta::ask(&self.http, &url, if cached.is_some() { 1 } else { TRIES }) {
            Err(e)
                if e.kind() == ErrorKind::Unreachable
                    && let Some(cached) = cached =>
            {
                self.note(&format!("{}: the one in the cache is used", of(e)));
                self.pin_cached();
                return Ok(cached);
            }
            other => other.map_err(of)?,
        };
        if !self.cache.has(&meta.etag, meta.size) {
            let told = |done| (self.watch)(Event::Bytes { file: path, done, size: meta.size });
            let waiting = || self.note(&format!("waiting for another process that downloads {name}"));
            download::fetch(&self.http, &self.cache, &meta, &told, waiting).map_err(of)?;
        }
        let found = self.cache.link(&meta.etag, &meta.commit, path)?;
        self.cache.note(&self.id.revision, &meta.commit)?;
        let _ = self.commit.set(meta.commit);
        Ok(found)
    }

    /// All files, with their sizes, in alphabetical order. Offline, and where the Hub cannot be reached, those in the cache.
    ///
    /// # Errors
    /// Where neither can be had, and for a listing with a path that leads out of the repository.
    pub fn files(&self) -> Result<Vec<Entry>> {
        let commit = self.cache.commit(&self.id.revision);
        let cached = || {
            let list = commit.as_ref().map(|commit| self.cache.list(commit)).filter(|list| !list.is_empty())?;
            self.pin_cached();
            Some(list.into_iter().map(|(path, size)| Entry { path, size }).collect())
        };
        if self.settings.offline {
            let why = "HF_HUB_OFFLINE is set, and nothing of it is in the cache; unset it to download";
            let found = cached().ok_or_else(|| Error::new(ErrorKind::NotCached, why).of(&self.id.to_string()))?;
            self.note(&format!("HF_HUB_OFFLINE is set: of {}, these are the files in the cache", self.id));
            return Ok(found);
        }
        // With a copy at hand there is no point in trying for long.
        let tries = if commit.as_ref().is_some_and(|commit| !self.cache.list(commit).is_empty()) { 1 } else { TRIES };
        match self.listed(tries).map_err(|e| e.of(&format!("{} at {}", self.id, self.settings.endpoint))) {
            Err(e) if e.kind() == ErrorKind::Unreachable => {
                let found = cached().ok_or_else(|| e.clone())?;
                self.note(&format!("{e}: only what is in the cache is used"));
                Ok(found)
            }
            other => other,
        }
    }

    /// Sees to it that all files that match a pattern (`*.json`, `unet/*`; all files where there is none) are in the
    /// cache, and gives the folder that they are in. `*` stands for any text, slashes too, as in huggingface_hub.
    ///
    /// # Errors
    /// As [`files`](Self::files) and [`file`](Self::file); and for a pattern that nothing matches.
    pub fn snapshot(&self, patterns: &[&str]) -> Result<PathBuf> {
        let files = self.matching(patterns)?;
        files.iter().try_for_each(|entry| self.file(&entry.path).map(drop))?;
        let commit = self.known().unwrap_or_default();
        Ok(self.cache.snapshot(&commit))
    }

    /// The files that match one of the patterns; all where there is none.
    ///
    /// # Errors
    /// As [`files`](Self::files), and for a pattern that is none or that nothing matches.
    pub fn matching(&self, patterns: &[&str]) -> Result<Vec<Entry>> {
        let mut globs = Vec::new();
        for pattern in patterns {
            let glob = Glob::new(pattern);
            globs.push(
                glob.map_err(|e| Error::new(ErrorKind::Input, format!("`{pattern}` is no pattern: {}", e.kind())))?,
            );
        }
        let files = self.files()?;
        if globs.is_empty() {
            return Ok(files);
        }
        for (glob, pattern) in globs.iter().zip(patterns) {
            let matcher = glob.compile_matcher();
            if !files.iter().any(|entry| matcher.is_match(&entry.path)) {
                return Err(Error::new(ErrorKind::NoFile, format!("{} has no file {pattern}", self.id)));
            }
        }
        let mut set = GlobSetBuilder::new();
        for glob in globs {
            set.add(glob);
        }
        let set = set.build().map_err(|e| Error::new(ErrorKind::Input, e.to_string()))?;
        Ok(files.into_iter().filter(|entry| set.is_match(&entry.path)).collect())
    }

    /// The commit that all files are of, where it is settled.
    fn known(&self) -> Option<String> {
        let named = crate::id::is_commit(&self.id.revision).then(|| self.id.revision.clone());
        self.commit.get().cloned().or(named)
    }

    /// From now on the commit in the cache is the one that counts.
    fn pin_cached(&self) {
        if let Some(commit) = self.cache.commit(&self.id.revision) {
            let _ = self.commit.set(commit);
        }
    }

    fn note(&self, text: &str) {
        (self.watch)(Event::Note(text));
    }

    /// The listing of the Hub, at the commit that the revision stands for now.
    fn listed(&self, tries: u32) -> Result<Vec<Entry>> {
        let api = format!("api/{}/{}", self.id.kind(), self.id.name);
        let odd = |what: &str| Error::new(ErrorKind::Answer, format!("the listing has {what}, so it cannot be used"));
        if self.known().is_none() {
            let (info, _) = self.http.json(&self.url(&api, &["revision", &self.id.revision], "")?, tries)?;
            let commit =
                info["sha"].as_str().filter(|sha| crate::id::is_commit(sha)).ok_or_else(|| odd("no commit"))?;
            let _ = self.commit.set(commit.into());
        }
        let commit = self.known().unwrap_or_default();
        let mut page = Some(self.url(&api, &["tree", &commit], "")?);
        if let Some(url) = &mut page {
            url.set_query(Some("recursive=true"));
        }
        let mut found = Vec::new();
        for _ in 0..PAGES {
            let Some(url) = page else {
                found.sort_by(|a: &Entry, b| a.path.cmp(&b.path));
                return Ok(found);
            };
            let (entries, more) = self.http.json(&url, tries)?;
            for entry in entries.as_array().ok_or_else(|| odd("no files"))? {
                let path = entry["path"].as_str().ok_or_else(|| odd("a file without a path"))?;
                safe(path)?;
                if entry["type"] == "file" {
                    let size = entry["size"].as_u64().ok_or_else(|| odd(&format!("no size of {path}")))?;
                    found.push(Entry { path: path.into(), size });
                }
            }
            page = more;
        }
        Err(odd("no end"))
    }

    /// The address of something of this repository: `page` is its page or its part of the API.
    fn url(&self, page: &str, parts: &[&str], path: &str) -> Result<Url> {
        let parts: Vec<&str> = page.split('/').chain(parts.iter().copied()).collect();
        self.http.url(&parts, path)
    }
}
