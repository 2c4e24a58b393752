//! The v2 document: one of everything served. As a tree it is ten times as large as it is on the wire, so that it is
//! written group version by group version and never stands in memory as a whole.

use std::{collections::HashSet, io::Write as _, sync::Arc};

use descriptions::Descriptions;
use schema::openapi;
use serde_json::{Map, Value, json};

use super::{Document, Made, References, describe, entries};
use crate::{
    aggregation::{self, Remote},
    resources::Table,
    status::ApiError,
};

/// The document as JSON.
pub(super) fn json(table: &Table, remotes: &[Arc<Remote>]) -> Result<Document, ApiError> {
    let mut made = Made::default();
    let mut paths = Vec::new();
    let mut head = openapi::v2(&[]);
    if let Some(head) = head.as_object_mut() {
        head.retain(|key, _| key != "paths" && key != "definitions");
    }
    let mut head = head.to_string();
    // the object goes on
    head.pop();
    write!(made, "{head},\"definitions\":{{").map_err(ApiError::internal)?;
    let mut is_first = true;
    for_each_part(table, remotes, |part| {
        for (name, value) in objects(&part, "definitions") {
            let comma = if std::mem::take(&mut is_first) { "" } else { "," };
            made.write_all(format!("{comma}{}:{value}", json!(name)).as_bytes())?;
        }
        for (path, value) in objects(&part, "paths") {
            let comma = if paths.is_empty() { "" } else { "," };
            write!(paths, "{comma}{}:{value}", json!(path))?;
        }
        Ok(())
    })
    .map_err(ApiError::internal)?;
    made.write_all(b"},\"paths\":{").map_err(ApiError::internal)?;
    made.write_all(&paths).map_err(ApiError::internal)?;
    made.write_all(b"}}").map_err(ApiError::internal)?;
    made.finish("application/json")
}

/// The document in protobuf, where messages written one after the other are one message with the fields of all.
pub(super) fn protobuf(table: &Table, remotes: &[Arc<Remote>]) -> Result<Document, ApiError> {
    let mut made = Made::default();
    for_each_part(table, remotes, |part| made.write_all(&openapi::v2_protobuf(&part))).map_err(ApiError::internal)?;
    made.finish(openapi::V2_PROTOBUF_MEDIA_TYPE)
}

fn objects<'a>(part: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    part[key].as_object().into_iter().flatten()
}

/// Hands out the document in parts, whose paths and definitions are all different. Only the first says what it is.
fn for_each_part(
    table: &Table,
    remotes: &[Arc<Remote>],
    mut take: impl FnMut(Value) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let descriptions = Descriptions::unpack();
    let mut seen = HashSet::new();
    let mut is_first = true;
    let mut take = |mut part: Value| {
        if let Some(part) = part.as_object_mut().filter(|_| !std::mem::take(&mut is_first)) {
            part.retain(|key, _| key == "paths" || key == "definitions");
        }
        // the types that many groups have in common
        if let Some(definitions) = part["definitions"].as_object_mut() {
            definitions.retain(|name, _| seen.insert(name.clone()));
        }
        take(part)
    };
    for version in table.groups.iter().flat_map(|group| &group.versions) {
        let mut part = openapi::v2(&entries(version.resources.iter()));
        describe(&descriptions, &mut part["definitions"], References::WithSiblings);
        take(part)?;
    }
    let none = || Value::Object(Map::new());
    let mut theirs = json!({"paths": none(), "definitions": none()});
    aggregation::open_api_v2(&mut theirs, remotes);
    take(theirs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::Registry;

    #[test]
    fn the_parts_are_the_document_and_nothing_is_there_twice() {
        let table = Registry::new().table();
        let mut whole = openapi::v2(&entries(table.iter()));
        describe(&Descriptions::unpack(), &mut whole["definitions"], References::WithSiblings);
        let parsed: Value = serde_json::from_slice(&json(&table, &[]).unwrap().plain().unwrap()).unwrap();
        assert!(parsed == whole);
        let (mut paths, mut definitions) = (0, 0);
        for_each_part(&table, &[], |part| {
            assert_eq!(part.get("swagger").is_some(), paths == 0);
            paths += objects(&part, "paths").count();
            definitions += objects(&part, "definitions").count();
            Ok(())
        })
        .unwrap();
        assert_eq!((paths, definitions), (objects(&whole, "paths").count(), objects(&whole, "definitions").count()));
    }
}
