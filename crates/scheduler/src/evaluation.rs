//! What is known of the nodes for one shape: which plug-in refuses a node, and what each is worth. It is kept between
//! decisions, and of a node only what has changed is asked again, so that a hundred pods alike cost little more than one.

use std::sync::Arc;

use crate::plugin::{Filter, Filtering, Reason, Refusal, Scope, Score};
use crate::plugins::PluginSet;
use crate::profile::Profile;
use crate::shape::Shape;
use crate::snapshot::Snapshot;

/// No filter refuses the node.
const NONE: u8 = u8::MAX;

struct PreparedFilter {
    /// The plug-in among the profile's rules.
    rule: usize,
    stamp: u64,
    scope: Scope,
    filter: Option<Box<dyn Filter>>,
    refused: Option<Reason>,
}

struct PreparedScore {
    rule: usize,
    stamp: u64,
    scope: Scope,
    weight: i64,
    score: Option<Box<dyn Score>>,
}

/// What was found out about a node without looking further than it.
#[derive(Clone, Copy)]
struct Column {
    /// The node's version when it was checked.
    checked: u64,
    /// The node's version when it was valued.
    valued: u64,
    /// The first filter that refuses, of those that look at the node alone.
    refused_by: u8,
}

impl Column {
    const UNKNOWN: Self = Self { checked: 0, valued: 0, refused_by: NONE };
}

/// The evaluation of the nodes for one shape.
pub(crate) struct Evaluation {
    shape: Arc<Shape>,
    filters: Vec<PreparedFilter>,
    scores: Vec<PreparedScore>,
    columns: Vec<Column>,
    /// Values of nodes by slot, one for each score that looks at the node alone.
    values: Vec<i64>,
    kept: usize,
    scratch: Vec<i64>,
}

impl Evaluation {
    /// Prepares the plug-ins of a profile for a shape.
    pub(crate) fn new(snapshot: &mut Snapshot, profile: &Profile, shape: &Arc<Shape>) -> Self {
        let mut this = Self {
            shape: Arc::clone(shape),
            filters: Vec::new(),
            scores: Vec::new(),
            columns: Vec::new(),
            values: Vec::new(),
            kept: 0,
            scratch: Vec::new(),
        };
        for (rule, active) in profile.rules.iter().enumerate() {
            let (scope, stamp) = (active.plugin.scope(), active.plugin.stamp(snapshot, shape));
            if active.filters {
                let mut prepared = PreparedFilter { rule, stamp, scope, filter: None, refused: None };
                prepared.set(active.plugin.filter(snapshot, shape));
                this.filters.push(prepared);
            }
            if active.weight > 0 {
                let score = active.plugin.score(snapshot, shape);
                this.scores.push(PreparedScore { rule, stamp, scope, weight: active.weight, score });
            }
        }
        // Counters made for one plug-in may have outdated what another got.
        this.refresh(snapshot, profile);
        this.forget();
        this
    }

    /// The shape.
    pub(crate) fn shape(&self) -> &Arc<Shape> {
        &self.shape
    }

    fn forget(&mut self) {
        self.kept = self.scores.iter().filter(|score| score.is_kept()).count();
        self.columns.clear();
        self.values.clear();
    }

    /// Prepares anew what is outdated, and lets filters see what has changed. To be called before nodes are checked.
    pub(crate) fn refresh(&mut self, snapshot: &mut Snapshot, profile: &Profile) {
        let mut forget = false;
        for prepared in &mut self.filters {
            let plugin = &profile.rules[prepared.rule].plugin;
            let stamp = plugin.stamp(snapshot, &self.shape);
            if stamp != prepared.stamp {
                prepared.set(plugin.filter(snapshot, &self.shape));
                prepared.stamp = stamp;
                forget |= prepared.scope == Scope::Node;
            }
        }
        for prepared in &mut self.scores {
            let plugin = &profile.rules[prepared.rule].plugin;
            let stamp = plugin.stamp(snapshot, &self.shape);
            if stamp != prepared.stamp {
                prepared.score = plugin.score(snapshot, &self.shape);
                prepared.stamp = stamp;
                forget |= prepared.scope == Scope::Node;
            }
        }
        if forget {
            self.forget();
        }
        for prepared in self.filters.iter_mut().filter(|prepared| prepared.scope == Scope::Cluster) {
            if let Some(filter) = &mut prepared.filter {
                filter.begin(snapshot);
            }
        }
    }

    /// The plug-in that refuses every node, and why.
    pub(crate) fn refused(&self) -> Option<(usize, &Reason)> {
        self.filters.iter().find_map(|prepared| Some((prepared.rule, prepared.refused.as_ref()?)))
    }

    /// Whether a node takes such a pod.
    pub(crate) fn admits(&mut self, snapshot: &Snapshot, slot: u32) -> bool {
        let node = &snapshot.nodes()[slot as usize];
        if self.columns.len() < snapshot.nodes().len() {
            self.columns.resize(snapshot.nodes().len(), Column::UNKNOWN);
            self.values.resize(snapshot.nodes().len() * self.kept, 0);
        }
        let version = node.object_version.max(node.pods_version);
        let column = &mut self.columns[slot as usize];
        if column.checked != version {
            let kept = self.filters.iter().enumerate().filter(|(_, prepared)| prepared.scope == Scope::Node);
            let refuses = |prepared: &PreparedFilter| {
                prepared.filter.as_ref().is_some_and(|filter| filter.check(snapshot, node).is_err())
            };
            let first = kept.into_iter().find(|(_, prepared)| refuses(prepared));
            column.refused_by = first.map_or(NONE, |(at, _)| u8::try_from(at).unwrap_or(NONE - 1));
            column.checked = version;
        }
        column.refused_by == NONE
            && self
                .filters
                .iter()
                .filter(|prepared| prepared.scope == Scope::Cluster)
                .all(|prepared| prepared.filter.as_ref().is_none_or(|filter| filter.check(snapshot, node).is_ok()))
    }

    /// Why a node does not take such a pod: the first plug-in that refuses, as upstream, with all its reasons.
    pub(crate) fn refusal(&self, snapshot: &Snapshot, slot: u32) -> Option<(usize, Refusal)> {
        let node = &snapshot.nodes()[slot as usize];
        self.filters.iter().find_map(|prepared| {
            let refusal = prepared.filter.as_ref()?.check(snapshot, node).err()?;
            Some((prepared.rule, refusal))
        })
    }

    /// Scores of nodes that all take such a pod.
    pub(crate) fn scores(&mut self, snapshot: &Snapshot, nodes: &[u32], totals: &mut Vec<i64>) {
        totals.clear();
        totals.resize(nodes.len(), 0);
        self.value(snapshot, nodes);
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut kept = 0;
        for prepared in &mut self.scores {
            let place = prepared.is_kept().then(|| {
                kept += 1;
                kept - 1
            });
            let Some(score) = &mut prepared.score else { continue };
            score.begin(snapshot, nodes);
            scratch.clear();
            match place {
                Some(place) => scratch.extend(nodes.iter().map(|slot| self.values[*slot as usize * self.kept + place])),
                None => {
                    scratch.extend(nodes.iter().map(|slot| score.raw(snapshot, &snapshot.nodes()[*slot as usize])));
                }
            }
            score.normalise(snapshot, nodes, &mut scratch);
            for (total, value) in totals.iter_mut().zip(&scratch) {
                *total += prepared.weight * value;
            }
        }
        self.scratch = scratch;
    }

    /// Brings the kept values of nodes up to date.
    fn value(&mut self, snapshot: &Snapshot, nodes: &[u32]) {
        for slot in nodes {
            let node = &snapshot.nodes()[*slot as usize];
            let version = node.object_version.max(node.pods_version);
            let column = &mut self.columns[*slot as usize];
            if column.valued == version {
                continue;
            }
            column.valued = version;
            let values = &mut self.values[*slot as usize * self.kept..][..self.kept];
            let kept = self.scores.iter().filter(|prepared| prepared.is_kept());
            for (value, prepared) in values.iter_mut().zip(kept) {
                *value = prepared.score.as_ref().map_or(0, |score| score.raw(snapshot, node));
            }
        }
    }
}

impl PreparedFilter {
    fn set(&mut self, filtering: Filtering) {
        (self.filter, self.refused) = match filtering {
            Filtering::Nothing => (None, None),
            Filtering::Refused(reason) => (None, Some(reason)),
            Filtering::Check(filter) => (Some(filter), None),
        };
    }
}

impl PreparedScore {
    fn is_kept(&self) -> bool {
        self.scope == Scope::Node && self.score.is_some()
    }
}

/// The bit of a rule's plug-in.
pub(crate) fn bit(profile: &Profile, rule: usize) -> PluginSet {
    1 << profile.rules[rule].place
}
