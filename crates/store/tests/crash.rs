//! `kill -9` at random points under load: every acknowledged write is there, and every transaction whole.
//!
//! The test executes itself again as the writer, which reports each acknowledged transaction on its standard output.

use std::{
    collections::HashMap,
    env,
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
    time::Duration,
};

use store::{Encoded, Key, Mutation, Options, Precondition, Store, Write};
use tempfile::TempDir;

const DIRECTORY: &str = "STORE_CRASH_DIRECTORY";
const WRITERS: usize = 8;
const ROUNDS: u64 = 12;

/// Small segments, so that kills also meet rotations and checkpoints.
fn options() -> Options {
    Options { segment_bytes: 128 << 10, ..Options::default() }
}

fn put(path: String, precondition: Precondition, text: &str) -> Write {
    let key = Key { collection: "core/configmaps".into(), path: path.into() };
    let bytes = format!("{text} {}", "x".repeat(200)).into_bytes();
    Write { key, precondition, mutation: Mutation::Put(Encoded { bytes, revision_at: None }) }
}

/// Each writer counts up in two objects per transaction; the two must always agree.
async fn write_forever(store: Store, writer: usize) {
    loop {
        let snapshot = store.snapshot();
        let writes = ["left", "right"].map(|side| {
            let path = format!("{side}/{writer}");
            let (count, precondition) = match snapshot.get("core/configmaps", &path) {
                Some(object) => (number(&object.bytes), Precondition::Revision(object.revision)),
                None => (0, Precondition::Absent),
            };
            put(path, precondition, &(count + 1).to_string())
        });
        let committed = store.commit(writes.to_vec()).await.expect("only its own writer touches an object");
        let count = number(&committed.objects[0].bytes);
        // One write per line, so that a kill cannot mix lines of different writers.
        let line = format!("{writer} {count} {}\n", committed.revision);
        std::io::stdout().write_all(line.as_bytes()).expect("the test reads");
        std::io::stdout().flush().expect("the test reads");
    }
}

fn number(bytes: &[u8]) -> u64 {
    let text = std::str::from_utf8(bytes).expect("text");
    text.split(' ').next().expect("a number").parse().expect("a number")
}

/// Not a test of its own: the body of the process that is killed.
#[test]
fn writer_process() {
    let Some(directory) = env::var_os(DIRECTORY) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let store = Store::open(directory, options()).unwrap();
        println!("ready");
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            writers.spawn(write_forever(store.clone(), writer));
        }
        writers.join_next().await;
    });
}

/// Runs the writer for a while, kills it, and returns the last acknowledged count per writer and the last revision.
fn run_and_kill(directory: &TempDir, lifetime: Duration) -> (HashMap<usize, u64>, u64) {
    let mut child = Command::new(env::current_exe().expect("a path"))
        .args(["--exact", "writer_process", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program runs again");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.by_ref().any(|line| line.ends_with("ready")), "the writer did not start");
    std::thread::scope(|scope| {
        let acknowledged = scope.spawn(move || {
            let (mut counts, mut revision) = (HashMap::new(), 0);
            for line in lines {
                let fields: Vec<u64> = line.split(' ').filter_map(|f| f.parse().ok()).collect();
                if let [writer, count, at] = fields[..] {
                    counts.insert(writer as usize, count);
                    revision = revision.max(at);
                }
            }
            (counts, revision)
        });
        std::thread::sleep(lifetime);
        child.kill().expect("still running");
        child.wait().expect("a child");
        acknowledged.join().expect("no panic")
    })
}

#[test]
fn acknowledged_writes_survive_kill_9_and_transactions_are_whole() {
    let directory = TempDir::new().unwrap();
    let mut total = 0;
    for round in 0..ROUNDS {
        // Lifetimes that differ hit different points of batches, rotations and checkpoints.
        let (counts, revision) = run_and_kill(&directory, Duration::from_millis(20 + (round * 37) % 150));
        let store = Store::open(directory.path(), options()).unwrap();
        let snapshot = store.snapshot();
        assert!(snapshot.revision().0 >= revision, "head {} is behind {revision}", snapshot.revision());
        for writer in 0..WRITERS {
            let count = |side: &str| {
                snapshot.get("core/configmaps", &format!("{side}/{writer}")).map_or(0, |o| number(&o.bytes))
            };
            assert_eq!(count("left"), count("right"), "writer {writer}: half a transaction");
            let acknowledged = counts.get(&writer).copied().unwrap_or(0);
            // A writer has one transaction on its way: at most that one may be there without its acknowledgement.
            let found = count("left");
            let range = acknowledged..=acknowledged + 1;
            assert!(acknowledged == 0 || range.contains(&found), "writer {writer}: {acknowledged} became {found}");
        }
        total = snapshot.revision().0;
    }
    assert!(total > ROUNDS, "the writers hardly wrote");
}
