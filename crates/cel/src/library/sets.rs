//! Lists as sets: `sets.contains`, `sets.equivalent`, `sets.intersects`.

use crate::cost::{CallEstimate, CostEstimate};
use crate::error::EvalError;
use crate::library::{Library, Overload};
use crate::types::Type;
use crate::value::{List, Value};

/// As Kubernetes has them since 1.29.
pub(super) fn library() -> Library {
    let lists = || vec![Type::list(Type::param("T")), Type::list(Type::param("T"))];
    let contains = Overload::global("list_sets_contains_list", lists(), Type::Bool, |_, args| {
        contains_all(args[0].as_list()?, args[1].as_list()?).map(Value::Bool)
    });
    let equivalent = Overload::global("list_sets_equivalent_list", lists(), Type::Bool, |_, args| {
        let (a, b) = (args[0].as_list()?, args[1].as_list()?);
        Ok(Value::Bool(contains_all(a, b)? && contains_all(b, a)?))
    });
    let intersects = Overload::global("list_sets_intersects_list", lists(), Type::Bool, |_, args| {
        let (a, b) = (args[0].as_list()?, args[1].as_list()?);
        for item in b.iter() {
            if holds(a, &item?)? {
                return Ok(Value::Bool(true));
            }
        }
        Ok(Value::Bool(false))
    });
    let once = |overload: Overload| {
        overload.cost(|args, _| product(args).saturating_add(1)).estimate(|call| {
            let product = call.size(0).multiply(call.size(1));
            CallEstimate::cost(product.cost(1.0).plus(CostEstimate::fixed(1)))
        })
    };
    let twice = |overload: Overload| {
        overload.cost(|args, _| product(args).saturating_mul(2).saturating_add(1)).estimate(|call| {
            let product = call.size(0).multiply(call.size(1));
            CallEstimate::cost(product.cost(2.0).plus(CostEstimate::fixed(1)))
        })
    };
    Library::new()
        .function("sets.contains", vec![once(contains)])
        .function("sets.equivalent", vec![twice(equivalent)])
        .function("sets.intersects", vec![once(intersects)])
}

/// Every element may be compared with every other.
fn product(args: &[Value<'_>]) -> u64 {
    args[0].size().unwrap_or(1).saturating_mul(args[1].size().unwrap_or(1))
}

fn holds(list: &List<'_>, wanted: &Value<'_>) -> Result<bool, EvalError> {
    for item in list.iter() {
        if item?.equals(wanted)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn contains_all(list: &List<'_>, wanted: &List<'_>) -> Result<bool, EvalError> {
    for item in wanted.iter() {
        if !holds(list, &item?)? {
            return Ok(false);
        }
    }
    Ok(true)
}
