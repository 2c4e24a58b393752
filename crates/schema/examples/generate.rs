//! Derives the committed tables from Kubernetes' published documents.
//!
//! `cargo run -p schema --example generate -- SWAGGER PROTOBUF_FIELDS` rewrites
//! `crates/kinds/data/resources.txt` (the group-version-resource table),
//! `crates/schema/data/types.z` (types without prose) and `crates/schema/data/protobuf.z` (message fields).
//! The line formats are documented where they are read: `kinds::builtin` and `schema::types::table`.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use serde_json::Value;

type Definitions = serde_json::Map<String, Value>;

/// Messages of answers that are no resource's type.
const ANSWERS: [&str; 4] = [
    "k8s.io.api.apidiscovery.v2.APIGroupDiscoveryList",
    "k8s.io.api.apidiscovery.v2beta1.APIGroupDiscoveryList",
    "k8s.io.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata",
    "k8s.io.apimachinery.pkg.apis.meta.v1.PartialObjectMetadataList",
];

const DEFINITION_PREFIX: &str = "#/definitions/";

/// Groups in the order in which upstream's discovery ranks them.
const GROUPS: [&str; 21] = [
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(swagger), Some(protobuf)) = (arguments.next(), arguments.next()) else {
        return Err("usage: generate SWAGGER PROTOBUF_FIELDS".into());
    };
    let swagger: Value = serde_json::from_slice(&std::fs::read(swagger)?)?;
    let protobuf: Value = serde_json::from_slice(&std::fs::read(protobuf)?)?;
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the crate has no parent folder")?;
    let definitions = swagger["definitions"].as_object().ok_or("the document has no definitions")?;

    let rows = resources(&swagger)?;
    let mut text = String::new();
    for row in &rows {
        row.print(&mut text)?;
    }
    std::fs::write(crates.join("kinds/data/resources.txt"), &text)?;

    let names = reachable(definitions, &rows);
    let types = types(definitions, &names)?;
    write_compressed(&crates.join("schema/data/types.z"), &types)?;
    write_compressed(&crates.join("schema/data/protobuf.z"), &messages(&protobuf, definitions, &names)?)?;
    println!("{} resources, {} types", rows.len(), names.len());
    Ok(())
}

fn write_compressed(path: &Path, text: &str) -> Result<(), Box<dyn Error>> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(text.as_bytes())?;
    let bytes = encoder.finish()?;
    println!("{}: {} bytes, {} compressed", path.display(), text.len(), bytes.len());
    Ok(std::fs::write(path, bytes)?)
}

#[derive(Default)]
struct Row {
    group: String,
    version: String,
    plural: String,
    kind: String,
    list_kind: String,
    namespaced: bool,
    schema: String,
    verbs: BTreeSet<&'static str>,
    subresources: BTreeMap<String, (String, BTreeSet<&'static str>)>,
}

impl Row {
    fn print(&self, out: &mut String) -> std::fmt::Result {
        let verbs = |set: &BTreeSet<&'static str>| set.iter().copied().collect::<Vec<_>>().join(",");
        writeln!(
            out,
            "{}|{}|{}|{}|{}|{}|{}|{}",
            self.group,
            self.version,
            self.plural,
            self.kind,
            self.list_kind,
            if self.namespaced { "namespaced" } else { "cluster" },
            self.schema,
            verbs(&self.verbs)
        )?;
        for (name, (kind, set)) in &self.subresources {
            writeln!(out, " {name}|{kind}|{}", verbs(set))?;
        }
        Ok(())
    }
}

fn served(version: &str) -> bool {
    version.strip_prefix('v').is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Every resource of the versions that a default server serves, in discovery's order.
fn resources(swagger: &Value) -> Result<Vec<Row>, Box<dyn Error>> {
    let mut rows: BTreeMap<(usize, std::cmp::Reverse<String>, String), Row> = BTreeMap::new();
    for (path, item) in swagger["paths"].as_object().ok_or("the document has no paths")? {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version, mut rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => continue,
        };
        if !served(version) || rest.is_empty() {
            continue;
        }
        let watch = rest[0] == "watch";
        if watch {
            rest = &rest[1..];
        }
        let mut namespaced = false;
        if let ["namespaces", "{namespace}", inner @ ..] = rest {
            (namespaced, rest) = (true, inner);
        }
        let Some((plural, rest)) = rest.split_first() else { continue };
        let rank = GROUPS.iter().position(|known| known == &group).ok_or_else(|| format!("unranked group {group}"))?;
        let key = (rank, std::cmp::Reverse(version.to_owned()), (*plural).to_owned());
        let row = rows.entry(key).or_default();
        (row.group, row.version, row.plural) = (group.to_owned(), version.to_owned(), (*plural).to_owned());
        row.namespaced |= namespaced;
        if watch {
            row.verbs.insert("watch");
            continue;
        }
        if let [_, subresource, ..] = rest {
            add_subresource(row, subresource, item);
        } else {
            add_verbs(row, item);
        }
    }
    Ok(rows.into_values().collect())
}

fn operations(item: &Value) -> impl Iterator<Item = (&str, &Value)> {
    item.as_object().into_iter().flatten().filter(|(method, _)| *method != "parameters").map(|(m, o)| (m.as_str(), o))
}

fn add_verbs(row: &mut Row, item: &Value) {
    for (_, operation) in operations(item) {
        let verb = match operation["x-kubernetes-action"].as_str() {
            Some("list") => "list",
            Some("get") => "get",
            Some("post") => "create",
            Some("put") => "update",
            Some("patch") => "patch",
            Some("delete") => "delete",
            Some("deletecollection") => "deletecollection",
            _ => continue,
        };
        row.verbs.insert(verb);
        let returned = operation["responses"]["200"]["schema"]["$ref"].as_str().unwrap_or_default();
        let returned = returned.trim_start_matches(DEFINITION_PREFIX);
        if verb == "list" {
            row.list_kind = returned.rsplit('.').next().unwrap_or_default().to_owned();
        }
        if matches!(verb, "create" | "get") {
            row.schema = returned.to_owned();
            row.kind = operation["x-kubernetes-group-version-kind"]["kind"].as_str().unwrap_or_default().to_owned();
        }
    }
}

fn add_subresource(row: &mut Row, name: &str, item: &Value) {
    for (method, operation) in operations(item) {
        let verb = match method {
            "get" => "get",
            "post" => "create",
            "put" => "update",
            "patch" => "patch",
            "delete" => "delete",
            _ => continue,
        };
        let gvk = &operation["x-kubernetes-group-version-kind"];
        let part = |name: &str| gvk[name].as_str().unwrap_or_default();
        let kind = format!("{}/{}/{}", part("group"), part("version"), part("kind"));
        let entry = row.subresources.entry(name.to_owned()).or_default();
        entry.0 = kind;
        entry.1.insert(verb);
    }
}

/// Names of the types that the served resources and the options of requests use, directly or not.
fn reachable(definitions: &Definitions, rows: &[Row]) -> BTreeSet<String> {
    let mut wanted: Vec<String> = rows.iter().map(|row| row.schema.clone()).collect();
    for row in rows.iter().filter(|row| !row.list_kind.is_empty()) {
        wanted.push(format!("{}List", row.schema));
    }
    for name in ["DeleteOptions", "Status", "APIResourceList", "APIGroupList", "APIVersions", "Patch", "WatchEvent"] {
        wanted.push(format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}"));
    }
    for (name, definition) in definitions {
        let kinds = definition["x-kubernetes-group-version-kind"].as_array();
        let of_subresource = |gvk: &Value| {
            rows.iter().flat_map(|row| row.subresources.values()).any(|(kind, _)| {
                let part = |name: &str| gvk[name].as_str().unwrap_or_default();
                *kind == format!("{}/{}/{}", part("group"), part("version"), part("kind"))
            })
        };
        if kinds.is_some_and(|kinds| kinds.iter().any(of_subresource)) {
            wanted.push(name.clone());
        }
    }
    let mut found = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        if let Some(definition) = definitions.get(&name)
            && found.insert(name)
        {
            collect_references(definition, &mut wanted);
        }
    }
    found
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(target) = map.get("$ref").and_then(Value::as_str) {
                found.push(target.trim_start_matches(DEFINITION_PREFIX).to_owned());
            }
            map.values().for_each(|inner| collect_references(inner, found));
        }
        Value::Array(items) => items.iter().for_each(|inner| collect_references(inner, found)),
        _ => {}
    }
}

fn types(definitions: &Definitions, names: &BTreeSet<String>) -> Result<String, Box<dyn Error>> {
    let index: BTreeMap<&str, usize> = names.iter().enumerate().map(|(at, name)| (name.as_str(), at)).collect();
    let mut out = String::new();
    for name in names {
        let definition = &definitions[name];
        let mut options = Vec::new();
        if definition["x-kubernetes-map-type"] == "atomic" {
            options.push("A".to_owned());
        }
        // Types that every group shares list a kind per group: that is no identity.
        if let Some([gvk]) = definition["x-kubernetes-group-version-kind"].as_array().map(Vec::as_slice) {
            let part = |name: &str| gvk[name].as_str().unwrap_or_default();
            options.push(format!("V={}/{}/{}", part("group"), part("version"), part("kind")));
        }
        let form = match special(name) {
            Some(form) => form.to_owned(),
            None => "*".to_owned(),
        };
        writeln!(out, "{name}|{form}|{}", options.join(","))?;
        if form != "*" {
            continue;
        }
        let required: BTreeSet<&str> =
            definition["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (field, property) in definition["properties"].as_object().into_iter().flatten() {
            let form = form_of(property, &index)?;
            let options = field_options(property, required.contains(field.as_str()));
            writeln!(out, " {field}|{form}|{options}")?;
        }
    }
    Ok(out)
}

/// Types whose JSON form is not that of a structure.
fn special(name: &str) -> Option<&'static str> {
    Some(match name.rsplit('.').next()? {
        "Quantity" => "q",
        "Time" => "t",
        "MicroTime" => "u",
        "IntOrString" => "o",
        "JSON" | "Patch" => "a",
        "RawExtension" | "FieldsV1" => "e",
        "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrBool" | "JSONSchemaPropsOrStringArray" => "p",
        _ => return None,
    })
}

fn form_of(property: &Value, index: &BTreeMap<&str, usize>) -> Result<String, Box<dyn Error>> {
    if let Some(target) = property["$ref"].as_str() {
        let target = target.trim_start_matches(DEFINITION_PREFIX);
        return Ok(format!("#{}", index.get(target).ok_or_else(|| format!("unknown type {target}"))?));
    }
    let kind = property["type"].as_str().ok_or("a property without a type")?;
    Ok(match (kind, property["format"].as_str()) {
        ("string", Some("byte")) => "y".to_owned(),
        ("string", None) => "s".to_owned(),
        ("boolean", _) => "b".to_owned(),
        ("integer", Some("int32")) => "i".to_owned(),
        ("integer", Some("int64")) => "l".to_owned(),
        ("number", _) => "d".to_owned(),
        ("array", _) => format!("[{}", form_of(&property["items"], index)?),
        ("object", _) => format!("{{{}", form_of(&property["additionalProperties"], index)?),
        (kind, format) => return Err(format!("unknown type {kind} with format {format:?}").into()),
    })
}

fn field_options(property: &Value, required: bool) -> String {
    let mut options = Vec::new();
    if required {
        options.push("r".to_owned());
    }
    match property["x-kubernetes-map-type"].as_str() {
        Some("atomic") => options.push("A".to_owned()),
        Some("granular") => options.push("G".to_owned()),
        _ => {}
    }
    match property["x-kubernetes-list-type"].as_str() {
        Some("set") => options.push("S".to_owned()),
        Some("map") => {
            let keys = property["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
            let keys: Vec<&str> = keys.filter_map(Value::as_str).collect();
            options.push(format!("M={}", keys.join(":")));
        }
        _ => {}
    }
    if let Some(strategy) = property["x-kubernetes-patch-strategy"].as_str() {
        options.push(format!("P={}", strategy.replace(',', ":")));
    }
    if let Some(key) = property["x-kubernetes-patch-merge-key"].as_str() {
        options.push(format!("K={key}"));
    }
    options.join(",")
}

/// Message fields of the served types: `message` lines followed by ` name|number|type` lines, where `[T` is a repeated
/// field, `{K:V` a map and `>T` a structure whose fields stand in the object itself. Names are those of the JSON form.
fn messages(protobuf: &Value, definitions: &Definitions, names: &BTreeSet<String>) -> Result<String, Box<dyn Error>> {
    let all = protobuf.as_object().ok_or("the protobuf table is no object")?;
    let message_of = |name: &String| name.replacen("io.k8s.", "k8s.io.", 1).replace('-', "_");
    let properties: BTreeMap<String, &Value> =
        names.iter().map(|name| (message_of(name), &definitions[name]["properties"])).collect();
    let mut wanted: Vec<String> = properties.keys().filter(|name| all.contains_key(*name)).cloned().collect();
    wanted.extend(ANSWERS.map(str::to_owned));
    let mut found = BTreeMap::new();
    while let Some(name) = wanted.pop() {
        if found.contains_key(&name) {
            continue;
        }
        let mut lines = String::new();
        for field in all[&name].as_array().into_iter().flatten() {
            let property = properties.get(&name).and_then(|known| known.as_object());
            let Some((json_name, inlined)) = json_name(field, property, all) else { continue };
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let kind = match (&field["map"], field["repeated"] == true) {
                (Value::Array(pair), _) => format!("{{{}:{}", text(&pair[0]), text(&pair[1])),
                (_, true) => format!("[{}", text(&field["type"])),
                (_, false) => format!("{}{}", if inlined { ">" } else { "" }, text(&field["type"])),
            };
            let number = field["number"].as_u64().unwrap_or_default();
            writeln!(lines, " {json_name}|{number}|{kind}")?;
            let words = std::iter::once(&field["type"]).chain(field["map"].as_array().into_iter().flatten());
            wanted.extend(words.filter_map(Value::as_str).filter(|word| all.contains_key(*word)).map(str::to_owned));
        }
        found.insert(name, lines);
    }
    Ok(found.into_iter().map(|(name, lines)| format!("{name}\n{lines}")).collect())
}

/// The JSON name of a message field and whether its own fields stand in its place. Nothing for a field that the type
/// does not have, because the message is of a later version.
fn json_name(field: &Value, property: Option<&Definitions>, messages: &Definitions) -> Option<(String, bool)> {
    let name = field["name"].as_str()?;
    let Some(properties) = property else {
        // A structure that exists only inlined, or whose JSON form is no structure.
        return Some((name.to_owned(), false));
    };
    if properties.contains_key(name) {
        return Some((name.to_owned(), false));
    }
    let kebab: String = name
        .chars()
        .flat_map(|c| c.is_ascii_uppercase().then_some('-').into_iter().chain([c.to_ascii_lowercase()]))
        .collect();
    let spelled = |known: &&String| {
        known.eq_ignore_ascii_case(name) || **known == kebab || known.strip_prefix('$').is_some_and(|rest| rest == name)
    };
    if let Some(known) = properties.keys().find(spelled) {
        return Some((known.clone(), false));
    }
    let below = messages.get(field["type"].as_str()?).and_then(Value::as_array)?;
    let names_of = |fields: &Vec<Value>| -> Vec<String> {
        fields.iter().filter_map(|field| field["name"].as_str()).map(str::to_owned).collect()
    };
    let mut names = names_of(below);
    for deeper in below.iter().filter_map(|field| messages.get(field["type"].as_str()?)?.as_array()) {
        names.extend(names_of(deeper));
    }
    let inlined = field["repeated"] != true && names.iter().any(|name| properties.contains_key(name));
    inlined.then(|| (name.to_owned(), true))
}
