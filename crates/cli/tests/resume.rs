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

/// The chains of an RBM, its offsets and the draws of its bits go on, too.
#[test]
fn so_does_a_density_of_a_family() -> Result {
    killed(|out| {
        let mut command = langevin(&["train", "rbm-digits", "--seed", "7", "--out"]);
        command.arg(out).args([
            &format!("train.steps={STEPS}"),
            "train.batch=10",
            "train.accumulate=2",
            "train.checkpoint_every=1",
            "train.snapshot_every=40",
            "train.sample_every=0",
            "train.log_every=5",
            "data.flip=true",
            "data.binarise=sample",
            "loss.persistent=15",
            "loss.centred=true",
            "ema.name=power",
            "optimiser.momentum=0.5",
            "model.hidden=40",
            "sampler.steps=20",
        ]);
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
    assert_eq!(points(&whole, "loss")?, (1..=STEPS / 5).map(|n| 5 * n).collect::<Vec<_>>());
    for tag in ["loss", "lr", "score_error_at_log_sigma/+4.4"] {
        assert_eq!(points(&whole, tag)?, points(&torn, tag)?, "{tag}");
    }

    // a finished run has nothing to do, and says so
    let (before, events) = (outcome(&whole)?, fs::read_dir(whole.join("tb"))?.count());
    let picture = fs::metadata(whole.join(format!("samples/step-{STEPS}.png")))?.modified()?;
    let said = finish(resume(&whole))?;
    assert!(said.contains(&format!("resumed at step {STEPS}")) && said.contains("train.steps=400"), "{said}");
    assert!(!said.contains("samples:") && before == outcome(&whole)?, "{said}");
    assert_eq!(fs::metadata(whole.join(format!("samples/step-{STEPS}.png")))?.modified()?, picture);
    assert_eq!(fs::read_dir(whole.join("tb"))?.count(), events);
    Ok(())
}

/// The steps of a curve as TensorBoard shows it: files in the order of their names, and from each start of a session but the
/// first, the later steps before it are forgotten.
fn points(out: &Path, tag: &str) -> Result<Vec<u64>> {
    let mut files: Vec<_> = fs::read_dir(out.join("tb"))?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    let (mut steps, mut started): (Vec<u64>, bool) = (vec![], false);
    for file in files {
        let bytes = fs::read(file)?;
        let mut rest = &bytes[..];
        // a killed run may leave half a record
        while let Some(data) = rest.first_chunk().and_then(|n| rest.get(12..12 + u64::from_le_bytes(*n) as usize)) {
            rest = rest.get(16 + data.len()..).unwrap_or_default();
            let event = fields(data);
            let step = event.iter().find_map(|(number, step, _)| (*number == 2).then_some(*step)).unwrap_or(0);
            let inner = |number| event.iter().find(|field| field.0 == number).map(|field| fields(field.2));
            if inner(7).is_some_and(|log| log[0].1 == 1) {
                steps.retain(|&earlier| !started || earlier < step);
                started = true;
            }
            let value = inner(5).and_then(|summary| fields(summary[0].2).first().map(|name| name.2.to_vec()));
            steps.extend((value.as_deref() == Some(tag.as_bytes())).then_some(step));
        }
    }
    Ok(steps)
}

/// The fields of a protocol buffer: number, value if it is an integer, bytes.
fn fields(mut data: &[u8]) -> Vec<(u64, u64, &[u8])> {
    fn varint(data: &mut &[u8]) -> u64 {
        let length = 1 + data.iter().take_while(|byte| **byte >= 0x80).count();
        let value = data[..length].iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f));
        *data = &data[length..];
        value
    }
    let mut all = vec![];
    while !data.is_empty() {
        let key = varint(&mut data);
        let (value, length) = match key & 7 {
            0 => (varint(&mut data), 0),
            1 => (0, 8),
            5 => (0, 4),
            _ => (0, varint(&mut data) as usize),
        };
        all.push((key >> 3, value, &data[..length]));
        data = &data[length..];
    }
    all
}

/// A run of points that takes no time.
fn points_run(out: &Path) -> Command {
    let mut command = langevin(&["train", "toy:two-moons", "--out"]);
    command.arg(out).args([
        "train.steps=40",
        "train.batch=8",
        "train.log_every=5",
        "train.checkpoint_every=20",
        "train.snapshot_every=20",
        "train.sample_every=0",
        "train.warmup=4",
        "model.net.width=8",
        "model.net.layers=1",
        "sampler.steps=2",
    ]);
    command
}

#[test]
fn a_run_without_a_state_begins_again_and_its_curves_too() -> Result {
    let folder = tempfile::tempdir()?;
    let run = folder.path().join("run");
    finish(points_run(&run))?;
    fs::remove_dir_all(run.join("state"))?; // as if it had been killed before the first
    finish(resume(&run))?;
    let all: Vec<u64> = (1..=8).map(|n| 5 * n).collect();
    assert_eq!(points(&run, "loss")?, all);
    assert_eq!(fs::read_to_string(run.join("log.jsonl"))?.lines().count(), all.len());

    // the files of an earlier version have no starts of sessions
    let run = folder.path().join("old");
    finish(points_run(&run))?;
    for file in fs::read_dir(run.join("tb"))? {
        let path = file?.path();
        let text = fs::read(&path)?;
        let start = 16 + text.first_chunk().map_or(0, |n| u64::from_le_bytes(*n)) as usize; // after the version
        let length = 16 + text[start..].first_chunk().map_or(0, |n| u64::from_le_bytes(*n)) as usize;
        fs::write(&path, [&text[..start], &text[start + length..]].concat())?;
    }
    fs::remove_file(run.join("state/step-40.safetensors"))?;
    finish(resume(&run))?;
    assert_eq!(points(&run, "loss")?, all);
    Ok(())
}

#[test]
fn intervals_may_change_on_the_way_and_weights_do_not() -> Result {
    let folder = tempfile::tempdir()?;
    let (whole, changed) = (folder.path().join("whole"), folder.path().join("changed"));
    finish(points_run(&whole))?;
    finish(points_run(&changed))?;
    fs::remove_file(changed.join("state/step-40.safetensors"))?;
    let mut command = resume(&changed);
    command.args(["train.log_every=4", "train.checkpoint_every=9", "train.snapshot_every=10", "train.sample_every=16"]);
    command.arg("sampler.steps=3");
    let said = finish(command)?;
    assert!(said.contains("resumed at step 20"), "{said}");
    let weights = |out: &Path| -> Result<Vec<u8>> {
        let bytes = fs::read(out.join("model.safetensors"))?;
        let header = u64::from_le_bytes(*bytes.first_chunk().ok_or("short")?) as usize; // it holds the configuration
        Ok(bytes[8 + header..].to_vec())
    };
    assert!(weights(&whole)? == weights(&changed)?);
    assert_eq!(points(&changed, "loss")?, [5, 10, 15, 20, 24, 28, 32, 36, 40]);
    for file in ["state/step-36.safetensors", "snapshots/step-30.safetensors", "samples/step-32.png"] {
        assert!(changed.join(file).is_file(), "{file}");
    }
    let config = fs::read_to_string(changed.join("config.toml"))?;
    for line in ["log_every = 4", "checkpoint_every = 9", "snapshot_every = 10", "sample_every = 16", "steps = 3"] {
        assert!(config.contains(line), "{config}");
    }
    // what would change the weights may not
    for change in ["train.lr=1", "train.batch=9", "optimiser.name=adam", "train.log_every_other=3"] {
        let mut command = resume(&changed);
        let output = command.arg(change).output()?;
        let talk = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(2), "{change}: {talk}");
        assert!(talk.contains(change) && talk.contains("train.log_every"), "{talk}");
    }
    Ok(())
}

#[test]
fn another_length_of_a_cosine_is_said_to_move_the_learning_rate() -> Result {
    let folder = tempfile::tempdir()?;
    // of the step n from 0, after 4 of warming up
    let cosine = |n: f64, steps: f64| 5e-4 * (1. + (std::f64::consts::PI * (n - 4.) / (steps - 4.)).cos());
    for (decay, steps, told) in
        [("cosine", 80, true), ("cosine", 30, true), ("cosine", 40, false), ("constant", 80, false)]
    {
        let run = folder.path().join(format!("{decay}-{steps}"));
        let mut command = points_run(&run);
        command.args([&format!("train.decay={decay}"), "train.lr=1e-3"]);
        finish(command)?;
        fs::remove_file(run.join("state/step-40.safetensors"))?;
        let output = resume(&run).arg(format!("train.steps={steps}")).output()?;
        let talk = String::from_utf8(output.stderr)?;
        let lines: Vec<_> = talk.lines().filter(|line| line.contains("the learning rate goes")).collect();
        assert_eq!(lines.len(), usize::from(told), "{decay} {steps}: {talk}");
        if told {
            let rates: Vec<f64> =
                lines[0].split(' ').filter_map(|word| word.parse().ok()).filter(|v| *v < 1.).collect();
            let expected = [cosine(19., 40.), cosine(20., f64::from(steps))];
            assert!(rates.len() == 2 && rates.iter().zip(expected).all(|(a, b)| (a / b - 1.).abs() < 0.005), "{talk}");
            assert!(lines[0].contains("at step 20 to") && lines[0].contains("at step 21"), "{talk}");
        }
    }
    Ok(())
}

#[test]
fn runs_that_start_at_once_take_a_name_each() -> Result {
    let folder = tempfile::tempdir()?;
    let start = || -> Result<std::process::Child> {
        let model = points_run(Path::new("--out"));
        let args = model.get_args().filter(|arg| *arg != "--out");
        let mut command = Command::new(env!("CARGO_BIN_EXE_langevin"));
        Ok(command.args(args).current_dir(folder.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    };
    fs::create_dir_all(folder.path().join("runs"))?;
    fs::write(folder.path().join("runs/toy-two-moons-3"), "a file is in the way")?;
    let children = (0..6).map(|_| start()).collect::<Result<Vec<_>>>()?;
    let mut taken = vec![];
    for child in children {
        let output = child.wait_with_output()?;
        let (said, talk) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
        assert!(output.status.success(), "{talk}");
        let model = said.lines().find_map(|line| line.strip_prefix("model: ")).ok_or("no model")?;
        assert!(talk.contains(&format!("{}: ", model.trim_end_matches("/model.safetensors"))), "{talk}");
        taken.push(model.to_string());
    }
    taken.sort();
    let mut names = ["", "-2", "-4", "-5", "-6", "-7"].map(|n| format!("runs/toy-two-moons{n}/model.safetensors"));
    names.sort();
    assert_eq!(taken, names);
    Ok(())
}

#[test]
fn one_process_at_a_time_trains_in_a_folder() -> Result {
    let folder = tempfile::tempdir()?;
    let run = folder.path().join("run");
    let mut first = points_run(&run);
    let mut first = first.args(["train.steps=100000000", "train.checkpoint_every=100000000"]).spawn()?;
    while !run.join("log.jsonl").is_file() {
        assert!(first.try_wait()?.is_none(), "it ended by itself");
        std::thread::sleep(Duration::from_millis(10));
    }
    for (mut second, code, word) in
        [(resume(&run), 1, "another process is training in"), (points_run(&run), 2, "--resume")]
    {
        let output = second.output()?;
        let talk = String::from_utf8(output.stderr)?;
        assert!(output.status.code() == Some(code) && talk.contains(word), "{talk}");
    }
    first.kill()?;
    first.wait()?;
    let mut last = resume(&run);
    last.arg("train.steps=50");
    finish(last)?;
    Ok(())
}

/// A limit on the size of files stands for a full disk.
#[cfg(unix)]
#[test]
fn a_state_that_cannot_be_written_is_named_and_the_one_before_stays() -> Result {
    let folder = tempfile::tempdir()?;
    let run = folder.path().join("run");
    let mut command = points_run(&run);
    command.args(["model.net.width=64", "model.net.layers=2"]);
    finish(command)?;
    fs::remove_file(run.join("state/step-40.safetensors"))?;
    let before = fs::read(run.join("state/step-20.safetensors"))?;
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" train --resume \"$1\""])
        .args([Path::new(env!("CARGO_BIN_EXE_langevin")), &run])
        .output()?;
    let talk = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1), "{talk}");
    assert!(talk.contains("could not write") && talk.contains("safetensors"), "{talk}");
    assert!(fs::read(run.join("state/step-20.safetensors"))? == before);
    let left =
        |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.file_name()).collect::<Vec<_>>();
    for dir in [run.clone(), run.join("state"), run.join("snapshots")] {
        assert!(left(&dir).iter().all(|name| !name.to_string_lossy().ends_with(".partial")), "{:?}", left(&dir));
    }
    finish(resume(&run))?; // with room again
    assert!(run.join("state/step-40.safetensors").is_file());
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
