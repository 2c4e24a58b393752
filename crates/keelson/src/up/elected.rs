//! What keeps the declared state: controllers and scheduler. Where several servers share the store, one of them does the work
//! of each at a time.

use std::{pin::pin, sync::Arc};

use anyhow::{Context, anyhow};
use apiserver::{ApiServer, User};
use reconcile::{Election, ElectionError, Informers};
use store::Tenure;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{api::Api, certificates::Roots};
use crate::{
    config::Config,
    supervisor::{Fate, Supervisor},
};

/// Starts shared informers, controllers and scheduler. `server_id` tells servers apart that share the store.
pub(super) fn start(
    config: &Config,
    api: &Api,
    informers: &Informers,
    server_id: Option<&str>,
    supervisor: &mut Supervisor,
) {
    let watching = informers.clone();
    supervisor.start("informers", Fate::Essential, move |stop| {
        let informers = watching.clone();
        async move { informers.run(stop).await }
    });
    let office = |component: &str| Office::of(config, api, server_id, component);
    let mut controllers = controllers::ControllersConfig::new(String::new());
    controllers.keys = Some(controllers::Keys { authority: api.authority.clone(), tokens: api.signer.clone() });
    let manager = "system:kube-controller-manager";
    let (shared, elected, roots) = (informers.clone(), office(manager), api.roots());
    supervisor.start("controllers", Fate::Restarted, move |stop| {
        let (shared, config, roots) = (shared.clone(), controllers.clone(), roots.clone());
        elected.clone().hold(stop, move |writer, stop| {
            while_roots_stay(roots, stop, move |roots: Roots, stop| {
                let (shared, writer) = (shared.clone(), writer.clone());
                let config = controllers::ControllersConfig { ca_pem: roots.clients, ..config.clone() };
                async move {
                    let by = writer.clone();
                    let clients = move |account: &str| by.client(User::service_account_of("kube-system", account));
                    writer.look(&shared, |informers| controllers::run(informers, clients, config, stop)).await
                }
            })
        })
    });
    let account = "system:kube-scheduler";
    let (shared, elected) = (informers.clone(), office(account));
    let configuration = config.scheduler.clone();
    let metrics = Arc::new(scheduler::Metrics::new());
    let told = metrics.clone();
    api.server.add_metrics(move |out| told.render(out));
    supervisor.start("scheduler", Fate::Restarted, move |stop| {
        let (shared, configuration) = (shared.clone(), configuration.clone());
        let (metrics, seed) = (metrics.clone(), u64::from(std::process::id()));
        elected.clone().hold(stop, move |writer, stop| async move {
            let client = writer.client(User::new(account, &["system:authenticated"]));
            let run = |informers: Informers| {
                let scheduler = scheduler::Scheduler::new(&informers, client, &configuration, seed);
                scheduler.counting(metrics).run(stop)
            };
            writer.look(&shared, run).await
        })
    });
}

/// Does the work that publishes the roots, and begins anew with others when they are replaced.
async fn while_roots_stay<Fut, E>(
    mut roots: watch::Receiver<Roots>,
    stop: CancellationToken,
    work: impl Fn(Roots, CancellationToken) -> Fut,
) -> Result<(), E>
where
    Fut: Future<Output = Result<(), E>>,
{
    loop {
        let (now, inner) = (roots.borrow_and_update().clone(), stop.child_token());
        let mut work = pin!(work(now, inner.clone()));
        tokio::select! {
            ended = &mut work => return ended,
            Ok(()) = roots.changed() => inner.cancel(),
        }
        work.await?;
        if stop.is_cancelled() {
            return Ok(());
        }
    }
}

/// Work that one server at a time does where several share the store.
#[derive(Clone)]
pub(super) struct Office {
    server: Arc<ApiServer>,
    election: Option<Election>,
}

/// How the work is written down: by the elected server for as long as it is that, or by the only one.
#[derive(Clone)]
pub(super) struct Writer {
    server: Arc<ApiServer>,
    tenure: Option<Arc<Tenure>>,
}

impl Writer {
    /// A client of this process for a user, whose writes are refused once another server is elected.
    pub(super) fn client(&self, user: User) -> kube::Client {
        match &self.tenure {
            Some(tenure) => self.server.client_during(tenure, user),
            None => self.server.client(user),
        }
    }

    /// Does work by caches that hold everything the leader before has written. Those of this process may still lag behind
    /// that, and what was made a moment ago would be made again; alone, nobody takes over from anybody.
    async fn look<F, Fut, E>(&self, shared: &Informers, work: F) -> anyhow::Result<()>
    where
        F: FnOnce(Informers) -> Fut,
        Fut: Future<Output = Result<(), E>>,
        E: Into<anyhow::Error>,
    {
        if self.tenure.is_none() {
            return work(shared.clone()).await.map_err(Into::into);
        }
        let informers = Informers::new(shared.client().clone());
        let watching = informers.run(CancellationToken::new());
        tokio::select! {
            ended = work(informers.clone()) => ended.map_err(Into::into),
            ended = watching => Err(ended.map_or_else(Into::into, |()| anyhow!("the informers ended"))),
        }
    }
}

impl Office {
    /// The office of a component, for which servers are elected that have ids.
    pub(super) fn of(config: &Config, api: &Api, server_id: Option<&str>, component: &str) -> Self {
        let election = server_id.map(|id| {
            let identity = format!("{}_{id}", config.node_name);
            let lease = component.trim_start_matches("system:").replace(':', "-");
            Election::new(api.client(component), &lease, &identity).good_for(config.lease)
        });
        Self { server: api.server.clone(), election }
    }

    /// Does the work, as the elected one where there is an election.
    pub(super) async fn hold<F, Fut, E>(self, stop: CancellationToken, work: F) -> anyhow::Result<()>
    where
        F: FnOnce(Writer, CancellationToken) -> Fut,
        Fut: Future<Output = Result<(), E>>,
        E: Into<anyhow::Error>,
    {
        let server = self.server;
        let Some(election) = self.election else {
            return work(Writer { server, tenure: None }, stop).await.map_err(Into::into);
        };
        let (lease, identity) = (election.name().to_owned(), election.identity().to_owned());
        let work = |stop| async move {
            let tenure = server.begin_tenure(&lease, &identity).await?;
            let tenure = Some(tenure.with_context(|| format!("another server took the lease {lease}"))?);
            work(Writer { server, tenure }, stop).await.map_err(Into::into)
        };
        election.lead(stop, work).await.map_err(|error| match error {
            ElectionError::Lost(_) => anyhow!("{error}"),
            ElectionError::Work(error) => error,
        })
    }
}
