//! Downloads and the cache, against a small Hub in this process, in every mood that the real one may have.

mod common;

use common::{COMMIT, Faults, Hub, TOKEN, bytes, etag};
use langevin_hub::{Error, ErrorKind, Event, Id, Repo, Settings, check};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::{TempDir, tempdir};

const WEIGHTS: usize = 300_000;

/// A Hub with a model, and a cache of one's own.
struct Place {
    hub: Arc<Hub>,
    home: TempDir,
    settings: Settings,
}

impl Place {
    fn new() -> Self {
        let hub = Hub::start([
            ("a/m/config.json", b"{}".to_vec()),
            ("a/m/unet/w.safetensors", bytes(WEIGHTS)),
            ("a/m/big.txt", bytes(WEIGHTS)),
            ("private/m/config.json", b"{1}".to_vec()),
        ]);
        let home = tempdir().unwrap();
        let settings = Settings {
            endpoint: hub.address.clone(),
            cache: home.path().join("hub"),
            token: None,
            offline: false,
            patience: Duration::from_secs(1),
            pause: Duration::from_millis(1),
            most_unannounced: 1 << 20,
        };
        Self { hub, home, settings }
    }

    fn repo(&self, name: &str) -> Repo {
        Repo::with(Id::parse(name).unwrap(), self.settings.clone()).unwrap()
    }

    fn blob(&self, name: &str) -> std::path::PathBuf {
        self.settings.cache.join("models--a--m/blobs").join(name)
    }

    /// The error must be of this kind, and have these words.
    #[track_caller]
    fn fails<T>(&self, result: Result<T, Error>, kind: ErrorKind, words: &[&str]) {
        let e = result.err().expect("must fail");
        assert_eq!(e.kind(), kind, "{e}");
        let text = e.to_string();
        assert!(!text.contains('\n'), "{text}");
        words.iter().for_each(|word| assert!(text.contains(word), "no {word:?} in: {text}"));
        let partial = fs::read_dir(self.blob("")).into_iter().flatten().flatten();
        for blob in partial.filter(|blob| !blob.file_name().to_string_lossy().ends_with(".incomplete")) {
            check(&blob.path()).expect("what has a name in the cache is whole");
        }
    }
}

#[test]
fn a_file_is_downloaded_once_and_then_there() {
    let p = Place::new();
    let path = p.repo("a/m").file("unet/w.safetensors").unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes(WEIGHTS));
    assert_eq!(path, p.settings.cache.join(format!("models--a--m/snapshots/{COMMIT}/unet/w.safetensors")));
    let hash = etag("w.safetensors", &bytes(WEIGHTS));
    assert_eq!(fs::canonicalize(&path).unwrap(), fs::canonicalize(p.blob(&hash)).unwrap());
    #[cfg(unix)]
    assert_eq!(fs::read_link(&path).unwrap(), Path::new("../../../blobs").join(&hash));
    assert_eq!(fs::read_to_string(p.settings.cache.join("models--a--m/refs/main")).unwrap(), COMMIT);
    p.hub.log();
    // Again: the Hub is asked whether it is new, and no more; then this Repo knows, as does one of a commit.
    let repo = p.repo("a/m");
    assert_eq!(repo.file("unet/w.safetensors").unwrap(), path);
    assert_eq!(repo.file("unet/w.safetensors").unwrap(), path);
    let log = p.hub.log();
    assert_eq!(log.iter().map(|asked| &*asked.method).collect::<Vec<_>>(), ["HEAD"]);
    assert_eq!(p.repo(&format!("a/m@{COMMIT}")).file("unet/w.safetensors").unwrap(), path);
    assert_eq!(p.repo("a/m").cached("unet/w.safetensors").unwrap(), path);
    assert!(p.hub.log().is_empty());
}

#[test]
fn a_newer_file_is_noticed_and_the_old_one_stays() {
    let p = Place::new();
    let (old, held) = (p.repo("a/m").file("config.json").unwrap(), p.repo("a/m"));
    held.file("config.json").unwrap();
    let commit = "a".repeat(40);
    p.hub.put("a/m/config.json", b"{new}".to_vec(), &commit);
    assert_eq!(held.file("config.json").unwrap(), old, "one Repo, one commit");
    let new = p.repo("a/m").file("config.json").unwrap();
    assert_eq!((fs::read(&old).unwrap(), fs::read(&new).unwrap()), (b"{}".to_vec(), b"{new}".to_vec()));
    assert!(new.to_string_lossy().contains(&commit));
    // Who only looks at the list of a newer commit still has the old files where there is no network.
    p.hub.put("a/m/config.json", b"{newest}".to_vec(), &"b".repeat(40));
    assert_eq!(p.repo("a/m").files().unwrap()[1].size, 8);
    assert_eq!(p.repo("a/m").cached("config.json").unwrap(), new);
}

#[test]
fn listings_and_snapshots() {
    let p = Place::new();
    let repo = p.repo("a/m");
    let files: Vec<_> = repo.files().unwrap().into_iter().map(|entry| (entry.path, entry.size)).collect();
    let n = WEIGHTS as u64;
    assert_eq!(files, [("big.txt".into(), n), ("config.json".into(), 2), ("unet/w.safetensors".to_string(), n)]);
    let folder = repo.snapshot(&["*.json", "unet/*"]).unwrap();
    assert!(folder.join("config.json").exists() && folder.join("unet/w.safetensors").exists());
    assert!(!folder.join("big.txt").exists());
    p.fails(repo.snapshot(&["*.bin"]), ErrorKind::NoFile, &["a/m", "*.bin"]);
    p.fails(repo.snapshot(&["[z-"]), ErrorKind::Input, &["[z-", "no pattern"]);
}

#[test]
fn a_cut_is_gone_on_with_and_nothing_comes_twice() {
    for (path, if_range) in [("unet/w.safetensors", false), ("big.txt", true)] {
        let p = Place::new();
        p.hub.faults(Faults { cut: 1, ..Default::default() });
        let file = p.repo("a/m").file(path).unwrap();
        assert_eq!(fs::read(file).unwrap(), bytes(WEIGHTS));
        let pieces: Vec<_> = p.hub.log().into_iter().filter(|asked| asked.range.is_some()).collect();
        assert_eq!(pieces.last().unwrap().range.as_deref(), Some(&*format!("bytes={}-", WEIGHTS / 2)));
        assert_eq!(pieces[0].if_range.is_some(), if_range);
    }
}

#[test]
fn a_later_process_goes_on() {
    let p = Place::new();
    let hash = etag("w.safetensors", &bytes(WEIGHTS));
    fs::create_dir_all(p.blob("")).unwrap();
    let part = p.blob(&format!("{hash}.incomplete"));
    fs::write(&part, &bytes(WEIGHTS)[..100_000]).unwrap();
    let seen = Arc::new(Mutex::new(vec![]));
    let to = seen.clone();
    let repo = p.repo("a/m").watched(move |event| {
        if let Event::Bytes { done, size, .. } = event {
            to.lock().unwrap().push((done, size));
        }
    });
    assert_eq!(fs::read(repo.file("unet/w.safetensors").unwrap()).unwrap(), bytes(WEIGHTS));
    assert!(p.hub.log().iter().any(|asked| asked.range.as_deref() == Some("bytes=100000-")));
    let (seen, all) = (seen.lock().unwrap(), WEIGHTS as u64);
    assert_eq!((seen[0], *seen.last().unwrap()), ((100_000, Some(all)), (all, Some(all))));
    assert!(seen.is_sorted() && !part.exists());
}

#[test]
fn what_lay_there_may_be_wrong_too_long_or_refused() {
    for (start, no_ranges) in
        [(vec![7; 1000], false), (vec![7; WEIGHTS + 5], false), (vec![7; WEIGHTS], false), (vec![7; 1000], true)]
    {
        let p = Place::new();
        p.hub.faults(Faults { no_ranges, ..Default::default() });
        fs::create_dir_all(p.blob("")).unwrap();
        fs::write(p.blob(&format!("{}.incomplete", etag("w.safetensors", &bytes(WEIGHTS)))), start).unwrap();
        assert_eq!(fs::read(p.repo("a/m").file("unet/w.safetensors").unwrap()).unwrap(), bytes(WEIGHTS));
    }
}

#[test]
fn every_cut_without_progress_ends_with_a_sentence() {
    let p = Place::new();
    p.hub.faults(Faults { cut: 12, ..Default::default() });
    // Each try brings half of the rest, and none of them counts.
    assert!(p.repo("a/m").file("unet/w.safetensors").is_ok());
    let p = Place::new();
    p.hub.faults(Faults { cut: 99, no_ranges: true, ..Default::default() });
    let start = Instant::now();
    p.fails(
        p.repo("a/m").file("unet/w.safetensors"),
        ErrorKind::Unreachable,
        &["unet/w.safetensors of a/m", &p.hub.address, "connection was lost"],
    );
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn silence_ends() {
    let p = Place::new();
    p.hub.faults(Faults { silent: true, ..Default::default() });
    let start = Instant::now();
    p.fails(
        p.repo("a/m").file("config.json"),
        ErrorKind::Unreachable,
        &["sent nothing for 1 s", "HF_HUB_DOWNLOAD_TIMEOUT"],
    );
    p.fails(p.repo("a/m").files(), ErrorKind::Unreachable, &["sent nothing for 1 s"]);
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    // Silence in the middle of a file: the rest is asked for anew.
    p.hub.faults(Faults { stall: 1, ..Default::default() });
    assert_eq!(fs::read(p.repo("a/m").file("big.txt").unwrap()).unwrap(), bytes(WEIGHTS));
    // Slow is not silent.
    p.hub.faults(Faults { slow: Some(Duration::from_millis(8)), ..Default::default() });
    assert!(p.repo("a/m").file("unet/w.safetensors").is_ok());
}

#[test]
fn what_passes_is_tried_again_and_what_does_not_is_said() {
    for status in [408, 429, 500, 502, 503, 504] {
        for method in ["HEAD", "GET"] {
            let p = Place::new();
            p.hub.faults(Faults { status: Some((status, method, 3)), retry_after: Some(0), ..Default::default() });
            assert_eq!(fs::read(p.repo("a/m").file("config.json").unwrap()).unwrap(), b"{}", "{status} {method}");
            p.hub.faults(Faults { status: Some((status, "GET", 999)), ..Default::default() });
            p.fails(
                p.repo("a/m").file("big.txt"),
                ErrorKind::Unreachable,
                &["big.txt of a/m", &format!("{status}, 5 times")],
            );
        }
    }
    let p = Place::new();
    p.hub.faults(Faults { status: Some((429, "", 999)), retry_after: Some(3600), ..Default::default() });
    p.fails(p.repo("a/m").file("config.json"), ErrorKind::Unreachable, &["429", "come back in 3600 s"]);
    assert_eq!(p.hub.log().len(), 1, "who asks for an hour is not asked again at once");
    p.hub.faults(Faults { status: Some((418, "", 999)), ..Default::default() });
    p.fails(p.repo("a/m").file("config.json"), ErrorKind::Answer, &["the server answered 418"]);
}

#[test]
fn the_text_of_an_error_is_never_the_file() {
    let p = Place::new();
    for status in [401, 403, 404, 503] {
        p.hub.faults(Faults { status: Some((status, "GET", 999)), ..Default::default() });
        assert!(p.repo("a/m").file("config.json").is_err(), "{status}");
        assert!(p.repo("a/m").cached("config.json").is_none());
    }
    p.hub.faults(Faults { page: true, ..Default::default() });
    p.fails(
        p.repo("a/m").file("config.json"),
        ErrorKind::Damaged,
        &["config.json of a/m", "a web page came in place of the file"],
    );
    p.fails(p.repo("a/m").file("big.txt"), ErrorKind::Damaged, &["a web page came in place of the file"]);
    p.hub.faults(Faults { portal: true, ..Default::default() });
    p.fails(p.repo("a/m").file("config.json"), ErrorKind::Answer, &["a web page came in place of the file"]);
    p.fails(p.repo("a/m").files(), ErrorKind::Answer, &["is not JSON, so it is no Hub"]);
    p.hub.faults(Faults::default());
    assert_eq!(fs::read(p.repo("a/m").file("config.json").unwrap()).unwrap(), b"{}");
}

#[test]
fn wrong_contents_are_refused() {
    let p = Place::new();
    p.hub.faults(Faults { garble: true, ..Default::default() });
    p.fails(
        p.repo("a/m").file("unet/w.safetensors"),
        ErrorKind::Damaged,
        &["unet/w.safetensors of a/m", "wrong SHA-256"],
    );
    p.fails(p.repo("a/m").file("big.txt"), ErrorKind::Damaged, &["big.txt of a/m", "wrong git SHA-1"]);
    assert!(fs::read_dir(p.blob("")).unwrap().next().is_none(), "and not kept");
    p.hub.faults(Faults::default());
    p.repo("a/m").file("big.txt").unwrap();
}

#[test]
fn a_file_of_no_announced_length_has_a_bound() {
    let mut p = Place::new();
    p.hub.faults(Faults { unannounced: true, ..Default::default() });
    for (most, file) in [(WEIGHTS as u64, "unet/w.safetensors"), (WEIGHTS as u64, "big.txt")] {
        p.settings.most_unannounced = most - 1;
        let words = ["does not say how long", &(most - 1).to_string(), "by other means"];
        p.fails(p.repo("a/m").file(file), ErrorKind::Answer, &words);
        assert!(fs::read_dir(p.blob("")).unwrap().next().is_none(), "nothing is left of it");
        p.settings.most_unannounced = most;
        assert_eq!(fs::read(p.repo("a/m").file(file).unwrap()).unwrap(), bytes(WEIGHTS));
        fs::remove_dir_all(&p.settings.cache).unwrap();
    }
}

#[test]
fn a_damaged_cache_is_noticed_and_mended() {
    let p = Place::new();
    let (small, large) =
        (p.repo("a/m").file("config.json").unwrap(), p.repo("a/m").file("unet/w.safetensors").unwrap());
    // As another client leaves it: the text of an error.
    fs::write(fs::canonicalize(&small).unwrap(), b"<html>").unwrap();
    assert!(p.repo("a/m").cached("config.json").is_none());
    assert_eq!(fs::read(p.repo("a/m").file("config.json").unwrap()).unwrap(), b"{}");
    fs::write(fs::canonicalize(&large).unwrap(), &bytes(WEIGHTS)[..1000]).unwrap();
    assert_eq!(fs::read(p.repo("a/m").file("unet/w.safetensors").unwrap()).unwrap(), bytes(WEIGHTS));
}

#[test]
fn who_may_not_and_what_is_not_there() {
    let mut p = Place::new();
    p.fails(
        p.repo("private/m").file("config.json"),
        ErrorKind::NoRepo,
        &["private/m", "no such repository, or it is private: set HF_TOKEN"],
    );
    p.fails(p.repo("a/none").files(), ErrorKind::NoRepo, &["a/none", "set HF_TOKEN"]);
    p.fails(
        p.repo("a/m").file("none.json"),
        ErrorKind::NoFile,
        &["none.json of a/m", "no such file in the repository"],
    );
    p.fails(
        p.repo("a/m@nowhere").file("config.json"),
        ErrorKind::NoRevision,
        &["a/m@nowhere", "no such branch, tag or commit"],
    );
    p.fails(p.repo("a/m@nowhere").files(), ErrorKind::NoRevision, &["no such branch, tag or commit"]);
    p.settings.token = Some(TOKEN.into());
    assert_eq!(fs::read(p.repo("private/m").file("config.json").unwrap()).unwrap(), b"{1}");
    p.fails(p.repo("a/none").file("x"), ErrorKind::NoRepo, &["or the token may not see it"]);
    p.settings.token = Some("hf_wrong".into());
    p.fails(p.repo("a/m").file("config.json"), ErrorKind::Denied, &["the server refuses the token; set HF_TOKEN"]);
    for (code, words) in [(None, "the server forbids it: 403"), (Some("GatedRepo"), "it is gated: accept its terms")] {
        p.hub.faults(Faults { status: Some((403, "", 9)), code, ..Default::default() });
        p.fails(p.repo("a/m").file("config.json"), ErrorKind::Denied, &[words]);
    }
    p.settings.token = Some("hf\n".into());
    p.fails(Repo::with(Id::parse("a/m").unwrap(), p.settings.clone()).map(drop), ErrorKind::Input, &["set HF_TOKEN"]);
}

#[test]
fn only_the_hub_learns_the_token() {
    let mut p = Place::new();
    p.settings.token = Some(TOKEN.into());
    p.repo("a/m").file("unet/w.safetensors").unwrap();
    let log = p.hub.log();
    assert!(log.iter().all(|asked| asked.token == asked.host.starts_with("127.0.0.1")), "{log:?}");
    assert!(log.iter().any(|asked| asked.host.starts_with("localhost")), "{log:?}");
}

#[test]
fn odd_listings_are_an_error() {
    let p = Place::new();
    let long = format!(r#"[{{"type": "file", "path": "{}", "size": 1}}]"#, "x".repeat(2000));
    let listings = [
        "",
        "{}",
        "7",
        "[7]",
        r#"[{"type": "file", "size": 1}]"#,
        r#"[{"type": "file", "path": "x", "size": -1}]"#,
        &long,
    ];
    for listing in listings {
        p.hub.faults(Faults { listing: Some(listing.into()), ..Default::default() });
        let e = p.repo("a/m").files().unwrap_err();
        assert!(matches!(e.kind(), ErrorKind::Answer | ErrorKind::Input), "{listing}: {e}");
    }
    // Pages are put together, and a listing whose pages have no end is given up.
    p.hub.faults(Faults { pages: 2, ..Default::default() });
    assert_eq!(p.repo("a/m").files().unwrap().len(), 9);
    p.hub.faults(Faults { pages: usize::MAX, listing: Some("[]".into()), ..Default::default() });
    p.fails(p.repo("a/m").files(), ErrorKind::Answer, &["a/m", "the listing has no end"]);
}

#[test]
fn circles_end() {
    let p = Place::new();
    p.hub.faults(Faults { circle: true, ..Default::default() });
    p.fails(p.repo("a/m").file("config.json"), ErrorKind::Answer, &["redirects in a circle"]);
    p.fails(p.repo("a/m").files(), ErrorKind::Answer, &["redirects in a circle"]);
}

#[test]
fn paths_that_lead_out_are_refused() {
    for path in ["../../evil", "C:/evil", "a\\..\\..\\evil", "x/../../evil"] {
        let p = Place::new();
        p.hub.put(&format!("a/m/{path}"), b"x".to_vec(), COMMIT);
        p.fails(p.repo("a/m").files(), ErrorKind::Input, &["evil", "refused"]);
        p.fails(p.repo("a/m").snapshot(&[]), ErrorKind::Input, &["evil", "refused"]);
        p.fails(p.repo("a/m").file(path), ErrorKind::Input, &["evil", "refused"]);
        assert!(!p.home.path().join("evil").exists() && !p.settings.cache.join("models--a--m/snapshots").exists());
    }
    assert!(Id::parse("a/../../x").is_err());
}

#[test]
fn offline_and_without_a_network() {
    let mut p = Place::new();
    let notes = Arc::new(Mutex::new(String::new()));
    let watched = |p: &Place| {
        let to = notes.clone();
        p.repo("a/m").watched(move |event| {
            if let Event::Note(text) = event {
                *to.lock().unwrap() += text;
            }
        })
    };
    let note = || std::mem::take(&mut *notes.lock().unwrap());
    let there = watched(&p).file("config.json").unwrap();
    assert_eq!(note(), "");
    p.hub.log();
    p.settings.offline = true;
    assert_eq!(watched(&p).file("config.json").unwrap(), there);
    assert!(note().contains("HF_HUB_OFFLINE is set: config.json of a/m"));
    assert_eq!(watched(&p).files().unwrap().len(), 1);
    assert_eq!(watched(&p).snapshot(&["*.json"]).unwrap(), there.parent().unwrap());
    p.fails(
        p.repo("a/m").file("big.txt"),
        ErrorKind::NotCached,
        &["big.txt of a/m", "HF_HUB_OFFLINE is set, and it is not in the cache"],
    );
    p.fails(p.repo("b/m").files(), ErrorKind::NotCached, &["b/m", "HF_HUB_OFFLINE is set"]);
    assert!(p.hub.log().is_empty(), "nobody was asked");
    note();
    p.settings.offline = false;
    for endpoint in ["http://127.0.0.1:9", "http://nowhere.invalid"] {
        p.settings.endpoint = endpoint.into();
        assert_eq!(watched(&p).file("config.json").unwrap(), there);
        let said = note();
        assert!(said.contains("no connection") && said.contains("the one in the cache is used"), "{said}");
        assert_eq!(watched(&p).snapshot(&[]).unwrap(), there.parent().unwrap());
        assert!(note().contains("only what is in the cache is used"));
        p.fails(p.repo("a/m").file("big.txt"), ErrorKind::Unreachable, &["big.txt of a/m", endpoint, "no connection"]);
    }
    p.settings.endpoint = p.hub.address.clone();
    for faults in
        [Faults { silent: true, ..Default::default() }, Faults { status: Some((503, "", 99)), ..Default::default() }]
    {
        p.hub.faults(faults);
        assert_eq!(watched(&p).file("config.json").unwrap(), there);
        assert!(note().contains("the one in the cache is used"));
    }
}

#[test]
fn many_at_once_download_one_file_once() {
    let p = Place::new();
    p.hub.faults(Faults { slow: Some(Duration::from_millis(1)), ..Default::default() });
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| assert_eq!(fs::read(p.repo("a/m").file("big.txt").unwrap()).unwrap(), bytes(WEIGHTS)));
        }
    });
    let gets = p.hub.log().iter().filter(|asked| asked.method == "GET").count();
    assert_eq!(gets, 1);
}

#[test]
fn odd_names_and_odd_folders() {
    let p = Place::new();
    p.hub.put("a/m/ü b#?%2e.json", b"odd".to_vec(), COMMIT);
    let repo = p.repo("a/m@refs/pr/1");
    assert_eq!(fs::read(repo.file("ü b#?%2e.json").unwrap()).unwrap(), b"odd");
    assert!(p.settings.cache.join("models--a--m/refs/refs/pr/1").exists());
    // A file where the folder of the cache should be.
    let mut p = Place::new();
    fs::write(p.home.path().join("file"), b"").unwrap();
    p.settings.cache = p.home.path().join("file");
    p.fails(p.repo("a/m").file("config.json"), ErrorKind::Local, &["file"]);
}
