//! NodeName: a pod that names its node goes nowhere else. Such pods are not the scheduler's: by the time one is seen with a
//! name it has its node, so that there is nothing to filter; the name is kept because configurations mention it.

use crate::plugin::{Plugin, Scope};

pub(crate) struct NodeName;

impl Plugin for NodeName {
    fn scope(&self) -> Scope {
        Scope::Node
    }
}
