use super::*;

fn template(image: &str) -> PodTemplateSpec {
    serde_json::from_value(json!({"metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": image}]}}))
    .unwrap()
}

fn revision(name: &str, number: i64, image: &str) -> Arc<ControllerRevision> {
    Arc::new(ControllerRevision {
        metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
        data: Some(RawExtension(data_of(&template(image)))),
        revision: number,
    })
}

fn names(revisions: &[Arc<ControllerRevision>]) -> Vec<String> {
    revisions.iter().map(|revision| revision.name_any()).collect()
}

#[test]
fn a_revision_gives_its_template_back() {
    let kept = revision("a", 1, "web:1");
    assert_eq!(template_of(&kept).unwrap(), template("web:1"));
    assert_eq!(kept.data.as_ref().unwrap().0["spec"]["template"]["$patch"], "replace");
    let broken =
        ControllerRevision { data: Some(RawExtension(json!({"spec": {"template": 7}}))), ..Default::default() };
    assert!(template_of(&broken).is_err());
}

#[test]
fn the_current_revision_is_told_by_its_data_and_gets_the_highest_number() {
    let data = data_of(&template("web:1"));
    let all = [revision("b", 2, "web:2"), revision("a", 1, "web:1"), revision("c", 3, "web:3")];
    let past = Past::of(all.to_vec(), &data);
    assert_eq!(past.current.as_ref().map(|current| current.name_any()).as_deref(), Some("a"));
    assert_eq!((names(&past.old), past.number()), (vec!["b".to_owned(), "c".into()], 4));

    let twice = Past::of(vec![revision("z", 5, "web:1"), revision("y", 4, "web:1")], &data);
    assert_eq!(twice.current.as_ref().map(|current| current.name_any()).as_deref(), Some("z"));
    assert_eq!((names(&twice.duplicates), twice.number()), (vec!["y".to_owned()], 1));

    let first = Past::of(Vec::new(), &data);
    assert_eq!((first.number(), first.current), (1, None));
}

#[test]
fn the_oldest_revisions_that_are_not_live_go_first() {
    let all: Vec<_> = (1..=5).map(|number| revision(&format!("r{number}"), number, "web:1")).collect();
    for (counted, limit, live, expected) in [
        (5, Some(10), vec![], vec![]),
        (5, Some(2), vec![], vec!["r1", "r2", "r3"]),
        (5, Some(2), vec!["r1"], vec!["r2", "r3", "r4"]),
        (5, Some(0), vec!["r5"], vec!["r1", "r2", "r3", "r4"]),
        (3, Some(2), vec!["r1", "r2"], vec!["r3"]),
        (5, None, vec![], vec![]),
    ] {
        let is_live = |revision: &ControllerRevision| live.contains(&revision.name_any().as_str());
        assert_eq!(names(&beyond_limit(&all, is_live, counted, limit)), expected, "{counted} {limit:?} {live:?}");
    }
}

#[test]
fn names_differ_by_template_and_collisions_and_stay_in_bounds() {
    let owner: k8s_openapi::api::apps::v1::StatefulSet =
        serde_json::from_value(json!({"metadata": {"name": "w".repeat(250), "uid": "u"}})).unwrap();
    let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
    let name = |image: &str, collisions: i32| {
        let wanted =
            Wanted { data: &data_of(&template(image)), labels: Some(&labels), hash_label: DATA_HASH, collisions };
        let made = new_revision(&owner, 3, &wanted, collisions);
        assert_eq!((made.labels()["app"].as_str(), made.revision), ("web", 3));
        assert!(made.name_any().ends_with(&made.labels()[DATA_HASH]));
        made.name_any()
    };
    assert!(name("web:1", 0).len() <= 253);
    assert_eq!(name("web:1", 0), name("web:1", 0));
    assert_ne!(name("web:1", 0), name("web:2", 0));
    assert_ne!(name("web:1", 0), name("web:1", 1));
}
