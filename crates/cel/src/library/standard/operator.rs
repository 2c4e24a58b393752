//! The overloads of operators, with what they cost. The interpreter calls most of them without this table.

use std::cmp::Ordering;

use crate::cost::{Call, CallEstimate, CostEstimate, STRING_TRAVERSAL_FACTOR as TRAVERSAL, SizeEstimate, scale};
use crate::error::EvalError;
use crate::library::{Library, Overload};
use crate::operators;
use crate::types::Type;
use crate::value::Value;

/// What estimates take for the longest name of a format.
const FORMAT_NAME_MAX: u64 = 64;

type Result<'a> = std::result::Result<Value<'a>, EvalError>;

/// Names of operators, as expressions that were parsed have them.
pub(crate) mod names {
    pub(crate) const CONDITIONAL: &str = "_?_:_";
    pub(crate) const AND: &str = "_&&_";
    pub(crate) const OR: &str = "_||_";
    pub(crate) const NOT: &str = "!_";
    pub(crate) const NEGATE: &str = "-_";
    pub(crate) const EQUALS: &str = "_==_";
    pub(crate) const NOT_EQUALS: &str = "_!=_";
    pub(crate) const LESS: &str = "_<_";
    pub(crate) const LESS_EQUALS: &str = "_<=_";
    pub(crate) const GREATER: &str = "_>_";
    pub(crate) const GREATER_EQUALS: &str = "_>=_";
    pub(crate) const ADD: &str = "_+_";
    pub(crate) const SUBTRACT: &str = "_-_";
    pub(crate) const MULTIPLY: &str = "_*_";
    pub(crate) const DIVIDE: &str = "_/_";
    pub(crate) const MODULO: &str = "_%_";
    pub(crate) const IN: &str = "@in";
    pub(crate) const INDEX: &str = "_[_]";
    pub(crate) const INDEX_OPTIONAL: &str = "_[?_]";
    pub(crate) const SELECT_OPTIONAL: &str = "_?._";
    pub(crate) const MAP_INSERT: &str = "cel.@mapInsert";
    pub(crate) const NOT_STRICTLY_FALSE: &str = "@not_strictly_false";
}

/// Ids of the overloads of one order.
macro_rules! ids {
    ($name:literal) => {
        [
            concat!($name, "_bool"),
            concat!($name, "_int64"),
            concat!($name, "_int64_double"),
            concat!($name, "_int64_uint64"),
            concat!($name, "_uint64"),
            concat!($name, "_uint64_double"),
            concat!($name, "_uint64_int64"),
            concat!($name, "_double"),
            concat!($name, "_double_int64"),
            concat!($name, "_double_uint64"),
            concat!($name, "_string"),
            concat!($name, "_bytes"),
            concat!($name, "_timestamp"),
            concat!($name, "_duration"),
        ]
    };
}
pub(super) fn library() -> Library {
    let list = || Type::list(Type::param("A"));
    let map = || Type::map(Type::param("A"), Type::param("B"));
    let (a, b) = (|| Type::param("A"), || Type::param("B"));
    let bools = |id| Overload::global(id, vec![Type::Bool, Type::Bool], Type::Bool, lazy);
    let mut library = Library::new()
        .function(names::CONDITIONAL, vec![Overload::global("conditional", vec![Type::Bool, a(), a()], a(), lazy)])
        .function(names::AND, vec![bools("logical_and")])
        .function(names::OR, vec![bools("logical_or")])
        .function(
            names::NOT_STRICTLY_FALSE,
            vec![Overload::global("not_strictly_false", vec![Type::Bool], Type::Bool, lazy)],
        )
        .function(
            names::MAP_INSERT,
            vec![
                Overload::global("@mapInsert_map_key_value", vec![map(), a(), b()], map(), lazy),
                Overload::global("@mapInsert_map_map", vec![map(), map()], map(), lazy),
            ],
        )
        .function(
            names::NOT,
            vec![Overload::global("logical_not", vec![Type::Bool], Type::Bool, |_, args| {
                Ok(Value::Bool(!args[0].bool()?))
            })],
        )
        .function(
            names::EQUALS,
            vec![
                compared(Overload::global("equals", vec![a(), a()], Type::Bool, |_, args| {
                    Ok(Value::Bool(args[0].equals(&args[1])?))
                }))
                .estimate(|call| equality_estimate(call).unwrap_or_else(|| comparison_estimate(call))),
            ],
        )
        .function(
            names::NOT_EQUALS,
            vec![compared(Overload::global("not_equals", vec![a(), a()], Type::Bool, |_, args| {
                Ok(Value::Bool(!args[0].equals(&args[1])?))
            }))],
        )
        .function(
            names::IN,
            vec![
                Overload::global("in_list", vec![a(), list()], Type::Bool, is_in)
                    .cost(|args, _| args[1].size().unwrap_or(1))
                    .estimate(|call| CallEstimate::cost(call.size(1).cost(1.0))),
                Overload::global("in_map", vec![a(), map()], Type::Bool, is_in),
            ],
        )
        // The checker looks at the field itself.
        .function(
            names::SELECT_OPTIONAL,
            vec![Overload::global("select_optional_field", vec![Type::Dyn, Type::String], Type::optional(b()), lazy)],
        )
        .function(names::NEGATE, vec![negate("negate_int64", Type::Int), negate("negate_double", Type::Double)]);
    for (name, overloads) in arithmetic() {
        library = library.function(name, overloads);
    }
    orders(library.with(indexes()))
}

fn indexes() -> Library {
    let list = || Type::list(Type::param("A"));
    let map = || Type::map(Type::param("A"), Type::param("B"));
    let (a, b, optional) = (|| Type::param("A"), || Type::param("B"), Type::optional);
    Library::new()
        .function(
            names::INDEX,
            vec![
                Overload::global("index_list", vec![list(), Type::Int], a(), index),
                Overload::global("index_map", vec![map(), a()], b(), index),
                Overload::global("optional_list_index_int", vec![optional(list()), Type::Int], optional(a()), index),
                Overload::global("optional_map_index_value", vec![optional(map()), a()], optional(b()), index),
            ],
        )
        .function(
            names::INDEX_OPTIONAL,
            vec![
                Overload::global("list_optindex_optional_int", vec![list(), Type::Int], optional(a()), try_index),
                Overload::global(
                    "optional_list_optindex_optional_int",
                    vec![optional(list()), Type::Int],
                    optional(a()),
                    try_index,
                ),
                Overload::global("map_optindex_optional_value", vec![map(), a()], optional(b()), try_index),
                Overload::global(
                    "optional_map_optindex_optional_value",
                    vec![optional(map()), a()],
                    optional(b()),
                    try_index,
                ),
            ],
        )
}

/// Evaluated by the interpreter itself, because not all of its arguments always are.
fn lazy<'a>(_: &mut crate::Context, _: &[Value<'a>]) -> Result<'a> {
    Err(EvalError::NoSuchOverload)
}

fn is_in<'a>(_: &mut crate::Context, args: &[Value<'a>]) -> Result<'a> {
    operators::is_in(&args[0], &args[1]).map(Value::Bool)
}

fn index<'a>(_: &mut crate::Context, args: &[Value<'a>]) -> Result<'a> {
    operators::index(&args[0], &args[1])
}

fn try_index<'a>(_: &mut crate::Context, args: &[Value<'a>]) -> Result<'a> {
    operators::index_optional(&args[0], &args[1])
}

fn negate(id: &'static str, ty: Type) -> Overload {
    Overload::global(id, vec![ty.clone()], ty, |_, args| operators::negate(&args[0]))
}

fn arithmetic() -> Vec<(&'static str, Vec<Overload>)> {
    use Type::{Bytes, Double, Duration, Int, String, Timestamp, Uint};
    let list = || Type::list(Type::param("A"));
    let add = |id, a: Type, b: Type, result: Type| {
        Overload::global(id, vec![a, b], result, |_, args| operators::add(&args[0], &args[1]))
    };
    let copied = |overload: Overload| {
        overload.cost(|args, _| scale(both_sizes(args), TRAVERSAL)).estimate(|call| {
            let size = call.size(0).plus(call.size(1));
            CallEstimate::sized(size.cost(TRAVERSAL), size)
        })
    };
    let subtract = |id, a: Type, b: Type, result: Type| {
        Overload::global(id, vec![a, b], result, |_, args| operators::subtract(&args[0], &args[1]))
    };
    let multiply = |id, ty: Type| {
        Overload::global(id, vec![ty.clone(), ty.clone()], ty, |_, args| operators::multiply(&args[0], &args[1]))
    };
    let divide = |id, ty: Type| {
        Overload::global(id, vec![ty.clone(), ty.clone()], ty, |_, args| operators::divide(&args[0], &args[1]))
    };
    let modulo = |id, ty: Type| {
        Overload::global(id, vec![ty.clone(), ty.clone()], ty, |_, args| operators::modulo(&args[0], &args[1]))
    };
    vec![
        (
            names::ADD,
            vec![
                copied(add("add_bytes", Bytes, Bytes, Bytes)),
                add("add_double", Double, Double, Double),
                add("add_duration_duration", Duration, Duration, Duration),
                add("add_duration_timestamp", Duration, Timestamp, Timestamp),
                add("add_timestamp_duration", Timestamp, Duration, Timestamp),
                add("add_int64", Int, Int, Int),
                add("add_list", list(), list(), list())
                    .estimate(|call| CallEstimate::sized(CostEstimate::fixed(1), call.size(0).plus(call.size(1)))),
                copied(add("add_string", String, String, String)),
                add("add_uint64", Uint, Uint, Uint),
            ],
        ),
        (
            names::SUBTRACT,
            vec![
                subtract("subtract_double", Double, Double, Double),
                subtract("subtract_duration_duration", Duration, Duration, Duration),
                subtract("subtract_int64", Int, Int, Int),
                subtract("subtract_timestamp_duration", Timestamp, Duration, Timestamp),
                subtract("subtract_timestamp_timestamp", Timestamp, Timestamp, Duration),
                subtract("subtract_uint64", Uint, Uint, Uint),
            ],
        ),
        (
            names::MULTIPLY,
            vec![
                multiply("multiply_double", Double),
                multiply("multiply_int64", Int),
                multiply("multiply_uint64", Uint),
            ],
        ),
        (
            names::DIVIDE,
            vec![divide("divide_double", Double), divide("divide_int64", Int), divide("divide_uint64", Uint)],
        ),
        (names::MODULO, vec![modulo("modulo_int64", Int), modulo("modulo_uint64", Uint)]),
    ]
}

/// An operator, the ids of its overloads, and what it asks of the order of two values.
type Order = (&'static str, [&'static str; 14], fn(Ordering) -> bool);

/// `<`, `<=`, `>` and `>=`: of two values of one type, and of any two numbers.
fn orders(mut library: Library) -> Library {
    let orders: [Order; 4] = [
        (names::LESS, ids!("less"), Ordering::is_lt),
        (names::LESS_EQUALS, ids!("less_equals"), Ordering::is_le),
        (names::GREATER, ids!("greater"), Ordering::is_gt),
        (names::GREATER_EQUALS, ids!("greater_equals"), Ordering::is_ge),
    ];
    for (name, ids, holds) in orders {
        let types = [
            (Type::Bool, Type::Bool),
            (Type::Int, Type::Int),
            (Type::Int, Type::Double),
            (Type::Int, Type::Uint),
            (Type::Uint, Type::Uint),
            (Type::Uint, Type::Double),
            (Type::Uint, Type::Int),
            (Type::Double, Type::Double),
            (Type::Double, Type::Int),
            (Type::Double, Type::Uint),
            (Type::String, Type::String),
            (Type::Bytes, Type::Bytes),
            (Type::Timestamp, Type::Timestamp),
            (Type::Duration, Type::Duration),
        ];
        let overloads = ids.into_iter().zip(types).map(|(id, (a, b))| {
            let traversed = matches!(a, Type::String | Type::Bytes);
            let overload = Overload::global(id, vec![a, b], Type::Bool, move |_, args| {
                args[0].compare(&args[1]).map(|order| Value::Bool(holds(order)))
            });
            if traversed { compared(overload) } else { overload }
        });
        library = library.function(name, overloads.collect());
    }
    library
}

fn both_sizes(args: &[Value<'_>]) -> u64 {
    args.iter().map(|arg| arg.size().unwrap_or(1)).fold(0, u64::saturating_add)
}

/// What comparing two values costs: the smaller one is gone over.
pub(crate) fn comparison_cost(a: &Value<'_>, b: &Value<'_>) -> u64 {
    let smaller = a.size().unwrap_or(1).min(b.size().unwrap_or(1));
    scale(smaller, TRAVERSAL)
}

fn comparison_estimate(call: &Call<'_>) -> CallEstimate {
    let smaller = call.size(0).max.min(call.size(1).max);
    let size = SizeEstimate::new(u64::from(smaller > 0), smaller);
    CallEstimate::cost(size.cost(TRAVERSAL))
}

/// What `==` of two values of one of Kubernetes' own types can cost.
fn equality_estimate(call: &Call<'_>) -> Option<CallEstimate> {
    let [a, b] = call.operands.as_slice() else { return None };
    let (Type::Opaque(name), true) = (&a.ty, a.ty == b.ty) else { return None };
    let most = match &**name {
        "net.IP" | "net.CIDR" | "kubernetes.Quantity" | "kubernetes.Semver" => return Some(CallEstimate::fixed(1)),
        "kubernetes.NamedFormat" => FORMAT_NAME_MAX,
        "kubernetes.URL" if b.size == SizeEstimate::UNKNOWN => 1,
        "kubernetes.URL" => b.size.max,
        _ => return None,
    };
    Some(CallEstimate::cost(SizeEstimate::new(1, most).cost(TRAVERSAL)))
}

fn compared(overload: Overload) -> Overload {
    overload.cost(|args, _| comparison_cost(&args[0], &args[1])).estimate(comparison_estimate)
}
