//! SIGINT, SIGTERM and SIGHUP: what is saved, what is left, and with which status the program ends.
#![cfg(unix)]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The program in `folder`, its stderr in the file `talk`; `shell` comes before it.
fn start(folder: &Path, shell: &str, args: &str) -> Result<Child> {
    let talk = fs::File::create(folder.join("talk"))?;
    let program = env!("CARGO_BIN_EXE_langevin");
    let mut command = Command::new("sh");
    command.current_dir(folder).arg("-c").arg(format!("{shell} exec {program} {args}"));
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(talk).spawn()?)
}

/// A training of points that only a signal ends.
fn train(folder: &Path, shell: &str, changes: &str) -> Result<Child> {
    let long = "train.steps=100000000 train.checkpoint_every=100000000 train.snapshot_every=0 train.sample_every=0";
    let small = "train.batch=16 train.log_every=5 model.net.width=8 model.net.layers=1";
    start(folder, shell, &format!("train toy:two-moons --out run --threads 1 {small} {long} {changes}"))
}

fn wait_for(child: &mut Child, what: &str, mut there: impl FnMut() -> bool) -> Result {
    let begun = Instant::now();
    while !there() {
        if let Some(status) = child.try_wait()? {
            return Err(format!("{status} before {what}").into());
        }
        if begun.elapsed() > PATIENCE {
            child.kill()?;
            return Err(format!("no {what} in {PATIENCE:?}").into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn send(child: &Child, signal: &str) -> Result {
    let sent = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status()?;
    if sent.success() { Ok(()) } else { Err("no signal was sent".into()) }
}

/// The status with which it ends before long.
fn ended(mut child: Child) -> Result<Option<i32>> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill()?;
    Err("it goes on".into())
}

/// The last step in the log.
fn logged(folder: &Path) -> u64 {
    let log = fs::read_to_string(folder.join("run/log.jsonl")).unwrap_or_default();
    let step = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?["step"].as_u64();
    log.lines().filter_map(step).max().unwrap_or(0)
}

fn states(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder.join("run/state")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn talk(folder: &Path) -> String {
    fs::read_to_string(folder.join("talk")).unwrap_or_default()
}

#[test]
fn each_signal_saves_and_says_how_to_go_on() -> Result {
    for (signal, status) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let folder = tempfile::tempdir()?;
        let folder = folder.path();
        let mut child = train(folder, "", "")?;
        wait_for(&mut child, "line of the log", || logged(folder) > 0)?;
        send(&child, signal)?;
        assert_eq!(ended(child)?, Some(status), "{signal}: {}", talk(folder));
        assert!(talk(folder).contains("go on with: langevin train --resume run"), "{signal}: {}", talk(folder));
        let [state] = &states(folder)[..] else { panic!("{signal}: {:?}", states(folder)) };
        let step: u64 = state.trim_start_matches("step-").trim_end_matches(".safetensors").parse()?;
        assert!(step >= logged(folder), "{signal}: {state}, {}", logged(folder));
        let child = start(folder, "", &format!("train --resume run --threads 1 train.steps={}", step + 1))?;
        assert_eq!(ended(child)?, Some(0), "{signal}: {}", talk(folder));
    }
    Ok(())
}

/// `nohup` ignores SIGHUP; shells ignore SIGINT for what a script puts in the background, which can be stopped all the same.
#[test]
fn what_was_ignored_at_the_start_stays_ignored() -> Result {
    for (ignored, stops, status) in [("HUP", "TERM", 143), ("TERM", "HUP", 129), ("INT", "INT", 130)] {
        let folder = tempfile::tempdir()?;
        let folder = folder.path();
        let mut child = train(folder, &format!("trap '' {ignored};"), "")?;
        wait_for(&mut child, "line of the log", || logged(folder) > 0)?;
        if ignored != stops {
            send(&child, ignored)?;
            let step = logged(folder);
            wait_for(&mut child, "further step", || logged(folder) > step + 50)?;
        }
        send(&child, stops)?;
        assert_eq!(ended(child)?, Some(status), "{ignored} ignored: {}", talk(folder));
        assert_eq!(states(folder).len(), 1, "{ignored} ignored");
    }
    Ok(())
}

#[test]
fn a_picture_that_takes_hours_does_not_hold_a_signal_up() -> Result {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let mut child = train(folder, "", "train.log_every=1 train.sample_every=3 sampler.steps=100000")?;
    wait_for(&mut child, "step before the picture", || logged(folder) == 3)?;
    std::thread::sleep(Duration::from_millis(300)); // the picture is drawn now; if not yet, it is all the same
    send(&child, "TERM")?;
    assert_eq!(ended(child)?, Some(143), "{}", talk(folder));
    assert_eq!(states(folder), ["step-3.safetensors"], "{}", talk(folder));
    assert!(talk(folder).contains("stopped at step 3 of"), "{}", talk(folder));
    Ok(())
}

#[test]
fn the_second_signal_ends_it_within_a_step() -> Result {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    // a step of many seconds
    let mut child = train(folder, "", "train.batch=1000000 model.net.width=64 model.net.layers=4")?;
    wait_for(&mut child, "event file", || folder.join("run/tb").is_dir())?;
    std::thread::sleep(Duration::from_secs(1)); // into the step
    send(&child, "INT")?;
    wait_for(&mut child, "word of it", || talk(folder).contains("second signal"))?;
    std::thread::sleep(Duration::from_millis(700));
    send(&child, "INT")?;
    assert_eq!(ended(child)?, Some(130), "{}", talk(folder));
    assert_eq!(states(folder), [""; 0], "{}", talk(folder));
    Ok(())
}

#[test]
fn other_verbs_end_at_once_and_leave_no_file() -> Result {
    for (signal, status, args) in [
        ("INT", 130, "sample exact:8-gaussians -n 64 --out out/a.png --npz out/a.npz sampler.steps=100000"),
        ("TERM", 143, "sample exact:8-gaussians -n 64 --gif out/a.gif --npz out/a.npz sampler.steps=100000"),
        (
            "HUP",
            129,
            "eval bits exact:gaussian-2d --data toy:two-moons -n 64 --method ais --levels 100000 --json out/bits.json",
        ),
    ] {
        let folder = tempfile::tempdir()?;
        let folder = folder.path();
        fs::create_dir(folder.join("out"))?;
        let child = start(folder, "", args)?;
        std::thread::sleep(Duration::from_millis(700));
        send(&child, signal)?;
        assert_eq!(ended(child)?, Some(status), "{args}: {}", talk(folder));
        let left: Vec<_> = fs::read_dir(folder.join("out"))?.map(|entry| entry.map(|e| e.file_name())).collect();
        assert!(left.is_empty(), "{args}: {left:?}");
    }
    Ok(())
}
