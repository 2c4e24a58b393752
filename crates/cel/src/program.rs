//! Compiled expressions, and the values they run with.

use std::cell::OnceCell;
use std::fmt;
use std::sync::Arc;

use crate::checker::{Checked, check};
use crate::context::Context;
use crate::cost::{CostEstimate, Sizes};
use crate::env::Env;
use crate::error::EvalError;
use crate::estimate::estimate;
use crate::eval::Frame;
use crate::issue::Issues;
use crate::parser::parse;
use crate::plan::{Node, Unplanned, plan};
use crate::types::Type;
use crate::value::Value;

/// Why an expression cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// It does not parse or check.
    #[error("compilation failed: {0}")]
    Issues(#[from] Issues),
    /// It is of another type than is wanted.
    #[error(transparent)]
    ResultType(#[from] WrongType),
    /// A conversion of a constant in it always fails.
    #[error("program instantiation failed: {0}")]
    Constant(#[source] EvalError),
}

/// An expression is of another type than is wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must evaluate to {} but got {found}", wanted(.expected))]
pub struct WrongType {
    /// The types that would do.
    pub expected: Vec<Type>,
    /// The type it is of.
    pub found: Type,
}

fn wanted(types: &[Type]) -> String {
    match types {
        [one] => one.to_string(),
        more => format!("one of [{}]", more.iter().map(Type::to_string).collect::<Vec<_>>().join(" ")),
    }
}

/// An expression ready to run. Immutable; share it between threads.
#[derive(Clone)]
pub struct Program {
    node: Node,
    locals: usize,
    checked: Arc<Checked>,
}

impl Env {
    /// Compiles an expression whose type must be one of `expected`; none means that any type will do.
    ///
    /// # Errors
    /// What is wrong with the expression, all of it that can be found at once.
    pub fn compile(&self, source: &str, expected: &[Type]) -> Result<Program, CompileError> {
        let failed = |issues| CompileError::Issues(Issues::new(source, issues));
        let checked = check(self, parse(source).map_err(failed)?).map_err(failed)?;
        let planned = match plan(&checked) {
            Err(Unplanned::Issues(issues)) => return Err(failed(issues)),
            planned => planned,
        };
        let found = &checked.types[checked.tree.root.id as usize];
        if !expected.is_empty() && !expected.contains(found) {
            return Err(WrongType { expected: expected.to_vec(), found: found.clone() }.into());
        }
        match planned {
            Ok((node, locals)) => Ok(Program { node, locals, checked: Arc::new(checked) }),
            Err(Unplanned::Constant(error)) => Err(CompileError::Constant(error)),
            Err(Unplanned::Issues(issues)) => Err(failed(issues)),
        }
    }
}

impl Program {
    /// The type of the result.
    pub fn result_type(&self) -> &Type {
        &self.checked.types[self.checked.tree.root.id as usize]
    }

    /// What evaluating can cost, with what the caller knows of the sizes of variables.
    pub fn estimate(&self, sizes: &dyn Sizes) -> CostEstimate {
        estimate(&self.checked, sizes)
    }

    /// Evaluates the expression. What it costs is taken from `budget`; when that is used up, evaluation stops with
    /// [`EvalError::BudgetExceeded`].
    ///
    /// # Errors
    /// The expression has no value for these bindings.
    pub fn evaluate<'a>(&'a self, bindings: &Bindings<'a>, budget: &mut u64) -> Result<Value<'a>, EvalError> {
        let mut context = Context::new(*budget);
        let result = self.run(bindings, &mut context);
        *budget = context.budget();
        result
    }

    pub(crate) fn run<'a>(&'a self, bindings: &Bindings<'a>, context: &mut Context) -> Result<Value<'a>, EvalError> {
        let mut locals = Vec::new();
        locals.resize(self.locals, Ok(Value::Null));
        let mut frame = Frame { bindings, locals, context: Context::new(context.budget()) };
        let result = frame.eval(&self.node);
        *context = frame.context;
        result
    }

    /// Whether the expression uses the variable of a slot.
    pub fn uses_slot(&self, slot: usize) -> bool {
        use crate::checker::Reference;
        use crate::env::Meaning;
        let uses = |reference: &Option<Reference>| matches!(reference, Some(Reference::Ident(Meaning::Slot(own))) if *own == slot);
        self.checked.references.iter().any(uses)
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("result_type", self.result_type()).finish_non_exhaustive()
    }
}

/// The value of one variable.
#[derive(Clone, Debug, Default)]
pub(crate) enum Binding<'a> {
    #[default]
    Unset,
    Value(Value<'a>),
    /// Evaluated when it is first read, once.
    Lazy {
        program: &'a Program,
        value: OnceCell<Result<Value<'a>, EvalError>>,
    },
}

/// Values of an environment's variables, by slot. One set serves any number of programs of the environment.
#[derive(Clone, Debug, Default)]
pub struct Bindings<'a> {
    slots: Vec<Binding<'a>>,
}

impl<'a> Bindings<'a> {
    /// Bindings for an environment; no variable has a value yet.
    pub fn new(env: &Env) -> Self {
        Self::with_slots(env.slots())
    }

    /// The same where only the number of variables is known.
    pub fn with_slots(slots: usize) -> Self {
        Self { slots: vec![Binding::Unset; slots] }
    }

    /// Gives the variable of a slot ([`Env::slot`]) a value. A slot of another environment is ignored.
    pub fn set(&mut self, slot: usize, value: Value<'a>) {
        if let Some(own) = self.slots.get_mut(slot) {
            *own = Binding::Value(value);
        }
    }

    /// Gives the variable of a slot the value of an expression over these same bindings, evaluated when it is first
    /// read. Variables must not read each other in a circle.
    pub fn set_lazy(&mut self, slot: usize, program: &'a Program) {
        if let Some(own) = self.slots.get_mut(slot) {
            *own = Binding::Lazy { program, value: OnceCell::new() };
        }
    }

    pub(crate) fn get(&self, slot: usize) -> Option<&Binding<'a>> {
        self.slots.get(slot)
    }
}
