//! How long a container takes from create to exit, and what its shim weighs.
//!
//! `cargo run --release -p runtime --example latency -- SHIM IMAGE COUNT [MIRROR]` as root; the image's program must end
//! by itself. `SHIM` is the program whose `shim` command is the shim.

use std::{net::SocketAddr, path::PathBuf, time::Instant};

use anyhow::{Context as _, bail};
use runtime::{
    Runtime,
    api::{ContainerConfig, ContainerState, Resources, RuntimeConfig, SandboxConfig, Security},
};

#[tokio::main(flavor = "multi_thread")]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let shim = args.next().context("first argument: the program that has the shim")?;
    let image = args.next().context("second argument: the image")?;
    let count: usize = args.next().context("third argument: how many containers")?.parse()?;
    let mirror: Option<SocketAddr> = args.next().map(|address| address.parse()).transpose()?;
    let directory = tempfile::tempdir()?;
    let config = RuntimeConfig {
        state_dir: directory.path().join("state"),
        run_dir: directory.path().join("run"),
        cgroup_root: format!("keelson-latency-{}", std::process::id()),
        instance: "latency".to_owned(),
        shim_executable: PathBuf::from(shim),
        mirror,
    };
    let outcome = measure(&config, &directory.path().join("logs"), &image, count).await;
    runtime::down(&config.state_dir, &config.run_dir, &config.cgroup_root)?;
    outcome
}

async fn measure(config: &RuntimeConfig, logs: &std::path::Path, image: &str, count: usize) -> anyhow::Result<()> {
    let runtime = Runtime::open(config.clone()).await?;
    let begin = Instant::now();
    let image = runtime.pull(image, None).await?;
    println!("pull: {:.1?}", begin.elapsed());
    let begin = Instant::now();
    let sandbox = runtime.run_sandbox(sandbox(logs)).await?;
    println!("sandbox: {:.1?}", begin.elapsed());
    let mut starts = Vec::with_capacity(count);
    let mut whole = Vec::with_capacity(count);
    for number in 0..count {
        let mut events = runtime.events();
        let begin = Instant::now();
        let id = runtime.create_container(&sandbox.id, container(&image.id, number)).await?;
        runtime.start_container(&id).await?;
        starts.push(begin.elapsed());
        loop {
            match runtime.container(&id).context("the container is gone")?.state {
                ContainerState::Exited { .. } => break,
                ContainerState::Unknown => bail!("the shim died"),
                ContainerState::Created | ContainerState::Running { .. } => events.recv().await?,
            };
        }
        whole.push(begin.elapsed());
        runtime.remove_container(&id).await?;
    }
    starts.sort_unstable();
    whole.sort_unstable();
    println!("create and start: p50 {:.1?}, p99 {:.1?}", starts[count / 2], starts[count * 99 / 100]);
    println!("create, start, exit: p50 {:.1?}, p99 {:.1?}", whole[count / 2], whole[count * 99 / 100]);
    let pid = std::fs::read_to_string(config.run_dir.join(format!("shim/{}.pid", &sandbox.id.0[..16])))?;
    let memory = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    for line in memory.lines().filter(|line| line.starts_with("Rss:") || line.starts_with("Anonymous:")) {
        println!("shim {line}");
    }
    runtime.remove_sandbox(&sandbox.id).await?;
    Ok(())
}

fn sandbox(logs: &std::path::Path) -> SandboxConfig {
    SandboxConfig {
        name: "latency".into(),
        namespace: "default".into(),
        uid: "latency".into(),
        attempt: 0,
        hostname: "latency".into(),
        resolv_conf: String::new(),
        log_directory: logs.to_owned(),
        host_network: false,
        host_pid: false,
        host_ipc: false,
        share_process_namespace: false,
        sysctls: Default::default(),
        cgroup_parent: "latency".into(),
        labels: Default::default(),
        annotations: Default::default(),
    }
}

fn container(image_id: &str, number: usize) -> ContainerConfig {
    ContainerConfig {
        name: "main".into(),
        attempt: 0,
        image_id: image_id.into(),
        image_ref: String::new(),
        command: vec![],
        args: vec![],
        env: vec![],
        working_dir: None,
        mounts: vec![],
        devices: vec![],
        resources: Resources::default(),
        security: Security::default(),
        log_path: format!("{number}.log").into(),
        stdin: false,
        stdin_once: false,
        tty: false,
        shares_processes_with: None,
        labels: Default::default(),
        annotations: Default::default(),
    }
}
