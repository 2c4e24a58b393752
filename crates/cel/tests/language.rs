//! The language's semantics, as the public specification describes them: rows of expression and result.

#[path = "language/rows.rs"]
mod rows;

use cel::{Bindings, Env, EvalError, ObjectType, Type, Value};
use serde_json::json;

/// The type of `self` in these tests.
fn object_type() -> Type {
    use cel::Field;
    let port = ObjectType::new(
        "Port",
        vec![
            Field::new("name", Type::String),
            Field::new("port", Type::Int),
            Field::renamed("__namespace__", "namespace", Type::String),
        ],
    );
    let fields = vec![
        Field::new("replicas", Type::Int),
        Field::new("ratio", Type::Double),
        Field::new("name", Type::String),
        Field::new("absent", Type::String),
        Field::new("at", Type::Timestamp),
        Field::new("every", Type::Duration),
        Field::new("raw", Type::Bytes),
        Field::new("labels", Type::map(Type::String, Type::String)),
        Field::new("ports", Type::list(Type::Object(port.clone()))),
        Field::new("tags", Type::list_of_kind(Type::String, cel::ListKind::Set)),
        Field::new("keyed", Type::list_of_kind(Type::Object(port), cel::ListKind::Map(vec!["name".to_owned()]))),
        Field::new("any", Type::Dyn),
    ];
    Type::Object(ObjectType::new("Self", fields))
}

fn document() -> serde_json::Value {
    json!({
        "replicas": 3, "ratio": 1, "name": "web", "at": "2024-02-29T12:30:45.123Z", "every": "90m", "raw": "aGk=",
        "labels": {"app": "web", "tier": "front"},
        "ports": [{"name": "http", "port": 80, "namespace": "n"}, {"name": "https", "port": 443}],
        "tags": ["a", "b"],
        "keyed": [{"name": "a", "port": 1}, {"name": "b", "port": 2}],
        "any": {"int": 7, "double": 1.5, "list": [1, "x", null], "text": "7", "flag": true, "big": 18446744073709551615u64},
    })
}

fn env() -> Env {
    Env::builder()
        .variable("self", object_type())
        .variable("x", Type::Int)
        .variable("d", Type::Dyn)
        .variable("a.b.c", Type::String)
        .object(ObjectType::new("pkg.Point", vec![cel::Field::new("x", Type::Int), cel::Field::new("y", Type::Int)]))
        .build()
}

/// What an expression comes to, as text: its value, or `error: …`.
fn run(env: &Env, source: &str) -> String {
    let program = match env.compile(source, &[]) {
        Ok(program) => program,
        Err(error) => return error.to_string(),
    };
    let (ty, document) = (object_type(), document());
    let mut bindings = Bindings::new(env);
    let mut set = |name: &str, value| bindings.set(env.slot(name).expect("declared"), value);
    set("self", Value::json(&document, &ty).expect("an object"));
    set("x", Value::Int(5));
    set("d", Value::dynamic(&document["any"]));
    set("a.b.c", Value::string("qualified"));
    match program.evaluate(&bindings, &mut 1_000_000) {
        Ok(value) => value.to_string(),
        Err(error) => format!("error: {error}"),
    }
}

#[test]
fn every_row_has_its_result() {
    let env = env();
    let failed: Vec<String> = rows::RESULTS
        .iter()
        .map(|(source, wanted)| (source, wanted, run(&env, source)))
        .filter(|(_, wanted, found)| *found != **wanted)
        .map(|(source, wanted, found)| format!("{source}\n    wanted {wanted}\n    found  {found}"))
        .collect();
    assert!(failed.is_empty(), "{} of {} rows failed:\n{}", failed.len(), rows::RESULTS.len(), failed.join("\n"));
}

#[test]
fn every_mistake_is_found_before_the_expression_runs() {
    let env = env();
    for (source, wanted) in rows::MISTAKES {
        let Err(cel::CompileError::Issues(issues)) = env.compile(source, &[]) else { panic!("{source} compiled") };
        let found: Vec<&str> = issues.texts().collect();
        assert_eq!(found.join("; "), *wanted, "{source}");
    }
}

#[test]
fn mistakes_show_their_place() {
    let error = env().compile("self.replicas >\n  self.nme", &[]).expect_err("no such field");
    assert_eq!(
        error.to_string(),
        "compilation failed: ERROR: <input>:2:7: undefined field 'nme'\n |   self.nme\n | ......^"
    );
}

#[test]
fn the_type_of_the_result_is_checked() {
    let env = env();
    let error = env.compile("self.replicas", &[Type::Bool]).expect_err("an int");
    assert_eq!(error.to_string(), "must evaluate to bool but got int");
    let error = env.compile("1", &[Type::String, Type::Null]).expect_err("an int");
    assert_eq!(error.to_string(), "must evaluate to one of [string null] but got int");
    assert_eq!(
        env.compile("d.flag || true", &[Type::Bool]).map(|program| program.result_type().clone()),
        Ok(Type::Bool)
    );
}

#[test]
fn the_budget_stops_evaluation_whatever_would_absorb_errors() {
    let env = Env::builder().variable("list", Type::list(Type::Int)).build();
    let document = json!((0..1000).collect::<Vec<_>>());
    let ty = Type::list(Type::Int);
    let mut bindings = Bindings::new(&env);
    bindings.set(0, Value::json(&document, &ty).expect("a list"));
    let program = env.compile("list.all(x, x < 0 || list.exists(y, y == x && y < -1)) || true", &[]).expect("compiles");
    let mut budget = 5_000;
    assert_eq!(program.evaluate(&bindings, &mut budget).expect_err("stopped"), EvalError::BudgetExceeded);
    assert_eq!(budget, 0);
}

#[test]
fn lazy_variables_are_evaluated_once_and_only_if_read() {
    let env = Env::builder().variable("n", Type::Int).variable("variables.double", Type::Int).build();
    let double = env.compile("n * 2", &[]).expect("compiles");
    let fails = env.compile("n / 0", &[]).expect("compiles");
    let twice = env.compile("variables.double + variables.double", &[]).expect("compiles");
    let mut bindings = Bindings::new(&env);
    bindings.set(0, Value::Int(21));
    bindings.set_lazy(1, &double);
    let mut budget = 100;
    assert_eq!(twice.evaluate(&bindings, &mut budget).map(|value| value.to_string()), Ok("84".to_owned()));
    // Two reads of a qualified name, the sum, and once the variable itself.
    assert_eq!(100 - budget, 2 * 2 + 1 + 2);
    bindings.set_lazy(1, &fails);
    let error = twice.evaluate(&bindings, &mut budget).expect_err("divides by zero");
    assert_eq!(error.to_string(), "composited variable \"double\" fails to evaluate: division by zero");
    let unread = env.compile("n > 0 || variables.double > 0", &[]).expect("compiles");
    assert_eq!(unread.evaluate(&bindings, &mut budget).map(|value| value.to_string()), Ok("true".to_owned()));
}

#[test]
fn nesting_and_length_have_limits() {
    let env = env();
    let deep = |n: usize| format!("{}1{}", "(".repeat(n), ")".repeat(n));
    assert!(env.compile(&deep(200), &[]).is_ok());
    for source in
        [deep(300), vec!["1"; 1000].join("+"), "[".repeat(5000), "-!".repeat(5000), format!("x{}", ".a".repeat(500))]
    {
        assert!(env.compile(&source, &[]).is_err());
    }
    let chained = (0..200).fold("1".to_owned(), |inner, _| format!("({inner}{})", "+1".repeat(200)));
    assert!(env.compile(&chained, &[]).is_err());
    // Logical chains are balanced.
    assert!(env.compile(&vec!["x > 0"; 2000].join(" && "), &[]).is_ok());
    assert!(env.compile(&"x".repeat(100_001), &[]).is_err());
}

/// Unknown but for the list `self.ports`, which holds ten at most, and names, which have 63 characters.
struct Declared;

impl cel::cost::Sizes for Declared {
    fn size(&self, path: &[String], _: &Type) -> Option<cel::cost::SizeEstimate> {
        let max = match path.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["self", "ports"] => 10,
            ["self", .., "name"] => 63,
            _ => return None,
        };
        Some(cel::cost::SizeEstimate::new(0, max))
    }
}

#[test]
fn costs_are_those_of_the_reference() {
    let env = env();
    let (ty, document) = (object_type(), document());
    for (source, min, max, actual) in rows::COSTS {
        let program = env.compile(source, &[]).expect(source);
        let mut bindings = Bindings::new(&env);
        bindings.set(env.slot("self").expect("declared"), Value::json(&document, &ty).expect("an object"));
        bindings.set(env.slot("x").expect("declared"), Value::Int(5));
        let estimate = program.estimate(&Declared);
        let mut budget = 1_000_000;
        assert!(program.evaluate(&bindings, &mut budget).is_ok(), "{source}");
        assert_eq!((estimate.min, estimate.max, 1_000_000 - budget), (*min, *max, *actual), "{source}");
    }
}
