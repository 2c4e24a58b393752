use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;

use super::*;
use crate::Change;
use crate::testing::FakeApi;

struct Running {
    informers: Informers,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), InformersError>>,
}

fn start(api: &FakeApi) -> Running {
    let informers = Informers::new(api.client());
    let stop = CancellationToken::new();
    let (run, token) = (informers.clone(), stop.clone());
    Running { informers, stop, task: tokio::spawn(async move { run.run(token).await }) }
}

fn label(object: &ConfigMap) -> Vec<String> {
    object.labels().get("app").cloned().into_iter().collect()
}

fn names(objects: &[Arc<ConfigMap>]) -> Vec<String> {
    objects.iter().map(|o| o.name_any()).collect()
}

async fn next(sub: &mut Subscription<ConfigMap>) -> String {
    match sub.next().await.unwrap() {
        Change::Applied { old: None, new } => format!("+{}", new.name_any()),
        Change::Applied { old: Some(_), new } => format!("~{}", new.name_any()),
        Change::Deleted(last) => format!("-{}", last.name_any()),
    }
}

#[tokio::test]
async fn the_cache_and_indexes_show_a_change_before_subscribers_hear_of_it() {
    let api = FakeApi::new();
    api.put("a", "web", "1", false);
    let running = start(&api);
    let maps = running.informers.of::<ConfigMap>();
    let by_app = maps.index("app", label);
    assert!(maps.synced().await);
    let mut sub = maps.subscribe();
    assert_eq!(next(&mut sub).await, "+a");

    api.put("b", "web", "2", true);
    assert_eq!(next(&mut sub).await, "+b");
    assert_eq!(names(&by_app.get("web")), ["a", "b"]);
    assert!(maps.get("default", "b").unwrap().managed_fields().is_empty());

    api.put("a", "db", "1", true);
    assert_eq!(next(&mut sub).await, "~a");
    assert_eq!((names(&by_app.get("web")), names(&by_app.get("db"))), (vec!["b".into()], vec!["a".to_string()]));

    api.remove("b", true);
    assert_eq!(next(&mut sub).await, "-b");
    assert!(by_app.get("web").is_empty() && maps.get("default", "b").is_none());
    assert_eq!((maps.len(), maps.revision()), (1, 5));

    running.stop.cancel();
    running.task.await.unwrap().unwrap();
    assert!(sub.next().await.is_none(), "subscriptions end with the informers");
}

#[tokio::test]
async fn facts_follow_the_objects_and_share_what_is_equal() {
    let api = FakeApi::new();
    api.put("a", "web", "1", false);
    let running = start(&api);
    let maps = running.informers.of::<ConfigMap>();
    let facts = maps.facts(
        |map| label(map).pop(),
        |map, other: Option<&Arc<str>>| {
            let text = map.data.as_ref().and_then(|data| data.values().next()).cloned().unwrap_or_default();
            other.filter(|other| ***other == *text).cloned().unwrap_or_else(|| text.into())
        },
    );
    assert!(maps.synced().await);
    let mut sub = maps.subscribe();
    assert_eq!(next(&mut sub).await, "+a");
    assert_eq!(facts.get("web").len(), 1);

    api.put("b", "web", "1", true);
    assert_eq!(next(&mut sub).await, "+b");
    let both = facts.get("web");
    assert!(both.len() == 2 && Arc::ptr_eq(&both[0], &both[1]));

    api.put("a", "db", "1", true);
    assert_eq!(next(&mut sub).await, "~a");
    assert_eq!((facts.get("web").len(), facts.get("db").len()), (1, 1));
    api.remove("b", true);
    assert_eq!(next(&mut sub).await, "-b");
    assert_eq!((facts.get("web").len(), facts.get("db").len()), (0, 1));
    running.stop.cancel();
    running.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_index_is_shared_by_the_same_function_only() {
    let api = FakeApi::new();
    api.put("a", "web", "1", false);
    let running = start(&api);
    let maps = running.informers.of::<ConfigMap>();
    let (first, again) = (maps.index("app", label), maps.index("app", label));
    let other = maps.index("app", |object: &ConfigMap| vec![object.name_any()]);
    assert!(maps.synced().await);
    assert_eq!(
        (first.values(), again.values(), other.values()),
        (vec!["web".into()], vec!["web".into()], vec!["a".into()])
    );
    running.stop.cancel();
    running.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn one_watch_serves_all_who_ask_for_a_kind() {
    let api = FakeApi::new();
    let running = start(&api);
    let first = running.informers.of::<ConfigMap>();
    let second = running.informers.of::<ConfigMap>();
    let selected = running.informers.of_selected::<ConfigMap>(Selector::fields("metadata.name=a"));
    assert!(first.synced().await && second.synced().await && selected.synced().await);
    let queries = api.queries();
    assert_eq!(queries.len(), 2, "{queries:?}");
    assert!(queries.iter().any(|query| query.contains("fieldSelector=metadata.name%3Da")));
    running.stop.cancel();
    running.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn after_an_expired_watch_the_list_repairs_what_was_missed() {
    let api = FakeApi::new();
    for name in ["kept", "gone", "reborn"] {
        api.put(name, "web", "1", false);
    }
    let running = start(&api);
    let maps = running.informers.of::<ConfigMap>();
    maps.synced().await;
    let mut sub = maps.subscribe();
    for _ in 0..3 {
        next(&mut sub).await;
    }
    api.remove("gone", false);
    api.put("new", "web", "4", false);
    api.put("reborn", "web", "2", false);
    api.expire_watches();
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(next(&mut sub).await);
    }
    seen.sort();
    assert_eq!(seen, ["+new", "+reborn", "-gone", "-reborn"]);
    assert_eq!(names(&maps.list()), ["kept", "new", "reborn"]);
    running.stop.cancel();
    running.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_without_streamed_lists_is_listed() {
    let api = FakeApi::without_streamed_lists();
    api.put("a", "web", "1", false);
    let running = start(&api);
    let resource = ApiResource::erase::<ConfigMap>(&());
    let maps = running.informers.metadata(&resource);
    assert!(maps.synced().await);
    assert_eq!(maps.get("default", "a").unwrap().labels()["app"], "web");
    api.watch_opened().await;
    let mut sub = maps.subscribe();
    sub.next().await.unwrap();
    api.put("b", "web", "2", true);
    assert_eq!(sub.next().await.unwrap().object().name_any(), "b");

    running.informers.release_metadata(&resource);
    assert!(sub.next().await.is_none(), "a released informer ends");
    running.stop.cancel();
    running.task.await.unwrap().unwrap();
}
