//! The data folder: damaged, foreign, locked and missing files are reported and left as they are.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
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

/// The names and bytes of a folder's files.
fn contents(folder: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap())).collect()
}

#[test]
fn a_lost_database_is_reported_and_nothing_is_begun_in_its_place() {
    for (what, found) in [("emptied", "is empty"), ("deleted", "is missing")] {
        // Killed under load, so that its write-ahead log holds what was acknowledged.
        for witnesses in [&["offpath.lock"][..], &["offpath.db-wal", "offpath.db-shm"], &["offpath.db-shm"]] {
            let data = tempdir().unwrap();
            let mut collector = Collector::start(data.path(), &[]);
            assert_eq!(collector.logs(&numbered("acknowledged", 100), None).status, 200);
            collector.kill();
            let file = data.path().join("offpath.db");
            match what {
                "emptied" => std::fs::write(&file, "").unwrap(),
                _ => std::fs::remove_file(&file).unwrap(),
            }
            for name in ["offpath.lock", "offpath.db-wal", "offpath.db-shm"] {
                if !witnesses.contains(&name) {
                    std::fs::remove_file(data.path().join(name)).unwrap();
                }
            }
            let mut before = contents(data.path());
            let error = refused(data.path());
            assert!(error.contains(found) && error.contains("the folder was in use"), "{what}: {error}");
            assert!(error.contains(witnesses[0]), "{what}: {error}");
            before.entry("offpath.lock".into()).or_default();
            assert!(contents(data.path()) == before, "{what} {witnesses:?}: a file was changed");
            for command in [&["check"][..], &["dead-letters", "list"], &["dead-letters", "replay", "--all"]] {
                let folder = ["--data", data.path().to_str().unwrap()];
                let arguments: Vec<&str> = command.iter().copied().chain(folder).collect();
                assert!(!run(&arguments).0, "{what} {command:?}");
                assert!(contents(data.path()) == before, "{what} {command:?}: a file was changed");
            }
        }
    }
}

#[test]
fn a_database_without_tables_is_filled_in_a_fresh_folder_only() {
    let data = filled();
    let file = data.path().join("offpath.db");
    std::fs::remove_file(&file).unwrap();
    Connection::open(&file).unwrap().execute_batch("CREATE TABLE t (a); DROP TABLE t; VACUUM").unwrap();
    let before = std::fs::read(&file).unwrap();
    assert!(!before.is_empty());
    let error = refused(data.path());
    assert!(error.contains("is corrupted and is left as it is: it has no tables"), "{error}");
    assert!(std::fs::read(&file).unwrap() == before);
    std::fs::write(data.path().join("offpath.lock"), "").unwrap();
    assert_eq!(Collector::start(data.path(), &[]).get("/readyz").status, 200);
}

#[test]
fn a_folder_whose_creation_was_killed_at_any_step_starts_again() {
    need_strace();
    let files = ["offpath.lock", "offpath.db", "offpath.db-journal", "offpath.db-wal", "offpath.db-shm"];
    let mut killed = 0;
    for step in 1.. {
        let data = tempdir().unwrap();
        let folder = data.path().join("data");
        let calls = "openat,write,pwrite64,fsync,fdatasync,ftruncate,unlink";
        let inject = format!("inject={calls}:signal=KILL:when={step}");
        let output = data.path().join("trace");
        let mut words = vec!["strace", "-D", "-f", "-o", output.to_str().unwrap(), "-e", &inject];
        let paths = files.map(|name| folder.join(name).into_os_string().into_string().unwrap());
        paths.iter().for_each(|path| words.extend(["-P", path]));
        let mut child = serve(&words, &folder, &[]).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let listening = !line.is_empty();
        child.kill().unwrap();
        child.wait().unwrap();
        // Nothing was acknowledged, and nothing keeps the folder from being used.
        let collector = Collector::start(&folder, &[]);
        assert_eq!(collector.logs(&numbered("a", 1), None).status, 200, "step {step}");
        assert_eq!(collector.settled()["stored"], 1, "step {step}");
        if listening {
            break;
        }
        killed = step;
    }
    // At least: the files are opened, the schema is written and synced, and so is the witness.
    assert!(killed >= 10, "only {killed} steps were met");
}

#[test]
fn a_database_from_before_the_witness_keeps_its_records_and_gets_one() {
    let data = filled();
    let lock = data.path().join("offpath.lock");
    std::fs::write(&lock, "").unwrap();
    assert_eq!(Collector::start(data.path(), &[]).settled()["stored"], 2000);
    assert_eq!(std::fs::read_to_string(&lock).unwrap(), "initialised\n");
}

#[test]
fn a_new_folder_is_synced_with_those_above_it_before_it_is_used() {
    need_strace();
    let data = tempdir().unwrap();
    let base = data.path().canonicalize().unwrap();
    let trace = base.join("trace");
    let words = ["strace", "-D", "-f", "-y", "-e", "trace=fsync,write", "-o", trace.to_str().unwrap()];
    let _collector = Collector::start_as(&words, &base.join("a/b"), &[]);
    let text = eventually("the witness in the trace", || {
        let text = std::fs::read_to_string(&trace).ok()?;
        text.contains("otlp-http listening on").then_some(text)
    });
    let position = |what: String| text.find(&what).unwrap_or_else(|| panic!("no {what} in {text}"));
    let witness = position("initialised".to_owned());
    for folder in ["", "/a", "/a/b"] {
        assert!(position(format!("{}{folder}>) ", base.display())) < witness, "{folder}: {text}");
    }
    let synced = position("a/b/offpath.lock>)".to_owned());
    assert!(witness < synced && synced < position("otlp-http listening on".to_owned()), "{text}");
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
fn a_database_of_a_version_that_cannot_be_read_is_reported_and_left_as_it_is() {
    for (version, advice) in [(1, "it is too old"), (99, "it is newer")] {
        let data = killed(&format!("PRAGMA user_version = {version}"));
        let file = data.path().join("offpath.db");
        let before = held(data.path());
        assert!(before.iter().all(|bytes| !bytes.is_empty()), "it has a write-ahead log");
        let error = refused(data.path());
        let expected = format!(
            "`{}` has schema version `{version}`, this program wants 3: nothing in it was touched; {advice}",
            file.display()
        );
        assert!(error.contains(&expected), "{error}");
        for command in [&["check"][..], &["dead-letters", "list"], &["dead-letters", "replay", "--all"]] {
            let folder = ["--data", data.path().to_str().unwrap()];
            let arguments: Vec<&str> = command.iter().copied().chain(folder).collect();
            let (success, _, error) = run(&arguments);
            assert!(!success && error.contains(&expected), "{command:?}: {error}");
        }
        assert!(held(data.path()) == before, "version {version}: it was changed");
    }
}

#[test]
fn a_database_of_the_version_before_is_brought_up_to_date_with_all_that_it_holds() {
    let data = killed("DROP TABLE exemplars; PRAGMA user_version = 2");
    let (success, _, error) = run(&["check", "--data", data.path().to_str().unwrap()]);
    assert!(
        !success && error.contains("has schema version `2`") && error.contains("`serve` brings"),
        "{error}"
    );
    for _ in 0..2 {
        let mut collector = Collector::start(data.path(), &[]);
        assert_eq!(collector.settled()["stored"], 100);
        assert_eq!(collector.json("/api/latency"), serde_json::json!({"series": []}));
        collector.kill();
    }
}

/// A folder with 100 acknowledged records, of a collector that was killed, in which `sql` was run since; what both wrote
/// is in the write-ahead log still.
fn killed(sql: &str) -> tempfile::TempDir {
    let data = tempdir().unwrap();
    let mut collector = Collector::start(data.path(), &[]);
    assert_eq!(collector.logs(&numbered("acknowledged", 100), None).status, 200);
    collector.kill();
    let connection = Connection::open(data.path().join("offpath.db")).unwrap();
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    connection.execute_batch(sql).unwrap();
    data
}

/// What the database holds: its file and its write-ahead log.
fn held(data: &Path) -> [Vec<u8>; 2] {
    ["offpath.db", "offpath.db-wal"].map(|name| std::fs::read(data.join(name)).unwrap())
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
