//! Copies of requests.

use kinds::gateway::HTTPRequestMirrorFilter;

use crate::{
    controller::{
        backends,
        lookup::{Route, Seen},
        verdict::Fault,
    },
    routing::{Mirror, Target},
};

/// `None` when the reference leads nowhere, which does not keep requests from their own backend.
pub(super) fn compile(
    seen: &Seen<'_>,
    route: &Route,
    from: &HTTPRequestMirrorFilter,
    broken: &mut Vec<Fault>,
) -> Option<Mirror> {
    match backends::resolve(seen, route, &from.backend_ref) {
        Ok(Target::Service { backend, http2 }) => Some(Mirror::new(backend, http2, part(from))),
        Ok(Target::Invalid) => None,
        Err(fault) => {
            broken.push(fault);
            None
        }
    }
}

/// The part of the requests that is copied.
fn part(from: &HTTPRequestMirrorFilter) -> (u32, u32) {
    let positive = |number: i32| u32::try_from(number).unwrap_or(0);
    match (&from.fraction, from.percent) {
        (Some(fraction), _) => (positive(fraction.numerator), positive(fraction.denominator.unwrap_or(100))),
        (None, Some(percent)) => (positive(percent), 100),
        (None, None) => (1, 1),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn everything_is_copied_unless_a_part_is_named() {
        for (filter, expected) in [
            (json!({}), (1, 1)),
            (json!({"percent": 0}), (0, 100)),
            (json!({"percent": 42}), (42, 100)),
            (json!({"fraction": {"numerator": 1}}), (1, 100)),
            (json!({"fraction": {"numerator": 1, "denominator": 3}}), (1, 3)),
        ] {
            let mut filter = filter;
            filter["backendRef"] = json!({"name": "b"});
            assert_eq!(part(&serde_json::from_value(filter).unwrap()), expected);
        }
    }
}
