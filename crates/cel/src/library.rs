//! Libraries: functions, type names and macros that an environment is put together from.
//!
//! A function is a name and its overloads. An overload says which types it takes, whether it is called as a member
//! (`x.f(y)`) or globally (`f(x, y)`), what it answers, how to compute it, and what it costs:
//!
//! ```
//! use cel::cost::{CallEstimate, STRING_TRAVERSAL_FACTOR, scale};
//! use cel::{Library, Overload, Type, Value};
//!
//! let trim = Overload::member("string_trim", vec![Type::String], Type::String, |_, args| {
//!     Ok(Value::string(args[0].str()?.trim().to_owned()))
//! })
//! .cost(|args, _| scale(args[0].size().unwrap_or(1), STRING_TRAVERSAL_FACTOR))
//! .estimate(|call| CallEstimate::sized(call.size(0).cost(STRING_TRAVERSAL_FACTOR), call.size(0)));
//! let library = Library::new().function("trim", vec![trim]);
//! # let _ = library;
//! ```

mod lists;
mod network;
mod regex;
mod semver;
mod sets;
mod standard;
mod strings;
mod url;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::context::Context;
use crate::cost::{Call, CallEstimate};
use crate::error::EvalError;
use crate::types::Type;
use crate::value::Value;

pub(crate) use standard::operator::{comparison_cost, names};
pub(crate) use standard::standard;
pub(crate) use strings::format;
pub use url::Url;

/// What Kubernetes adds to the standard library in every environment of its release 1.36, besides what needs its own
/// notions of quantities and names: text, lists, sets, regular expressions, URLs, addresses, networks and versions.
pub fn kubernetes() -> Library {
    strings::library()
        .with(lists::library())
        .with(sets::library())
        .with(regex::library())
        .with(url::library())
        .with(network::library())
        .with(semver::library())
}

/// How an overload computes its result: the receiver of a member function is the first argument.
///
/// When every argument's static type is known, arguments are what the overload declares. Where a type is `dyn`, the kind
/// of every argument was compared with the declared types; only what containers hold is not looked at.
pub type Implementation = Arc<dyn for<'a> Fn(&mut Context, &[Value<'a>]) -> Result<Value<'a>, EvalError> + Send + Sync>;

/// What a finished call cost, from its arguments and its result.
pub type RuntimeCost = fn(&[Value<'_>], &Value<'_>) -> u64;

/// What a call can cost, from what is known when it is compiled.
pub type Estimate = fn(&Call<'_>) -> CallEstimate;

/// Makes an implementation for a call some of whose arguments are constants, such as a compiled regular expression.
/// `None` means that nothing is gained. The error is reported as an error of the expression.
pub type Prepare = fn(&[Option<&Value<'static>>]) -> Result<Option<Implementation>, String>;

/// One way to call a function.
#[derive(Clone)]
pub struct Overload {
    pub(crate) id: &'static str,
    pub(crate) member: bool,
    pub(crate) args: Vec<Type>,
    pub(crate) result: Type,
    pub(crate) implementation: Implementation,
    pub(crate) cost: Option<RuntimeCost>,
    pub(crate) estimate: Option<Estimate>,
    pub(crate) prepare: Option<Prepare>,
}

impl Overload {
    /// An overload called as `args[0].f(args[1], …)`.
    pub fn member(
        id: &'static str,
        args: Vec<Type>,
        result: Type,
        implementation: impl for<'a> Fn(&mut Context, &[Value<'a>]) -> Result<Value<'a>, EvalError> + Send + Sync + 'static,
    ) -> Self {
        Self { member: true, ..Self::global(id, args, result, implementation) }
    }

    /// An overload called as `f(args[0], …)`. The name of the function may be qualified: `ip.isCanonical`.
    pub fn global(
        id: &'static str,
        args: Vec<Type>,
        result: Type,
        implementation: impl for<'a> Fn(&mut Context, &[Value<'a>]) -> Result<Value<'a>, EvalError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            id,
            member: false,
            args,
            result,
            implementation: Arc::new(implementation),
            cost: None,
            estimate: None,
            prepare: None,
        }
    }

    /// What a call costs when it runs; 1 unless set.
    #[must_use]
    pub fn cost(mut self, cost: RuntimeCost) -> Self {
        self.cost = Some(cost);
        self
    }

    /// What a call is estimated to cost; 1 unless set.
    #[must_use]
    pub fn estimate(mut self, estimate: Estimate) -> Self {
        self.estimate = Some(estimate);
        self
    }

    /// Makes use of constant arguments when the expression is compiled.
    #[must_use]
    pub fn prepare(mut self, prepare: Prepare) -> Self {
        self.prepare = Some(prepare);
        self
    }

    /// Whether it takes these arguments, as far as their kinds tell.
    pub(crate) fn takes(&self, args: &[Value<'_>]) -> bool {
        self.args.len() == args.len() && args.iter().zip(&self.args).all(|(arg, ty)| arg.is_of(ty))
    }
}

impl fmt::Debug for Overload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overload").field("id", &self.id).field("args", &self.args).finish_non_exhaustive()
    }
}

/// Functions, type names and macros that belong together.
#[derive(Clone, Debug, Default)]
pub struct Library {
    pub(crate) functions: HashMap<&'static str, Vec<Arc<Overload>>>,
    pub(crate) types: Vec<(&'static str, Type)>,
}

impl Library {
    /// A library of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds overloads to a function.
    #[must_use]
    pub fn function(mut self, name: &'static str, overloads: Vec<Overload>) -> Self {
        self.functions.entry(name).or_default().extend(overloads.into_iter().map(Arc::new));
        self
    }

    /// Lets expressions name a type: `type(x) == net.IP`.
    #[must_use]
    pub fn type_name(mut self, name: &'static str, ty: Type) -> Self {
        self.types.push((name, ty));
        self
    }

    /// Adds everything of another library.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        for (name, overloads) in other.functions {
            self.functions.entry(name).or_default().extend(overloads);
        }
        self.types.extend(other.types);
        self
    }
}
