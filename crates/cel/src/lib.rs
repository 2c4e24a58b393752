//! The Common Expression Language: parsed, checked against declared types, priced, and evaluated over JSON documents.
//!
//! An [`Env`] declares what expressions may use: variables with their types, and the functions of [`Library`]s. JSON
//! documents are viewed lazily as [`Value`]s of declared [`Type`]s; nothing is copied before a function makes something
//! new. The semantics, the texts of errors and the costs are those of the reference implementation as Kubernetes
//! configures it: rules written for one are valid, cost and mean the same for the other.

mod ast;
mod checker;
mod context;
pub mod cost;
mod env;
mod error;
mod estimate;
mod eval;
mod issue;
pub mod library;
mod number;
mod operators;
mod parser;
mod plan;
mod program;
pub mod regexp;
mod time;
mod types;
mod value;

pub use context::Context;
pub use env::{Env, EnvBuilder};
pub use error::EvalError;
pub use issue::Issues;
pub use library::{Library, Overload};
pub use number::format_double;
pub use parser::is_reserved;
pub use program::{Bindings, CompileError, Program, WrongType};
pub use types::{Field, ListKind, ListType, MapType, ObjectType, Type};
pub use value::{List, ListIter, Map, MapIter, Object, Opaque, Str, Value};
