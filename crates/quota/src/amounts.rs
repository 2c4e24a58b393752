//! How much of what: a list of quantities by resource.

use std::collections::BTreeMap;

use schema::quantity::{Format, Quantity};
use serde_json::{Map, Value};

/// Quantities by the name of the resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amounts(BTreeMap<String, Quantity>);

/// The quantity in a tree, whether written as text or as a number.
pub(crate) fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}

/// The sum; zero has no format of its own.
fn sum(one: &Quantity, other: &Quantity) -> Quantity {
    if one.is_zero() { *other } else { one.plus(other) }
}

impl Amounts {
    /// Reads a resource list; what is no quantity is left out.
    pub fn read(list: Option<&Value>) -> Self {
        let entries = list.and_then(Value::as_object).into_iter().flatten();
        Self(entries.filter_map(|(name, value)| Some((name.clone(), quantity(value)?))).collect())
    }

    /// The API's form.
    pub fn to_value(&self) -> Value {
        let entries: Map<String, Value> =
            self.0.iter().map(|(name, amount)| (name.clone(), amount.to_string().into())).collect();
        Value::Object(entries)
    }

    /// The amount of a resource.
    pub fn get(&self, name: &str) -> Option<&Quantity> {
        self.0.get(name)
    }

    /// Sets the amount of a resource.
    pub fn set(&mut self, name: &str, amount: Quantity) {
        self.0.insert(name.to_owned(), amount);
    }

    /// Sets the amount of a resource that is counted in whole numbers.
    pub fn set_count(&mut self, name: &str, count: i64) {
        self.set(name, Quantity::from_units(count, Format::DecimalSi));
    }

    /// Sets a resource that is not there to zero.
    pub fn ensure(&mut self, name: &str) {
        self.0.entry(name.to_owned()).or_insert_with(|| Quantity::from_units(0, Format::DecimalSi));
    }

    /// The resources.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Both together.
    pub fn plus(&self, other: &Self) -> Self {
        let mut all = self.clone();
        all.add(other);
        all
    }

    /// Adds the other amounts.
    pub fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            match self.0.get_mut(name) {
                Some(own) => *own = sum(own, amount),
                None => {
                    self.0.insert(name.clone(), *amount);
                }
            }
        }
    }

    /// Raises every amount to the other's, where that is larger.
    pub(crate) fn raise_to(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            match self.0.get_mut(name) {
                Some(own) if *own >= *amount => {}
                Some(own) => *own = *amount,
                None => {
                    self.0.insert(name.clone(), *amount);
                }
            }
        }
    }

    /// What this has beyond the other, below zero where it has less; what is equal is left out.
    pub fn minus(&self, other: &Self) -> Self {
        let zero = Quantity::from_units(0, Format::DecimalSi);
        let names = self.0.keys().chain(other.0.keys().filter(|name| !self.0.contains_key(*name)));
        let difference = |name: &String| match (self.0.get(name), other.0.get(name)) {
            (Some(own), Some(other)) => own.minus(other),
            (Some(own), None) => *own,
            (None, other) => zero.minus(other.unwrap_or(&zero)),
        };
        Self(names.map(|name| (name.clone(), difference(name))).filter(|(_, amount)| !amount.is_zero()).collect())
    }

    /// Only the resources that `keep` is true for.
    pub fn masked(&self, keep: impl Fn(&str) -> bool) -> Self {
        Self(self.0.iter().filter(|(name, _)| keep(name)).map(|(name, amount)| (name.clone(), *amount)).collect())
    }
}

impl std::fmt::Display for Amounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let each: Vec<String> = self.0.iter().map(|(name, amount)| format!("{name}={amount}")).collect();
        f.write_str(&each.join(","))
    }
}
