use super::*;

#[test]
fn ranges_follow_from_the_number() {
    let slot = Slot::new(3).unwrap();
    assert_eq!(slot.cidr().to_string(), "10.163.0.0/16");
    assert_eq!(slot.pod_cidr().to_string(), "10.163.0.0/17");
    assert_eq!(slot.service_cidr().to_string(), "10.163.128.0/17");
    assert!(slot.service_cidr().contains(slot.dns_ip()) && !slot.pod_cidr().contains(slot.dns_ip()));
    assert!(slot.pod_cidr().contains(slot.bridge_ip()));
    assert_eq!(Slot::new(SLOT_COUNT), None);
}

#[test]
fn a_link_or_a_route_in_the_range_takes_a_slot() {
    let slot = Slot::new(1).unwrap();
    let route = |network: [u8; 4], prefix| Route { destination: (network.into(), prefix), link: None };
    let link = |name: &str| Link { index: 7, name: name.into(), mtu: 1500 };
    assert!(slot.is_clear(&[link("keelson0"), link("eth0")], &[route([0, 0, 0, 0], 0), route([10, 160, 0, 0], 16)]));
    assert!(!slot.is_clear(&[link("keelson1")], &[]));
    assert!(!slot.is_clear(&[], &[route([10, 161, 9, 0], 24)]));
    assert!(!slot.is_clear(&[], &[route([10, 0, 0, 0], 8)]));
}

#[test]
fn a_slot_is_kept_locked_and_promised() {
    let run = tempfile::tempdir().unwrap();
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = Slot::claim(run.path(), a.path()).unwrap();
    let second = Slot::claim(run.path(), b.path()).unwrap();
    assert_ne!(first.slot(), second.slot());
    assert!(matches!(Slot::claim(run.path(), a.path()), Err(SlotError::InUse { .. })));

    let kept = second.slot();
    drop(first);
    drop(second);
    let c = tempfile::tempdir().unwrap();
    let third = Slot::claim(run.path(), c.path()).unwrap();
    assert_ne!(third.slot(), kept, "a stopped instance keeps its slot");
    assert_eq!(Slot::claim(run.path(), b.path()).unwrap().slot(), kept);
}

#[test]
fn a_damaged_slot_file_is_named() {
    let (run, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(state.path().join(SLOT_FILE), "99").unwrap();
    let error = Slot::claim(run.path(), state.path()).unwrap_err().to_string();
    assert!(error.contains("slot") && error.contains("99"), "{error}");
}

#[test]
fn only_a_slot_whose_owner_is_gone_is_given_back() {
    let root = tempfile::tempdir().unwrap();
    let run = root.path().join("run");
    let (running, stopped, gone) = (root.path().join("a"), root.path().join("b"), root.path().join("c"));
    let first = Slot::claim(&run, &running).unwrap();
    let second = Slot::claim(&run, &stopped).unwrap().slot();
    let third = Slot::claim(&run, &gone).unwrap().slot();
    fs::remove_dir_all(&gone).unwrap();
    // What runs keeps its slot whatever becomes of its directory.
    fs::remove_dir_all(&running).unwrap();

    Slot::release_abandoned(&run).unwrap();
    assert!(first.slot().claim_path(&run).exists());
    assert!(second.claim_path(&run).exists());
    assert!(!third.claim_path(&run).exists());

    drop(first);
    fs::remove_dir_all(&stopped).unwrap();
    Slot::release_abandoned(&run).unwrap();
    assert!(!run.exists(), "nothing is left of an empty run directory");
    Slot::release_abandoned(&run).unwrap();
}
