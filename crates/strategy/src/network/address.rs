//! ServiceCIDRs and IPAddresses: the ranges that Services get addresses from, and who holds which.

use serde_json::Value;

use super::{IP_RULE, RANGE_RULE, SPEC, parse_range};
use crate::{
    NameRule, Strategy, WRITABLE_METADATA, WriteContext,
    field_error::{FieldErrors, Path},
    metadata::IMMUTABLE,
    tree::{self, list, some, text},
};

/// ServiceCIDRs.
pub(crate) struct ServiceRange;

impl Strategy for ServiceRange {
    fn status_keeps(&self) -> &'static [&'static str] {
        WRITABLE_METADATA
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let path = SPEC.child("cidrs");
        let ranges = object.get("spec").map_or(&[][..], |spec| list(spec, "cidrs"));
        if ranges.is_empty() {
            errors.required(&path, "at least one CIDR required");
            return;
        }
        if ranges.len() > 2 {
            errors.invalid(&path, ranges.to_vec(), "may only hold up to 2 values");
        }
        let mut families = [0; 2];
        for (index, range) in ranges.iter().enumerate() {
            let written = range.as_str().unwrap_or_default();
            match parse_range(written) {
                None => errors.invalid(&path.index(index), written, RANGE_RULE),
                Some((address, prefix)) => {
                    families[usize::from(address.is_ipv6())] += 1;
                    let host_bits = if address.is_ipv4() { 32 } else { 128 } - u32::from(prefix);
                    let network = super::network(address, prefix).checked_shl(host_bits).unwrap_or(0);
                    if network != super::network(address, if address.is_ipv4() { 32 } else { 128 }) {
                        let rule = "must not have host bits set";
                        errors.invalid(&path.index(index), written, rule);
                    }
                }
            }
        }
        if families.iter().any(|count| *count > 1) {
            let rule = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/96";
            errors.invalid(&path, ranges.to_vec(), rule);
        }
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        let ranges = |object: &Value| object.get("spec").map_or(&[][..], |spec| list(spec, "cidrs")).to_vec();
        let (new, old) = (ranges(new), ranges(old));
        // one family may join another
        if new.len() < old.len() || new[..old.len()] != old[..] {
            errors.invalid(&SPEC.child("cidrs").index(0), new, IMMUTABLE);
        }
    }
}

/// IPAddresses.
pub(crate) struct Address;

impl Strategy for Address {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let name = tree::name(object);
        let canonical = name.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_string() == name);
        if !canonical {
            let metadata = Path::new("metadata");
            errors.invalid(&metadata.child("name"), name, IP_RULE);
        }
        let path = SPEC.child("parentRef");
        let Some(parent) = object.get("spec").and_then(|spec| some(spec, "parentRef")) else {
            errors.required(&path, "");
            return;
        };
        for key in ["name", "resource"] {
            if text(parent, key).is_empty() {
                errors.required(&path.child(key), "");
            }
        }
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        let parent = |object: &Value| object.get("spec").and_then(|spec| spec.get("parentRef")).cloned();
        if parent(new) != parent(old) {
            errors.invalid(&SPEC.child("parentRef"), parent(new).unwrap_or_default(), IMMUTABLE);
        }
    }
}
