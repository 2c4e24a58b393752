//! Quantities in expressions: `quantity`, `isQuantity`, their order and arithmetic.

use std::{any::Any, cmp::Ordering, sync::LazyLock};

use cel::{
    EvalError, Library, Opaque, Overload, Type, Value,
    cost::{CallEstimate, STRING_TRAVERSAL_FACTOR, scale},
};

use crate::quantity::{Format, Quantity};

static QUANTITY: LazyLock<Type> = LazyLock::new(|| Type::opaque("kubernetes.Quantity"));

#[derive(Debug)]
struct Amount(Quantity);

impl Opaque for Amount {
    fn ty(&self) -> &Type {
        &QUANTITY
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref::<Self>().is_some_and(|other| self.0 == other.0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn parse(value: &Value<'_>) -> Result<Quantity, EvalError> {
    Quantity::parse(value.str()?).map_err(|error| EvalError::other(error.to_string()))
}

/// A quantity, or a whole number that stands for one.
fn operand(value: &Value<'_>) -> Result<Quantity, EvalError> {
    match value {
        Value::Int(units) => Ok(Quantity::from_units(*units, Format::DecimalSi)),
        value => Ok(value.opaque::<Amount>()?.0),
    }
}

/// As Kubernetes has it since 1.28.
pub(super) fn library() -> Library {
    let parses = |overload: Overload| {
        overload
            .cost(|args, _| scale(args[0].size().unwrap_or(1), STRING_TRAVERSAL_FACTOR))
            .estimate(|call| CallEstimate::cost(call.size(0).cost(STRING_TRAVERSAL_FACTOR)))
    };
    let nominal = |overload: Overload| overload.cost(|_, _| 1).estimate(|_| CallEstimate::fixed(1));
    let one = || vec![QUANTITY.clone()];
    let two = || vec![QUANTITY.clone(), QUANTITY.clone()];
    let with_int = || vec![QUANTITY.clone(), Type::Int];
    let asked = |id, result, answer: fn(&Quantity) -> Result<Value<'static>, EvalError>| {
        nominal(Overload::member(id, one(), result, move |_, args| answer(&operand(&args[0])?)))
    };
    let is = |id, wanted: Ordering| {
        nominal(Overload::member(id, two(), Type::Bool, move |_, args| {
            Ok(Value::Bool(operand(&args[0])?.cmp(&operand(&args[1])?) == wanted))
        }))
    };
    let made = |id, args, f: fn(&Quantity, &Quantity) -> Quantity| {
        nominal(Overload::member(id, args, QUANTITY.clone(), move |_, args| {
            Ok(Value::from_opaque(Amount(f(&operand(&args[0])?, &operand(&args[1])?))))
        }))
    };
    Library::new()
        .type_name("kubernetes.Quantity", QUANTITY.clone())
        .function(
            "quantity",
            vec![parses(Overload::global("string_to_quantity", vec![Type::String], QUANTITY.clone(), |_, args| {
                parse(&args[0]).map(|quantity| Value::from_opaque(Amount(quantity)))
            }))],
        )
        .function(
            "isQuantity",
            vec![parses(Overload::global("is_quantity_string", vec![Type::String], Type::Bool, |_, args| {
                Ok(Value::Bool(Quantity::parse(args[0].str()?).is_ok()))
            }))],
        )
        .function(
            "sign",
            vec![asked("quantity_sign", Type::Int, |quantity| {
                Ok(Value::Int(i64::from(!quantity.is_zero()) * if quantity.is_negative() { -1 } else { 1 }))
            })],
        )
        .function(
            "asInteger",
            vec![asked("quantity_get_int", Type::Int, |quantity| {
                let failed = || EvalError::other("cannot convert value to integer");
                quantity.as_integer().map(Value::Int).ok_or_else(failed)
            })],
        )
        .function(
            "isInteger",
            vec![asked("quantity_is_integer", Type::Bool, |quantity| Ok(Value::Bool(quantity.as_integer().is_some())))],
        )
        .function(
            "asApproximateFloat",
            vec![asked("quantity_get_float", Type::Double, |quantity| Ok(Value::Double(quantity.as_double())))],
        )
        .function("isGreaterThan", vec![is("quantity_is_greater_than", Ordering::Greater)])
        .function("isLessThan", vec![is("quantity_is_less_than", Ordering::Less)])
        .function(
            "compareTo",
            vec![nominal(Overload::member("quantity_compare_to", two(), Type::Int, |_, args| {
                Ok(Value::Int(operand(&args[0])?.cmp(&operand(&args[1])?) as i64))
            }))],
        )
        .function(
            "add",
            vec![made("quantity_add", two(), Quantity::plus), made("quantity_add_int", with_int(), Quantity::plus)],
        )
        .function(
            "sub",
            vec![made("quantity_sub", two(), Quantity::minus), made("quantity_sub_int", with_int(), Quantity::minus)],
        )
}
