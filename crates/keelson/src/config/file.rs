//! The configuration file: YAML, flattened to dotted keys and text.

use std::{fs, path::Path};

use serde_json::Value;

/// Largest file that is read; ours has a dozen keys.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads a file of YAML. The error is one line that names the file.
pub(super) fn tree(path: &Path) -> Result<Value, String> {
    let failed = |error: &dyn std::fmt::Display| format!("configuration file {}: {error}", path.display());
    let size = fs::metadata(path).map_err(|e| failed(&e))?.len();
    if size > FILE_BYTES_MAX {
        return Err(failed(&format_args!("{size} bytes are more than the {FILE_BYTES_MAX} allowed")));
    }
    let text = fs::read_to_string(path).map_err(|e| failed(&e))?;
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(&text, options).map_err(|e| failed(&e.to_string().replace('\n', " ")))
}

/// Reads and flattens the file. The error is one line that names the file.
pub(super) fn read(path: &Path) -> Result<Vec<(String, String)>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("configuration file {}: {error}", path.display());
    let tree = tree(path)?;
    let mut values = Vec::new();
    match tree {
        Value::Null => {}
        Value::Object(_) => flatten("", &tree, &mut values).map_err(|e| failed(&e))?,
        _ => return Err(failed(&"is not a mapping of settings")),
    }
    Ok(values)
}

fn flatten(prefix: &str, value: &Value, into: &mut Vec<(String, String)>) -> Result<(), String> {
    let scalar = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        _ => None,
    };
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&path, value, into)?;
            }
        }
        Value::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(scalar).collect();
            into.push((
                prefix.to_owned(),
                items.ok_or_else(|| format!("{prefix}: is not a list of values"))?.join(","),
            ));
        }
        Value::Null => into.push((prefix.to_owned(), String::new())),
        value => into.push((prefix.to_owned(), scalar(value).unwrap_or_default())),
    }
    Ok(())
}
