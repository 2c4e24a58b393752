//! Columns of tables: the built-in kinds' own, and the ones a CustomResourceDefinition declares.

use jiff::Timestamp;
use serde_json::{Value, json};
use strategy::table::{self, CustomColumns};

use crate::resources::Served;

/// The columns of one resource.
pub(crate) enum Columns<'a> {
    Builtin(&'a Served),
    Custom(&'a CustomColumns),
    /// Of the Scale of whatever counts replicas.
    Scale,
}

impl<'a> Columns<'a> {
    pub(crate) fn of(served: &'a Served) -> Self {
        let custom = served.version();
        custom.map_or(Self::Builtin(served), |version| Self::Custom(&version.columns))
    }

    /// `columnDefinitions`.
    pub(crate) fn definitions(&self) -> Value {
        let definition = |name: &str, type_: &str, format: &str, description: &str, priority: i64| json!({"name": name, "type": type_, "format": format, "description": description, "priority": priority});
        let builtin = |columns: &[table::Column]| -> Value {
            let each = columns.iter();
            each.map(|c| definition(c.name, c.type_, c.format, c.description, i64::from(c.priority))).collect()
        };
        match self {
            Self::Builtin(served) => builtin(table::columns(&served.resource)),
            Self::Scale => builtin(&table::SCALE),
            Self::Custom(columns) => {
                let name = definition("Name", "string", "name", "Name must be unique within a namespace.", 0);
                let own =
                    columns.0.iter().map(|c| definition(&c.name, &c.type_, &c.format, &c.description, c.priority));
                std::iter::once(name).chain(own).collect()
            }
        }
    }

    /// One cell a column.
    pub(crate) fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        match self {
            Self::Builtin(served) => table::cells(&served.resource, object, now),
            Self::Custom(columns) => columns.cells(object, now),
            Self::Scale => table::scale_cells(object, now),
        }
    }
}
