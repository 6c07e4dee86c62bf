//! The data folder: damaged, foreign, locked and missing files are reported and left as they are.

use std::io::Read;
use std::path::Path;

use rusqlite::Connection;
use tempfile::tempdir;

use crate::support::*;

/// Starts a collector that must not start: its error message.
fn refused(data: &Path) -> String {
    let mut child = serve(&[], data, &[]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let status = eventually("the collector's end", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(1));
    let (mut output, mut error) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert_eq!(output, "", "it has listened");
    error
}

/// A folder with 2000 records in it.
fn filled() -> tempfile::TempDir {
    let data = tempdir().unwrap();
    let mut collector = Collector::start(data.path(), &[]);
    for number in 0..20 {
        assert_eq!(
            collector.logs(&numbered(&format!("b{number}"), 100), Some(&format!("{number}"))).status,
            200
        );
    }
    collector.terminate();
    assert!(collector.wait().success());
    data
}

#[test]
fn a_corrupted_file_is_reported_and_left_as_it_is() {
    let data = filled();
    let file = data.path().join("offpath.db");
    let sound = std::fs::read(&file).unwrap();
    assert_eq!(run(&["check", "--data", data.path().to_str().unwrap()]).1, "ok\n");
    // In the header, in a page in the middle, and cut off.
    let mut header = sound.clone();
    header[..16].fill(b'x');
    let mut middle = sound.clone();
    let half = sound.len() / 2 / 4096 * 4096;
    middle[half..half + 4096].fill(0xaa);
    let cut = sound[..half].to_vec();
    for (what, bytes) in [("header", header), ("middle", middle), ("cut", cut)] {
        std::fs::write(&file, &bytes).unwrap();
        let error = refused(data.path());
        assert!(error.contains("is corrupted and is left as it is"), "{what}: {error}");
        assert!(std::fs::read(&file).unwrap() == bytes, "{what}: the file was changed");
        let (success, _, error) = run(&["check", "--data", data.path().to_str().unwrap()]);
        assert!(!success && error.contains("is corrupted"), "{what}: {error}");
    }
    std::fs::write(&file, &sound).unwrap();
    let collector = Collector::start(data.path(), &[]);
    assert_eq!(collector.settled()["stored"], 2000);
}

#[test]
fn corruption_while_running_ends_the_process() {
    let data = filled();
    let mut collector = Collector::start(data.path(), &[]);
    let file = data.path().join("offpath.db");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[4096..].fill(0xaa);
    std::fs::write(&file, bytes).unwrap();
    // What the writer has in its cache does not tell it; a reader meets the damage, and may get no answer.
    let url = format!("{}/api/logs?limit=1000", collector.http);
    let answer = ureq::get(url).config().http_status_as_error(false).build().call();
    assert!(!answer.is_ok_and(|answer| answer.status() == 200));
    assert_eq!(collector.wait().code(), Some(1));
}

#[test]
fn a_foreign_database_is_reported_and_left_as_it_is() {
    let data = tempdir().unwrap();
    let file = data.path().join("offpath.db");
    Connection::open(&file).unwrap().execute_batch("CREATE TABLE theirs (a)").unwrap();
    let before = std::fs::read(&file).unwrap();
    let error = refused(data.path());
    assert!(error.contains("is not an offpath database"), "{error}");
    assert!(std::fs::read(&file).unwrap() == before);
}

#[test]
fn a_database_of_another_version_is_reported() {
    let data = filled();
    Connection::open(data.path().join("offpath.db"))
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let error = refused(data.path());
    assert!(error.contains("has schema version `99`: this program reads version 1"), "{error}");
}

#[test]
fn two_collectors_cannot_share_a_folder() {
    let data = tempdir().unwrap();
    let _first = Collector::start(data.path(), &[]);
    let error = refused(data.path());
    assert!(error.contains("is in use by another collector"), "{error}");
}

#[test]
fn a_missing_database_is_reported_by_the_commands_that_need_one() {
    let data = tempdir().unwrap();
    let folder = data.path().to_str().unwrap();
    for arguments in [&["check"][..], &["dead-letters", "list"], &["dead-letters", "replay", "--all"]] {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--data", folder]).collect();
        let (success, _, error) = run(&arguments);
        assert!(!success && error.contains("holds no offpath.db"), "{error}");
    }
}
