//! What the simulation of a retry storm shows, and that the page for users shows the same.

#[path = "../examples/retry_storm/world.rs"]
mod world;

use std::sync::LazyLock;

use world::{DEFENCES, Outcomes, run, table};

static OUTCOMES: LazyLock<[Outcomes; DEFENCES.len()]> = LazyLock::new(|| DEFENCES.map(run));

fn outcomes(name: &str) -> Outcomes {
    let line = DEFENCES.iter().position(|defence| defence.name == name).expect("the table has such a line");
    OUTCOMES[line]
}

#[test]
fn retries_without_a_budget_never_let_a_service_recover() {
    let storm = outcomes("three tries at once");
    assert!(storm.load_percent > 280, "{storm:?}");
    assert_eq!(storm.recovered_after, None, "{storm:?}");
    assert!(storm.wasted_percent > 90, "{storm:?}");
    assert_eq!(outcomes("… with backoff and jitter").recovered_after, None, "spreading a storm out does not end it");
}

#[test]
fn a_budget_bounds_the_load() {
    for name in ["… and a retry budget", "budget, and a bulkhead with CoDel"] {
        let load = outcomes(name).load_percent;
        // a fifth, and ten for each 800
        assert!(load <= 122, "{name}: {load} %");
    }
}

#[test]
fn with_everything_the_fault_ends_when_it_is_over() {
    let all = outcomes("budget, breaker, deadlines, bulkhead");
    assert!(all.recovered_after.is_some_and(|seconds| seconds <= 5), "{all:?}");
    assert!(all.after_percent >= 90 && all.wasted_percent <= 5, "{all:?}");
}

#[test]
fn the_page_for_users_shows_this_table() {
    let page = include_str!("../../../docs/resilience.md");
    let table = table(&OUTCOMES);
    assert!(page.contains(&table), "docs/resilience.md shows another table than this:\n{table}");
}
