//! The columns of custom resources, as their definition names them.

use jiff::Timestamp;
use serde_json::Value;

use super::{JsonPath, format};
use crate::tree::{int, list, text};

/// A column that a CustomResourceDefinition adds.
#[derive(Clone, Debug, PartialEq)]
pub struct CustomColumn {
    /// Head of the column.
    pub name: String,
    /// OpenAPI type of the cells; `date` shows as an age.
    pub type_: String,
    /// OpenAPI format of the cells.
    pub format: String,
    /// What the column says.
    pub description: String,
    /// 0 for always; higher ones show with `-o wide`.
    pub priority: i64,
    /// Where the cell's value stands; `None` leaves the cells empty because the path cannot be read.
    path: Option<JsonPath>,
}

/// How objects of one version of a custom resource print: their name, then these columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CustomColumns(pub Vec<CustomColumn>);

impl CustomColumns {
    /// Reads one entry of a definition's `spec.versions`. Without columns of its own a version shows the age.
    pub fn of_version(version: &Value) -> Self {
        let own = list(version, "additionalPrinterColumns");
        if own.is_empty() {
            return Self(vec![CustomColumn {
                name: "Age".to_owned(),
                type_: "date".to_owned(),
                format: String::new(),
                description: "Time since the object was created.".to_owned(),
                priority: 0,
                path: JsonPath::parse(".metadata.creationTimestamp").ok(),
            }]);
        }
        Self(
            own.iter()
                .map(|column| CustomColumn {
                    name: text(column, "name").to_owned(),
                    type_: text(column, "type").to_owned(),
                    format: text(column, "format").to_owned(),
                    description: text(column, "description").to_owned(),
                    priority: int(column, "priority").unwrap_or(0),
                    path: JsonPath::parse(text(column, "jsonPath")).ok(),
                })
                .collect(),
        )
    }

    /// The cells of one object: its name, and one per column.
    pub fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let mut cells = Vec::with_capacity(self.0.len() + 1);
        cells.push(format::name(object));
        cells.extend(self.0.iter().map(|column| column.cell(object, now)));
        cells
    }
}

impl CustomColumn {
    fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let Some(path) = &self.path else { return Value::Null };
        let found = path.find(object);
        let Some(value) = found.first() else { return Value::Null };
        match (self.type_.as_str(), value) {
            ("integer", Value::Number(number)) => match (number.as_i64(), number.as_f64()) {
                (Some(number), _) => number.into(),
                (None, Some(number)) => format!("{number:.0}").into(),
                (None, None) => Value::Null,
            },
            ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => (*value).clone(),
            ("string", Value::String(text)) => text.as_str().into(),
            ("string", _) => {
                let shown: Vec<String> =
                    found.iter().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)).collect();
                shown.join(" ").into()
            }
            ("date", Value::String(instant)) => format::since(instant, now).into(),
            _ => Value::Null,
        }
    }
}
