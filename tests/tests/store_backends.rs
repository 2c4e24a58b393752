//! What the store promises, on both of its back ends: its own log, and an etcd that several servers share.

use std::{collections::BTreeMap, sync::Arc};

use store::{
    CommitError, Committed, Encoded, EtcdConfig, Foreign, ForeignError, Key, Mutation, Options, Precondition, Revision,
    Store, WatchError, Write,
};
use system_tests::etcd::{Etcd, need_etcd};
use tempfile::TempDir;

const PODS: &str = "core/pods";

/// Where a store is kept.
enum Place {
    Log(TempDir),
    Etcd(Etcd),
}

impl Place {
    /// Both, or the log alone where there is no etcd.
    fn all(test: &str) -> Vec<Place> {
        let mut places = vec![Place::Log(TempDir::new().unwrap())];
        if need_etcd(test) {
            places.push(Place::Etcd(Etcd::start()));
        }
        places
    }

    async fn open(&self) -> Store {
        match self {
            Place::Log(dir) => Store::open(dir.path(), Options::default()).unwrap(),
            Place::Etcd(etcd) => connect(etcd).await,
        }
    }
}

async fn connect(etcd: &Etcd) -> Store {
    connect_with(EtcdConfig::new(etcd.url().parse::<store::Endpoints>().unwrap().0)).await
}

async fn connect_with(config: EtcdConfig) -> Store {
    let mut tries = 0;
    loop {
        match Store::connect(config.clone(), Options::default()).await {
            Ok(store) => return store,
            // it accepts connections before it has elected itself
            Err(_) if tries < 5 => tries += 1,
            Err(error) => panic!("{error}"),
        }
    }
}

fn key(path: &str) -> Key {
    Key { collection: PODS.into(), path: path.into() }
}

const FRONT: &str = r#"{"metadata":{"resourceVersion":""#;

fn object(text: &str) -> Encoded {
    let bytes = format!(r#"{FRONT}"}},"text":"{text}"}}"#).into_bytes();
    Encoded { bytes, revision_at: Some(FRONT.len()) }
}

fn whole(revision: Revision, text: &str) -> String {
    format!(r#"{FRONT}{revision}"}},"text":"{text}"}}"#)
}

fn put(path: &str, precondition: Precondition, text: &str) -> Write {
    Write { key: key(path), precondition, mutation: Mutation::Put(object(text)) }
}

fn delete(path: &str, at: Revision) -> Write {
    Write { key: key(path), precondition: Precondition::Revision(at), mutation: Mutation::Delete(object("last")) }
}

async fn create(store: &Store, path: &str, text: &str) -> Committed {
    store.commit(vec![put(path, Precondition::Absent, text)]).await.unwrap()
}

/// The object's text, which these tests use as a number.
fn number(store: &Store, path: &str) -> (u64, Option<Revision>) {
    let snapshot = store.snapshot();
    let Some(object) = snapshot.get(PODS, path) else { return (0, None) };
    let text = std::str::from_utf8(&object.bytes).unwrap();
    let text = text.split(r#""text":""#).nth(1).unwrap().trim_end_matches(r#""}"#);
    (text.parse().unwrap(), Some(object.revision))
}

fn content(store: &Store) -> Vec<String> {
    let snapshot = store.snapshot();
    let lines = snapshot.collections().flat_map(|collection| {
        snapshot
            .range(collection, "", None)
            .map(move |(path, o)| format!("{collection}/{path}@{} {}", o.revision, String::from_utf8_lossy(&o.bytes)))
    });
    lines.collect()
}

#[tokio::test]
async fn a_transaction_happens_whole_or_not_at_all() {
    for place in Place::all("a_transaction_happens_whole_or_not_at_all") {
        let store = place.open().await;
        let writes = vec![put("a/1", Precondition::Absent, "1"), put("a/2", Precondition::Absent, "2")];
        let Committed { revision, objects } = store.commit(writes).await.unwrap();
        assert_eq!(objects[1].bytes, whole(revision, "2"));
        let snapshot = store.snapshot();
        assert_eq!(snapshot.get(PODS, "a/1").unwrap().bytes, whole(revision, "1"));
        assert_eq!((store.revision(), snapshot.get(PODS, "a/2").unwrap().revision), (revision, revision));

        let taken = vec![put("a/3", Precondition::Absent, "3"), put("a/1", Precondition::Absent, "3")];
        let error = store.commit(taken).await.unwrap_err();
        assert_eq!(error.to_string(), format!("core/pods/a/1: expected nothing, found revision {revision}"));
        let error = store.commit(vec![put("a/1", Precondition::Revision(Revision(1 << 40)), "3")]).await.unwrap_err();
        assert!(matches!(error, CommitError::Precondition { found: Some(_), .. }), "{error}");
        let error = store.commit(vec![delete("a/4", revision)]).await.unwrap_err();
        assert!(matches!(error, CommitError::Precondition { found: None, .. }), "{error}");
        assert_eq!(store.snapshot().count(PODS, "", None), 2);

        let both = vec![put("a/1", Precondition::Revision(revision), "4"), delete("a/2", revision)];
        let later = store.commit(both).await.unwrap().revision;
        assert!(later > revision);
        assert_eq!(content(&store), [format!("core/pods/a/1@{later} {}", whole(later, "4"))]);
        let before = content(&store);
        drop(store);
        assert_eq!(content(&place.open().await), before, "a restart finds it again");
    }
}

#[tokio::test]
async fn a_watch_tells_each_change_with_its_revision() {
    for place in Place::all("a_watch_tells_each_change_with_its_revision") {
        let store = place.open().await;
        let mut watch = store.watch(&PODS.into(), "a/", store.revision()).unwrap();
        let first = create(&store, "a/1", "1").await.revision;
        create(&store, "b/1", "other").await;
        let second = store.commit(vec![put("a/1", Precondition::Revision(first), "2")]).await.unwrap().revision;
        let third = store.commit(vec![delete("a/1", second)]).await.unwrap().revision;
        let mut events = Vec::new();
        while events.len() < 3 {
            events.extend(watch.next(10).await.unwrap());
        }
        assert_eq!(events.iter().map(|event| event.object.revision).collect::<Vec<_>>(), [first, second, third]);
        assert_eq!(events.iter().map(|event| event.deleted).collect::<Vec<_>>(), [false, false, true]);
        assert!(events[0].previous.is_none());
        assert_eq!(events[2].previous.as_ref().unwrap().bytes, whole(second, "2"));
        let last = std::str::from_utf8(&events[2].object.bytes).unwrap();
        assert!(last.starts_with(&format!(r#"{FRONT}{third}""#)), "{last}");
        drop(store);
        assert_eq!(watch.next(1).await.unwrap_err(), WatchError::Closed);
    }
}

/// Adds one to an object as often as told, and tells which revisions it wrote and how many outcomes are unknown.
async fn count_up(store: Store, path: &'static str, times: usize) -> (Vec<Revision>, usize) {
    let (mut written, mut unknown) = (Vec::new(), 0);
    while written.len() + unknown < times {
        let (value, revision) = number(&store, path);
        let precondition = revision.map_or(Precondition::Absent, Precondition::Revision);
        match store.commit(vec![put(path, precondition, &(value + 1).to_string())]).await {
            Ok(committed) => written.push(committed.revision),
            Err(CommitError::Precondition { .. } | CommitError::Unavailable(_)) => {}
            Err(CommitError::Unknown(_)) => unknown += 1,
            Err(error) => panic!("{error}"),
        }
    }
    (written, unknown)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_update_is_lost_between_writers_of_two_servers() {
    const WRITERS: usize = 4;
    const TIMES: usize = 25;
    if !need_etcd("no_update_is_lost_between_writers_of_two_servers") {
        return;
    }
    let etcd = Etcd::start();
    let servers = [connect(&etcd).await, connect(&etcd).await];
    let mut watches = servers.each_ref().map(|store| store.watch(&PODS.into(), "", store.revision()).unwrap());
    let writers: Vec<_> = (0..WRITERS)
        .flat_map(|_| servers.each_ref().map(|store| tokio::spawn(count_up(store.clone(), "a/1", TIMES))))
        .collect();
    let mut written = Vec::new();
    for writer in writers {
        let (revisions, unknown) = writer.await.unwrap();
        assert_eq!(unknown, 0);
        written.extend(revisions);
    }
    written.sort_unstable();
    let total = 2 * WRITERS * TIMES;
    assert_eq!(written.len(), total);
    for (store, watch) in servers.iter().zip(&mut watches) {
        store.latest().await.unwrap();
        assert_eq!(number(store, "a/1").0 as usize, total);
        let mut seen = Vec::new();
        while seen.len() < total {
            seen.extend(watch.next(64).await.unwrap().iter().map(|event| event.object.revision));
        }
        assert_eq!(seen, written, "each revision once and in order");
    }
}

#[tokio::test]
async fn a_server_that_asks_sees_what_another_acknowledged() {
    if !need_etcd("a_server_that_asks_sees_what_another_acknowledged") {
        return;
    }
    let etcd = Etcd::start();
    let (one, two) = (connect(&etcd).await, connect(&etcd).await);
    for n in 0..200 {
        let path = format!("a/{n}");
        create(&one, &path, "1").await;
        two.latest().await.unwrap();
        assert!(two.snapshot().get(PODS, &path).is_some(), "{path} was acknowledged");
    }
    // a page of a list that another server began
    let at = one.revision();
    create(&one, "b/1", "1").await;
    two.latest().await.unwrap();
    let past = two.collection_at(PODS, at).await.unwrap().unwrap();
    assert_eq!((past.revision(), past.count(PODS, "", None)), (at, 200));
}

#[tokio::test]
async fn who_led_writes_nothing_once_another_one_leads() {
    if !need_etcd("who_led_writes_nothing_once_another_one_leads") {
        return;
    }
    let etcd = Etcd::start();
    let (former, latter) = (connect(&etcd).await, connect(&etcd).await);
    let lease = create(&former, "lease", "former").await.revision;
    let begin = async |store: &Store, at| store.begin_tenure("office", &key("lease"), at).await.unwrap();
    let first = begin(&former, lease).await.expect("the lease is as it was seen");
    let write = |path: &str| vec![put(path, Precondition::Absent, "x")];
    former.commit_during(&first, write("a")).await.unwrap();
    // the other one takes the lease, and nobody begins on what it was before
    let taken = latter.commit(vec![put("lease", Precondition::Revision(lease), "latter")]).await.unwrap().revision;
    assert_eq!(begin(&former, lease).await, None);
    former.commit_during(&first, write("b")).await.expect("nobody has begun");
    let second = begin(&latter, taken).await.expect("the lease is as it was written");
    let late = former.commit_during(&first, write("c")).await;
    assert!(matches!(late, Err(CommitError::Deposed)), "{late:?}");
    latter.commit_during(&second, write("c")).await.unwrap();
    // as anybody else it may write, and it is told what stands in the way
    former.commit(write("d")).await.unwrap();
    let taken = latter.commit_during(&second, write("c")).await;
    assert!(matches!(taken, Err(CommitError::Precondition { .. })), "{taken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_may_die_and_come_back_under_load() {
    if !need_etcd("etcd_may_die_and_come_back_under_load") {
        return;
    }
    let mut etcd = Etcd::start();
    let servers = [connect(&etcd).await, connect(&etcd).await];
    let paths = ["a/1", "a/2", "a/3"];
    let writers: Vec<_> = paths
        .iter()
        .flat_map(|path| servers.each_ref().map(|store| (*path, tokio::spawn(count_up(store.clone(), path, 150)))))
        .collect();
    for _ in 0..3 {
        let before = number(&servers[0], paths[0]).0;
        while number(&servers[0], paths[0]).0 < before + 20 {
            tokio::task::yield_now().await;
        }
        etcd.kill();
        etcd.resume();
    }
    let (mut known, mut unknown) = (BTreeMap::<_, u64>::new(), BTreeMap::<_, u64>::new());
    for (path, writer) in writers {
        let (written, lost) = writer.await.unwrap();
        *known.entry(path).or_default() += written.len() as u64;
        *unknown.entry(path).or_default() += lost as u64;
    }
    for store in &servers {
        store.latest().await.unwrap();
        for path in paths {
            let found = number(store, path).0;
            let range = known[path]..=known[path] + unknown[path];
            assert!(range.contains(&found), "{path}: {found} is not within {range:?}");
        }
    }
    assert_eq!(content(&servers[0]), content(&servers[1]));
}

#[tokio::test]
async fn what_is_too_much_for_etcd_is_refused_with_its_reason() {
    if !need_etcd("what_is_too_much_for_etcd_is_refused_with_its_reason") {
        return;
    }
    let etcd = Etcd::start();
    let store = connect(&etcd).await;
    let error = store.commit(vec![put("a/1", Precondition::Absent, &"x".repeat(2 << 20))]).await.unwrap_err();
    assert!(matches!(&error, CommitError::Invalid(reason) if reason.contains("request is too large")), "{error}");
    let many = (0..=store.writes_max()).map(|n| put(&format!("a/{n}"), Precondition::Absent, "1")).collect::<Vec<_>>();
    let fits = many[1..].to_vec();
    assert!(matches!(store.commit(many).await, Err(CommitError::Invalid(_))));
    store.commit(fits).await.unwrap();
    let snapshot: Arc<_> = store.snapshot();
    assert_eq!(snapshot.count(PODS, "", None), store.writes_max());
}

/// What an operator tells etcd by its JSON gateway, and the answer.
fn tell(etcd: &Etcd, path: &str, body: &str) -> String {
    use std::io::{Read as _, Write as _};
    let address = etcd.url().rsplit('/').next().unwrap().to_owned();
    let mut stream = std::net::TcpStream::connect(&address).unwrap();
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    answer
}

#[tokio::test]
async fn an_etcd_without_space_is_read_and_deleted_from_until_it_has_space_again() {
    if !need_etcd("an_etcd_without_space_is_read_and_deleted_from_until_it_has_space_again") {
        return;
    }
    let etcd = Etcd::start_with(&["--quota-backend-bytes", "8388608"]);
    let store = connect(&etcd).await;
    let large = |number: usize| put(&format!("a/{number}"), Precondition::Absent, &"x".repeat(1 << 20));
    let mut revisions = Vec::new();
    let refused = loop {
        match store.commit(vec![large(revisions.len())]).await {
            Ok(committed) => revisions.push(committed.revision),
            Err(error) => break error,
        }
        assert!(revisions.len() < 20, "the quota is never reached");
    };
    assert!(matches!(&refused, CommitError::Full(reason) if reason.contains("space exceeded")), "{refused}");
    assert_eq!(store.snapshot().count(PODS, "", None), revisions.len());
    for (number, revision) in revisions.iter().enumerate().skip(1) {
        store.commit(vec![delete(&format!("a/{number}"), *revision)]).await.unwrap();
    }
    assert!(matches!(store.commit(vec![large(1)]).await, Err(CommitError::Full(_))), "the alarm is still on");
    assert_eq!(store.snapshot().count(PODS, "", None), 1);

    tell(&etcd, "/v3/kv/compaction", &format!(r#"{{"revision":"{}","physical":true}}"#, store.revision()));
    tell(&etcd, "/v3/maintenance/defragment", "{}");
    let alarms = tell(&etcd, "/v3/maintenance/alarm", r#"{"action":"GET"}"#);
    let member = alarms.split(r#""memberID":""#).nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let off = format!(r#"{{"action":"DEACTIVATE","memberID":"{member}","alarm":"NOSPACE"}}"#);
    tell(&etcd, "/v3/maintenance/alarm", &off);
    store.commit(vec![large(1)]).await.unwrap();
    assert_eq!(store.snapshot().count(PODS, "", None), 2);
}

/// Lets a store lose sight of its etcd: passes bytes on until it is told to cut every connection.
struct Passage {
    endpoint: String,
    open: tokio::sync::watch::Sender<bool>,
    _task: tokio::task::JoinSet<()>,
}

impl Passage {
    async fn to(etcd: &Etcd) -> Passage {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("etcd://{}", listener.local_addr().unwrap());
        let target = etcd.url().trim_start_matches("etcd://").to_owned();
        let (open, is_open) = tokio::sync::watch::channel(true);
        let mut task = tokio::task::JoinSet::new();
        task.spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (mut inner, _) = listener.accept().await.unwrap();
                let (target, mut is_open) = (target.clone(), is_open.clone());
                if !*is_open.borrow() {
                    continue;
                }
                connections.spawn(async move {
                    let mut outer = tokio::net::TcpStream::connect(target).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut inner, &mut outer) => {}
                        _ = is_open.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        Passage { endpoint, open, _task: task }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_cut_off_too_long_begins_anew() {
    if !need_etcd("a_server_that_was_cut_off_too_long_begins_anew") {
        return;
    }
    let etcd = Etcd::start();
    let passage = Passage::to(&etcd).await;
    let near = connect(&etcd).await;
    let far = connect_with(EtcdConfig::new(passage.endpoint.parse::<store::Endpoints>().unwrap().0)).await;
    let first = create(&near, "a/1", "1").await.revision;
    create(&near, "a/2", "1").await;
    far.latest().await.unwrap();
    let mut watch = far.watch(&PODS.into(), "", far.revision()).unwrap();
    let mut changes = far.changes().unwrap();
    passage.open.send(false).unwrap();
    assert!(far.latest().await.is_err(), "what others acknowledged cannot be known");
    let refused = far.commit(vec![put("b/1", Precondition::Absent, "1")]).await;
    assert!(matches!(refused, Err(CommitError::Unavailable(_) | CommitError::Unknown(_))), "{refused:?}");
    near.commit(vec![delete("a/1", first)]).await.unwrap();
    create(&near, "a/3", "1").await;
    let compacting = EtcdConfig {
        compact_every: std::time::Duration::from_millis(50),
        ..EtcdConfig::new(etcd.url().parse::<store::Endpoints>().unwrap().0)
    };
    // two servers agree on who compacts
    let others = [connect_with(compacting.clone()).await, connect_with(compacting).await];
    while near.collection_at(PODS, first).await.unwrap().is_some() {
        create(&others[0], &format!("c/{}", others[0].revision()), "1").await;
    }
    passage.open.send(true).unwrap();
    while far.latest().await.is_err() {}
    near.latest().await.unwrap();
    assert_eq!(content(&far), content(&near));
    assert!(matches!(watch.next(10).await, Err(WatchError::Compacted { .. })), "what lies between is not known");
    let mut told = Vec::new();
    while !told.contains(&"a/3".to_owned()) {
        match changes.next().await.unwrap() {
            store::Change::Object(key) => told.push(key.path.to_string()),
            store::Change::Everything => panic!("few objects changed"),
        }
    }
    assert!(told.contains(&"a/1".to_owned()), "the deletion is told of: {told:?}");
    assert_eq!(number(&far, "a/2").0, 1);
    create(&far, "b/2", "1").await;
}

/// Reads values that begin with `k8s\0` as another program's.
struct Other;

impl Foreign for Other {
    fn translate(&self, _: &str, value: &bytes::Bytes) -> Result<Vec<u8>, ForeignError> {
        let text = value.strip_prefix(b"k8s\0").ok_or_else(|| ForeignError("unknown".to_owned()))?;
        Ok(object(std::str::from_utf8(text).unwrap()).bytes)
    }
}

#[tokio::test]
async fn what_another_program_keeps_is_translated_and_kept_as_ours_once_written() {
    if !need_etcd("what_another_program_keeps_is_translated_and_kept_as_ours_once_written") {
        return;
    }
    let etcd = Etcd::start();
    let config = EtcdConfig::new(etcd.url().parse::<store::Endpoints>().unwrap().0);
    let writer = connect(&etcd).await;
    let foreign = |text: &str| Encoded { bytes: [b"k8s\0", text.as_bytes()].concat(), revision_at: None };
    let raw = |path: &str, text: &str| Write {
        key: key(path),
        precondition: Precondition::Absent,
        mutation: Mutation::Put(foreign(text)),
    };
    let revision = writer.commit(vec![raw("a/1", "old"), raw("a/2", "old")]).await.unwrap().revision;
    assert_eq!(content(&writer), [""; 0], "who cannot read it passes over it");

    let options = Options { foreign: Some(Arc::new(Other)), ..Options::default() };
    let reader = Store::connect(config.clone(), options).await.unwrap();
    assert_eq!(reader.snapshot().get(PODS, "a/1").unwrap().bytes, whole(revision, "old"));
    // also what comes later, and deletions of it
    let mut watch = reader.watch(&PODS.into(), "", revision).unwrap();
    writer.commit(vec![raw("a/3", "new")]).await.unwrap();
    let event = watch.next(1).await.unwrap().remove(0);
    assert_eq!(event.object.bytes, whole(event.object.revision, "new"));
    reader.commit(vec![delete("a/1", revision)]).await.unwrap();
    let event = watch.next(1).await.unwrap().remove(0);
    assert!(event.deleted && &*event.key.path == "a/1");
    // what is written becomes ours
    let ours = reader.commit(vec![put("a/2", Precondition::Revision(revision), "ours")]).await.unwrap();
    let others = connect(&etcd).await;
    assert_eq!(others.snapshot().get(PODS, "a/2").unwrap().bytes, whole(ours.revision, "ours"));
}
