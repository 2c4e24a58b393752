//! What the `openAPIV3Schema` of a CustomResourceDefinition must be: of the form the API knows, structural, with defaults
//! that fit it and rules that compile and are not too expensive.
//!
//! A structural schema says of every field outside of its logical junctors what it is, so that objects can be pruned,
//! defaulted and published; what stands inside of `allOf`, `anyOf`, `oneOf` and `not` may only restrict values.

mod defaults;
pub(crate) mod document;
mod field_path;
mod form;
mod structural;

use serde_json::Value;

use crate::{FieldError, Schema, expressions, path::Path};
use document::Document;
pub(crate) use field_path::find_in;
pub use field_path::{FieldPathError, FoundField, find_field};

/// Everything that is wrong with a document that stands at `path`. `has_status`: its resource has the subresource
/// `status`, which restricts what the root may say.
pub fn check(document: &Value, path: &str, has_status: bool) -> Vec<FieldError> {
    let at = Path::Field(&Path::Root, path);
    let Some(root) = Document::of(document) else {
        return vec![FieldError::invalid(path, document.clone(), "must be a schema")];
    };
    let mut errors = Vec::new();
    if has_status {
        form::check_root(root, path, &mut errors);
    }
    if root.flag("nullable") {
        errors.push(FieldError::forbidden(format!("{path}.nullable"), "nullable cannot be true at the root"));
    }
    let mut broken = structural::check(root, &at);
    // the order of fields is no order of importance; upstream sorts too
    broken.sort_by_cached_key(ToString::to_string);
    let is_structural = broken.is_empty();
    errors.extend(broken);
    form::check(root, &at, &mut errors);
    if !is_structural {
        return errors;
    }
    match Schema::from_crd(Some(document)) {
        Ok(schema) => {
            defaults::check(&schema, path, &mut errors);
            // what is wrong with an expression over a broken schema would go away with what broke it
            if errors.is_empty() {
                errors.extend(expressions::check(document, path));
            }
            if errors.is_empty() {
                errors.extend(expressions::check_defaults(document, path));
            }
        }
        Err(error) if errors.is_empty() => {
            let path = path.trim_end_matches(".openAPIV3Schema");
            errors.push(FieldError::invalid(path, "", format!("error building validator: {error}")));
        }
        Err(_) => {}
    }
    errors
}

#[cfg(test)]
mod tests;
