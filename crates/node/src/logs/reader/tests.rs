use std::{
    fs::{self, OpenOptions},
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use runtime::api::{ContainerId, SandboxId};

use super::*;

const LOG: &str = "2026-01-01T00:00:01.000000000Z stdout F one\n\
2026-01-01T00:00:02.000000000Z stderr F two\n\
2026-01-01T00:00:03.000000000Z stdout P thr\n\
2026-01-01T00:00:03.500000000Z stdout F ee\n\
2026-01-01T00:00:04.000000000Z stdout F four\n";

fn dead() -> Liveness {
    Liveness { events: broadcast::channel(1).1, running: Box::new(|| false) }
}

async fn read(log: &str, options: LogOptions) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("0.log");
    fs::write(&path, log).unwrap();
    let mut reader = LogReader::open(&path, options, dead()).await.unwrap();
    let mut output = Vec::new();
    while let Some(chunk) = reader.next_chunk().await {
        output.extend_from_slice(&chunk.unwrap());
    }
    String::from_utf8(output).unwrap()
}

#[tokio::test]
async fn options_select_what_is_printed() {
    let options = LogOptions::default;
    let at = |second: i64| Some(Timestamp::from_second(1_767_225_600 + second).unwrap());
    let cases = [
        (options(), "one\ntwo\nthree\nfour\n"),
        (LogOptions { tail_lines: Some(0), ..options() }, ""),
        (LogOptions { tail_lines: Some(1), ..options() }, "four\n"),
        (LogOptions { tail_lines: Some(2), ..options() }, "three\nfour\n"),
        (LogOptions { tail_lines: Some(4), ..options() }, "one\ntwo\nthree\nfour\n"),
        (LogOptions { tail_lines: Some(99), ..options() }, "one\ntwo\nthree\nfour\n"),
        (LogOptions { since: at(3), ..options() }, "three\nfour\n"),
        (LogOptions { since: at(9), ..options() }, ""),
        (LogOptions { limit_bytes: Some(6), ..options() }, "one\ntw"),
        (LogOptions { stream: StreamChoice::Stderr, ..options() }, "two\n"),
        (LogOptions { stream: StreamChoice::Stdout, tail_lines: Some(3), ..options() }, "three\nfour\n"),
        (
            LogOptions { timestamps: true, tail_lines: Some(2), ..options() },
            "2026-01-01T00:00:03.000000000Z three\n2026-01-01T00:00:04.000000000Z four\n",
        ),
    ];
    for (options, expected) in cases {
        assert_eq!(read(LOG, options.clone()).await, expected, "{options:?}");
    }
}

#[tokio::test]
async fn tail_works_across_blocks_and_broken_ends() {
    let mut log = String::new();
    for number in 0..5000 {
        log.push_str(&format!("2026-01-01T00:00:01Z stdout F line {number} {}\n", "x".repeat(50)));
    }
    log.push_str("2026-01-01T00:00:01Z stdout F unfinis");
    let output = read(&log, LogOptions { tail_lines: Some(3000), ..LogOptions::default() }).await;
    assert_eq!(output.lines().count(), 3000);
    assert!(output.starts_with("line 2000 "));
    assert_eq!(read("", LogOptions { tail_lines: Some(3), ..LogOptions::default() }).await, "");
}

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    writeln!(file, "2026-01-01T00:00:01Z stdout F {text}").unwrap();
}

#[tokio::test]
async fn following_crosses_rotation_and_ends_with_the_container() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("0.log");
    append(&path, "first");
    let running = Arc::new(AtomicBool::new(true));
    let (events, receiver) = broadcast::channel(4);
    let liveness = Liveness {
        events: receiver,
        running: Box::new({
            let running = running.clone();
            move || running.load(Ordering::SeqCst)
        }),
    };
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let mut reader = LogReader::open(&path, options, liveness).await.unwrap();
    assert_eq!(reader.next_chunk().await.unwrap().unwrap(), "first\n");

    let ((), second) = tokio::join!(async { append(&path, "second") }, reader.next_chunk());
    assert_eq!(second.unwrap().unwrap(), "second\n");

    append(&path, "third");
    fs::rename(&path, directory.path().join("0.log.1")).unwrap();
    append(&path, "fourth");
    assert_eq!(reader.next_chunk().await.unwrap().unwrap(), "third\n");
    assert_eq!(reader.next_chunk().await.unwrap().unwrap(), "fourth\n");

    let end = async {
        append(&path, "last");
        running.store(false, Ordering::SeqCst);
        let event =
            RuntimeEvent::Container { sandbox: SandboxId(String::new()), container: ContainerId(String::new()) };
        events.send(event).unwrap();
    };
    let ((), last) = tokio::join!(end, reader.next_chunk());
    assert_eq!(last.unwrap().unwrap(), "last\n");
    assert!(reader.next_chunk().await.is_none());
}
