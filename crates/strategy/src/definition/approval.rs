//! Groups of the Kubernetes project need its approval, which an annotation names.

use serde_json::Value;

use crate::{
    field_error::{FieldErrors, Path},
    tree::{at, text_at},
};

const ANNOTATION: &str = "api-approved.kubernetes.io";
const POLICY: &str = "see https://github.com/kubernetes/enhancements/pull/1111";

/// What the annotation of a definition in a protected group says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Approval {
    /// It is not there.
    Missing,
    /// The author says that there is none.
    Bypassed(String),
    /// Where it was approved.
    Approved(String),
    /// It says nothing that counts.
    Invalid,
}

impl Approval {
    /// The approval of a definition; `None` where the group needs none.
    pub fn of(object: &Value) -> Option<Self> {
        let group = text_at(object, &["spec", "group"]);
        let protected = ["k8s.io", "kubernetes.io"]
            .iter()
            .any(|domain| group.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')));
        if !protected {
            return None;
        }
        let annotation = at(object, &["metadata", "annotations", ANNOTATION]).and_then(Value::as_str);
        Some(match annotation.unwrap_or_default() {
            "" => Self::Missing,
            text if text.starts_with("unapproved") => Self::Bypassed(text.to_owned()),
            text => match text.parse::<http::Uri>() {
                Ok(url) if url.scheme().is_some() && url.host().is_some_and(|host| !host.is_empty()) => {
                    Self::Approved(text.to_owned())
                }
                _ => Self::Invalid,
            },
        })
    }

    /// Status, reason and message of the condition `KubernetesAPIApprovalPolicyConformant`.
    pub fn condition(&self) -> (&'static str, &'static str, String) {
        let (status, reason) = match self {
            Self::Missing => ("False", "MissingAnnotation"),
            Self::Bypassed(_) => ("False", "UnapprovedAnnotation"),
            Self::Approved(_) => ("True", "ApprovedAnnotation"),
            Self::Invalid => ("False", "InvalidAnnotation"),
        };
        (status, reason, self.message())
    }

    fn message(&self) -> String {
        match self {
            Self::Missing => format!("protected groups must have approval annotation {ANNOTATION:?}, {POLICY}"),
            Self::Bypassed(text) => format!("not approved: {text:?}"),
            Self::Approved(text) => format!("approved in {text}"),
            Self::Invalid => format!(
                "protected groups must have approval annotation {ANNOTATION:?} with either a URL or a reason starting \
                 with \"unapproved\", {POLICY}"
            ),
        }
    }
}

/// A definition in a protected group must say whether it is approved; one that never did may go on so.
pub(super) fn check(object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let Some(approval) = Approval::of(object) else { return };
    let same_sort = |old: Approval| std::mem::discriminant(&old) == std::mem::discriminant(&approval);
    if old.and_then(Approval::of).is_some_and(same_sort) {
        return;
    }
    let metadata = Path::new("metadata");
    let annotations = metadata.child("annotations");
    let path = annotations.key(ANNOTATION);
    match &approval {
        Approval::Missing => errors.required(&path, approval.message()),
        Approval::Invalid => {
            let text = text_at(object, &["metadata", "annotations", ANNOTATION]);
            errors.invalid(&path, text, approval.message());
        }
        Approval::Approved(_) | Approval::Bypassed(_) => {}
    }
}
