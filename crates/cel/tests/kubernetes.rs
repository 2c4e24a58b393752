//! The functions that Kubernetes adds to the language: rows of expressions that hold, that fail, and that cost.

#[path = "kubernetes/rows.rs"]
mod rows;

use cel::{Bindings, Env, EvalError, Type, Value};

/// More than any row needs.
const BUDGET: u64 = 1_000_000;

fn env() -> Env {
    Env::builder().library(cel::library::kubernetes()).variable("any", Type::Dyn).build()
}

fn run<'a>(env: &Env, program: &'a cel::Program, any: &'a serde_json::Value) -> (Result<Value<'a>, EvalError>, u64) {
    let mut bindings = Bindings::new(env);
    bindings.set(env.slot("any").expect("invariant: it is declared"), Value::dynamic(any));
    let mut budget = BUDGET;
    let result = program.evaluate(&bindings, &mut budget);
    (result, BUDGET - budget)
}

#[test]
fn what_holds_holds() {
    let env = env();
    let any = serde_json::json!({"texts": ["b", "a"], "numbers": [3, 1], "empty": []});
    let mut odd = Vec::new();
    for expression in rows::TRUE {
        match env.compile(expression, &[Type::Bool]) {
            Err(error) => odd.push(format!("{expression}: {error}")),
            Ok(program) => match run(&env, &program, &any).0 {
                Ok(Value::Bool(true)) => {}
                result => odd.push(format!("{expression}: {result:?}")),
            },
        }
    }
    assert!(odd.is_empty(), "{}", odd.join("\n"));
    println!("{} expressions hold", rows::TRUE.len());
}

#[test]
fn what_fails_says_why() {
    let env = env();
    for (expression, message) in rows::FAILS {
        let program = env.compile(expression, &[]).unwrap_or_else(|error| panic!("{expression}: {error}"));
        let (result, _) = run(&env, &program, &serde_json::Value::Null);
        let error = result.expect_err(expression).to_string();
        assert!(error.contains(message), "{expression}: {error}");
    }
}

#[test]
fn what_does_not_fit_is_refused_when_it_is_compiled() {
    let env = env();
    for expression in rows::REFUSED {
        assert!(env.compile(expression, &[]).is_err(), "{expression}");
    }
}

#[test]
fn literals_keep_to_their_types_and_formats() {
    let env = env();
    for (expression, wanted) in rows::MISTAKES {
        let Err(cel::CompileError::Issues(issues)) = env.compile(expression, &[]) else { panic!("{expression}") };
        assert_eq!(issues.texts().collect::<Vec<_>>().join("; "), *wanted, "{expression}");
    }
}

#[test]
fn costs_are_those_of_the_reference() {
    let env = env();
    let mut odd = Vec::new();
    for (expression, cost) in rows::COSTS {
        let program = env.compile(expression, &[]).unwrap_or_else(|error| panic!("{expression}: {error}"));
        let (result, spent) = run(&env, &program, &serde_json::Value::Null);
        if result.is_err() || spent != *cost {
            odd.push(format!("{expression}: {spent}, not {cost}: {result:?}"));
        }
    }
    assert!(odd.is_empty(), "{}", odd.join("\n"));
}

#[test]
fn a_range_larger_than_the_budget_is_not_made() {
    let env = env();
    let program = env.compile("lists.range(9000000000000).size() > 0", &[]).unwrap();
    assert_eq!(run(&env, &program, &serde_json::Value::Null).0.unwrap_err(), EvalError::BudgetExceeded);
}
