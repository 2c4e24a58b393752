use super::super::program::OwnerKind;
use super::*;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 160, 128, 7);
const A: Ipv4Addr = Ipv4Addr::new(10, 160, 0, 2);
const B: Ipv4Addr = Ipv4Addr::new(10, 160, 0, 3);

fn key(name: &str) -> OwnerKey {
    OwnerKey { kind: OwnerKind::Service, namespace: "default".into(), name: name.into() }
}

fn program(protocol: Protocol, targets: &[Ipv4Addr]) -> Program {
    Program { protocol, matches: vec![Match::Cluster(VIP, protocol, 80)], action: spread(targets) }
}

fn spread(targets: &[Ipv4Addr]) -> Action {
    Action::Spread { affinity: None, targets: targets.iter().map(|address| (*address, 8080)).collect() }
}

fn wanted(chain: &str, program: Program) -> BTreeMap<String, Program> {
    BTreeMap::from([(chain.to_owned(), program)])
}

fn fill(chain: &str, targets: &[Ipv4Addr]) -> Change {
    Change::Fill { chain: chain.into(), protocol: Protocol::Tcp, action: spread(targets) }
}

#[test]
fn a_new_service_is_filled_before_anything_leads_to_it() {
    let mut ledger = Ledger::default();
    let update = ledger.update(&key("web"), wanted("web", program(Protocol::Tcp, &[A])));
    let cluster = Match::Cluster(VIP, Protocol::Tcp, 80);
    assert_eq!(
        update.changes,
        [
            Change::AddChain("web".into()),
            fill("web", &[A]),
            Change::AddMatch(cluster, "web".into()),
            Change::AddHairpin(A)
        ]
    );
    let again = ledger.update(&key("web"), wanted("web", program(Protocol::Tcp, &[A])));
    assert_eq!(again, Update::default(), "nothing changed, nothing sent");
}

#[test]
fn a_moved_endpoint_costs_one_rule_and_two_hairpin_elements() {
    let mut ledger = Ledger::default();
    ledger.update(&key("web"), wanted("web", program(Protocol::Tcp, &[A])));
    let update = ledger.update(&key("web"), wanted("web", program(Protocol::Tcp, &[B])));
    assert_eq!(update.changes, [fill("web", &[B]), Change::AddHairpin(B), Change::RemoveHairpin(A)]);
    assert!(update.stale_udp.is_empty(), "TCP ends its flows itself");
}

#[test]
fn without_endpoints_the_match_goes_before_the_chain() {
    let mut ledger = Ledger::default();
    ledger.update(&key("dns"), wanted("dns", program(Protocol::Udp, &[A])));
    let update = ledger.update(&key("dns"), BTreeMap::new());
    assert_eq!(
        update.changes,
        [
            Change::RemoveMatch(Match::Cluster(VIP, Protocol::Udp, 80)),
            Change::RemoveChain("dns".into()),
            Change::RemoveHairpin(A)
        ]
    );
    assert_eq!(update.stale_udp, HashSet::from([(A, 8080)]));
    assert_eq!(ledger.services(), 0);
}

#[test]
fn an_address_passes_to_its_new_service_before_the_old_one_is_seen_deleted() {
    let mut ledger = Ledger::default();
    let cluster = Match::Cluster(VIP, Protocol::Tcp, 80);
    ledger.update(&key("old"), wanted("old", program(Protocol::Tcp, &[A])));
    let update = ledger.update(&key("new"), wanted("new", program(Protocol::Tcp, &[A])));
    assert_eq!(
        update.changes,
        [
            Change::AddChain("new".into()),
            fill("new", &[A]),
            Change::RemoveMatch(cluster),
            Change::AddMatch(cluster, "new".into())
        ]
    );
    let update = ledger.update(&key("old"), BTreeMap::new());
    assert_eq!(update.changes, [Change::RemoveChain("old".into())], "the match is the new owner's");
}

#[test]
fn an_address_with_two_targets_stays_a_hairpin_until_both_are_gone() {
    let mut ledger = Ledger::default();
    ledger.update(&key("a"), wanted("a", program(Protocol::Tcp, &[A])));
    let second = Program { matches: vec![Match::Node(Protocol::Tcp, 30080)], ..program(Protocol::Tcp, &[A]) };
    ledger.update(&key("b"), wanted("b", second));
    let first = ledger.update(&key("a"), BTreeMap::new());
    assert!(!first.changes.contains(&Change::RemoveHairpin(A)));
    let last = ledger.update(&key("b"), BTreeMap::new());
    assert!(last.changes.contains(&Change::RemoveHairpin(A)));
}

#[test]
fn a_chain_that_leads_to_another_one_comes_after_it_and_goes_before_it() {
    let mut ledger = Ledger::default();
    let admit = Program {
        protocol: Protocol::Tcp,
        matches: vec![Match::Cluster(B, Protocol::Tcp, 80)],
        action: Action::Admit { sources: Vec::new(), chain: "service".into() },
    };
    let programs = [("admit".to_owned(), admit), ("service".to_owned(), program(Protocol::Tcp, &[A]))];
    let chains = |update: Update, of: fn(Change) -> Option<String>| -> Vec<String> {
        update.changes.into_iter().filter_map(of).collect()
    };
    let filled = |change: Change| if let Change::Fill { chain, .. } = change { Some(chain) } else { None };
    assert_eq!(chains(ledger.update(&key("web"), programs.into()), filled), ["service", "admit"]);
    let removed = |change: Change| if let Change::RemoveChain(chain) = change { Some(chain) } else { None };
    assert_eq!(chains(ledger.update(&key("web"), BTreeMap::new()), removed), ["admit", "service"]);
}
