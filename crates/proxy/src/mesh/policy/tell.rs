//! Keeping the judge in line with the cluster, and telling what cannot be followed in the status of policies.

use std::{collections::HashMap, fmt::Debug, sync::Arc, time::Duration};

use jiff::Timestamp;
use kinds::istio::{AuthorizationPolicy, IstioStatus, PeerAuthentication};
use kube::{Api, Resource};
use parking_lot::Mutex;
use reconcile::{Change, Informer, Informers, Key, Object, Queue, run_controller};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::judge::Judge;
use crate::{
    controller::{is_same, lookup::rank_of},
    mesh::status,
};

/// Statuses that are written at once: each waits for an answer of the API server.
const STATUS_WRITERS: usize = 4;

/// A status is written this long after a change: policies are often applied several times in a row.
const STATUS_PAUSE: Duration = Duration::from_millis(20);

/// A kind of policies, and one of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Item {
    Authentication(Key),
    Authorization(Key),
}

struct Teller {
    judge: Arc<Judge>,
    authentications: Informer<PeerAuthentication>,
    authorizations: Informer<AuthorizationPolicy>,
    client: kube::Client,
    told: Queue<Item>,
    /// What cannot be followed, by policy.
    wrong: Mutex<HashMap<Item, Vec<String>>>,
}

/// Keeps `judge` in line with the policies that `informers` watch, until `stop`.
pub async fn run(judge: Arc<Judge>, informers: &Informers, stop: CancellationToken) {
    let teller = Arc::new(Teller {
        judge,
        authentications: informers.of(),
        authorizations: informers.of(),
        client: informers.client().clone(),
        told: Queue::new(),
        wrong: Mutex::default(),
    });
    let telling = Arc::clone(&teller);
    let tell = run_controller("mesh-policy-status", teller.told.clone(), STATUS_WRITERS, stop.clone(), move |item| {
        let teller = Arc::clone(&telling);
        async move { teller.tell(&item).await.map(|()| None) }
    });
    tokio::select! {
        () = stop.cancelled() => {}
        () = async { tokio::join!(teller.follow(), tell); } => {}
    }
}

impl Teller {
    async fn follow(&self) {
        let (mut authentications, mut authorizations) =
            (self.authentications.subscribe(), self.authorizations.subscribe());
        self.authentications.synced().await;
        self.authorizations.synced().await;
        for object in self.authentications.list() {
            self.authenticate(&Key::of(&*object), Some(&object));
        }
        for object in self.authorizations.list() {
            self.authorize(&Key::of(&*object), Some(&object));
        }
        self.judge.set_ready();
        let authentications = async {
            while let Some(change) = authentications.next().await {
                let (key, object) = split(&change);
                match is_same(&change, |old, new| old.spec == new.spec) {
                    true => self.told.add_after(Item::Authentication(key), STATUS_PAUSE),
                    false => self.authenticate(&key, object),
                }
            }
        };
        let authorizations = async {
            while let Some(change) = authorizations.next().await {
                let (key, object) = split(&change);
                let annotations = |object: &AuthorizationPolicy| object.metadata.annotations.clone();
                match is_same(&change, |old, new| old.spec == new.spec && annotations(old) == annotations(new)) {
                    true => self.told.add_after(Item::Authorization(key), STATUS_PAUSE),
                    false => self.authorize(&key, object),
                }
            }
        };
        tokio::join!(authentications, authorizations);
    }

    fn authenticate(&self, key: &Key, object: Option<&PeerAuthentication>) {
        let wrong = self.judge.authenticate(key, object.map(rank_of).unwrap_or_default(), object);
        self.note(Item::Authentication(key.clone()), object.is_some(), wrong);
    }

    fn authorize(&self, key: &Key, object: Option<&AuthorizationPolicy>) {
        let wrong = self.judge.authorize(key, object);
        self.note(Item::Authorization(key.clone()), object.is_some(), wrong);
    }

    fn note(&self, item: Item, there: bool, wrong: Vec<String>) {
        if !there {
            self.wrong.lock().remove(&item);
            return;
        }
        self.wrong.lock().insert(item.clone(), wrong);
        self.told.add_after(item, STATUS_PAUSE);
    }

    async fn tell(&self, item: &Item) -> Result<(), kube::Error> {
        let wrong = self.wrong.lock().get(item).cloned();
        let Some(wrong) = wrong else { return Ok(()) };
        match item {
            Item::Authentication(key) => {
                self.write(&self.authentications, key, &wrong, |object| object.status.as_ref()).await
            }
            Item::Authorization(key) => {
                self.write(&self.authorizations, key, &wrong, |object| object.status.as_ref()).await
            }
        }
    }

    async fn write<K>(
        &self,
        informer: &Informer<K>,
        key: &Key,
        wrong: &[String],
        status_of: fn(&K) -> Option<&IstioStatus>,
    ) -> Result<(), kube::Error>
    where
        K: Object
            + Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let Some(object) = informer.get(&key.namespace, &key.name) else { return Ok(()) };
        let known = status_of(&object);
        let status = status::of(known, wrong, object.meta().generation, Timestamp::now());
        let api = Api::<K>::namespaced(self.client.clone(), &key.namespace);
        status::write(&api, &*object, known, &status).await
    }
}

/// What a change is about, and what it is now.
fn split<K: Object + Resource<DynamicType = ()>>(change: &Change<K>) -> (Key, Option<&K>) {
    let key = Key::of(&**change.object());
    match change {
        Change::Applied { new, .. } => (key, Some(new)),
        Change::Deleted(_) => (key, None),
    }
}
