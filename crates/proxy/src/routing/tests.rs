//! The rules of Gateway API and Ingress as tables.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::{
    hosts::{covers, shared},
    *,
};

/// A request to `host` on port 80.
struct Sent {
    host: &'static str,
    method: Method,
    target: &'static str,
    headers: HeaderMap,
}

fn get(host: &'static str, target: &'static str) -> Sent {
    Sent { host, method: Method::GET, target, headers: HeaderMap::new() }
}

impl Sent {
    fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.append(name, HeaderValue::from_static(value));
        self
    }
}

fn exact(path: &str) -> RequestMatch {
    RequestMatch { path: PathMatch::Exact(path.into()), ..RequestMatch::prefix("/") }
}

fn header(name: &'static str, value: ValueMatch) -> (HeaderName, ValueMatch) {
    (HeaderName::from_static(name), value)
}

fn owner(name: &str) -> Owner {
    Owner { kind: "HTTPRoute", name: name.into() }
}

fn rule(name: &str, action: Action, filters: Filters) -> Arc<Rule> {
    Arc::new(Rule { filters, ..Rule::new(owner(name), action) })
}

fn share(name: &str, weight: u32) -> Share {
    let backend = Backend::new(name);
    backend.set_endpoints(vec![SocketAddr::from(([127, 0, 0, 1], 1))]);
    Share::new(backend, weight)
}

fn forward(name: &str) -> Arc<Rule> {
    rule("ns/route", Action::Forward(vec![share(name, 1)]), Filters::default())
}

fn site(port: u16) -> Site {
    Site { place: Place::Shared, port, transport: Transport::Tcp }
}

fn spot(port: u16, listener: Option<&str>, host: Option<&str>) -> Spot {
    Spot { site: site(port), listener: listener.map(Into::into), host: host.map(Into::into) }
}

/// A table of one plain port with these listeners.
fn listening(port: u16, hostnames: &[Option<&str>]) -> RouteTable {
    let mut table = RouteTable::default();
    let config = |hostname: &Option<&str>| ListenerConfig::new(hostname.map(Into::into), Mode::Http(None));
    table.listen(site(port), Protocol::Http, hostnames.iter().map(config).collect());
    table
}

/// A table of one plain port with one rule for a path.
fn one(port: u16, path: &str, rule: Arc<Rule>) -> RouteTable {
    let mut table = listening(port, &[None]);
    let entry = Entry::new(RequestMatch::prefix(path), Rank::default(), rule);
    table.insert(&spot(port, None, None), Arc::new(entry));
    table
}

fn decide<'a>(table: &'a RouteTable, port: u16, head: &RequestHead<'_>, random: u64) -> Decision<'a> {
    table.port(site(port)).unwrap().route(port, None, head, random)
}

fn told(decision: Decision<'_>) -> String {
    match decision {
        Decision::Forward(way) => way.backend.name().to_owned(),
        Decision::Redirect { location, .. } => location,
        Decision::Fail(status) => status.as_u16().to_string(),
        Decision::Answer { direct, .. } => format!("answer {}", direct.status.as_u16()),
        Decision::NotFound => "404".to_owned(),
        Decision::Misdirected => "421".to_owned(),
        Decision::Preflight(_) => "preflight".to_owned(),
    }
}

/// A table of one plain port out of listener, host, condition and name.
fn table(rules: Vec<(Option<&str>, Option<&str>, RequestMatch, &str)>) -> RouteTable {
    let listeners: Vec<_> = rules.iter().map(|(listener, ..)| *listener).collect();
    let mut table = listening(80, &listeners);
    for (order, (listener, host, condition, name)) in rules.into_iter().enumerate() {
        let rank = Rank { created: 0, name: "ns/route".into(), order: (order, 0) };
        let entry = Entry::new(condition, rank, forward(name));
        table.insert(&spot(80, listener, host), Arc::new(entry));
    }
    table
}

/// Name of the rule that takes the request, or the status it is refused with.
fn taken(table: &RouteTable, sent: &Sent) -> String {
    let (path, query) = sent.target.split_once('?').map_or((sent.target, None), |(p, q)| (p, Some(q)));
    let head = RequestHead { host: sent.host, method: &sent.method, path, query, headers: &sent.headers };
    told(decide(table, 80, &head, 0))
}

#[test]
fn more_specific_hostnames_win_and_others_still_match() {
    let table = table(vec![
        (None, None, RequestMatch::prefix("/"), "any"),
        (None, Some("*.example.com"), RequestMatch::prefix("/"), "wildcard"),
        (None, Some("*.eu.example.com"), RequestMatch::prefix("/"), "longer wildcard"),
        (None, Some("shop.example.com"), RequestMatch::prefix("/cart"), "exact"),
    ]);
    for (host, path, expected) in [
        ("shop.example.com", "/cart", "exact"),
        ("shop.example.com", "/other", "wildcard"),
        ("a.eu.example.com", "/", "longer wildcard"),
        ("a.b.example.com", "/", "wildcard"),
        ("example.com", "/", "any"),
        ("other.org", "/cart", "any"),
    ] {
        assert_eq!(taken(&table, &get(host, path)), expected, "{host}{path}");
    }
}

#[test]
fn only_the_most_specific_listener_counts() {
    let table = table(vec![
        (None, None, RequestMatch::prefix("/"), "open listener"),
        (Some("*.example.com"), Some("*.example.com"), RequestMatch::prefix("/a"), "wildcard listener"),
    ]);
    assert_eq!(taken(&table, &get("x.example.com", "/a")), "wildcard listener");
    assert_eq!(taken(&table, &get("x.example.com", "/b")), "404", "no fall through to the open listener");
    assert_eq!(taken(&table, &get("other.org", "/b")), "open listener");
}

#[test]
fn precedence_is_exact_path_then_longest_prefix_then_method_headers_and_query() {
    let one = || header("version", ValueMatch::Exact("one".into()));
    let colour = || header("color", ValueMatch::Exact("blue".into()));
    let query = || (Box::from("q"), ValueMatch::Exact("1".into()));
    let with = |condition: RequestMatch, change: &dyn Fn(&mut RequestMatch)| {
        let mut condition = condition;
        change(&mut condition);
        condition
    };
    let v2 = || RequestMatch::prefix("/v2");
    let table = table(vec![
        (None, None, RequestMatch::prefix("/"), "root"),
        (None, None, RequestMatch::prefix("/v2/"), "v2"),
        (None, None, exact("/v2"), "exact v2"),
        (None, None, with(v2(), &|m| m.query.push(query())), "query"),
        (None, None, with(v2(), &|m| m.headers.push(one())), "header"),
        (None, None, with(v2(), &|m| m.headers.extend([one(), colour()])), "two headers"),
        (None, None, with(v2(), &|m| m.method = Some(Method::POST)), "method"),
        (None, None, RequestMatch::prefix("/v2/deep"), "longer"),
    ]);
    let sent = |target| get("h", target).header("version", "one").header("color", "blue");
    for (sent, expected) in [
        (get("h", "/x"), "root"),
        (sent("/v2?q=1").method(Method::POST), "exact v2"),
        (sent("/v2/x?q=1").method(Method::POST), "method"),
        (sent("/v2/x?q=1"), "two headers"),
        (get("h", "/v2/x?q=1").header("version", "one"), "header"),
        (get("h", "/v2/x?a=2&q=1"), "query"),
        (get("h", "/v2/x?q=2"), "v2"),
        (get("h", "/v2/"), "v2"),
        (get("h", "/v2example"), "root"),
        (sent("/v2/deep/er").method(Method::POST), "longer"),
    ] {
        assert_eq!(taken(&table, &sent), expected, "{} {}", sent.method, sent.target);
    }
}

#[test]
fn ties_go_to_the_older_route_then_its_name_then_its_order() {
    let mut table = listening(80, &[None]);
    let ranks =
        [(20, "a/a", 0, "younger"), (10, "b/b", 0, "by name"), (10, "a/z", 1, "later rule"), (10, "a/z", 0, "winner")];
    for (created, name, order, label) in ranks {
        let rank = Rank { created, name: name.into(), order: (order, 0) };
        let entry = Entry::new(RequestMatch::prefix("/"), rank, forward(label));
        table.insert(&spot(80, None, None), Arc::new(entry));
    }
    assert_eq!(taken(&table, &get("h", "/")), "winner");
}

#[test]
fn values_match_exactly_or_by_whole_pattern_and_parameters_are_decoded() {
    let mut by_header = RequestMatch::prefix("/");
    by_header.headers.push(header("version", ValueMatch::pattern("v[0-9]+").unwrap()));
    let mut by_query = RequestMatch::prefix("/");
    by_query.query.push(("name".into(), ValueMatch::Exact("a b&c".into())));
    let path = RequestMatch { path: PathMatch::pattern("/item/[0-9]+").unwrap(), ..RequestMatch::prefix("/") };
    let table =
        table(vec![(None, None, by_header, "header"), (None, None, by_query, "query"), (None, None, path, "path")]);
    for (sent, expected) in [
        (get("h", "/").header("version", "v12"), "header"),
        (get("h", "/").header("version", "xv12"), "404"),
        (get("h", "/?name=a+b%26c"), "query"),
        (get("h", "/?name=other&name=a+b%26c"), "404"),
        (get("h", "/?name=a%2"), "404"),
        (get("h", "/item/7"), "path"),
        (get("h", "/item/7/x"), "404"),
    ] {
        assert_eq!(taken(&table, &sent), expected, "{}", sent.target);
    }
}

#[test]
fn ingress_wildcard_stands_for_one_label() {
    let condition = RequestMatch { host_labels: Some(3), ..RequestMatch::prefix("/") };
    let table = table(vec![(None, Some("*.foo.com"), condition, "wildcard")]);
    assert_eq!(taken(&table, &get("bar.foo.com", "/")), "wildcard");
    assert_eq!(taken(&table, &get("baz.bar.foo.com", "/")), "404");
    assert_eq!(taken(&table, &get("foo.com", "/")), "404");
}

#[test]
fn shares_follow_their_weights_and_bad_references_take_theirs() {
    let invalid = Share { target: Target::Invalid, ..share("", 2) };
    let shares = vec![share("a", 3), share("never", 0), invalid, share("b", 5)];
    let table = one(80, "/", rule("r", Action::Forward(shares), Filters::default()));
    let (headers, method) = (HeaderMap::new(), Method::GET);
    let head = RequestHead { host: "h", method: &method, path: "/", query: None, headers: &headers };
    let mut counts = BTreeMap::new();
    for random in 0..1000 {
        let name = told(decide(&table, 80, &head, random));
        *counts.entry(name).or_insert(0) += 1;
    }
    assert_eq!(counts, BTreeMap::from([("a".into(), 300), ("b".into(), 500), ("500".into(), 200)]));
}

#[test]
fn rule_without_usable_backend_is_an_error_of_the_server() {
    let none = Action::Forward(vec![share("a", 0)]);
    let mut table = one(80, "/zero", rule("r", none, Filters::default()));
    let fail = rule("r", Action::Fail(StatusCode::INTERNAL_SERVER_ERROR), Filters::default());
    let entry = Entry::new(RequestMatch::prefix("/fail"), Rank::default(), fail);
    table.insert(&spot(80, None, None), Arc::new(entry));
    assert_eq!(taken(&table, &get("h", "/zero")), "500");
    assert_eq!(taken(&table, &get("h", "/fail")), "500");
}

#[test]
fn redirect_keeps_what_it_does_not_change() {
    let plain = Redirect { status: StatusCode::FOUND, scheme: None, host: None, port: None, path: None };
    let prefix = |to: &str| Some(PathChange::Prefix(to.into()));
    for (redirect, port, target, expected) in [
        (Redirect { host: Some("new.org".into()), ..plain.clone() }, 80, "/a?q=1", "http://new.org/a?q=1"),
        (Redirect { host: Some("new.org".into()), ..plain.clone() }, 8080, "/a", "http://new.org:8080/a"),
        (Redirect { scheme: Some("https".into()), ..plain.clone() }, 8080, "/a", "https://h/a"),
        (Redirect { scheme: Some("https".into()), port: Some(8443), ..plain.clone() }, 80, "/a", "https://h:8443/a"),
        (Redirect { port: Some(80), ..plain.clone() }, 8080, "/a", "http://h/a"),
        (Redirect { path: Some(PathChange::Full("/new".into())), ..plain.clone() }, 80, "/old/a/b", "http://h/new"),
        (Redirect { path: prefix("/new"), ..plain.clone() }, 80, "/old/a", "http://h/new/a"),
        (Redirect { path: prefix("/new/"), ..plain.clone() }, 80, "/old/a", "http://h/new/a"),
        (Redirect { path: prefix("/"), ..plain.clone() }, 80, "/old/a", "http://h/a"),
        (Redirect { path: prefix("/"), ..plain.clone() }, 80, "/old", "http://h/"),
    ] {
        let filters = Filters { redirect: Some(redirect), ..Filters::default() };
        let rule = rule("r", Action::Forward(Vec::new()), filters);
        let mut table = one(port, "/old", Arc::clone(&rule));
        let entry = Entry::new(RequestMatch::prefix("/a"), Rank::default(), rule);
        table.insert(&spot(port, None, None), Arc::new(entry));
        let (path, query) = target.split_once('?').map_or((target, None), |(p, q)| (p, Some(q)));
        let (headers, method) = (HeaderMap::new(), Method::GET);
        let head = RequestHead { host: "h", method: &method, path, query, headers: &headers };
        assert_eq!(told(decide(&table, port, &head, 0)), expected);
    }
}

#[test]
fn a_route_keeps_the_hostnames_that_it_shares_with_a_listener() {
    let hosts = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let some = |names: &[&str]| names.iter().map(|n| Some((*n).to_owned())).collect::<Vec<_>>();
    for (listener, route, expected) in [
        (None, hosts(&[]), vec![None]),
        (None, hosts(&["A.com"]), some(&["a.com"])),
        (Some("a.com"), hosts(&[]), vec![None]),
        (Some("a.com"), hosts(&["b.com"]), vec![]),
        (
            Some("*.a.com"),
            hosts(&["x.a.com", "a.com", "*.y.a.com", "X.a.com", "*.com"]),
            some(&["x.a.com", "*.y.a.com", "*.com"]),
        ),
        (Some("X.a.com"), hosts(&["*.a.com"]), some(&["*.a.com"])),
    ] {
        assert_eq!(shared(listener, &route), expected, "{listener:?} with {route:?}");
    }
    assert!(!covers("*.a.com", "ba.com") && !covers("*.a.com", "xa.com") && covers("*.a.com", "*.a.com"));
}

#[test]
fn header_changes_remove_then_set_then_add() {
    let name = HeaderName::from_static;
    let value = HeaderValue::from_static;
    let edits = HeaderEdits {
        remove: vec![name("x-gone")],
        set: vec![(name("x-set"), value("new"))],
        add: vec![(name("x-add"), value("two")), (name("x-new"), value("one"))],
    };
    let mut headers = HeaderMap::new();
    for (name, old) in [("x-gone", "1"), ("x-set", "a"), ("x-set", "b"), ("x-add", "one")] {
        headers.append(name, value(old));
    }
    edits.apply(&mut headers);
    assert!(!headers.contains_key("x-gone"));
    assert_eq!(headers.get_all("x-set").iter().collect::<Vec<_>>(), ["new"]);
    assert_eq!((headers["x-add"].as_bytes(), headers["x-new"].as_bytes()), (&b"one,two"[..], &b"one"[..]));
}

#[test]
fn endpoints_are_picked_in_turn_and_around_the_ones_to_avoid() {
    let backend = Backend::new("b");
    assert_eq!(backend.pick(&[]), None);
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    assert!(backend.set_endpoints(vec![address(2), address(1)]));
    assert!(!backend.set_endpoints(vec![address(1), address(2)]), "the same set is no change");
    let picks: Vec<_> = (0..4).filter_map(|_| backend.pick(&[])).collect();
    assert_eq!(picks.iter().filter(|p| **p == address(1)).count(), 2);
    assert_eq!(backend.pick(&[address(1)]), Some(address(2)));
    assert_eq!(backend.pick(&[address(1), address(2)]), None);
}

#[test]
fn a_change_of_one_route_is_seen_by_tables_made_after_it_only() {
    let mut table = table(vec![
        (None, None, RequestMatch::prefix("/a"), "a"),
        (None, Some("x.test"), RequestMatch::prefix("/a"), "x"),
    ]);
    let before = table.clone();
    let prefix = RequestMatch::prefix("/a");
    table.remove(&spot(80, None, Some("x.test")), &prefix.path, &owner("ns/route"));
    let entry = Entry::new(exact("/a"), Rank::default(), forward("exact"));
    table.insert(&spot(80, None, None), Arc::new(entry));
    assert_eq!(
        (taken(&before, &get("x.test", "/a")), taken(&table, &get("x.test", "/a"))),
        ("x".into(), "exact".into())
    );
    assert_eq!((taken(&before, &get("y.test", "/a")), taken(&table, &get("y.test", "/a/b"))), ("a".into(), "a".into()));
    table.remove(&spot(80, None, None), &prefix.path, &owner("ns/other"));
    assert_eq!(taken(&table, &get("y.test", "/a/b")), "a", "what others have stays");
}

#[test]
fn listeners_that_stay_keep_their_routes_and_those_that_go_lose_them() {
    let condition = || RequestMatch::prefix("/");
    let mut table = table(vec![(None, None, condition(), "any"), (Some("a.test"), Some("a.test"), condition(), "a")]);
    let config = |hostname: Option<&str>| ListenerConfig::new(hostname.map(Into::into), Mode::Http(None));
    table.listen(site(80), Protocol::Http, vec![config(None)]);
    assert_eq!(taken(&table, &get("a.test", "/")), "any");
    table.listen(site(80), Protocol::Http, vec![config(None), config(Some("a.test"))]);
    assert_eq!((taken(&table, &get("a.test", "/")), taken(&table, &get("b.test", "/"))), ("404".into(), "any".into()));
    table.listen(site(80), Protocol::Http, Vec::new());
    assert_eq!(table.sites().count(), 0);
}

#[test]
fn own_places_come_before_the_shared_one() {
    let mut table = one(80, "/", forward("shared"));
    let own = Site { place: Place::Own([10, 0, 0, 1].into()), ..site(80) };
    let config = ListenerConfig::new(None, Mode::Http(None));
    table.listen(own, Protocol::Http, vec![config]);
    let found = |local: [u8; 4]| table.find(local.into(), 80, Transport::Tcp).unwrap().0;
    assert_eq!((found([10, 0, 0, 1]), found([127, 0, 0, 1])), (own, site(80)));
    assert!(table.find([10, 0, 0, 1].into(), 80, Transport::Udp).is_none());
}

#[test]
fn tls_connection_serves_only_the_listener_that_answered_its_handshake() {
    let condition = || RequestMatch::prefix("/");
    let table = table(vec![
        (Some("a.test"), Some("a.test"), condition(), "a"),
        (Some("*.test"), Some("*.test"), condition(), "wildcard"),
    ]);
    let (headers, method) = (HeaderMap::new(), Method::GET);
    for (through, host, expected) in [
        (Some("a.test"), "a.test", "a"),
        (Some("*.test"), "a.test", "421"),
        (Some("a.test"), "b.test", "421"),
        (Some("*.test"), "b.test", "wildcard"),
        (Some("a.test"), "other.org", "404"),
    ] {
        let head = RequestHead { host, method: &method, path: "/", query: None, headers: &headers };
        let decision = table.port(site(80)).unwrap().route(80, Some(through), &head, 0);
        assert_eq!(told(decision), expected, "{host} through {through:?}");
    }
}

#[test]
fn deep_paths_find_the_longest_prefix_without_trying_every_part() {
    let table =
        table(vec![(None, None, RequestMatch::prefix("/a/b"), "ab"), (None, None, RequestMatch::prefix("/a"), "a")]);
    let deep: String = "/a".to_owned() + &"/x".repeat(20_000);
    let deep: &'static str = deep.leak();
    assert_eq!(taken(&table, &get("h", deep)), "a");
    for (path, expected) in
        [("/a/b/", "ab"), ("/a/b", "ab"), ("/a/bc", "a"), ("/a/", "a"), ("/", "404"), ("/ab", "404")]
    {
        assert_eq!(taken(&table, &get("h", path)), expected, "{path}");
    }
}

#[test]
fn connections_go_to_the_oldest_route_of_their_server_name() {
    let mut table = RouteTable::default();
    let config = ListenerConfig::new(None, Mode::Passthrough);
    table.listen(site(443), Protocol::Tls, vec![config]);
    let rank = |created| Rank { created, ..Rank::default() };
    for (host, created, name) in [(Some("a.test"), 2, "younger"), (Some("a.test"), 1, "older"), (None, 1, "any")] {
        let rule = StreamRule::new(owner(name), vec![share(name, 1)]);
        table.insert_stream(&spot(443, None, host), rank(created), Arc::new(rule));
    }
    let name = |table: &RouteTable, server: &str| {
        let listener = table.port(site(443)).unwrap().listener(server).unwrap();
        match &listener.stream(server, 0)?.target {
            Target::Service { backend, .. } => Some(backend.name().to_owned()),
            Target::Invalid => None,
        }
    };
    assert_eq!(name(&table, "a.test").as_deref(), Some("older"));
    assert_eq!(name(&table, "b.test").as_deref(), Some("any"));
    table.remove_stream(&spot(443, None, Some("a.test")), &owner("older"));
    assert_eq!(name(&table, "a.test").as_deref(), Some("younger"));
}
