use super::*;
use crate::testing::FakeApi;

fn occurrence(message: &str, seconds: i64) -> Occurrence {
    Occurrence {
        about: ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some("default".into()),
            name: Some("web-1".into()),
            ..ObjectReference::default()
        },
        kind: EventType::Warning,
        reason: "BackOff".into(),
        action: String::new(),
        message: message.into(),
        at: Timestamp::from_second(1_800_000_000 + seconds).unwrap(),
    }
}

#[test]
fn equal_events_raise_the_count_of_the_first() {
    let mut correlator = Correlator::default();
    let Verdict::New { name, .. } = correlator.observe(&occurrence("again", 0)) else { panic!("first is new") };
    let second = correlator.observe(&occurrence("again", 5));
    let first = occurrence("again", 0).at;
    assert_eq!(second, Verdict::Again { name, message: "again".into(), count: 2, first });
}

#[test]
fn many_different_messages_are_combined() {
    let mut correlator = Correlator::default();
    for n in 0..10 {
        assert!(matches!(correlator.observe(&occurrence(&format!("m{n}"), n)), Verdict::New { .. }));
    }
    let Verdict::New { message, name } = correlator.observe(&occurrence("m10", 10)) else { panic!("combined is new") };
    assert_eq!(message, "(combined from similar events): m10");
    match correlator.observe(&occurrence("m11", 11)) {
        Verdict::Again { name: again, count: 2, .. } => assert_eq!(again, name),
        other => panic!("unexpected {other:?}"),
    }
}

#[test]
fn one_object_cannot_flood() {
    let mut correlator = Correlator::default();
    let written = (0..100).filter(|_| correlator.observe(&occurrence("same", 0)) != Verdict::Drop).count();
    assert_eq!(written, 25);
    assert_eq!(correlator.observe(&occurrence("same", 299)), Verdict::Drop);
    assert_ne!(correlator.observe(&occurrence("same", 301)), Verdict::Drop, "refilled by one");
}

#[test]
fn long_messages_are_cut_at_a_character() {
    let cut = truncated("ä".repeat(1000));
    assert_eq!(cut.len(), 1024);
    assert_eq!(truncated("x".repeat(1023) + "ä").len(), 1023);
}

#[tokio::test]
async fn events_are_written_and_then_patched() {
    let api = FakeApi::new();
    let recorder = Recorder::with_host(api.client(), "kubelet", "node-a");
    let about = occurrence("", 0).about;
    recorder.event(&about, EventType::Warning, "BackOff", "", "restarting failed container");
    recorder.event(&about, EventType::Warning, "BackOff", "", "restarting failed container");
    recorder.flush().await;
    let requests = api.writes();
    assert_eq!(requests.len(), 2);
    let (created, patched) = (&requests[0], &requests[1]);
    assert_eq!((created.method.as_str(), created.path.as_str()), ("POST", "/api/v1/namespaces/default/events"));
    assert_eq!(created.body["source"], json!({"component": "kubelet", "host": "node-a"}));
    assert_eq!(created.body["count"], 1);
    let name = created.body["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("web-1."));
    assert_eq!(
        (patched.method.as_str(), patched.path.clone()),
        ("PATCH", format!("/api/v1/namespaces/default/events/{name}"))
    );
    assert_eq!(patched.body["count"], 2);
}

#[tokio::test]
async fn events_about_many_objects_do_not_wait_for_each_other_and_those_about_one_keep_their_order() {
    let api = FakeApi::new();
    let recorder = Recorder::new(api.client(), "scheduler");
    let mut about = occurrence("", 0).about;
    for n in 0..20 {
        about.name = Some(format!("web-{n}"));
        recorder.event(&about, EventType::Normal, "Scheduled", "Binding", "assigned");
    }
    for _ in 0..5 {
        recorder.event(&about, EventType::Normal, "Scheduled", "Binding", "assigned");
    }
    recorder.flush().await;
    let writes = api.writes();
    let created = writes.iter().filter(|write| write.method == "POST").count();
    assert_eq!(created, 20);
    let last: Vec<_> = writes.iter().filter(|write| write.path.contains("/web-19.")).collect();
    let counts: Vec<_> = last.iter().map(|write| write.body["count"].as_i64().unwrap()).collect();
    assert!(counts.is_sorted() && counts.last() == Some(&6), "{counts:?}");
    assert!(last.iter().all(|write| write.method == "PATCH"), "after it was created");
}
