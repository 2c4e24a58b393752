//! JSON patch (RFC 6902).

use serde_json::Value;

/// Upstream refuses longer patches: `metadata.managedFields` and the object itself are bounded too.
const MAX_OPERATIONS: usize = 10_000;

/// Why a JSON patch cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonPatchError {
    /// The document is no list of operations: a bad request.
    #[error("error decoding patch: {0}")]
    Document(String),
    /// More operations than allowed.
    #[error("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {0}")]
    TooMany(usize),
    /// An operation that does not exist: a bad request.
    #[error("Unexpected kind: {0}")]
    Operation(String),
    /// The place an operation names is not there.
    #[error("{operation} operation does not apply: doc is missing {what}: {path}: missing value")]
    Missing {
        /// `add`, `remove`, …
        operation: &'static str,
        /// `path`, `key`, `from path`.
        what: &'static str,
        /// The JSON pointer.
        path: String,
    },
    /// A `test` did not hold.
    #[error("testing value {path} failed: test failed")]
    Test {
        /// The JSON pointer.
        path: String,
    },
    /// An index outside of its list.
    #[error("Unable to access invalid index: {index}: invalid index referenced")]
    Index {
        /// The reference token.
        index: String,
    },
}

/// Applies the operations in order; on an error the object is left half changed, so work on a copy.
pub fn json(target: &mut Value, patch: &Value) -> Result<(), JsonPatchError> {
    let Value::Array(operations) = patch else {
        return Err(JsonPatchError::Document("json: cannot unmarshal into a list of operations".to_owned()));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(JsonPatchError::TooMany(operations.len()));
    }
    operations.iter().try_for_each(|operation| run(target, operation))
}

fn pointer<'a>(operation: &'a Value, name: &str) -> Result<&'a str, JsonPatchError> {
    let text = operation[name].as_str().ok_or_else(|| JsonPatchError::Document(format!("operation lacks '{name}'")))?;
    if text.is_empty() || text.starts_with('/') {
        Ok(text)
    } else {
        Err(JsonPatchError::Document(format!("'{text}' is no JSON pointer")))
    }
}

fn run(target: &mut Value, operation: &Value) -> Result<(), JsonPatchError> {
    let name = operation["op"].as_str().unwrap_or_default();
    let path = pointer(operation, "path")?;
    let value =
        || operation.get("value").ok_or_else(|| JsonPatchError::Document(format!("{name} operation lacks 'value'")));
    match name {
        "add" => add(target, path, value()?.clone(), "add"),
        "remove" => remove(target, path, "remove").map(drop),
        "replace" => {
            let replacement = value()?.clone();
            *find(target, path).ok_or_else(|| missing("replace", "key", path))? = replacement;
            Ok(())
        }
        "move" => {
            let from = pointer(operation, "from")?;
            if path.strip_prefix(from).is_some_and(|rest| rest.starts_with('/')) {
                return Err(JsonPatchError::Document(format!("cannot move '{from}' into itself at '{path}'")));
            }
            let moved = remove(target, from, "move")?;
            add(target, path, moved, "move")
        }
        "copy" => {
            let from = pointer(operation, "from")?;
            let copied = find(target, from).ok_or_else(|| missing("copy", "from path", from))?.clone();
            add(target, path, copied, "copy")
        }
        "test" => {
            let wanted = operation.get("value").unwrap_or(&Value::Null);
            let found = find(target, path);
            let equal = match &found {
                Some(found) => same(found, wanted),
                None => wanted.is_null(),
            };
            if equal { Ok(()) } else { Err(JsonPatchError::Test { path: path.to_owned() }) }
        }
        other => Err(JsonPatchError::Operation(other.to_owned())),
    }
}

/// Equality that takes `1` and `1.0` as the same number.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

fn missing(operation: &'static str, what: &'static str, path: &str) -> JsonPatchError {
    JsonPatchError::Missing { operation, what, path: path.to_owned() }
}

fn unescape(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

/// Position in a list of this length; `-` and the length itself only where an element may be added.
fn index(token: &str, limit: usize) -> Result<usize, JsonPatchError> {
    let error = || JsonPatchError::Index { index: token.to_owned() };
    let plain = token == "0" || (!token.starts_with('0') && token.bytes().all(|byte| byte.is_ascii_digit()));
    let at: usize = token.parse().ok().filter(|_| plain).ok_or_else(error)?;
    if at < limit { Ok(at) } else { Err(error()) }
}

fn find<'a>(target: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    target.pointer_mut(path)
}

fn split(path: &str) -> Option<(&str, String)> {
    path.rsplit_once('/').map(|(above, token)| (above, unescape(token)))
}

fn add(target: &mut Value, path: &str, value: Value, operation: &'static str) -> Result<(), JsonPatchError> {
    let Some((above, token)) = split(path) else {
        *target = value;
        return Ok(());
    };
    match find(target, above).ok_or_else(|| missing(operation, "path", path))? {
        Value::Object(map) => {
            map.insert(token, value);
        }
        Value::Array(items) => {
            let at = if token == "-" { items.len() } else { index(&token, items.len() + 1)? };
            items.insert(at, value);
        }
        _ => return Err(missing(operation, "path", path)),
    }
    Ok(())
}

fn remove(target: &mut Value, path: &str, operation: &'static str) -> Result<Value, JsonPatchError> {
    let Some((above, token)) = split(path) else { return Ok(target.take()) };
    match find(target, above).ok_or_else(|| missing(operation, "path", path))? {
        Value::Object(map) => map.remove(&token).ok_or_else(|| missing(operation, "key", path)),
        Value::Array(items) => Ok(items.remove(index(&token, items.len())?)),
        _ => Err(missing(operation, "path", path)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn patched(mut target: Value, patch: Value) -> Result<Value, JsonPatchError> {
        json(&mut target, &patch).map(|()| target)
    }

    #[test]
    fn operations_follow_the_standard() {
        let cases = [
            (
                json!({"foo": "bar"}),
                json!([{"op": "add", "path": "/baz", "value": "qux"}]),
                json!({"baz": "qux", "foo": "bar"}),
            ),
            (
                json!({"foo": ["a", "c"]}),
                json!([{"op": "add", "path": "/foo/1", "value": "b"}]),
                json!({"foo": ["a", "b", "c"]}),
            ),
            (json!({"foo": []}), json!([{"op": "add", "path": "/foo/-", "value": 1}]), json!({"foo": [1]})),
            (json!({"a": 1, "b": 2}), json!([{"op": "remove", "path": "/a"}]), json!({"b": 2})),
            (json!({"a": [1, 2]}), json!([{"op": "remove", "path": "/a/0"}]), json!({"a": [2]})),
            (json!({"a": 1}), json!([{"op": "replace", "path": "/a", "value": 2}]), json!({"a": 2})),
            (
                json!({"a": {"b": 1}, "c": {}}),
                json!([{"op": "move", "from": "/a/b", "path": "/c/d"}]),
                json!({"a": {}, "c": {"d": 1}}),
            ),
            (json!({"a": 1}), json!([{"op": "copy", "from": "/a", "path": "/b"}]), json!({"a": 1, "b": 1})),
            (
                json!({"a/b": {"~x": 1}}),
                json!([{"op": "test", "path": "/a~1b/~0x", "value": 1.0}]),
                json!({"a/b": {"~x": 1}}),
            ),
            (json!({"a": 1}), json!([{"op": "add", "path": "", "value": []}]), json!([])),
        ];
        for (target, patch, result) in cases {
            assert_eq!(patched(target, patch.clone()).unwrap(), result, "{patch}");
        }
    }

    #[test]
    fn what_does_not_apply_is_refused() {
        let target = json!({"a": [1], "b": "x"});
        for patch in [
            json!({}),
            json!([{"op": "add", "path": "/c/d", "value": 1}]),
            json!([{"op": "add", "path": "/a/2", "value": 1}]),
            json!([{"op": "add", "path": "/a/01", "value": 1}]),
            json!([{"op": "add", "path": "/a"}]),
            json!([{"op": "remove", "path": "/c"}]),
            json!([{"op": "replace", "path": "/c", "value": 1}]),
            json!([{"op": "move", "from": "/a", "path": "/a/b"}]),
            json!([{"op": "test", "path": "/b", "value": "y"}]),
            json!([{"op": "walk", "path": "/b"}]),
            json!([{"op": "remove", "path": "b"}]),
        ] {
            assert!(patched(target.clone(), patch.clone()).is_err(), "{patch}");
        }
    }

    proptest! {
        #[test]
        fn adding_and_removing_restores(name in "[a-z~/]{1,6}", value in 0..9) {
            let start = json!({"Fixed": 1});
            let path = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
            let patch = json!([{"op": "add", "path": path, "value": value}, {"op": "test", "path": path, "value": value},
                {"op": "remove", "path": path}]);
            prop_assert_eq!(patched(start.clone(), patch).unwrap(), start);
        }
    }
}
