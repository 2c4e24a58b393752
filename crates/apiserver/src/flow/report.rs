//! What priority and fairness tells about itself: metrics under upstream's names, and the dumps below `/debug`.

use std::{fmt::Write as _, sync::atomic::Ordering::Relaxed};

use super::{FlowControl, level::Rejected};
use crate::metrics::head;

impl FlowControl {
    /// Appends the metrics.
    pub(crate) fn metrics(&self, out: &mut String) {
        let table = self.table.load();
        let mut family = |name: &str, kind: &str, help: &str, lines: Vec<(String, String)>| {
            let _ = writeln!(out, "# HELP apiserver_flowcontrol_{name} {help}");
            let _ = writeln!(out, "# TYPE apiserver_flowcontrol_{name} {kind}");
            for (labels, value) in lines {
                let _ = writeln!(out, "apiserver_flowcontrol_{name}{{{labels}}} {value}");
            }
        };
        let by_schema = |value: fn(&super::Counts) -> String| -> Vec<(String, String)> {
            let line = |schema: &std::sync::Arc<super::FlowSchema>| (labels(schema), value(&schema.counts));
            table.schemas.iter().map(line).collect()
        };
        let by_level = |value: fn(super::level::State) -> u32| -> Vec<(String, String)> {
            let levels = table.levels.iter().filter(|level| !level.is_exempt());
            let line = |level: &std::sync::Arc<super::Level>| {
                (format!("priority_level=\"{}\"", level.name), value(level.state()).to_string())
            };
            levels.map(line).collect()
        };
        let help = "Number of requests executed by API Priority and Fairness subsystem";
        family("dispatched_requests_total", "counter", help, by_schema(|c| c.dispatched.load(Relaxed).to_string()));
        let help = "Number of requests rejected by API Priority and Fairness subsystem";
        let rejected = table.schemas.iter().flat_map(|schema| {
            Rejected::ALL.map(|why| {
                let labels = format!("{},reason=\"{}\"", labels(schema), why.as_str());
                (labels, schema.counts.rejected[why as usize].load(Relaxed))
            })
        });
        let rejected = rejected.filter(|(_, count)| *count > 0).map(|(labels, count)| (labels, count.to_string()));
        family("rejected_requests_total", "counter", help, rejected.collect());
        let help = "Number of requests currently pending in queues of the API Priority and Fairness subsystem";
        family("current_inqueue_requests", "gauge", help, by_schema(|c| c.waiting.load(Relaxed).to_string()));
        let help = "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage";
        family("current_executing_requests", "gauge", help, by_schema(|c| c.executing.load(Relaxed).to_string()));
        let help = "Concurrency (number of seats) occupied by the currently executing requests";
        family("current_executing_seats", "gauge", help, by_schema(|c| c.executing_seats.load(Relaxed).to_string()));
        let help = "Nominal number of execution seats configured for each priority level";
        family("nominal_limit_seats", "gauge", help, by_level(|state| state.claim.nominal));
        let help = "Configured lower bound on number of execution seats available to each priority level";
        family("lower_limit_seats", "gauge", help, by_level(|state| state.claim.least));
        let help = "Configured upper bound on number of execution seats available to each priority level";
        family("upper_limit_seats", "gauge", help, by_level(|state| state.claim.most));
        let help = "Current derived number of execution seats available to each priority level";
        family("current_limit_seats", "gauge", help, by_level(|state| state.limit));
        let name = "apiserver_flowcontrol_request_wait_duration_seconds";
        head(out, name, "histogram", "Length of time requests spent waiting in their queues");
        for schema in &table.schemas {
            for (executed, waits) in [false, true].iter().zip(&schema.counts.waits).filter(|(_, waits)| waits.is_used())
            {
                waits.render(name, &format!("execute=\"{executed}\",{}", labels(schema)), out);
            }
        }
    }

    /// The dump of this name below `/debug/api_priority_and_fairness/`.
    pub(crate) fn dump(&self, name: &str) -> Option<String> {
        let table = self.table.load();
        match name {
            "dump_priority_levels" => {
                let mut out = String::from(
                    "PriorityLevelName, ActiveQueues, IsIdle, IsQuiescing, WaitingRequests, ExecutingRequests, DispatchedRequests, RejectedRequests, TimedoutRequests, CancelledRequests\n",
                );
                for level in &table.levels {
                    let schemas = || table.schemas.iter().filter(|schema| schema.level.name == level.name);
                    let sum = |value: fn(&super::Counts) -> u64| schemas().map(|s| value(&s.counts)).sum::<u64>();
                    let executing: i64 = schemas().map(|schema| schema.counts.executing.load(Relaxed)).sum();
                    let state = level.state();
                    let (active, waiting) = (level.lengths().len(), state.waiting);
                    let idle = executing == 0 && state.taken == 0 && waiting == 0;
                    let dispatched = sum(|counts| counts.dispatched.load(Relaxed));
                    let refused = sum(|c| c.rejected[0].load(Relaxed) + c.rejected[1].load(Relaxed));
                    let late = sum(|counts| counts.rejected[2].load(Relaxed));
                    let _ = writeln!(
                        out,
                        "{}, {active}, {idle}, false, {waiting}, {executing}, {dispatched}, {refused}, {late}, 0",
                        level.name
                    );
                }
                Some(out)
            }
            "dump_queues" => {
                let mut out = String::from("PriorityLevelName, Index, PendingRequests, SeatsSum\n");
                for level in &table.levels {
                    for (index, waiting, seats) in level.lengths() {
                        let _ = writeln!(out, "{}, {index}, {waiting}, {seats}", level.name);
                    }
                }
                Some(out)
            }
            "dump_requests" => {
                let mut out = String::from(
                    "PriorityLevelName, FlowSchemaName, WaitingRequests, ExecutingRequests, ExecutingSeats\n",
                );
                for schema in &table.schemas {
                    let counts = &schema.counts;
                    let (waiting, executing) = (counts.waiting.load(Relaxed), counts.executing.load(Relaxed));
                    let seats = counts.executing_seats.load(Relaxed);
                    let _ = writeln!(out, "{}, {}, {waiting}, {executing}, {seats}", schema.level.name, schema.name);
                }
                Some(out)
            }
            _ => None,
        }
    }
}

fn labels(schema: &super::FlowSchema) -> String {
    format!("flow_schema=\"{}\",priority_level=\"{}\"", schema.name, schema.level.name)
}
