//! Functions of lists: those of Kubernetes (`isSorted`, `sum`, `min`, `max`, `indexOf`, `lastIndexOf`) and those of the
//! extension that it has since 1.34 (`slice`, `flatten`, `distinct`, `reverse`, `sort`, `sortBy`, `lists.range`).

use std::cmp::Ordering;

use crate::cost::{Call, CallEstimate, CostEstimate, LIST_CREATE, STRING_TRAVERSAL_FACTOR as TRAVERSAL, SizeEstimate};
use crate::error::EvalError;
use crate::library::{Library, Overload};
use crate::operators;
use crate::types::{Field, Type};
use crate::value::{List, Value};

type Answer<'a> = Result<Value<'a>, EvalError>;

/// What the macro `sortBy` calls: a list and what the keys of its elements are.
const SORT_BY: &str = "@sortByAssociatedKeys";

/// The types that have an order, by the names in the ids of their overloads.
fn comparable() -> [(&'static str, Type, [&'static str; 5]); 8] {
    let ids = |sorted, min, max, sort, sort_by| [sorted, min, max, sort, sort_by];
    [
        (
            "int",
            Type::Int,
            ids(
                "list_int_is_sorted_bool",
                "list_int_min_int",
                "list_int_max_int",
                "list_int_sort",
                "list_int_sortByAssociatedKeys",
            ),
        ),
        (
            "uint",
            Type::Uint,
            ids(
                "list_uint_is_sorted_bool",
                "list_uint_min_uint",
                "list_uint_max_uint",
                "list_uint_sort",
                "list_uint_sortByAssociatedKeys",
            ),
        ),
        (
            "double",
            Type::Double,
            ids(
                "list_double_is_sorted_bool",
                "list_double_min_double",
                "list_double_max_double",
                "list_double_sort",
                "list_double_sortByAssociatedKeys",
            ),
        ),
        (
            "bool",
            Type::Bool,
            ids(
                "list_bool_is_sorted_bool",
                "list_bool_min_bool",
                "list_bool_max_bool",
                "list_bool_sort",
                "list_bool_sortByAssociatedKeys",
            ),
        ),
        (
            "duration",
            Type::Duration,
            ids(
                "list_duration_is_sorted_bool",
                "list_duration_min_duration",
                "list_duration_max_duration",
                "list_duration_sort",
                "list_google.protobuf.Duration_sortByAssociatedKeys",
            ),
        ),
        (
            "timestamp",
            Type::Timestamp,
            ids(
                "list_timestamp_is_sorted_bool",
                "list_timestamp_min_timestamp",
                "list_timestamp_max_timestamp",
                "list_timestamp_sort",
                "list_google.protobuf.Timestamp_sortByAssociatedKeys",
            ),
        ),
        (
            "string",
            Type::String,
            ids(
                "list_string_is_sorted_bool",
                "list_string_min_string",
                "list_string_max_string",
                "list_string_sort",
                "list_string_sortByAssociatedKeys",
            ),
        ),
        (
            "bytes",
            Type::Bytes,
            ids(
                "list_bytes_is_sorted_bool",
                "list_bytes_min_bytes",
                "list_bytes_max_bytes",
                "list_bytes_sort",
                "list_bytes_sortByAssociatedKeys",
            ),
        ),
    ]
}

/// What Kubernetes adds to lists.
pub(super) fn library() -> Library {
    let mut library = Library::new();
    for (_, ty, [sorted, min, max, sort, sort_by]) in comparable() {
        let list = || vec![Type::list(ty.clone())];
        let min = Overload::member(min, list(), ty.clone(), |_, args| extreme(&args[0], Ordering::Less, "min"));
        let max = Overload::member(max, list(), ty.clone(), |_, args| extreme(&args[0], Ordering::Greater, "max"));
        let sorted = Overload::member(sorted, list(), Type::Bool, |_, args| is_sorted(&args[0]));
        let sort = Overload::member(sort, list(), Type::list(ty.clone()), |_, args| self::sort(&args[0], &args[0]));
        let any = || Type::list(Type::param("T"));
        let sort_by = Overload::member(sort_by, vec![any(), Type::list(ty.clone())], any(), |_, args| {
            self::sort(&args[0], &args[1])
        });
        library = library
            .function("isSorted", vec![walked(sorted)])
            .function("min", vec![walked(min)])
            .function("max", vec![walked(max)])
            .function(
                "sort",
                vec![sort.cost(|args, _| self_compare(&args[0])).estimate(|call| self_compare_estimate(call, 0))],
            )
            .function(
                SORT_BY,
                vec![sort_by.cost(|args, _| self_compare(&args[1])).estimate(|call| self_compare_estimate(call, 1))],
            );
    }
    let sums = [
        ("list_int_sum_int", Type::Int, Value::Int(0)),
        ("list_uint_sum_uint", Type::Uint, Value::Uint(0)),
        ("list_double_sum_double", Type::Double, Value::Double(0.0)),
        ("list_duration_sum_duration", Type::Duration, Value::Duration(0)),
    ];
    for (id, ty, zero) in sums {
        let sum = Overload::member(id, vec![Type::list(ty.clone())], ty, move |_, args| sum(&args[0], &zero));
        library = library.function("sum", vec![walked(sum)]);
    }
    let of_item = || vec![Type::list(Type::param("T")), Type::param("T")];
    let first = Overload::member("list_a_index_of_int", of_item(), Type::Int, |_, args| {
        position(args[0].as_list()?, &args[1], false)
    });
    let last = Overload::member("list_a_last_index_of_int", of_item(), Type::Int, |_, args| {
        position(args[0].as_list()?, &args[1], true)
    });
    library.function("indexOf", vec![walked(first)]).function("lastIndexOf", vec![walked(last)]).with(extension())
}

/// Version 3 of the extension.
fn extension() -> Library {
    let any = || Type::list(Type::param("T"));
    let slice = Overload::member("list_slice", vec![any(), Type::Int, Type::Int], any(), |_, args| slice(args));
    let flatten = Overload::member("list_flatten", vec![Type::list(any())], any(), |_, args| flatten(args));
    let deep = vec![Type::list(Type::Dyn), Type::Int];
    let flatten_deep = Overload::member("list_flatten_int", deep, Type::list(Type::Dyn), |_, args| self::flatten(args));
    let range = Overload::global("lists_range", vec![Type::Int], Type::list(Type::Int), |cx, args| {
        let count = args[0].int()?.max(0);
        // what the result will cost is known, and may be more than there is memory for
        if u64::try_from(count).is_ok_and(|count| count > cx.budget()) {
            return Err(EvalError::BudgetExceeded);
        }
        Ok(Value::list((0..count).map(Value::Int).collect()))
    });
    let reverse = Overload::member("list_reverse", vec![any()], any(), |_, args| {
        let mut items = own(&args[0])?;
        items.reverse();
        Ok(Value::list(items))
    });
    let distinct = Overload::member("list_distinct", vec![any()], any(), |_, args| distinct(&args[0]));
    let made = |overload: Overload| overload.cost(|_, result| allocated(1.0, result.size().unwrap_or(1)));
    let flat = |overload: Overload| {
        overload.cost(|args, _| allocated(depth_of(args), args[0].size().unwrap_or(1))).estimate(|call| {
            let depth = if call.operands.len() > 1 { literal(call, 1, u64::MAX) } else { 1 };
            estimated(depth as f64, call.size(0))
        })
    };
    Library::new()
        .function(
            "slice",
            vec![made(slice).estimate(|call| {
                // backwards, the reference counts around the end of the numbers
                let (start, end) = (literal(call, 1, 0), literal(call, 2, call.size(0).max));
                estimated(1.0, SizeEstimate::fixed(end.wrapping_sub(start)))
            })],
        )
        .function("flatten", vec![flat(flatten), flat(flatten_deep)])
        .function(
            "lists.range",
            vec![made(range).estimate(|call| estimated(1.0, SizeEstimate::fixed(literal(call, 0, u64::MAX))))],
        )
        .function("reverse", vec![made(reverse).estimate(|call| estimated(1.0, call.size(0)))])
        .function(
            "distinct",
            vec![distinct.cost(|args, _| self_compare(&args[0])).estimate(|call| self_compare_estimate(call, 0))],
        )
}

/// What walking through a value costs, all that it holds included.
pub(super) fn traversal(value: &Value<'_>) -> u64 {
    let scaled = |bytes: usize| (bytes as f64 * TRAVERSAL) as u64;
    match value {
        Value::String(text) => scaled(text.len()),
        Value::Bytes(bytes) => scaled(bytes.len()),
        Value::List(list) => list.iter().map(|item| item.map_or(1, |item| traversal(&item))).sum(),
        Value::Map(map) => {
            map.iter().map(|(key, value)| traversal(&key) + value.map_or(1, |value| traversal(&value))).sum()
        }
        Value::Object(object) => {
            let fields = object.ty().fields().iter();
            let of = |field: &Field| match object.get(&field.name) {
                Ok(None) => 0,
                found => scaled(field.name.len()) + found.ok().flatten().map_or(1, |value| traversal(&value)),
            };
            fields.map(of).sum()
        }
        _ => 1,
    }
}

/// One comparison per element, and a walk through each that is text.
fn walked(overload: Overload) -> Overload {
    overload.cost(|args, _| traversal(&args[0])).estimate(|call| {
        let mut element = CostEstimate::fixed(1);
        if let Some(operand) = call.operands.first()
            && let Type::List(list) = &operand.ty
            && matches!(list.item, Type::String | Type::Bytes)
        {
            element = element.plus(operand.item_size.unwrap_or(SizeEstimate::UNKNOWN).cost(TRAVERSAL));
        }
        CallEstimate::cost(call.size(0).times(element))
    })
}

fn allocated(factor: f64, size: u64) -> u64 {
    ((size as f64 * factor) as u64).saturating_add(1 + LIST_CREATE)
}

fn estimated(factor: f64, size: SizeEstimate) -> CallEstimate {
    CallEstimate::sized(size.cost(factor).plus(CostEstimate::fixed(1 + LIST_CREATE)), size)
}

fn literal(call: &Call<'_>, at: usize, unknown: u64) -> u64 {
    match call.operands.get(at).and_then(|operand| operand.literal) {
        Some(Value::Int(value)) => u64::try_from(*value).unwrap_or(0),
        _ => unknown,
    }
}

fn self_compare(list: &Value<'_>) -> u64 {
    let size = list.size().unwrap_or(1);
    let first = list.as_list().ok().and_then(|list| list.get(0)).and_then(Result::ok);
    let text = matches!(first, Some(Value::String(_) | Value::Bytes(_)));
    allocated(if text { 2.0 + TRAVERSAL } else { 2.0 }, size.saturating_mul(size))
}

/// `keys`: the operand whose elements are compared with each other.
fn self_compare_estimate(call: &Call<'_>, keys: usize) -> CallEstimate {
    let text = call.operands.get(keys).is_some_and(
        |operand| matches!(&operand.ty, Type::List(list) if matches!(list.item, Type::String | Type::Bytes)),
    );
    estimated(if text { 2.0 + TRAVERSAL } else { 2.0 }, call.size(keys).multiply(call.size(keys)))
}

fn own<'a>(list: &Value<'a>) -> Result<Vec<Value<'a>>, EvalError> {
    list.as_list()?.iter().collect()
}

fn extreme<'a>(list: &Value<'a>, wanted: Ordering, name: &str) -> Answer<'a> {
    let mut items = list.as_list()?.iter();
    let mut best = items.next().ok_or_else(|| EvalError::other(format!("{name} called on empty list")))??;
    for item in items {
        let item = item?;
        if item.compare(&best)? == wanted {
            best = item;
        }
    }
    Ok(best)
}

fn is_sorted<'a>(list: &Value<'a>) -> Answer<'a> {
    let mut before: Option<Value<'_>> = None;
    for item in list.as_list()?.iter() {
        let item = item?;
        if let Some(before) = &before
            && before.compare(&item)? == Ordering::Greater
        {
            return Ok(Value::Bool(false));
        }
        before = Some(item);
    }
    Ok(Value::Bool(true))
}

fn sum<'a>(list: &Value<'a>, zero: &Value<'static>) -> Answer<'a> {
    let mut total: Option<Value<'a>> = None;
    for item in list.as_list()?.iter() {
        let item = item?;
        total = Some(match total {
            None => item,
            Some(total) => operators::add(&total, &item)?,
        });
    }
    Ok(total.unwrap_or_else(|| zero.clone()))
}

fn position<'a>(list: &List<'a>, wanted: &Value<'a>, last: bool) -> Answer<'a> {
    let mut found = -1;
    for (at, item) in (0..).zip(list.iter()) {
        if item?.equals(wanted)? {
            found = at;
            if !last {
                break;
            }
        }
    }
    Ok(Value::Int(found))
}

fn slice<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let (list, start, end) = (args[0].as_list()?, args[1].int()?, args[2].int()?);
    let failed = |why: &str| EvalError::other(format!("cannot slice({start}, {end}), {why}"));
    let (Ok(from), Ok(to)) = (usize::try_from(start), usize::try_from(end)) else {
        return Err(failed("negative indexes not supported"));
    };
    if from > to {
        return Err(failed("start index must be less than or equal to end index"));
    }
    if to > list.len() {
        return Err(failed(&format!("list is length {}", list.len())));
    }
    let items = list.iter().skip(from).take(to - from).collect::<Result<Vec<_>, _>>()?;
    Ok(Value::list(items))
}

fn depth_of(args: &[Value<'_>]) -> f64 {
    match args.get(1) {
        Some(Value::Int(depth)) => *depth as f64,
        _ => 1.0,
    }
}

fn flatten<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let depth = args.get(1).map_or(Ok(1), Value::int)?;
    if depth < 0 {
        return Err(EvalError::other("level must be non-negative"));
    }
    let mut items = Vec::new();
    flatten_into(args[0].as_list()?, depth, &mut items)?;
    Ok(Value::list(items))
}

fn flatten_into<'a>(list: &List<'a>, depth: i64, items: &mut Vec<Value<'a>>) -> Result<(), EvalError> {
    for item in list.iter() {
        match item? {
            Value::List(inner) if depth > 0 => flatten_into(&inner, depth - 1, items)?,
            item => items.push(item),
        }
    }
    Ok(())
}

fn distinct<'a>(list: &Value<'a>) -> Answer<'a> {
    let mut items: Vec<Value<'a>> = Vec::new();
    'next: for item in list.as_list()?.iter() {
        let item = item?;
        for known in &items {
            if known.equals(&item)? {
                continue 'next;
            }
        }
        items.push(item);
    }
    Ok(Value::list(items))
}

/// The list in the order of the keys of its elements.
fn sort<'a>(list: &Value<'a>, keys: &Value<'a>) -> Answer<'a> {
    let (items, keys) = (own(list)?, own(keys)?);
    if items.len() != keys.len() {
        return Err(EvalError::other(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} \
             elements respectively",
            items.len(),
            keys.len()
        )));
    }
    if let Some((first, rest)) = keys.split_first() {
        first.compare(first).map_err(|_| EvalError::other("list elements must be comparable"))?;
        if rest.iter().any(|key| key.ty() != first.ty()) {
            return Err(EvalError::other("list elements must have the same type"));
        }
    }
    let mut pairs: Vec<_> = keys.into_iter().zip(items).collect();
    pairs.sort_by(|(a, _), (b, _)| a.compare(b).unwrap_or(Ordering::Equal));
    Ok(Value::list(pairs.into_iter().map(|(_, item)| item).collect()))
}
