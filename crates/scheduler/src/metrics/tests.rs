use super::*;

fn shown(metrics: &Metrics) -> Vec<String> {
    let mut out = String::new();
    metrics.render(&mut out);
    out.lines().map(str::to_owned).collect()
}

#[track_caller]
fn assert_shows(metrics: &Metrics, wanted: &[&str]) {
    let lines = shown(metrics);
    for line in wanted {
        assert!(lines.iter().any(|shown| shown == line), "{line} is not in\n{}", lines.join("\n"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_is_counted_by_profile_result_and_part() {
    let metrics = Metrics::new();
    let mut watch = Stopwatch::start();
    tokio::time::advance(Duration::from_micros(150)).await;
    watch.ended(Step::Filter);
    tokio::time::advance(Duration::from_millis(3)).await;
    watch.ended(Step::PostFilter { found: false });
    metrics.decided("batch", &watch);
    metrics.attempted("batch", Outcome::Unschedulable, Duration::from_millis(5));
    metrics.attempted("batch", Outcome::Scheduled, Duration::from_secs(100));
    metrics.bound(2, Duration::from_millis(15));
    metrics.bound(40, Duration::from_millis(15));
    metrics.preempts(3);
    assert_shows(
        &metrics,
        &[
            "scheduler_schedule_attempts_total{profile=\"batch\",result=\"unschedulable\"} 1",
            "scheduler_scheduling_attempt_duration_seconds_bucket{profile=\"batch\",result=\"unschedulable\",le=\"0.004\"} 0",
            "scheduler_scheduling_attempt_duration_seconds_bucket{profile=\"batch\",result=\"unschedulable\",le=\"0.008\"} 1",
            "scheduler_scheduling_attempt_duration_seconds_bucket{profile=\"batch\",result=\"scheduled\",le=\"16.384\"} 0",
            "scheduler_scheduling_attempt_duration_seconds_bucket{profile=\"batch\",result=\"scheduled\",le=\"+Inf\"} 1",
            "scheduler_scheduling_attempt_duration_seconds_sum{profile=\"batch\",result=\"scheduled\"} 100",
            "scheduler_scheduling_algorithm_duration_seconds_bucket{le=\"0.004\"} 1",
            "scheduler_scheduling_algorithm_duration_seconds_count 1",
            "scheduler_framework_extension_point_duration_seconds_count{extension_point=\"Filter\",profile=\"batch\",status=\"Success\"} 1",
            "scheduler_framework_extension_point_duration_seconds_bucket{extension_point=\"PostFilter\",profile=\"batch\",status=\"Unschedulable\",le=\"0.0032\"} 1",
            "scheduler_pod_scheduling_attempts_bucket{le=\"1\"} 0",
            "scheduler_pod_scheduling_attempts_bucket{le=\"2\"} 1",
            "scheduler_pod_scheduling_sli_duration_seconds_bucket{attempts=\"2\",le=\"0.02\"} 1",
            "scheduler_pod_scheduling_sli_duration_seconds_count{attempts=\"15+\"} 1",
            "scheduler_preemption_attempts_total 1",
            "scheduler_preemption_victims_bucket{le=\"4\"} 1",
        ],
    );
}

#[test]
fn what_waits_is_shown_as_it_is_and_what_came_adds_up() {
    let metrics = Metrics::new();
    let mut refused = Refused::new();
    let fit = PLUGINS.iter().position(|plugin| plugin.name == "NodeResourcesFit").unwrap();
    count_refusal(&mut refused, "default-scheduler", 1 << fit, 1);
    count_refusal(&mut refused, "default-scheduler", 0, 1);
    for _ in 0..2 {
        let gauges = Gauges { active: 1, gated: 2, nodes: 3, ..Gauges::default() };
        metrics.tell(gauges, Incoming::from([(("active", "NodeAdd"), 4)]), &refused);
    }
    assert_shows(
        &metrics,
        &[
            "scheduler_pending_pods{queue=\"active\"} 1",
            "scheduler_pending_pods{queue=\"backoff\"} 0",
            "scheduler_pending_pods{queue=\"gated\"} 2",
            "scheduler_cache_size{type=\"nodes\"} 3",
            "scheduler_queue_incoming_pods_total{event=\"NodeAdd\",queue=\"active\"} 8",
            "scheduler_unschedulable_pods{plugin=\"NodeResourcesFit\",profile=\"default-scheduler\"} 1",
        ],
    );
    count_refusal(&mut refused, "default-scheduler", 1 << fit, -1);
    metrics.tell(Gauges::default(), Incoming::new(), &refused);
    assert!(!shown(&metrics).iter().any(|line| line.starts_with("scheduler_unschedulable_pods{")));
}
