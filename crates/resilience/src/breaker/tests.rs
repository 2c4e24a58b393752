use proptest::prelude::*;

use super::*;

const START: Moment = Moment::from_nanos(1 << 50);
const SUCCESS: Ending = Ending::Answered(Outcome::Success);
const FAILURE: Ending = Ending::Answered(Outcome::Failure);

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn breaker(config: BreakerConfig) -> Breaker {
    Breaker::new(config).unwrap()
}

/// Makes a call that ends at once, and says whether it was let through.
fn call(breaker: &mut Breaker, now: Moment, took: Duration, ending: Ending) -> bool {
    match breaker.admit(now) {
        Ok(permit) => {
            breaker.record(now, permit, took, ending);
            true
        }
        Err(_) => false,
    }
}

#[test]
fn failures_in_a_row_open_it_and_a_success_in_between_does_not() {
    let config = BreakerConfig { consecutive_failures: Some(3), failure_share: None, ..BreakerConfig::default() };
    let mut breaker = breaker(config);
    for ending in [FAILURE, FAILURE, SUCCESS, FAILURE, FAILURE] {
        assert!(call(&mut breaker, START, Duration::ZERO, ending));
    }
    assert_eq!(breaker.status(), Status::Closed);
    assert!(call(&mut breaker, START, Duration::ZERO, FAILURE));
    assert_eq!(breaker.status(), Status::Open { until: START + s(5) });
}

#[test]
fn a_share_of_failures_opens_it_only_with_enough_calls() {
    let mut breaker = breaker(BreakerConfig::default());
    for second in 0..19 {
        let ending = if second % 2 == 0 { FAILURE } else { SUCCESS };
        call(&mut breaker, START + Duration::from_millis(second * 100), Duration::ZERO, ending);
        assert_eq!(breaker.status(), Status::Closed);
    }
    call(&mut breaker, START + s(2), Duration::ZERO, FAILURE);
    assert!(matches!(breaker.status(), Status::Open { .. }));
}

#[test]
fn failures_that_are_long_past_do_not_count() {
    let mut breaker = breaker(BreakerConfig::default());
    for _ in 0..19 {
        call(&mut breaker, START, Duration::ZERO, FAILURE);
    }
    for _ in 0..19 {
        call(&mut breaker, START + s(10), Duration::ZERO, FAILURE);
    }
    assert_eq!(breaker.status(), Status::Closed);
}

#[test]
fn slow_answers_open_it_also_when_nobody_waited_for_them() {
    for ending in [SUCCESS, Ending::Abandoned] {
        let mut breaker = breaker(BreakerConfig { slow_after: s(1), calls_min: 4, ..BreakerConfig::default() });
        for _ in 0..4 {
            assert_eq!(breaker.status(), Status::Closed);
            call(&mut breaker, START, s(2), ending);
        }
        assert!(matches!(breaker.status(), Status::Open { .. }), "{ending:?}");
    }
    let mut breaker = breaker(BreakerConfig { slow_after: s(1), calls_min: 4, ..BreakerConfig::default() });
    for _ in 0..100 {
        call(&mut breaker, START, Duration::from_millis(10), Ending::Abandoned);
    }
    assert_eq!(breaker.status(), Status::Closed, "impatient callers say nothing of the service");
}

#[test]
fn it_stays_open_twice_as_long_after_every_probe_that_fails() {
    let config = BreakerConfig { consecutive_failures: Some(1), open_for_max: s(12), ..BreakerConfig::default() };
    let (mut breaker, mut now) = (breaker(config), START);
    for seconds in [5, 10, 12, 12] {
        assert!(call(&mut breaker, now, Duration::ZERO, FAILURE));
        assert_eq!(breaker.admit(now).unwrap_err(), s(seconds));
        now = now + s(seconds);
    }
    for _ in 0..3 {
        assert!(call(&mut breaker, now, Duration::ZERO, SUCCESS));
    }
    assert_eq!(breaker.status(), Status::Closed);
    call(&mut breaker, now, Duration::ZERO, FAILURE);
    assert_eq!(breaker.admit(now).unwrap_err(), s(5), "what is past is forgotten once it was closed");
}

#[test]
fn an_answer_from_before_it_opened_decides_nothing() {
    let config = BreakerConfig { consecutive_failures: Some(1), probes: 1, ..BreakerConfig::default() };
    let mut breaker = breaker(config);
    let [early, late] = [breaker.admit(START).unwrap(), breaker.admit(START).unwrap()];
    breaker.record(START, early, Duration::ZERO, FAILURE);
    let probe = breaker.admit(START + s(5)).unwrap();
    breaker.record(START + s(5), late, s(5), SUCCESS);
    assert_eq!(breaker.status(), Status::HalfOpen);
    breaker.record(START + s(5), probe, Duration::ZERO, SUCCESS);
    assert_eq!(breaker.status(), Status::Closed);
}

#[test]
fn probes_that_never_come_back_do_not_block_it_for_ever() {
    let config = BreakerConfig { consecutive_failures: Some(1), probes: 1, ..BreakerConfig::default() };
    let mut breaker = breaker(config);
    call(&mut breaker, START, Duration::ZERO, FAILURE);
    let lost = breaker.admit(START + s(5)).unwrap();
    assert_eq!(breaker.admit(START + s(6)).unwrap_err(), s(4));
    assert_eq!(breaker.admit(START + s(10)).unwrap_err(), s(10), "it opens again");
    breaker.record(START + s(11), lost, s(6), SUCCESS);
    assert!(breaker.admit(START + s(20)).is_ok());
    // one that was given up early is neither a success nor a failure, and makes room for the next
    let config = BreakerConfig { consecutive_failures: Some(1), probes: 1, ..BreakerConfig::default() };
    let mut breaker = Breaker::new(config).unwrap();
    call(&mut breaker, START, Duration::ZERO, FAILURE);
    call(&mut breaker, START + s(5), Duration::ZERO, Ending::Abandoned);
    assert!(call(&mut breaker, START + s(5), Duration::ZERO, SUCCESS));
    assert_eq!(breaker.status(), Status::Closed);
}

#[test]
fn senseless_breakers_are_refused() {
    let wrong = |config: BreakerConfig| config.validate().unwrap_err().to_string();
    let default = BreakerConfig::default;
    let share = Some(1.1);
    assert_eq!(
        wrong(BreakerConfig { failure_share: share, ..default() }),
        "failure_share: must be above 0 and at most 1, not 1.1"
    );
    assert_eq!(
        wrong(BreakerConfig { open_for: s(61), ..default() }),
        "open_for: must be above 0s and at most 60s, not 61s"
    );
    assert_eq!(wrong(BreakerConfig { probes: 0, ..default() }), "probes: must be between 1 and 1000, not 0");
    default().validate().unwrap();
}

proptest! {
    #[test]
    fn no_run_of_calls_breaks_the_rules(
        steps in prop::collection::vec((0u64..3000, 0u8..5, 0u64..3000), 1..400), probes in 1u32..4,
    ) {
        let config = BreakerConfig {
            consecutive_failures: Some(4), calls_min: 6, slow_after: s(2), window: s(5), open_for: s(3),
            open_for_max: s(9), probes, ..BreakerConfig::default()
        };
        let (mut breaker, mut now, mut under_way) = (Breaker::new(config.clone()).unwrap(), START, Vec::new());
        for (step, action, took) in steps {
            now = now + Duration::from_millis(step);
            match action {
                0 | 1 => {
                    let before = breaker.status();
                    let admitted = breaker.admit(now);
                    if let Status::Open { until } = before {
                        prop_assert_eq!(admitted.is_ok(), now >= until);
                    }
                    match admitted {
                        Ok(permit) => under_way.push(permit),
                        Err(wait) => prop_assert!(wait <= config.open_for_max && !wait.is_zero()),
                    }
                    let probing = under_way.iter().filter(|permit| permit.generation == breaker.generation).count();
                    prop_assert!(breaker.status() != Status::HalfOpen || probing <= probes as usize);
                }
                ending => if let Some(permit) = under_way.pop() {
                    let ending = [SUCCESS, FAILURE, Ending::Abandoned][usize::from(ending) - 2];
                    breaker.record(now, permit, Duration::from_millis(took), ending);
                }
            }
        }
        // whatever has happened: a service that works is used again before long
        for _ in 0..60 {
            now = now + s(1);
            call(&mut breaker, now, Duration::ZERO, SUCCESS);
        }
        prop_assert_eq!(breaker.status(), Status::Closed);
    }

    #[test]
    fn a_service_that_works_is_never_refused(steps in prop::collection::vec(0u64..2000, 1..500)) {
        let (mut breaker, mut now) = (breaker(BreakerConfig::default()), START);
        for step in steps {
            now = now + Duration::from_millis(step);
            prop_assert!(call(&mut breaker, now, Duration::from_millis(step), SUCCESS));
        }
    }
}
