//! A run that was killed at random moments and resumed ends with the very weights of one that was not.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const STEPS: u64 = 200;

fn langevin(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_langevin"));
    let [verb, options @ ..] = args else { return command };
    command
        .arg(verb)
        .args(["--threads", "2"])
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A small energy U-Net with all that is random in it: dropout, flips, dequantisation, an importance level, accumulation.
fn start(out: &Path) -> Command {
    let mut command = langevin(&["train", "digits", "--seed", "7", "--out"]);
    command.arg(out).args([
        &format!("train.steps={STEPS}"),
        "train.batch=2",
        "train.accumulate=2",
        "train.checkpoint_every=1",
        "train.snapshot_every=40",
        "train.sample_every=0",
        "train.log_every=5",
        "data.flip=true",
        "data.dequantise=true",
        "loss.level.name=importance",
        "ema.name=power",
        "model.net.channels=[4,8]",
        "model.net.groups=2",
        "model.net.dropout=0.1",
        "sampler.steps=2",
    ]);
    command
}

fn resume(out: &Path) -> Command {
    let mut command = langevin(&["train", "--resume"]);
    command.arg(out);
    command
}

fn finish(mut command: Command) -> Result<String> {
    let Output { status, stdout, stderr } = command.output()?;
    let (said, talk) = (String::from_utf8(stdout)?, String::from_utf8(stderr)?);
    if !status.success() {
        return Err(format!("{status}: {said}{talk}").into());
    }
    Ok(said)
}

/// The step of the newest state.
fn reached(out: &Path) -> u64 {
    let names = fs::read_dir(out.join("state")).into_iter().flatten().flatten().map(|e| e.file_name());
    let step =
        |name: std::ffi::OsString| name.to_str()?.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse().ok();
    names.filter_map(step).max().unwrap_or(0)
}

/// Everything that must come out the same: weights, snapshots, the losses of the log, the last state.
fn outcome(out: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = vec![out.join("model.safetensors"), out.join(format!("state/step-{STEPS}.safetensors"))];
    for entry in fs::read_dir(out.join("snapshots"))? {
        let path = entry?.path();
        files.extend(path.extension().is_some_and(|e| e == "safetensors").then_some(path)); // no half-written ones
    }
    let mut all = BTreeMap::new();
    for file in files {
        all.insert(file.strip_prefix(out)?.to_path_buf(), fs::read(&file)?);
    }
    Ok(all)
}

#[test]
fn a_killed_run_ends_with_the_same_weights() -> Result {
    killed(|out| Ok(start(out)))
}

/// It is killed while it learns the output of a denoiser, and after.
#[test]
fn so_does_one_that_starts_from_another_model() -> Result {
    let folder = tempfile::tempdir()?;
    let denoiser = folder.path().join("denoiser");
    let mut command = start(&denoiser);
    command.args(["model.head=denoiser", "train.steps=20"]);
    finish(command)?;
    killed(|out| {
        let mut command = start(out);
        command.args([format!("model.from={}", denoiser.display()), "train.distil=60".into()]);
        Ok(command)
    })
}

fn killed(start: impl Fn(&Path) -> Result<Command>) -> Result {
    let folder = tempfile::tempdir()?;
    let (whole, torn) = (folder.path().join("whole"), folder.path().join("torn"));
    finish(start(&whole)?)?;

    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos() as u64;
    let (mut kills, mut resumed_at) = (0, vec![]);
    let mut command = start(&torn)?;
    while kills < 4 {
        // at least a few steps further, then at a random instant: in a step, or in the middle of a write
        let from = reached(&torn);
        let mut child = command.spawn()?;
        while reached(&torn) < from + 12 && child.try_wait()?.is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(seed.wrapping_mul(kills * 7919 + 1) % 25_000));
        if child.try_wait()?.is_some() {
            return Err("the run ended before it was killed; make it longer".into());
        }
        child.kill()?; // SIGKILL
        let output = child.wait_with_output()?;
        resumed_at.extend(step_of_resume(&String::from_utf8(output.stdout)?));
        kills += 1;
        command = resume(&torn);
    }
    resumed_at.extend(step_of_resume(&finish(command)?));
    assert_eq!(resumed_at.len(), 4, "each resumed run says where: {resumed_at:?}");
    assert!(resumed_at[0] > 0 && resumed_at.windows(2).all(|pair| pair[0] < pair[1]), "{resumed_at:?}");

    let (expected, got) = (outcome(&whole)?, outcome(&torn)?);
    assert_eq!(expected.keys().collect::<Vec<_>>(), got.keys().collect::<Vec<_>>());
    for (file, bytes) in &expected {
        assert!(got[file] == *bytes, "{} differs (killed at random moments, seed {seed})", file.display());
    }
    // the log has each line once
    let log = |out: &Path| -> Result<Vec<String>> {
        let lines = fs::read_to_string(out.join("log.jsonl"))?;
        let values =
            lines.lines().map(serde_json::from_str::<serde_json::Value>).collect::<std::result::Result<Vec<_>, _>>()?;
        Ok(values.iter().map(|v| format!("{} {} {}", v["step"], v["lr"], v["score_error_by_log_sigma"])).collect())
    };
    assert_eq!(log(&whole)?, log(&torn)?);

    // a finished run has nothing to do, and says so by its status
    let said = finish(resume(&whole))?;
    assert!(said.contains(&format!("resumed at step {STEPS}")), "{said}");
    Ok(())
}

fn step_of_resume(said: &str) -> Option<u64> {
    said.lines().find_map(|line| line.strip_prefix("resumed at step "))?.parse().ok()
}

#[test]
fn a_damaged_state_is_refused_by_name_and_the_one_before_is_used() -> Result {
    let folder = tempfile::tempdir()?;
    let run = folder.path().join("run");
    let mut command = start(&run);
    command.arg("train.steps=6");
    finish(command)?;
    let weights = fs::read(run.join("model.safetensors"))?;
    let state = run.join("state/step-6.safetensors");
    let mut bytes = fs::read(&state)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&state, bytes)?;

    let output = resume(&run).output()?;
    let (said, talk) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    assert!(output.status.success(), "{talk}");
    assert!(talk.contains("step-6.safetensors"), "{talk}");
    assert!(said.contains("resumed at step 5"), "{said}");
    assert!(fs::read(run.join("model.safetensors"))? == weights, "the step that was lost is made again, to the bit");
    Ok(())
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_says_how_to_go_on() -> Result {
    let folder = tempfile::tempdir()?;
    let run = folder.path().join("run");
    let mut command = start(&run);
    command.args(["train.checkpoint_every=1000", "train.steps=100000"]);
    let mut child = command.spawn()?;
    while !fs::read_to_string(run.join("log.jsonl")).is_ok_and(|log| !log.is_empty()) {
        assert!(child.try_wait()?.is_none(), "the run ended by itself");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status()?.success());
    let output = child.wait_with_output()?;
    let said = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("stopped at step") && said.contains("langevin train --resume"), "{said}");
    assert!(reached(&run) >= 5);
    Ok(())
}
