//! `kill -9` in a loop under mixed writes: every answer that was given must fit a server that keeps its promises, and a
//! watch that goes on after each crash sees every change once and in order.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use system_tests::{
    Instance, Options,
    clients::{self, Record, Servers},
    etcd::{Etcd, need_etcd},
    eventually, history,
};
use tokio::task::JoinSet;

const WRITERS: usize = 8;
const WATCHERS: usize = 2;
const KILLS: usize = 8;
/// Writes between two kills at least, and what is added to them so that kills meet different moments.
const WRITES_BETWEEN: usize = 120;

/// Writers and watchers at work.
struct Work {
    servers: Servers,
    record: Record,
    stop: Arc<AtomicBool>,
    writers: JoinSet<()>,
    watchers: JoinSet<Vec<history::Change>>,
}

impl Work {
    async fn start(servers: Servers) -> Self {
        let (record, stop) = (Record::default(), Arc::new(AtomicBool::new(false)));
        let revision = clients::revision_now(&servers).await;
        let (mut writers, mut watchers) = (JoinSet::new(), JoinSet::new());
        for number in 0..WATCHERS {
            watchers.spawn(clients::watch(number, servers.clone(), revision.clone()));
        }
        for number in 0..WRITERS {
            writers.spawn(clients::write(number, servers.clone(), record.clone(), stop.clone()));
        }
        Self { servers, record, stop, writers, watchers }
    }

    /// Waits until so many more writes were acknowledged.
    async fn progress(&self, writes: usize) {
        let before = self.record.acknowledged();
        let deadline = tokio::time::Instant::now() + system_tests::PATIENCE;
        while self.record.acknowledged() < before + writes {
            assert!(tokio::time::Instant::now() < deadline, "the writers do not get on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends the work and judges it.
    async fn judge(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.writers.join_next().await {
            ended.expect("a writer never fails");
        }
        clients::end_watches(&self.servers).await;
        let operations = self.record.operations();
        while let Some(changes) = self.watchers.join_next().await {
            let changes = changes.expect("a watch goes on");
            assert!(changes.len() > KILLS * WRITES_BETWEEN / 2, "only {} changes were seen", changes.len());
            let found = history::violations(&operations, &changes);
            assert!(
                found.is_empty(),
                "{} violations, the first ones: {:#?}",
                found.len(),
                &found[..found.len().min(5)]
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_given_around_kill_9_was_true() {
    let mut instance = Instance::start(Options::default());
    let servers = Servers::default();
    servers.set_up(0, &instance).await;
    let work = Work::start(servers.clone()).await;
    for round in 0..KILLS {
        work.progress(WRITES_BETWEEN + 17 * round).await;
        instance.kill();
        servers.set_down(0);
        tokio::task::block_in_place(|| instance.resume());
        servers.set_up(0, &instance).await;
    }
    work.progress(WRITES_BETWEEN).await;
    work.judge().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_one_of_two_servers_on_one_etcd_loses_nothing() {
    if !need_etcd("killing_one_of_two_servers_on_one_etcd_loses_nothing") {
        return;
    }
    let mut etcd = Etcd::start();
    let mut instances = etcd.servers(2, &[]);
    let servers = Servers::default();
    for (number, instance) in instances.iter().enumerate() {
        servers.set_up(number, instance).await;
    }
    let work = Work::start(servers.clone()).await;
    for round in 0..KILLS {
        work.progress(WRITES_BETWEEN + 17 * round).await;
        let number = round % 2;
        instances[number].kill();
        servers.set_down(number);
        if round == KILLS / 2 {
            etcd.kill();
            etcd.resume();
        }
        work.progress(WRITES_BETWEEN).await;
        tokio::task::block_in_place(|| instances[number].resume());
        servers.set_up(number, &instances[number]).await;
    }
    work.judge().await;
    tokio::task::block_in_place(|| takes_over(&mut instances));
}

/// The one server does the controllers' work after the other, which held the lease, died.
fn takes_over(instances: &mut [Instance]) {
    let lease = || ["lease", "kube-controller-manager", "-n", "kube-system"];
    let holder = |instance: &Instance| {
        let lease = instance.get(&lease())?;
        lease["spec"]["holderIdentity"].as_str().filter(|holder| !holder.is_empty()).map(str::to_owned)
    };
    let leader = eventually("one of the two leads", || {
        let holder = holder(&instances[0])?;
        instances.iter().position(|instance| instance.log().iter().any(|line| line.contains(&holder)))
    });
    instances[leader].kill();
    let other = &instances[1 - leader];
    other.kubectl(&["create", "deployment", "web", "--image=example/web:1"]);
    eventually("the other server's controllers make a pod", || {
        other.get(&["pods", "-l", "app=web"])?["items"].as_array().filter(|items| !items.is_empty()).map(|_| ())
    });
}
