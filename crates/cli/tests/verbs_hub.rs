//! `langevin hub ls`, `get` and `push`, against a small Hub in this process.

mod common;
#[path = "../../hub/tests/common/mod.rs"]
mod server;

use assert_cmd::Command;
use server::{COMMIT, Faults, Hub, TOKEN, bytes};
use std::fs;
use std::sync::Arc;
use tempfile::{TempDir, tempdir};

fn place() -> (Arc<Hub>, TempDir) {
    let files = [
        ("a/m/config.json", b"{}".to_vec()),
        ("a/m/unet/w.safetensors", bytes(5000)),
        ("private/m/config.json", b"{1}".to_vec()),
    ];
    (Hub::start(files), tempdir().unwrap())
}

/// Exit status, stdout and stderr of the program in this folder, which has the cache too.
fn run(hub: &Hub, dir: &TempDir, args: &[&str], env: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = Command::cargo_bin("langevin").unwrap();
    for name in [
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_TOKEN",
        "HF_TOKEN_PATH",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_HUB_OFFLINE",
    ] {
        command.env_remove(name);
    }
    command
        .env("HF_ENDPOINT", &hub.address)
        .env("HF_HOME", dir.path().join("home"))
        .env("HF_HUB_DOWNLOAD_TIMEOUT", "2");
    let out = command.current_dir(dir.path()).arg("hub").args(args).envs(env.iter().copied()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (out.status.code().unwrap(), text(out.stdout), text(out.stderr))
}

#[track_caller]
fn fails(ran: (i32, String, String), code: i32, words: &[&str]) {
    assert_eq!((ran.0, &*ran.1), (code, ""), "{}", ran.2);
    assert!(ran.2.starts_with("error: ") && ran.2.lines().count() == 1, "{}", ran.2);
    words.iter().for_each(|word| assert!(ran.2.contains(word), "no {word:?} in {}", ran.2));
}

#[test]
fn lists_and_gets() {
    let (hub, dir) = place();
    let (code, said, talk) = run(&hub, &dir, &["ls", "a/m"], &[]);
    assert_eq!((code, &*said), (0, "   2  config.json\n5000  unet/w.safetensors\n"), "{talk}");
    let snapshot = dir.path().join(format!("home/hub/models--a--m/snapshots/{COMMIT}"));
    let (code, said, talk) = run(&hub, &dir, &["get", "a/m@main"], &[]);
    assert_eq!((code, said.trim()), (0, snapshot.to_str().unwrap()), "{talk}");
    assert_eq!(fs::read(snapshot.join("unet/w.safetensors")).unwrap(), bytes(5000));
    let (_, said, _) = run(&hub, &dir, &["get", "a/m", "unet/w.safetensors", "config.json"], &[]);
    let paths =
        [snapshot.join("unet/w.safetensors"), snapshot.join("config.json")].map(|path| path.display().to_string());
    assert_eq!(said.lines().collect::<Vec<_>>(), paths);
    let (_, said, _) = run(&hub, &dir, &["get", "a/m", "*.safetensors", "--out", "copy"], &[]);
    assert_eq!(said, "copy\n");
    assert_eq!(fs::read(dir.path().join("copy/unet/w.safetensors")).unwrap(), bytes(5000));
    assert!(!dir.path().join("copy/config.json").exists() && !dir.path().join("copy/unet/w.safetensors").is_symlink());
    hub.log();
    let (code, said, talk) = run(&hub, &dir, &["get", "a/m"], &[("HF_HUB_OFFLINE", "1")]);
    assert_eq!((code, said.trim()), (0, snapshot.to_str().unwrap()));
    assert!(talk.contains("HF_HUB_OFFLINE is set") && hub.log().is_empty(), "{talk}");
}

#[test]
fn private_ones_need_the_token() {
    let (hub, dir) = place();
    fails(run(&hub, &dir, &["get", "private/m"], &[]), 1, &["private/m", "set HF_TOKEN"]);
    assert_eq!(run(&hub, &dir, &["get", "private/m"], &[("HF_TOKEN", TOKEN)]).0, 0);
    // As `hf auth login` leaves it.
    fs::write(dir.path().join("home/token"), format!("{TOKEN}\n")).unwrap();
    assert_eq!(run(&hub, &dir, &["ls", "private/m"], &[]).0, 0);
}

#[test]
fn what_goes_wrong_is_one_sentence() {
    let (hub, dir) = place();
    for verb in ["ls", "get"] {
        fails(run(&hub, &dir, &[verb, "a/../m"], &[]), 2, &["a/../m", "owner/name"]);
        fails(run(&hub, &dir, &[verb, "a/m@nowhere"], &[]), 1, &["a/m@nowhere", "no such branch"]);
        fails(run(&hub, &dir, &[verb, "a/m"], &[("HF_HUB_OFFLINE", "1")]), 1, &["a/m", "HF_HUB_OFFLINE"]);
        fails(run(&hub, &dir, &[verb, "a/m"], &[("HF_ENDPOINT", "ftp://x")]), 2, &["HF_ENDPOINT", "ftp://x"]);
        fails(
            run(&hub, &dir, &[verb, "a/m"], &[("HF_HUB_DOWNLOAD_TIMEOUT", "soon")]),
            2,
            &["HF_HUB_DOWNLOAD_TIMEOUT", "soon"],
        );
    }
    fails(run(&hub, &dir, &["get", "a/m", "nothing.json"], &[]), 1, &["nothing.json of a/m", "no such file"]);
    fails(run(&hub, &dir, &["get", "a/m", "*.bin"], &[]), 1, &["a/m has no file *.bin"]);
    fails(run(&hub, &dir, &["get", "a/m", "../../x"], &[]), 2, &["../../x", "refused"]);
    fs::write(dir.path().join("file"), "").unwrap();
    fails(run(&hub, &dir, &["get", "a/m", "--out", "file"], &[]), 1, &["cannot write file/config.json"]);
    hub.faults(Faults { silent: true, ..Faults::default() });
    fails(run(&hub, &dir, &["ls", "b/m"], &[]), 1, &["b/m", "sent nothing for 2 s"]);
}

#[test]
fn pushes_a_folder() {
    let (hub, dir) = place();
    fs::create_dir_all(dir.path().join("out/unet")).unwrap();
    fails(run(&hub, &dir, &["push", "nowhere", "me/m"], &[]), 2, &["no folder nowhere"]);
    fails(run(&hub, &dir, &["push", "out", "me/m"], &[]), 1, &["set HF_TOKEN"]);
    fs::create_dir(dir.path().join("empty")).unwrap();
    let token = [("HF_TOKEN", TOKEN)];
    fails(run(&hub, &dir, &["push", "empty", "me/m"], &token), 2, &["empty is empty"]);
    fails(run(&hub, &dir, &["push", "out", "m"], &token), 2, &["lacks an owner"]);
    assert!(hub.log().is_empty());
    fs::write(dir.path().join("out/unet/config.json"), "{}").unwrap();
    let (code, said, talk) = run(&hub, &dir, &["push", "out", "me/m", "--private"], &token);
    assert_eq!((code, &*said), (0, &*format!("{}/me/m\n", hub.address)), "{talk}");
    let log = hub.log();
    let created = log.iter().find(|asked| asked.path == "/api/repos/create").unwrap();
    assert!(created.token && created.body.contains(r#""private":true"#), "{log:?}");
    let commit = log.iter().find(|asked| asked.path == "/api/models/me/m/commit/main").unwrap();
    assert!(commit.body.contains("unet/config.json"), "{log:?}");
    assert_eq!(run(&hub, &dir, &["push", "out", "me/m", "--revision", "wip"], &token).0, 0);
    let log = hub.log();
    assert!(log.iter().any(|asked| asked.path == "/api/models/me/m/branch/wip"), "{log:?}");
    assert!(log.iter().any(|asked| asked.path == "/api/models/me/m/commit/wip"), "{log:?}");
    fails(run(&hub, &dir, &["push", "out", "me/m"], &[("HF_TOKEN", "hf_no")]), 1, &["me/m", "refuses the token"]);
    fails(
        run(&hub, &dir, &["push", "out", "me/m"], &[("HF_TOKEN", TOKEN), ("HF_HUB_OFFLINE", "1")]),
        2,
        &["HF_HUB_OFFLINE"],
    );
    hub.faults(Faults { status: Some((403, "POST", 9)), ..Faults::default() });
    fails(run(&hub, &dir, &["push", "out", "me/m"], &token), 1, &["me/m", "may not write", "403"]);
    hub.faults(Faults { status: Some((503, "POST", 99)), ..Faults::default() });
    fails(run(&hub, &dir, &["push", "out", "me/m"], &token), 1, &["me/m", "503"]);
    hub.faults(Faults { silent: true, ..Faults::default() });
    fails(run(&hub, &dir, &["push", "out", "me/m"], &token), 1, &["me/m", "sent nothing"]);
}
