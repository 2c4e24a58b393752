//! Commits per second of 1, 64 and 256 writers, next to what the disk can sync at all.
//!
//! `cargo bench -p store` measures in the temporary directory; `STORE_BENCH_DIR` names another disk.

use std::{
    env,
    fs::OpenOptions,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use store::{Encoded, Key, Mutation, Options, Precondition, Store, Write};

const OBJECT_BYTES: usize = 1024;
const RUN: Duration = Duration::from_secs(3);

fn main() {
    let parent = env::var_os("STORE_BENCH_DIR").map_or_else(env::temp_dir, Into::into);
    let syncs = raw_syncs(&parent);
    println!("raw fdatasync after a 1 KiB overwrite: {syncs:.0}/s ({:.0} µs)", 1e6 / syncs);
    for writers in [1, 64, 256] {
        let dir = tempfile::TempDir::new_in(&parent).expect("a directory");
        let (rate, median, high) = commits(dir.path(), writers);
        println!(
            "{writers:>4} writers: {rate:>7.0} commits/s, {:.1} per raw sync, p50 {median:.0} µs, p99 {high:.0} µs",
            rate / syncs
        );
    }
}

/// Syncs per second of one thread that overwrites preallocated space.
fn raw_syncs(parent: &Path) -> f64 {
    let dir = tempfile::TempDir::new_in(parent).expect("a directory");
    let path = dir.path().join("raw");
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(path).expect("a file");
    file.write_all_at(&vec![0; 4 << 20], 0).expect("room");
    file.sync_all().expect("a sync");
    let (start, mut count) = (Instant::now(), 0u64);
    while start.elapsed() < RUN {
        file.write_all_at(&[1; OBJECT_BYTES], count % 4096 * OBJECT_BYTES as u64).expect("room");
        file.sync_data().expect("a sync");
        count += 1;
    }
    count as f64 / start.elapsed().as_secs_f64()
}

/// Rate, median and 99th percentile in microseconds.
fn commits(dir: &Path, writers: usize) -> (f64, f64, f64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let store = Store::open(dir, Options::default()).expect("a store");
        let done = Arc::new(AtomicU64::new(0));
        let start = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..writers {
            let (store, done) = (store.clone(), Arc::clone(&done));
            tasks.spawn(async move {
                let mut latencies = Vec::new();
                while start.elapsed() < RUN {
                    let number = done.fetch_add(1, Ordering::Relaxed);
                    let key = Key {
                        collection: "core/configmaps".into(),
                        path: format!("ns-{}/object-{writer}-{number}", number % 16).into(),
                    };
                    let encoded = Encoded { bytes: vec![b'x'; OBJECT_BYTES], revision_at: Some(100) };
                    let mutation = Mutation::Put(encoded);
                    let before = Instant::now();
                    let write = Write { key, precondition: Precondition::Absent, mutation };
                    store.commit(vec![write]).await.expect("a commit");
                    latencies.push(before.elapsed().as_secs_f64() * 1e6);
                }
                latencies
            });
        }
        let mut latencies = tasks.join_all().await.concat();
        let rate = latencies.len() as f64 / start.elapsed().as_secs_f64();
        latencies.sort_by(f64::total_cmp);
        let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize];
        (rate, at(0.5), at(0.99))
    })
}
