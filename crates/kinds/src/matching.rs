//! What selects nodes and pods: requirements on labels, selectors, node terms and tolerations, read once from the API's types
//! so that a match parses and allocates nothing.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration as ApiToleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

#[cfg(test)]
mod tests;

/// Labels of a node or a pod.
pub type Labels = BTreeMap<String, String>;

/// The field of a node that `matchFields` can name.
const NAME_FIELD: &str = "metadata.name";

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// The value is listed.
    In,
    /// The value is absent or not listed.
    NotIn,
    /// There is a value.
    Exists,
    /// There is no value.
    DoesNotExist,
    /// The value is a larger number.
    Gt,
    /// The value is a smaller number.
    Lt,
    /// An operator of which nothing is known: no value is right.
    Unknown,
}

/// A condition on the value of one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// How it is compared.
    pub operator: Operator,
    /// With what.
    pub values: Vec<String>,
}

impl Requirement {
    fn new(key: &str, operator: &str, values: Option<&Vec<String>>) -> Self {
        let operator = match operator {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => Operator::Gt,
            "Lt" => Operator::Lt,
            _ => Operator::Unknown,
        };
        Self { key: key.to_owned(), operator, values: values.cloned().unwrap_or_default() }
    }

    /// The label has exactly this value.
    pub fn equals(key: &str, value: &str) -> Self {
        Self { key: key.to_owned(), operator: Operator::In, values: vec![value.to_owned()] }
    }

    /// The label has any other value or none.
    pub fn differs(key: &str, value: &str) -> Self {
        Self { operator: Operator::NotIn, ..Self::equals(key, value) }
    }

    fn matches(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|listed| listed == value);
        let compare = || Some((value?.parse::<i64>().ok()?, self.values.first()?.parse::<i64>().ok()?));
        match self.operator {
            Operator::In => value.is_some_and(listed),
            Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt => compare().is_some_and(|(have, bound)| have > bound),
            Operator::Lt => compare().is_some_and(|(have, bound)| have < bound),
            Operator::Unknown => false,
        }
    }

    fn selects(&self, labels: &Labels) -> bool {
        self.matches(labels.get(&self.key).map(String::as_str))
    }
}

/// A label selector; an absent one selects nothing, an empty one everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector(Option<Vec<Requirement>>);

impl Selector {
    /// Reads the API's selector.
    pub fn of(selector: Option<&LabelSelector>) -> Self {
        let Some(selector) = selector else { return Self(None) };
        let labels = selector.match_labels.iter().flatten().map(|(key, value)| Requirement::equals(key, value));
        let expressions = selector.match_expressions.iter().flatten();
        let expressions = expressions.map(|e| Requirement::new(&e.key, &e.operator, e.values.as_ref()));
        Self(Some(labels.chain(expressions).collect()))
    }

    /// Selects objects with all these labels.
    pub fn labels(labels: &Labels) -> Self {
        Self(Some(labels.iter().map(|(key, value)| Requirement::equals(key, value)).collect()))
    }

    /// Narrows the selection; one that selects nothing stays so.
    pub fn and(&mut self, requirement: Requirement) {
        if let Some(requirements) = &mut self.0
            && !requirements.contains(&requirement)
        {
            requirements.push(requirement);
        }
    }

    /// Narrows the selection to what `other` selects as well.
    pub fn and_all(&mut self, other: &Self) {
        for requirement in other.0.iter().flatten() {
            self.and(requirement.clone());
        }
    }

    /// Whether the selector has no requirement, absent or not.
    pub fn is_trivial(&self) -> bool {
        self.0.as_ref().is_none_or(Vec::is_empty)
    }

    /// Whether there is no selector, which selects nothing.
    pub fn is_absent(&self) -> bool {
        self.0.is_none()
    }

    /// Labels that everything selected has, each with the values it may have.
    pub fn listed(&self) -> impl Iterator<Item = (&str, &[String])> {
        let listed = self.0.iter().flatten().filter(|requirement| requirement.operator == Operator::In);
        listed.map(|requirement| (requirement.key.as_str(), requirement.values.as_slice()))
    }

    /// Whether these labels are selected.
    pub fn selects(&self, labels: &Labels) -> bool {
        self.0.as_ref().is_some_and(|requirements| requirements.iter().all(|r| r.selects(labels)))
    }
}

/// One alternative of a node selector.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeTerm {
    expressions: Vec<Requirement>,
    fields: Vec<Requirement>,
}

impl NodeTerm {
    /// Reads the API's term.
    pub fn of(term: &NodeSelectorTerm) -> Self {
        let read = |list: &Option<Vec<NodeSelectorRequirement>>| {
            list.iter().flatten().map(|r| Requirement::new(&r.key, &r.operator, r.values.as_ref())).collect()
        };
        Self { expressions: read(&term.match_expressions), fields: read(&term.match_fields) }
    }

    /// The alternatives that a node affinity requires, `None` where it requires nothing.
    pub fn required(affinity: &NodeAffinity) -> Option<Vec<Self>> {
        let required = affinity.required_during_scheduling_ignored_during_execution.as_ref();
        required.map(|required| required.node_selector_terms.iter().map(Self::of).collect())
    }

    /// Whether the node matches; an empty term matches nothing.
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        (!self.expressions.is_empty() || !self.fields.is_empty())
            && self.expressions.iter().all(|requirement| requirement.selects(labels))
            && self.fields.iter().all(|field| field.matches((field.key == NAME_FIELD).then_some(name)))
    }
}

/// The nodes a pod demands: all labels, and one of the terms where there are any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeDemand {
    /// `nodeSelector`.
    pub labels: Labels,
    /// Required node affinity; `None` accepts every node, an empty list none.
    pub terms: Option<Vec<NodeTerm>>,
}

impl NodeDemand {
    /// What a pod of this spec demands.
    pub fn of(spec: &PodSpec) -> Self {
        let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let terms = affinity.and_then(NodeTerm::required);
        Self { labels: spec.node_selector.clone().unwrap_or_default(), terms }
    }

    /// Whether every node will do.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.terms.is_none()
    }

    /// Whether the node will do.
    pub fn accepts(&self, name: &str, labels: &Labels) -> bool {
        self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.terms.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(name, labels)))
    }
}

/// A toleration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Toleration {
    key: String,
    operator: String,
    value: String,
    effect: String,
}

impl Toleration {
    /// Reads the API's toleration.
    pub fn of(toleration: &ApiToleration) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        Self {
            key: text(&toleration.key),
            operator: text(&toleration.operator),
            value: text(&toleration.value),
            effect: text(&toleration.effect),
        }
    }

    /// Whether it covers the taint.
    pub fn covers(&self, taint: &Taint) -> bool {
        if !self.effect.is_empty() && self.effect != taint.effect || !self.key.is_empty() && self.key != taint.key {
            return false;
        }
        let value = taint.value.as_deref().unwrap_or_default();
        let compare = || Some((value.parse::<i64>().ok()?, self.value.parse::<i64>().ok()?));
        match self.operator.as_str() {
            "Exists" => true,
            "" | "Equal" => !self.key.is_empty() && self.value == value,
            "Gt" => compare().is_some_and(|(taint, bound)| taint > bound),
            "Lt" => compare().is_some_and(|(taint, bound)| taint < bound),
            _ => false,
        }
    }
}

/// Whether one of `tolerations` covers `taint`.
pub fn tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| toleration.covers(taint))
}

/// Whether a taint of this effect keeps pods away, or drives them out.
pub fn forbids(taint: &Taint) -> bool {
    matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
}
