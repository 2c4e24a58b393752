//! The pod specification, wherever it stands: in a Pod, or in the template of a controller.

mod containers;
mod defaults;
mod env;
mod handlers;
mod label_keys;
mod platform;
mod resources;
mod scheduling;
mod security;
#[cfg(test)]
mod tests;
mod validation;
mod volumes;
mod warnings;

pub(crate) use defaults::{default_pod, default_spec};
pub(crate) use label_keys::merge as merge_label_keys;
pub(crate) use resources::validate_list as validate_resource_list;
pub(crate) use scheduling::{NON_NEGATIVE, validate_label_selector, validate_node_term, validate_toleration};
pub(crate) use validation::{validate_spec, validate_template};
pub(crate) use volumes::{validate_driver_name, validate_legacy_source};
pub(crate) use warnings::warnings;
