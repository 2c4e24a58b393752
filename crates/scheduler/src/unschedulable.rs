//! Why no node takes a pod, in upstream's words.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use crate::plugins::PluginSet;
use crate::preemption::Preemption;

/// Why no node takes a pod, and what can be done about it. Displays as upstream's message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unschedulable {
    pub(crate) nodes: usize,
    /// What was said before any node was looked at.
    pub(crate) beforehand: Option<Cow<'static, str>>,
    /// How many nodes gave each reason.
    pub(crate) reasons: Histogram,
    /// What preemption had to say.
    pub(crate) afterwards: Option<String>,
    /// Which plug-ins refused.
    pub(crate) plugins: PluginSet,
    /// How room can be made.
    pub(crate) preemption: Option<Box<Preemption>>,
}

/// How often each reason was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Histogram(BTreeMap<Cow<'static, str>, usize>);

impl Histogram {
    pub(crate) fn add(&mut self, reason: Cow<'static, str>, times: usize) {
        *self.0.entry(reason).or_default() += times;
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = self.0.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        parts.sort_unstable();
        f.write_str(&parts.join(", "))
    }
}

impl Unschedulable {
    /// How room can be made.
    pub fn preemption(&self) -> Option<&Preemption> {
        self.preemption.as_deref()
    }
}

impl fmt::Display for Unschedulable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = self.nodes;
        if nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        write!(f, "0/{nodes} nodes are available:")?;
        if let Some(beforehand) = &self.beforehand {
            write!(f, " {beforehand}.")?;
        } else if !self.reasons.is_empty() {
            write!(f, " {}.", self.reasons)?;
        }
        if let Some(afterwards) = &self.afterwards {
            write!(f, " preemption: {afterwards}")?;
        }
        Ok(())
    }
}
