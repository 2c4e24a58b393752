use std::collections::BTreeMap;

use resilience::{Random, balance::SlowStart, outlier::OutlierConfig};

use super::*;
use crate::routing::{HashKey, Limits, UpstreamConfig};

fn addresses(count: u8) -> Arc<Vec<SocketAddr>> {
    Arc::new((1..=count).map(|last| SocketAddr::from(([10, 0, 0, last], 80))).collect())
}

fn group(config: UpstreamConfig) -> Arc<Group> {
    Group::new("ns/svc:80", Upstream::new(config).unwrap())
}

fn balance(balance: Balance) -> Arc<Group> {
    group(UpstreamConfig { balance, ..UpstreamConfig::default() })
}

const NOW: Moment = Moment::from_nanos(1 << 40);

/// How many of `count` requests that end at once each endpoint gets.
fn spread(group: &Arc<Group>, now: Moment, source: &Arc<Vec<SocketAddr>>, count: u32) -> BTreeMap<SocketAddr, u32> {
    let (random, mut counts) = (Random::seeded(7), BTreeMap::new());
    for _ in 0..count {
        let attempt = group.pick(now, source, &Want::default(), random.draw()).unwrap();
        *counts.entry(attempt.address()).or_default() += 1;
    }
    counts
}

#[test]
fn every_endpoint_gets_its_share() {
    let source = addresses(4);
    for of in [Balance::Turns, Balance::Random, Balance::LeastRequest, Balance::Fastest] {
        let group = balance(of.clone());
        let counts = spread(&group, NOW, &source, 4000);
        assert!(counts.len() == 4 && counts.values().all(|count| (850..1150).contains(count)), "{of:?} {counts:?}");
    }
    assert!(balance(Balance::Turns).pick(NOW, &addresses(0), &Want::default(), 5).is_none());
}

#[test]
fn the_least_busy_and_the_fastest_are_preferred() {
    let source = addresses(2);
    let busy = balance(Balance::LeastRequest);
    let held: Vec<_> = (0..20).map(|n| busy.pick(NOW, &source, &Want::default(), n << 40).unwrap()).collect();
    let first = held.iter().filter(|attempt| attempt.address() == source[0]).count();
    assert_eq!(first, 10, "requests that do not end are spread evenly");
    let fast = balance(Balance::Fastest);
    for _ in 0..10 {
        let attempt = fast.pick(NOW, &source, &Want { avoid: &source[1..], ..Want::default() }, 1).unwrap();
        attempt.answered(NOW + Duration::from_millis(300), Answer::Success);
    }
    let counts = spread(&fast, NOW + Duration::from_millis(400), &source, 100);
    assert_eq!(counts.get(&source[0]), None, "{counts:?}");
}

#[test]
fn the_same_key_finds_the_same_endpoint_and_few_move() {
    let group = balance(Balance::Hash(HashKey::Source));
    let (ten, nine) = (addresses(10), addresses(9));
    let to = |source, key: u64, avoid: &[SocketAddr]| {
        let want = Want { avoid, key: Some(hash(&key.to_le_bytes(), 0)), session: None };
        group.pick(NOW, source, &want, rand::random()).unwrap().address()
    };
    let before: Vec<_> = (0..1000).map(|key| to(&ten, key, &[])).collect();
    assert!((0..1000).all(|key| to(&ten, key, &[]) == before[key as usize]));
    let again: Vec<_> = (0..1000).map(|key| to(&ten, key, &[before[key as usize]])).collect();
    assert!(again.iter().zip(&before).all(|(again, before)| again != before), "another one after a failure");
    assert!((0..1000).all(|key| to(&ten, key, &[before[key as usize]]) == again[key as usize]), "and always the same");
    let moved = (0..1000).filter(|key| to(&nine, *key, &[]) != before[*key as usize]).count();
    assert!((80..220).contains(&moved), "{moved} of 1,000 moved when one of ten left");
}

#[test]
fn a_session_finds_its_endpoint_as_long_as_it_is_there() {
    let (group, source) = (balance(Balance::Turns), addresses(3));
    let want = Want { session: Some(source[2]), ..Want::default() };
    assert!((0..9).all(|_| group.pick(NOW, &source, &want, 1).unwrap().address() == source[2]));
    let failed = Want { avoid: &source[2..], ..want };
    assert_ne!(group.pick(NOW, &source, &failed, 1).unwrap().address(), source[2]);
    let fewer = addresses(2);
    assert!(group.pick(NOW, &fewer, &want, 1).is_some());
}

#[test]
fn who_fails_is_left_alone_for_a_while_unless_most_do() {
    let outlier = OutlierConfig { consecutive_5xx: Some(3), max_ejection_percent: 100, ..OutlierConfig::default() };
    let group = group(UpstreamConfig { outlier: Some(outlier), balance: Balance::Turns, ..UpstreamConfig::default() });
    let source = addresses(3);
    let fail = |which: usize, now| {
        let others: Vec<_> = source.iter().copied().filter(|address| *address != source[which]).collect();
        let attempt = group.pick(now, &source, &Want { avoid: &others, ..Want::default() }, 1).unwrap();
        attempt.answered(now, Answer::Failure);
    };
    for _ in 0..3 {
        fail(0, NOW);
    }
    assert!(group.is_ejected(NOW, source[0]));
    assert_eq!(spread(&group, NOW, &source, 30).len(), 2);
    let later = NOW + Duration::from_secs(31);
    assert_eq!(spread(&group, later, &source, 30).len(), 3, "an ejection ends");
    for _ in 0..3 {
        fail(0, later);
        fail(1, later);
    }
    assert_eq!(spread(&group, later, &source, 30).len(), 3, "two of three are too many to leave alone");
}

#[test]
fn endpoints_keep_what_is_known_of_them_when_others_come() {
    let slow_start = Some(SlowStart { window: Duration::from_secs(10), aggression: 1.0, min_weight: 0.1 });
    let group = group(UpstreamConfig { slow_start, balance: Balance::Turns, ..UpstreamConfig::default() });
    let (one, two) = (addresses(1), addresses(2));
    spread(&group, NOW, &one, 1);
    let later = NOW + Duration::from_secs(60);
    let counts = spread(&group, later, &two, 1000);
    assert!(counts[&two[1]] < 150, "a new one is spared: {counts:?}");
    let counts = spread(&group, later + Duration::from_secs(11), &two, 1000);
    assert_eq!(counts[&two[1]], 500);
}

#[test]
fn an_endpoint_that_has_enough_gets_no_more() {
    let limits = Limits { endpoint: Some(1), ..Limits::default() };
    let group = group(UpstreamConfig { limits, ..UpstreamConfig::default() });
    let source = addresses(2);
    let held = [1, 2].map(|random| group.pick(NOW, &source, &Want::default(), random).unwrap());
    assert_ne!(held[0].address(), held[1].address());
    assert!(group.pick(NOW, &source, &Want::default(), 3).is_none());
    drop(held);
    assert!(group.pick(NOW, &source, &Want::default(), 3).is_some());
}
