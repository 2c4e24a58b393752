//! The parameters that a binding gives a policy.

use std::sync::Arc;

use serde_json::Value;

use super::policy::{Binding, Policy};
use crate::{
    admission::ObjectReader,
    resources::{Served, Table},
};

/// Where parameters are looked for.
#[derive(Clone, Copy)]
pub(crate) struct ParamSource<'a> {
    /// The kind of the policy's parameters, if it has any.
    pub(crate) kind: Option<&'a Served>,
    pub(crate) reader: &'a dyn ObjectReader,
    /// Namespace of the request.
    pub(crate) namespace: &'a str,
}

/// The kind of a policy's parameters, looked up with every request: its definition may come later than the policy.
///
/// # Errors
/// Nothing of the kind is served, in upstream's words.
pub(crate) fn param_kind<'t>(policy: &Policy, table: &'t Table) -> Result<Option<&'t Served>, String> {
    let Some((api_version, kind)) = &policy.param_kind else { return Ok(None) };
    let served = table.iter().find(|served| served.api_version == *api_version && served.resource.kind == *kind);
    let version = if api_version.contains('/') { api_version.clone() } else { format!("/{api_version}") };
    let missing = || format!("failed to find resource referenced by paramKind: '{version}, Kind={kind}'");
    served.map(|served| Some(&**served)).ok_or_else(missing)
}

/// The parameters to evaluate a policy with, one after the other; `None` in place of an object where the policy or the
/// binding has none.
///
/// # Errors
/// The binding does not fit the policy or the cluster, in upstream's words.
pub(crate) fn params(binding: &Binding, source: &ParamSource<'_>) -> Result<Vec<Option<Arc<Value>>>, String> {
    let (Some(served), Some(reference)) = (source.kind, &binding.params) else { return Ok(vec![None]) };
    let namespaced = served.resource.namespaced;
    if !namespaced && !reference.namespace.is_empty() {
        return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned());
    }
    let namespace = if reference.namespace.is_empty() { source.namespace } else { &reference.namespace };
    if namespaced && namespace.is_empty() {
        return Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".to_owned());
    }
    let mut found: Vec<Arc<Value>> = match (&reference.selector, namespaced) {
        (None, _) => {
            let path = served.path(namespace, &reference.name);
            source.reader.get(&served.collection, &path).into_iter().collect()
        }
        (Some(selector), namespaced) => {
            let prefix = if namespaced { format!("{namespace}/") } else { String::new() };
            let all = source.reader.list(&served.collection, &prefix);
            all.into_iter().filter(|object| selector.matches_object(object)).collect()
        }
    };
    if served.api_version != served.stored_api_version {
        for object in &mut found {
            served.form.to_served(Arc::make_mut(object), &served.api_version);
        }
    }
    if found.is_empty() && reference.required {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
    }
    Ok(found.into_iter().map(Some).collect())
}
