//! How the containers of simulated pods behave, for all pods and as the annotations of one pod say.

use std::{collections::BTreeMap, str::FromStr};

use crate::span::Span;

/// Before the name of every annotation and label.
pub const DOMAIN: &str = "simulate.keelson.dev/";

/// How containers behave.
#[derive(Clone, Debug, PartialEq)]
pub struct Behaviour {
    /// From the decision to start a container until it runs: pulling, creating, starting.
    pub start_after: Span,
    /// From when a container runs until it is ready.
    pub ready_after: Span,
    /// How long an init container runs.
    pub init_for: Span,
    /// How long containers run whose pod runs to an end (restart policies `Never` and `OnFailure`).
    pub run_for: RunFor,
    /// How long containers run whose pod is to run on (restart policy `Always`).
    pub always_for: RunFor,
    /// How long a container takes to end once it is told to, but never longer than the pod's grace.
    pub terminate_after: Span,
    /// Share of the runs of containers that fail.
    pub fail_rate: f64,
    /// How long a container that is to run on does so before it crashes.
    pub crash_every: RunFor,
    /// What a run that does not fail ends with.
    pub exit_code: i32,
}

/// How long something goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunFor {
    /// It does not end by itself.
    Ever,
    /// So long.
    Time(Span),
}

/// An annotation that says nothing that can be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotation {annotation}: {fault}")]
pub(crate) struct AnnotationError {
    annotation: String,
    fault: String,
}

impl Default for Behaviour {
    /// That of small services and short jobs.
    fn default() -> Self {
        Self {
            start_after: Span::milliseconds(200, 800),
            ready_after: Span::milliseconds(1000, 3000),
            init_for: Span::milliseconds(500, 1000),
            run_for: RunFor::Time(Span::milliseconds(2000, 5000)),
            always_for: RunFor::Ever,
            terminate_after: Span::milliseconds(200, 1000),
            fail_rate: 0.0,
            crash_every: RunFor::Ever,
            exit_code: 0,
        }
    }
}

impl FromStr for RunFor {
    type Err = crate::SpanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "forever" { Ok(Self::Ever) } else { text.parse().map(Self::Time) }
    }
}

/// Reads a share: a number from 0 to 1.
///
/// # Errors
/// A sentence that names what was given.
pub fn share(text: &str) -> Result<f64, String> {
    let read = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    read.ok_or_else(|| format!("{text:?} is not a share from 0 to 1"))
}

impl Behaviour {
    /// This behaviour as the annotations of a pod change it, and what of them makes no sense.
    pub(crate) fn of(&self, annotations: Option<&BTreeMap<String, String>>) -> (Self, Vec<AnnotationError>) {
        let (mut own, mut faults) = (self.clone(), Vec::new());
        for (annotation, value) in annotations.into_iter().flatten() {
            let Some(name) = annotation.strip_prefix(DOMAIN) else { continue };
            if let Err(fault) = own.set(name, value) {
                faults.push(AnnotationError { annotation: annotation.clone(), fault });
            }
        }
        (own, faults)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        fn read<T: FromStr<Err = crate::SpanError>>(value: &str) -> Result<T, String> {
            value.parse().map_err(|error: crate::SpanError| error.to_string())
        }
        match name {
            "start-after" => self.start_after = read(value)?,
            "ready-after" => self.ready_after = read(value)?,
            "init-for" => self.init_for = read(value)?,
            "run-for" => {
                self.run_for = read(value)?;
                self.always_for = self.run_for;
            }
            "terminate-after" => self.terminate_after = read(value)?,
            "fail-rate" => self.fail_rate = share(value)?,
            "crash-every" => self.crash_every = read(value)?,
            "exit-code" => {
                let code = value.parse::<u8>().map_err(|_| format!("{value:?} is not an exit code from 0 to 255"))?;
                self.exit_code = i32::from(code);
            }
            _ => return Err("there is no such annotation".to_owned()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_change_what_they_name_and_faults_change_nothing() {
        let annotations = [
            ("simulate.keelson.dev/ready-after", "1s..2s"),
            ("simulate.keelson.dev/run-for", "forever"),
            ("simulate.keelson.dev/exit-code", "3"),
            ("simulate.keelson.dev/fail-rate", "1.5"),
            ("simulate.keelson.dev/rady-after", "1s"),
            ("simulate.keelson.dev/start-after", "soon"),
            ("example.org/ready-after", "soon"),
        ];
        let annotations = annotations.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let (own, faults) = Behaviour::default().of(Some(&annotations));
        let expected = Behaviour {
            ready_after: Span::milliseconds(1000, 2000),
            run_for: RunFor::Ever,
            exit_code: 3,
            ..Behaviour::default()
        };
        assert_eq!(own, expected);
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(
            faults,
            [
                "annotation simulate.keelson.dev/fail-rate: \"1.5\" is not a share from 0 to 1",
                "annotation simulate.keelson.dev/rady-after: there is no such annotation",
                "annotation simulate.keelson.dev/start-after: \"soon\" is not a time such as 500ms, 2s, 1m30s or 1s..3s",
            ]
        );
        assert_eq!(Behaviour::default().of(None), (Behaviour::default(), Vec::new()));
    }
}
