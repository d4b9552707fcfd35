//! Files that several writers write at once, that a kill leaves half written, and what is at their place before.

use langevin_models::atomic::{abandon, make_folder, remove_stale, write_atomic};
use std::fs;
use std::io::{Error, Write};
use std::path::Path;
use std::process::Command;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn writers_of_one_file_do_not_meet() -> Result {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("m.bin");
    std::thread::scope(|scope| {
        for writer in 0..8u8 {
            let path = &path;
            scope.spawn(move || {
                for _ in 0..50 {
                    write_atomic(path, |file| (0..100).try_for_each(|_| file.write_all(&[writer; 1000]))).unwrap();
                    let read = fs::read(path).unwrap();
                    assert!(read.len() == 100_000 && read.iter().all(|byte| *byte == read[0]), "two writers' bytes");
                }
            });
        }
    });
    assert_eq!(names(folder.path()), ["m.bin"]);
    Ok(())
}

#[cfg(unix)]
#[test]
fn no_link_is_followed_and_permissions_are_those_of_any_new_file() -> Result {
    use std::os::unix::fs::{MetadataExt, symlink};
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    fs::write(at("other"), "other")?;
    symlink(at("other"), at(".m.partial"))?; // the temporary name of an earlier version
    symlink(at("other"), at("m"))?;
    write_atomic(&at("m"), |file| file.write_all(b"new"))?;
    assert_eq!((fs::read_to_string(at("other"))?, fs::read_to_string(at("m"))?), ("other".into(), "new".into()));
    assert!(fs::symlink_metadata(at("m"))?.is_file(), "the link itself is replaced");
    assert_eq!(fs::metadata(at("m"))?.mode(), fs::metadata(at("other"))?.mode());
    make_folder(&at("made"), |beside| fs::write(beside.join("in"), "it"))?;
    fs::create_dir(at("plain"))?;
    assert_eq!(fs::metadata(at("made"))?.mode(), fs::metadata(at("plain"))?.mode());
    Ok(())
}

#[test]
fn names_may_be_as_long_as_the_system_has_them() -> Result {
    let folder = tempfile::tempdir()?;
    for name in ["x".repeat(255), "ж".repeat(127)] {
        write_atomic(&folder.path().join(&name), |file| file.write_all(b"whole"))?;
        assert_eq!(fs::read(folder.path().join(&name))?, b"whole");
    }
    assert_eq!(names(folder.path()).len(), 2);
    Ok(())
}

#[test]
fn a_folder_is_there_whole_or_not_at_all() -> Result {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("out");
    let fails = |beside: &Path| fs::write(beside.join("first"), "1").and(Err(Error::other("no more")));
    assert_eq!(make_folder(&path, fails).unwrap_err().to_string(), "no more");
    assert_eq!(names(folder.path()), [""; 0]);
    fs::create_dir(&path)?; // an empty one is taken
    make_folder(&path, |beside| fs::write(beside.join("first"), "1"))?;
    assert_eq!((names(folder.path()), names(&path)), (vec!["out".to_string()], vec!["first".to_string()]));
    let refused = make_folder(&path, |beside| fs::write(beside.join("second"), "2")).unwrap_err().to_string();
    assert!(refused.contains("out") && names(&path) == ["first"] && names(folder.path()) == ["out"], "{refused}");
    Ok(())
}

#[test]
fn what_killed_processes_left_is_known_by_its_name() -> Result {
    let folder = tempfile::tempdir()?;
    let all =
        [".step-7.safetensors.a1B2c3.partial", ".step-7.safetensors.partial", ".mine.partial", "step-7.safetensors"];
    all.iter().try_for_each(|name| fs::write(folder.path().join(name), ""))?;
    remove_stale(folder.path(), &["step-"]);
    assert_eq!(names(folder.path()), [".mine.partial", "step-7.safetensors"]);
    remove_stale(&folder.path().join("none"), &["step-"]);
    Ok(())
}

/// Set for the process that the next test starts.
const CHILD: &str = "LANGEVIN_TEST_ATOMIC";

#[test]
fn a_program_that_ends_at_once_leaves_nothing() -> Result {
    if let Some(folder) = std::env::var_os(CHILD) {
        let made = make_folder(&Path::new(&folder).join("folder"), |beside| {
            fs::write(beside.join("half"), "ha")?;
            let path = Path::new(&folder).join("file");
            let _ = write_atomic(&path, |file| {
                file.write_all(b"ha")?;
                assert_eq!(names(path.parent().unwrap()).len(), 2);
                abandon();
                std::process::exit(0)
            });
            Ok::<_, Error>(())
        });
        return Ok(made?);
    }
    let folder = tempfile::tempdir()?;
    let mut child = Command::new(std::env::current_exe()?);
    child.args(["--exact", "a_program_that_ends_at_once_leaves_nothing"]).env(CHILD, folder.path());
    let ran = child.output()?;
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
    assert_eq!(names(folder.path()), [""; 0]);
    Ok(())
}
