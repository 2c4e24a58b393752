//! AuthorizationPolicy, compiled.

use std::sync::Arc;

use kinds::istio::{AuthorizationAction, AuthorizationPolicy, AuthorizationRule, RuleOperation, RuleSource};

use super::{
    patterns::{PathPattern, Text},
    test::{self, Attribute, Facts, Test},
};

/// The annotation that puts a policy on trial.
const DRY_RUN: &str = "istio.io/dry-run";

/// A compiled policy.
#[derive(Debug)]
pub(super) struct Policy {
    /// `namespace/name`.
    pub(super) name: Arc<str>,
    pub(super) action: AuthorizationAction,
    /// Whether it is only tried.
    pub(super) trial: bool,
    rules: Vec<Rule>,
}

/// A rule: one of each list has to match; an empty list matches.
#[derive(Debug, Default)]
struct Rule {
    from: Vec<Vec<Test>>,
    to: Vec<Vec<Test>>,
    when: Vec<Test>,
}

impl Policy {
    /// Compiles a policy; what cannot be followed is told through `wrong`.
    pub(super) fn compile(object: &AuthorizationPolicy, wrong: &mut Vec<String>) -> Self {
        let namespace = object.metadata.namespace.as_deref().unwrap_or("");
        let name = object.metadata.name.as_deref().unwrap_or("");
        let annotation = object.metadata.annotations.as_ref().and_then(|annotations| annotations.get(DRY_RUN));
        let trial = annotation.is_some_and(|value| matches!(&**value, "true" | "True" | "TRUE" | "t" | "T" | "1"));
        if object.spec.action == AuthorizationAction::Custom {
            let provider = object.spec.provider.as_ref().map_or("", |provider| &provider.name);
            wrong.push(format!("provider {provider:?} is not there: what the rules match is denied"));
        }
        Policy {
            name: format!("{namespace}/{name}").into(),
            action: object.spec.action,
            trial,
            rules: object.spec.rules.iter().map(|rule| compile(rule, namespace, wrong)).collect(),
        }
    }

    /// Whether a rule of it matches.
    pub(super) fn matches(&self, facts: &Facts<'_>) -> bool {
        let unknown = self.action != AuthorizationAction::Allow;
        let all = |tests: &[Test]| tests.iter().all(|test| test.holds(facts, unknown));
        let one = |lists: &[Vec<Test>]| lists.is_empty() || lists.iter().any(|tests| all(tests));
        self.rules.iter().any(|rule| one(&rule.from) && one(&rule.to) && all(&rule.when))
    }

    /// Whether what it says of a port of the workload is about HTTP.
    pub(super) fn needs_http(&self, port: u16) -> bool {
        self.rules.iter().any(|rule| {
            let concerned = |tests: &&Vec<Test>| tests.iter().all(|test| test.concerns(port));
            let mut to = rule.to.iter().filter(concerned).peekable();
            let elsewhere = !rule.to.is_empty() && to.peek().is_none();
            let http = |tests: &[Test]| tests.iter().any(Test::is_http);
            let here = rule.when.iter().all(|test| test.concerns(port)) && !elsewhere;
            here && (rule.from.iter().any(|tests| http(tests)) || to.any(|tests| http(tests)) || http(&rule.when))
        })
    }
}

fn compile(rule: &AuthorizationRule, namespace: &str, wrong: &mut Vec<String>) -> Rule {
    let from = rule.from.iter().map(|from| filled(source(&from.source, namespace, wrong), "source", wrong)).collect();
    let to = rule.to.iter().map(|to| filled(operation(&to.operation, wrong), "operation", wrong)).collect();
    let mut when = Vec::new();
    for condition in &rule.when {
        if condition.values.is_empty() && condition.not_values.is_empty() {
            wrong.push(format!("condition on {:?} has no values", condition.key));
            when.push(unknown());
        }
        let attribute = |values: &[String]| test::condition(&condition.key, values);
        add(&mut when, &condition.values, false, attribute, wrong);
        add(&mut when, &condition.not_values, true, attribute, wrong);
    }
    Rule { from, to, when }
}

/// An empty source or operation says nothing, rather than everything.
fn filled(mut tests: Vec<Test>, what: &str, wrong: &mut Vec<String>) -> Vec<Test> {
    if tests.is_empty() {
        wrong.push(format!("a rule has an empty {what}"));
        tests.push(unknown());
    }
    tests
}

fn unknown() -> Test {
    Test { attribute: Attribute::Unknown, negated: false }
}

fn add(
    tests: &mut Vec<Test>,
    values: &[String],
    negated: bool,
    attribute: impl Fn(&[String]) -> Result<Attribute, String>,
    wrong: &mut Vec<String>,
) {
    if values.is_empty() {
        return;
    }
    let attribute = attribute(values).unwrap_or_else(|error| {
        wrong.push(error);
        Attribute::Unknown
    });
    tests.push(Test { attribute, negated });
}

fn source(from: &RuleSource, namespace: &str, wrong: &mut Vec<String>) -> Vec<Test> {
    type Make<'a> = &'a dyn Fn(&[String]) -> Result<Attribute, String>;
    let texts = |values: &[String]| -> Vec<Text> { values.iter().map(|value| Text::parse(value)).collect() };
    let accounts = |values: &[String]| {
        let account = |value: &String| match value.split_once('/') {
            Some((namespace, name)) => (Text::parse(namespace), Text::parse(name)),
            None => (Text::Exact(namespace.into()), Text::parse(value)),
        };
        Ok(Attribute::ServiceAccount(values.iter().map(account).collect()))
    };
    let lists: [(&[String], &[String], Make<'_>); 7] = [
        (&from.principals, &from.not_principals, &|values| Ok(Attribute::Principal(test::principals(values)))),
        (&from.request_principals, &from.not_request_principals, &|values| {
            Ok(Attribute::RequestPrincipal(texts(values)))
        }),
        (&from.namespaces, &from.not_namespaces, &|values| Ok(Attribute::Namespace(texts(values)))),
        (&from.service_accounts, &from.not_service_accounts, &accounts),
        (&from.trust_domains, &from.not_trust_domains, &|values| Ok(Attribute::TrustDomain(texts(values)))),
        (&from.ip_blocks, &from.not_ip_blocks, &|values| test::blocks(values).map(Attribute::Source)),
        (&from.remote_ip_blocks, &from.not_remote_ip_blocks, &|values| test::blocks(values).map(Attribute::Remote)),
    ];
    let mut tests = Vec::new();
    for (some, none, attribute) in lists {
        add(&mut tests, some, false, attribute, wrong);
        add(&mut tests, none, true, attribute, wrong);
    }
    tests
}

fn operation(from: &RuleOperation, wrong: &mut Vec<String>) -> Vec<Test> {
    type Make = fn(&[String]) -> Result<Attribute, String>;
    let lists: [(&[String], &[String], Make); 4] = [
        (&from.hosts, &from.not_hosts, |values| {
            Ok(Attribute::Host(values.iter().map(|value| Text::parse_lower(value)).collect()))
        }),
        (&from.ports, &from.not_ports, |values| test::ports(values).map(Attribute::Port)),
        (&from.methods, &from.not_methods, |values| {
            Ok(Attribute::Method(values.iter().map(|value| Text::parse(value)).collect()))
        }),
        (&from.paths, &from.not_paths, |values| {
            values.iter().map(|value| PathPattern::parse(value)).collect::<Result<_, _>>().map(Attribute::Path)
        }),
    ];
    let mut tests = Vec::new();
    for (some, none, attribute) in lists {
        add(&mut tests, some, false, attribute, wrong);
        add(&mut tests, none, true, attribute, wrong);
    }
    tests
}
