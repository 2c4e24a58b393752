//! Rules in CEL: the environment that Kubernetes gives expressions, and `x-kubernetes-validations` of custom resources.
//!
//! A schema's rules are compiled once ([`compile`]) into a tree of the nodes that have any; objects of schemas without
//! rules pay nothing. [`check`] says what is wrong with the rules of a definition that is about to be stored, their cost
//! included; defaults have to keep to the rules, too.

mod declare;
mod defaults;
mod evaluate;
mod format;
mod kinds;
mod program;
mod quantity;

use std::sync::LazyLock;

use cel::Env;

pub(crate) use defaults::check_defaults;
pub use evaluate::{Outcome, RULE_BUDGET};
pub use program::{ValidationRules, check, compile};

static ENVIRONMENT: LazyLock<Env> = LazyLock::new(|| {
    let library = cel::library::kubernetes().with(quantity::library()).with(format::library());
    Env::builder().library(library).build()
});

/// What every expression of the API may use: the standard library and Kubernetes' own, and no variables.
pub fn environment() -> &'static Env {
    &ENVIRONMENT
}

#[cfg(test)]
mod tests;
