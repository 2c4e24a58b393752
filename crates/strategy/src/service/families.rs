//! The address families of Services: what a write that does not name them means, and what a cluster with addresses of one
//! family, IPv4, refuses.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::{
    field_error::{FieldErrors, Path},
    tree::{self, default_to, list, map, same, text},
};

const SPEC: Path<'static> = Path::new("spec");
const FOUR: &str = "IPv4";
const SIX: &str = "IPv6";
const SINGLE: &str = "SingleStack";
const POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", SINGLE];
const NONE: &str = "None";
const IP_RULE: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

fn family_of(address: &str) -> Option<&'static str> {
    address.parse::<IpAddr>().ok().map(|address| if address.is_ipv4() { FOUR } else { SIX })
}

/// Whether the Service has no addresses of its own.
fn is_headless(spec: &Value) -> bool {
    text(spec, "clusterIP") == NONE || list(spec, "clusterIPs").first().is_some_and(|first| first == NONE)
}

/// Without a selector nobody knows which families a headless Service leads to but who made it.
fn is_unbound(spec: &Value) -> bool {
    is_headless(spec) && map(spec, "selector").is_empty()
}

/// Makes `clusterIP` and `clusterIPs` agree, and names the address families and how many they may be.
pub fn complete_addresses(spec: &mut Value) {
    let external = text(spec, "type") == "ExternalName";
    let address = text(spec, "clusterIP").to_owned();
    let first = list(spec, "clusterIPs").first().and_then(Value::as_str).unwrap_or_default().to_owned();
    let Some(map) = spec.as_object_mut() else { return };
    if external {
        // What addresses an external name was given is an error for validation to name.
        for key in ["ipFamilies", "ipFamilyPolicy"] {
            map.remove(key);
        }
        return;
    }
    match (address.is_empty(), first.is_empty()) {
        (false, true) => {
            map.insert("clusterIPs".to_owned(), json!([address]));
        }
        (true, false) => {
            map.insert("clusterIP".to_owned(), first.into());
        }
        _ => {}
    }
    default_to(spec, "ipFamilyPolicy", SINGLE);
    let families = families(spec);
    if list(spec, "ipFamilies").len() < families.len()
        && let Some(map) = spec.as_object_mut()
    {
        map.insert("ipFamilies".to_owned(), json!(families));
    }
}

/// The families that the Service names, and those that its addresses and the cluster's one family add.
fn families(spec: &Value) -> Vec<Value> {
    let mut families = list(spec, "ipFamilies").to_vec();
    if !is_headless(spec) {
        for address in list(spec, "clusterIPs").iter().skip(families.len()) {
            match address.as_str().and_then(family_of) {
                Some(FOUR) if !families.contains(&FOUR.into()) => families.push(FOUR.into()),
                // validation says what is wrong with it, not the family that would be filled in
                _ => return families,
            }
        }
    }
    if families.is_empty() {
        families.push(FOUR.into());
    }
    if is_unbound(spec) && families.len() == 1 && text(spec, "ipFamilyPolicy") != SINGLE {
        families.push(if families[0] == FOUR { SIX } else { FOUR }.into());
    }
    families
}

/// A write that names no families, or no policy, keeps those there were. Where it changes the first address alone, as one
/// does who knows of no more, the list follows.
pub(super) fn keep(spec: &mut Value, old: &Value) {
    if [&*spec, old].into_iter().any(|spec| text(spec, "type") == "ExternalName") {
        return;
    }
    if !text(spec, "clusterIP").is_empty() && !same(spec, old, "clusterIP") && same(spec, old, "clusterIPs") {
        tree::remove(spec, "clusterIPs");
    }
    for key in ["ipFamilies", "ipFamilyPolicy"] {
        if tree::some(spec, key).is_none_or(tree::is_empty) {
            tree::keep(spec, old, key);
        }
    }
}

/// Checks addresses, families and policy, of themselves and against each other, and then against the cluster.
pub(super) fn validate(spec: &Value, errors: &mut FieldErrors) {
    if text(spec, "type") == "ExternalName" {
        return;
    }
    let mut found = FieldErrors::default();
    validate_named(spec, &mut found);
    if validate_addresses(spec, &mut found) {
        validate_pairs(spec, &mut found);
    }
    if found.is_empty() {
        validate_number(spec, &mut found);
    }
    if found.is_empty() && !is_unbound(spec) {
        validate_configured(spec, &mut found);
    }
    errors.extend(found.0);
}

fn validate_named(spec: &Value, errors: &mut FieldErrors) {
    let path = SPEC.child("ipFamilies");
    let families = list(spec, "ipFamilies");
    for (index, family) in families.iter().enumerate() {
        let name = family.as_str().unwrap_or_default();
        if ![FOUR, SIX].contains(&name) {
            errors.not_supported(&path.index(index), name, &[FOUR, SIX]);
        }
        if families[..index].contains(family) {
            errors.duplicate(&path.index(index), name);
        }
    }
    let policy = text(spec, "ipFamilyPolicy");
    if !policy.is_empty() && !POLICIES.contains(&policy) {
        errors.not_supported(&SPEC.child("ipFamilyPolicy"), policy, &POLICIES);
    }
}

/// Gives whether each address is one.
fn validate_addresses(spec: &Value, errors: &mut FieldErrors) -> bool {
    let path = SPEC.child("clusterIPs");
    let addresses = list(spec, "clusterIPs");
    let all = || Value::Array(addresses.to_vec());
    match (text(spec, "clusterIP"), addresses.first()) {
        ("", None) => {}
        ("", Some(_)) => errors.invalid(&path, all(), "must be empty when `clusterIP` is not specified"),
        (_, None) => errors.required(&path, ""),
        (first, Some(other)) if other != first => errors.invalid(&path, all(), "first value must match `clusterIP`"),
        _ => {}
    }
    let mut sound = true;
    for (index, address) in addresses.iter().enumerate() {
        let address = address.as_str().unwrap_or_default();
        if index == 0 && address == NONE {
            if addresses.len() > 1 {
                sound = false;
                errors.invalid(&path, all(), "'None' must be the first and only value");
            }
        } else if family_of(address).is_none() {
            sound = false;
            errors.invalid(&path.index(index), address, IP_RULE);
        }
    }
    if addresses.len() > 2 {
        errors.invalid(&path, all(), "may only hold up to 2 values");
    }
    sound
}

fn validate_pairs(spec: &Value, errors: &mut FieldErrors) {
    let path = SPEC.child("clusterIPs");
    let addresses = list(spec, "clusterIPs");
    let of = |address: &Value| address.as_str().and_then(family_of);
    let count = |family: &str| addresses.iter().filter(|address| of(address) == Some(family)).count();
    if addresses.len() > 1 && (count(FOUR) > 1 || count(SIX) > 1) {
        let rule = "may specify no more than one IP for each IP family";
        errors.invalid(&path, Value::Array(addresses.to_vec()), rule);
    }
    if is_headless(spec) {
        return;
    }
    for (index, (address, family)) in addresses.iter().zip(list(spec, "ipFamilies")).enumerate() {
        let family = family.as_str().unwrap_or_default();
        if [FOUR, SIX].contains(&family) && of(address).is_some_and(|actual| actual != family) {
            let rule = format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
            errors.invalid(&path.index(index), address.clone(), rule);
        }
    }
}

fn validate_number(spec: &Value, errors: &mut FieldErrors) {
    let path = SPEC.child("ipFamilyPolicy");
    if text(spec, "ipFamilyPolicy") == SINGLE {
        for key in ["clusterIPs", "ipFamilies"] {
            if list(spec, key).len() == 2 {
                let rule = format!("must be RequireDualStack or PreferDualStack when multiple '{key}' are specified");
                errors.invalid(&path, SINGLE, rule);
            }
        }
    }
    let addresses = list(spec, "clusterIPs");
    let unnamed = addresses.iter().enumerate().skip(list(spec, "ipFamilies").len());
    for (index, address) in unnamed.filter(|_| !is_headless(spec)) {
        if address.as_str().and_then(family_of) == Some(SIX) {
            let rule = format!("{SIX} is not configured on this cluster");
            errors.invalid(&SPEC.child("clusterIPs").index(index), Value::Array(addresses.to_vec()), rule);
        }
    }
}

fn validate_configured(spec: &Value, errors: &mut FieldErrors) {
    if text(spec, "ipFamilyPolicy") == "RequireDualStack" {
        let rule = "this cluster is not configured for dual-stack services";
        errors.invalid(&SPEC.child("ipFamilyPolicy"), "RequireDualStack", rule);
    }
    let path = SPEC.child("ipFamilies");
    for (index, family) in list(spec, "ipFamilies").iter().enumerate() {
        if family == SIX {
            errors.invalid(&path.index(index), SIX, "not configured on this cluster");
        }
    }
}

/// The first address, and the first family, of a Service that has its own may not change, nor go.
pub(super) fn validate_change(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if [new, old].into_iter().any(|spec| text(spec, "type") == "ExternalName") {
        return;
    }
    let all = |key: &str| Value::Array(list(new, key).to_vec());
    let first = |spec, key| list(spec, key).first();
    let (was, is) = (is_headless(old), is_headless(new));
    if !(was && is)
        && let Some(before) = first(old, "clusterIPs")
    {
        let path = SPEC.child("clusterIPs");
        match first(new, "clusterIPs") {
            None => errors.invalid(&path.index(0), all("clusterIPs"), "primary clusterIP can not be unset"),
            Some(now) if now != before => errors.invalid(&path.index(0), all("clusterIPs"), "may not change once set"),
            Some(_) => {}
        }
    }
    if !was && !is && first(old, "ipFamilies").is_some() && first(new, "ipFamilies") != first(old, "ipFamilies") {
        let path = SPEC.child("ipFamilies");
        errors.invalid(&path.index(0), all("ipFamilies"), "may not change once set");
    }
    let released = !same(new, old, "ipFamilies") && list(new, "ipFamilies").len() < list(old, "ipFamilies").len();
    if !was && !is && released && text(new, "ipFamilyPolicy") != SINGLE {
        let rule = "`ipFamilyPolicy` must be set to 'SingleStack' when releasing the secondary ipFamily";
        errors.invalid(&SPEC.child("clusterIPs").index(0), all("clusterIPs"), rule);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(mut spec: Value) -> Value {
        complete_addresses(&mut spec);
        spec
    }

    fn refused(spec: Value) -> String {
        let mut errors = FieldErrors::default();
        validate(&completed(spec), &mut errors);
        if errors.is_empty() { String::new() } else { errors.to_string() }
    }

    #[test]
    fn families_follow_from_addresses_policy_and_selector() {
        let of = |spec: Value| completed(spec)["ipFamilies"].clone();
        assert_eq!(of(json!({})), json!(["IPv4"]));
        assert_eq!(of(json!({"clusterIP": "10.0.0.9"})), json!(["IPv4"]));
        assert_eq!(of(json!({"ipFamilyPolicy": "PreferDualStack"})), json!(["IPv4"]), "there is no other");
        let unbound = |policy: &str| json!({"clusterIP": "None", "ipFamilyPolicy": policy});
        assert_eq!(of(unbound("SingleStack")), json!(["IPv4"]));
        assert_eq!(of(unbound("RequireDualStack")), json!(["IPv4", "IPv6"]));
        let six = json!({"clusterIP": "None", "ipFamilies": ["IPv6"], "ipFamilyPolicy": "PreferDualStack"});
        assert_eq!(of(six), json!(["IPv6", "IPv4"]));
        assert_eq!(completed(json!({}))["ipFamilyPolicy"], "SingleStack");
        assert!(completed(json!({"type": "ExternalName", "ipFamilies": ["IPv4"]})).get("ipFamilies").is_none());
    }

    #[test]
    fn what_a_cluster_of_one_family_cannot_give_is_refused_in_upstreams_words() {
        for (spec, wanted) in [
            (
                json!({"ipFamilyPolicy": "RequireDualStack"}),
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
            ),
            (
                json!({"ipFamilies": ["IPv6"]}),
                "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
            ),
            (
                json!({"clusterIP": "fd00::9"}),
                "spec.clusterIPs[0]: Invalid value: [\"fd00::9\"]: IPv6 is not configured on this cluster",
            ),
            (
                json!({"ipFamilies": ["IPv4", "IPv6"]}),
                "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be RequireDualStack or PreferDualStack when multiple 'ipFamilies' are specified",
            ),
            (
                json!({"ipFamilies": ["IPv4"], "clusterIP": "fd00::9"}),
                "spec.clusterIPs[0]: Invalid value: \"fd00::9\": expected an IPv4 value as indicated by `ipFamilies[0]`",
            ),
            (
                json!({"clusterIPs": ["10.0.0.9", "10.0.0.8"], "ipFamilyPolicy": "PreferDualStack"}),
                "spec.clusterIPs: Invalid value: [\"10.0.0.9\",\"10.0.0.8\"]: may specify no more than one IP for each IP family",
            ),
            (
                json!({"clusterIPs": ["None", "10.0.0.8"]}),
                "spec.clusterIPs: Invalid value: [\"None\",\"10.0.0.8\"]: 'None' must be the first and only value",
            ),
            (
                json!({"ipFamilies": ["IPv4", "IPv4"], "ipFamilyPolicy": "PreferDualStack"}),
                "spec.ipFamilies[1]: Duplicate value: \"IPv4\"",
            ),
            (
                json!({"ipFamilies": ["IPv5"]}),
                "spec.ipFamilies[0]: Unsupported value: \"IPv5\": supported values: \"IPv4\", \"IPv6\"",
            ),
            (
                json!({"ipFamilyPolicy": "Both"}),
                "spec.ipFamilyPolicy: Unsupported value: \"Both\": supported values: \"PreferDualStack\", \"RequireDualStack\", \"SingleStack\"",
            ),
            (json!({"clusterIP": "None", "ipFamilies": ["IPv6"]}), ""),
            (json!({"clusterIP": "None", "ipFamilyPolicy": "RequireDualStack"}), ""),
        ] {
            assert_eq!(refused(spec.clone()), wanted, "{spec}");
        }
    }

    #[test]
    fn the_first_address_and_family_stay() {
        let old = json!({"clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"], "ipFamilies": ["IPv4"]});
        let changed = |new: Value| {
            let mut errors = FieldErrors::default();
            validate_change(&new, &old, &mut errors);
            if errors.is_empty() { String::new() } else { errors.to_string() }
        };
        let with = |address: &str, family: &str| json!({"clusterIPs": [address], "ipFamilies": [family]});
        assert_eq!(changed(with("10.0.0.9", "IPv4")), "");
        let other = "spec.clusterIPs[0]: Invalid value: [\"10.0.0.8\"]: may not change once set";
        assert_eq!(changed(with("10.0.0.8", "IPv4")), other);
        let other = "spec.ipFamilies[0]: Invalid value: [\"IPv6\"]: may not change once set";
        assert_eq!(changed(with("10.0.0.9", "IPv6")), other);
        let none = "spec.clusterIPs[0]: Invalid value: []: primary clusterIP can not be unset";
        assert_eq!(changed(json!({"ipFamilies": ["IPv4"]})), none);
        let mut kept = json!({"clusterIP": "10.0.0.9"});
        keep(&mut kept, &old);
        assert_eq!(kept["ipFamilies"], json!(["IPv4"]));
        let mut moved = json!({"clusterIP": "10.0.0.8", "clusterIPs": ["10.0.0.9"], "ipFamilies": ["IPv4"]});
        keep(&mut moved, &old);
        assert_eq!(
            changed(completed(moved)),
            "spec.clusterIPs[0]: Invalid value: [\"10.0.0.8\"]: may not change once set"
        );
    }
}
