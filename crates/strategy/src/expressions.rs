//! What the expressions of webhooks and policies may use: their variables, and the types of these.
//!
//! An expression sees `object` and `oldObject` (of any type, null where there is none), `request`, `namespaceObject`
//! (null for what is in no namespace) and, where it may, `params`. Here they are compiled and judged; who gives the
//! variables their values is admission.

use std::sync::LazyLock;

use cel::{Env, Field, ObjectType, Type};

/// Slot of the variable `object`: environments declare their variables in the order of these slots.
pub const OBJECT: usize = 0;
/// Slot of the variable `oldObject`.
pub const OLD_OBJECT: usize = 1;
/// Slot of the variable `namespaceObject`.
pub const NAMESPACE: usize = 2;
/// Slot of the variable `request`.
pub const REQUEST: usize = 3;
/// Slot of the variable `params`.
pub const PARAMS: usize = 4;

fn object(name: &str, fields: &[(&str, Type)]) -> Type {
    let fields = fields.iter().map(|(name, ty)| Field::new(name, ty.clone())).collect();
    Type::Object(ObjectType::new(&format!("kubernetes.{name}"), fields))
}

/// Type of `request`: an AdmissionRequest without the objects.
pub static REQUEST_TYPE: LazyLock<Type> = LazyLock::new(|| {
    use Type::{Bool, String};
    let kind = object("GroupVersionKind", &[("group", String), ("version", String), ("kind", String)]);
    let resource = object("GroupVersionResource", &[("group", String), ("version", String), ("resource", String)]);
    let texts = || Type::list(String);
    let user = object(
        "UserInfo",
        &[("username", String), ("uid", String), ("groups", texts()), ("extra", Type::map(String, texts()))],
    );
    object(
        "AdmissionRequest",
        &[
            ("kind", kind.clone()),
            ("resource", resource.clone()),
            ("subResource", String),
            ("requestKind", kind),
            ("requestResource", resource),
            ("requestSubResource", String),
            ("name", String),
            ("namespace", String),
            ("operation", String),
            ("userInfo", user),
            ("dryRun", Bool),
            ("options", Type::Dyn),
        ],
    )
});

/// Type of `namespaceObject`: what expressions may see of a Namespace.
pub static NAMESPACE_TYPE: LazyLock<Type> = LazyLock::new(|| {
    use Type::{Int, String, Timestamp};
    let pairs = || Type::map(String, String);
    let condition = object(
        "NamespaceCondition",
        &[
            ("status", String),
            ("type", String),
            ("lastTransitionTime", Timestamp),
            ("message", String),
            ("reason", String),
        ],
    );
    let metadata = object(
        "NamespaceMetadata",
        &[
            ("name", String),
            ("generateName", String),
            ("namespace", String),
            ("labels", pairs()),
            ("annotations", pairs()),
            ("UID", String),
            ("creationTimestamp", Timestamp),
            ("deletionGracePeriodSeconds", Int),
            ("deletionTimestamp", Timestamp),
            ("generation", Int),
            ("resourceVersion", String),
            ("finalizers", Type::list(String)),
        ],
    );
    let spec = object("NamespaceSpec", &[("finalizers", Type::list(String))]);
    let status = object("NamespaceStatus", &[("conditions", Type::list(condition)), ("phase", String)]);
    object("Namespace", &[("metadata", metadata), ("spec", spec), ("status", status)])
});

/// Without and with parameters.
static ENVIRONMENTS: LazyLock<[Env; 2]> = LazyLock::new(|| {
    let without = typed(&Type::Dyn).build();
    let with = without.extend().variable("params", Type::Dyn).build();
    [without, with]
});

/// The beginning of an environment whose objects are of a type.
pub fn typed(object: &Type) -> cel::EnvBuilder {
    schema::expressions::environment()
        .extend()
        .variable("object", object.clone())
        .variable("oldObject", object.clone())
        .variable("namespaceObject", NAMESPACE_TYPE.clone())
        .variable("request", REQUEST_TYPE.clone())
}

/// What expressions are compiled in.
pub fn environment(params: bool) -> &'static Env {
    &ENVIRONMENTS[usize::from(params)]
}

/// What is wrong with an expression, in the words of a field error.
pub fn mistake(env: &Env, source: &str, expected: &[Type]) -> Option<String> {
    env.compile(source, expected).err().map(|error| error.to_string())
}

/// An environment in which `variables.NAME` can be declared; other members of `variables` are unknown fields.
pub fn variable_environment(env: &Env) -> Env {
    env.extend().variable("variables", Type::Object(ObjectType::new("kubernetes.variables", Vec::new()))).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_in_the_words_of_field_errors() {
        let mistake = |source: &str| mistake(environment(false), source, &[Type::Bool]).unwrap_or_default();
        assert_eq!(mistake("object.spec.replicas + 1"), "must evaluate to bool but got int");
        let unknown = mistake("params.x == 1");
        assert_eq!(
            unknown,
            "compilation failed: ERROR: <input>:1:1: undeclared reference to 'params' (in container '')\n \
             | params.x == 1\n | ^"
        );
    }
}
