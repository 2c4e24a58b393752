use std::io;

use http::{Request, Response, StatusCode};
use proptest::prelude::*;
use tower::{ServiceBuilder, ServiceExt as _, service_fn};

use super::*;
use crate::{
    moment::now,
    rejection::{Failure, Rejection},
};

const START: Moment = Moment::from_nanos(1 << 50);

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn service(config: OutlierConfig, endpoints: usize) -> (Detector, Vec<Arc<Endpoint>>) {
    let detector = Detector::new(config).unwrap();
    let endpoints = (0..endpoints).map(|_| detector.join()).collect();
    (detector, endpoints)
}

fn fail(detector: &Detector, endpoint: &Endpoint, now: Moment, times: u32) -> bool {
    (0..times).any(|_| detector.record(now, endpoint, Answer::Failure))
}

#[test]
fn failures_in_a_row_eject_for_a_time_that_grows_and_is_forgiven() {
    let config = OutlierConfig { max_ejection_time: s(70), ..OutlierConfig::default() };
    let (detector, endpoints) = service(config, 2);
    let bad = &endpoints[0];
    assert!(!fail(&detector, bad, START, 4));
    detector.record(START, bad, Answer::Success);
    assert!(!fail(&detector, bad, START, 4), "a success begins a new row");
    let mut now = START;
    for seconds in [30, 60, 70] {
        assert!(fail(&detector, bad, now, 5));
        assert!(bad.is_ejected(now + s(seconds) - Duration::from_nanos(1)));
        now = now + s(seconds);
        assert!(!bad.is_ejected(now), "for {seconds} seconds");
    }
    // intervals in which it behaves take the ejections back
    for _ in 0..5 {
        now = now + s(10);
        detector.record(now, bad, Answer::Success);
    }
    assert!(fail(&detector, bad, now, 5));
    assert!(!bad.is_ejected(now + s(30)), "as the first time");
}

#[test]
fn gateway_failures_have_a_row_of_their_own() {
    let config =
        OutlierConfig { consecutive_5xx: None, consecutive_gateway_failure: Some(2), ..OutlierConfig::default() };
    let (detector, endpoints) = service(config, 2);
    assert!(!detector.record(START, &endpoints[0], Answer::GatewayFailure));
    assert!(!detector.record(START, &endpoints[0], Answer::Failure));
    assert!(!detector.record(START, &endpoints[0], Answer::GatewayFailure));
    assert!(detector.record(START, &endpoints[0], Answer::GatewayFailure));
}

#[test]
fn no_more_than_a_share_is_ejected_and_never_the_last() {
    let (detector, endpoints) = service(OutlierConfig { max_ejection_percent: 30, ..OutlierConfig::default() }, 10);
    for endpoint in &endpoints {
        fail(&detector, endpoint, START, 5);
    }
    assert_eq!(detector.ejected(START), (3, 10));
    let (detector, endpoints) = service(OutlierConfig::default(), 3);
    for endpoint in &endpoints {
        fail(&detector, endpoint, START, 5);
    }
    assert_eq!(detector.ejected(START), (1, 3), "one, though a tenth of three is none");
    let (detector, endpoints) = service(OutlierConfig::default(), 1);
    assert!(!fail(&detector, &endpoints[0], START, 50));
    detector.leave(&endpoints[0]);
    assert_eq!(detector.ejected(START), (0, 0));
}

/// An interval in which every endpoint answers 200 times, the n-th failing so many of a hundred.
fn interval(detector: &Detector, endpoints: &[Arc<Endpoint>], failing: &[u32]) {
    detector.record(START, &endpoints[0], Answer::Success);
    for n in 0..200 {
        for (endpoint, failing) in endpoints.iter().zip(failing) {
            // spread out, so that none fails five times in a row
            let fails = (n + 1) * failing / 100 > n * failing / 100;
            detector.record(START + s(1), endpoint, if fails { Answer::Failure } else { Answer::Success });
        }
    }
    detector.record(START + s(10), &endpoints[0], Answer::Success);
}

#[test]
fn who_succeeds_far_less_often_than_the_others_is_ejected() {
    let (detector, endpoints) = service(OutlierConfig::default(), 6);
    interval(&detector, &endpoints, &[1, 0, 30, 1, 0, 1]);
    let ejected: Vec<_> = endpoints.iter().map(|endpoint| endpoint.is_ejected(START + s(10))).collect();
    assert_eq!(ejected, [false, false, true, false, false, false]);
    // all fail alike: nobody is an outlier
    let (detector, endpoints) = service(OutlierConfig::default(), 6);
    interval(&detector, &endpoints, &[60, 61, 59, 60, 60, 62]);
    assert_eq!(detector.ejected(START + s(10)), (0, 6));
}

#[test]
fn who_fails_too_often_is_ejected_whatever_the_others_do() {
    let threshold = FailurePercentage { threshold: 60, minimum_hosts: 2, ..FailurePercentage::default() };
    let config = OutlierConfig {
        success_rate: None,
        failure_percentage: Some(threshold),
        max_ejection_percent: 100,
        ..OutlierConfig::default()
    };
    let (detector, endpoints) = service(config, 3);
    interval(&detector, &endpoints, &[62, 58, 65]);
    let ejected: Vec<_> = endpoints.iter().map(|endpoint| endpoint.is_ejected(START + s(10))).collect();
    assert_eq!(ejected, [true, false, true]);
}

proptest! {
    #[test]
    fn the_limit_holds_whatever_happens(
        answers in prop::collection::vec((0usize..12, 0u8..3, 0u64..2000), 1..1500),
        endpoints in 1usize..12, max_ejection_percent in 0u32..=100,
    ) {
        let config = OutlierConfig { consecutive_5xx: Some(2), max_ejection_percent, ..OutlierConfig::default() };
        let (detector, endpoints) = service(config, endpoints);
        let (mut now, most) = (START, (endpoints.len() * max_ejection_percent as usize / 100).max(1));
        for (endpoint, answer, step) in answers {
            now = now + Duration::from_millis(step);
            let answer = [Answer::Success, Answer::Failure, Answer::GatewayFailure][usize::from(answer)];
            detector.record(now, &endpoints[endpoint % endpoints.len()], answer);
            let (ejected, all) = detector.ejected(now);
            prop_assert!(ejected <= most && (all > 1 || ejected == 0));
        }
        prop_assert_eq!(detector.ejected(now + s(300)).0, 0, "every ejection ends");
    }
}

#[tokio::test]
async fn the_layer_tells_what_an_endpoint_answers() {
    let config = OutlierConfig { consecutive_5xx: Some(2), ..OutlierConfig::default() };
    let detector = Arc::new(Detector::new(config).unwrap());
    let (endpoint, _other) = (detector.join(), detector.join());
    let service = ServiceBuilder::new().layer(OutlierLayer::new(detector.clone(), endpoint.clone())).service(
        service_fn(|request: Request<u16>| async move {
            match request.into_body() {
                0 => Err(Failure::Service(io::Error::from(io::ErrorKind::ConnectionReset))),
                1 => Err(Failure::from(Rejection::Full)),
                status => Ok(Response::builder().status(status).body(()).unwrap()),
            }
        }),
    );
    for request in [503, 200, 0, 1, 404, 0, 1] {
        let _ = service.clone().oneshot(Request::new(request)).await;
        assert!(!endpoint.is_ejected(now()));
    }
    let _ = service.oneshot(Request::new(500)).await;
    assert!(endpoint.is_ejected(now()), "a reset and a 500 in a row; what was never sent does not count");
    assert_eq!(Answer::of::<io::Error>(Ok(StatusCode::BAD_GATEWAY)), Some(Answer::GatewayFailure));
}

#[test]
fn senseless_rules_are_refused() {
    let wrong = |config: OutlierConfig| config.validate().unwrap_err().to_string();
    let default = OutlierConfig::default;
    assert_eq!(
        wrong(OutlierConfig { consecutive_5xx: Some(0), ..default() }),
        "consecutive_5xx: must be at least 1, not 0"
    );
    let base_ejection_time = s(400);
    assert_eq!(
        wrong(OutlierConfig { base_ejection_time, ..default() }),
        "base_ejection_time: must be above 0s and at most 300s, not 400s"
    );
}
