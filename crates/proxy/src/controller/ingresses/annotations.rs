//! The annotations of ingress-nginx: what each is called, how its value is read, and what it amounts to.
//!
//! A new annotation is one entry of [`TABLE`]. What is not in the table, cannot be read or is not served is reported; of
//! those that keep requests out, also nobody is let in.

use std::collections::BTreeMap;

use super::{
    settings::{Settings, Spoken, Verify},
    values::{self, Read, Refusal, invalid, unserved},
};
use crate::routing::{Template, Values};

/// What the names of the annotations begin with.
pub(crate) const PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// Something that whoever wrote an Ingress should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// The reason of the event.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Report {
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Report { reason, message: message.into() }
    }

    /// About an annotation that is not followed.
    pub(crate) fn refused(name: &str, refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(why) => Report::new("InvalidAnnotation", format!("annotation {PREFIX}{name}: {why}")),
            Refusal::Unserved(why) => Report::new("UnservedAnnotation", format!("annotation {PREFIX}{name}: {why}")),
        }
    }
}

/// Reads a value into the settings; the namespace is the Ingress's.
type Reader = fn(&mut Settings, &str, &str) -> Read<()>;

/// One annotation.
struct Annotation {
    name: &'static str,
    read: Result<Reader, &'static str>,
    /// Whether it keeps requests out.
    guards: bool,
    /// The annotation without which it has no effect.
    needs: Option<&'static str>,
}

const fn served(name: &'static str, read: Reader) -> Annotation {
    Annotation { name, read: Ok(read), guards: false, needs: None }
}

const fn unserved_because(name: &'static str, why: &'static str) -> Annotation {
    Annotation { name, read: Err(why), guards: false, needs: None }
}

impl Annotation {
    const fn guard(mut self) -> Self {
        self.guards = true;
        self
    }

    const fn of(mut self, needs: &'static str) -> Self {
        self.needs = Some(needs);
        self
    }
}

const SNIPPET: &str = "a snippet is configuration of nginx, which is not here, and whoever writes one could make the \
    gateway give away what only it may read";
const BUFFERS: &str = "bodies pass through as they come, so that there is no buffer to size";
const WAF: &str = "there is no web application firewall";
const OPENSSL: &str = "TLS 1.2 and 1.3 are spoken with the ciphers that are safe; they cannot be chosen";
const FASTCGI: &str = "backends are spoken to in HTTP and gRPC only";
const INFLUX: &str = "the gateway has metrics of its own";
const COOKIE_REWRITE: &str = "cookies of backends are passed on as they are";
const TRACING: &str = "the trace context of requests is passed on as it is";
const LATER: &str = "it is not served";
const GUARD: &str = "it is not served, so that nobody is let in";

/// Every annotation that ingress-nginx has.
const TABLE: &[Annotation] = &[
    served("affinity-canary-behavior", |_, text, _| one_of(text, &["legacy"], &["sticky"])).of("canary"),
    served("app-root", |s, text, _| set(&mut s.paths.app_root, values::path(text))),
    served("auth-tls-secret", |s, text, namespace| set(&mut s.clients.secret, values::beside(text, namespace))).guard(),
    served("auth-tls-verify-client", |s, text, _| put(&mut s.clients.verify, verify(text)))
        .guard()
        .of("auth-tls-secret"),
    unserved_because(
        "auth-tls-verify-depth",
        "certificates are verified up to one of the roots, however many are between",
    )
    .of("auth-tls-secret"),
    unserved_because(
        "auth-tls-error-page",
        "a client without a certificate gets no connection, so there is no page to see",
    )
    .of("auth-tls-secret"),
    unserved_because("auth-tls-match-cn", GUARD).guard().of("auth-tls-secret"),
    unserved_because("auth-tls-pass-certificate-to-upstream", "certificates of clients are not passed on")
        .of("auth-tls-secret"),
    served("backend-protocol", |s, text, _| set(&mut s.upstream.spoken, spoken(text))),
    served("canary", |s, text, _| put(&mut s.canary.enabled, values::boolean(text))),
    served("canary-by-cookie", |s, text, _| set(&mut s.canary.of.cookie, values::cookie_name(text))).of("canary"),
    served("canary-by-header", |s, text, _| set(&mut s.canary.header, values::header_name(text))).of("canary"),
    served("canary-by-header-pattern", |s, text, _| set(&mut s.canary.pattern, values::pattern(text)))
        .of("canary-by-header"),
    served("canary-by-header-value", |s, text, _| set(&mut s.canary.value, Ok(text.into()))).of("canary-by-header"),
    served("canary-weight", |s, text, _| put(&mut s.canary.of.weight, values::number(text))).of("canary"),
    served("canary-weight-total", |s, text, _| put(&mut s.canary.of.total, values::number(text))).of("canary-weight"),
    unserved_because("client-body-buffer-size", BUFFERS),
    unserved_because("configuration-snippet", SNIPPET),
    served("connection-proxy-header", |_, text, _| one_of(&text.to_ascii_lowercase(), &["keep-alive", "upgrade"], &[])),
    served("cors-allow-credentials", |s, text, _| set(&mut s.cors.credentials, values::boolean(text)))
        .of("enable-cors"),
    served("cors-allow-headers", |s, text, _| set(&mut s.cors.headers, Ok(values::list(text)))).of("enable-cors"),
    served("cors-allow-methods", |s, text, _| set(&mut s.cors.methods, Ok(values::list(text)))).of("enable-cors"),
    served("cors-allow-origin", |s, text, _| set(&mut s.cors.origins, origins(text))).of("enable-cors"),
    served("cors-expose-headers", |s, text, _| put(&mut s.cors.expose, Ok(values::list(text)))).of("enable-cors"),
    served("cors-max-age", |s, text, _| set(&mut s.cors.max_age, values::number(text))).of("enable-cors"),
    served("custom-headers", |s, text, namespace| set(&mut s.response_headers, values::beside(text, namespace))),
    served("disable-proxy-intercept-errors", |_, text, _| values::boolean(text).map(drop)),
    served("enable-access-log", |_, text, _| match values::boolean(text)? {
        false => Ok(()),
        true => Err(unserved("the gateway writes no access log")),
    }),
    served("enable-cors", |s, text, _| put(&mut s.cors.enabled, values::boolean(text))),
    served("enable-global-auth", |_, text, _| values::boolean(text).map(drop)),
    unserved_because("enable-influxdb", INFLUX),
    unserved_because("enable-modsecurity", WAF),
    unserved_because("enable-opentelemetry", TRACING),
    unserved_because("enable-opentracing", TRACING),
    unserved_because("enable-owasp-core-rules", WAF),
    unserved_because("enable-rewrite-log", "rewrites are not logged"),
    unserved_because("fastcgi-index", FASTCGI),
    unserved_because("fastcgi-params-configmap", FASTCGI),
    served("force-ssl-redirect", |s, text, _| put(&mut s.redirects.secure_always, values::boolean(text))),
    served("from-to-www-redirect", |s, text, _| put(&mut s.redirects.www, values::boolean(text))),
    unserved_because("http2-push-preload", "browsers no longer take pushed answers"),
    unserved_because("influxdb-host", INFLUX),
    unserved_because("influxdb-measurement", INFLUX),
    unserved_because("influxdb-port", INFLUX),
    unserved_because("influxdb-server-name", INFLUX),
    unserved_because("limit-rate", "answers are sent as fast as the client takes them"),
    unserved_because("limit-rate-after", "answers are sent as fast as the client takes them"),
    unserved_because("mirror-host", "copies are for the host that the request is for").of("mirror-target"),
    served("mirror-request-body", |_, text, _| one_of(text, &["on"], &["off"])).of("mirror-target"),
    served("mirror-target", |s, text, _| set(&mut s.mirror, Ok(text.into()))),
    unserved_because("modsecurity-snippet", SNIPPET),
    unserved_because("modsecurity-transaction-id", WAF),
    unserved_because("opentelemetry-operation-name", TRACING),
    unserved_because("opentelemetry-trust-incoming-span", TRACING),
    unserved_because("opentracing-trust-incoming-span", TRACING),
    served("permanent-redirect", |s, text, _| set(&mut s.redirects.permanent, template(text))),
    served("permanent-redirect-code", |s, text, _| set(&mut s.redirects.permanent_status, values::redirection(text)))
        .of("permanent-redirect"),
    // The path of a redirect is always the one that was asked for.
    served("preserve-trailing-slash", |_, text, _| values::boolean(text).map(drop)),
    unserved_because("proxy-buffer-size", BUFFERS),
    served("proxy-buffering", |_, text, _| buffering(text)),
    unserved_because("proxy-buffers-number", BUFFERS),
    unserved_because("proxy-busy-buffers-size", BUFFERS),
    served("proxy-connect-timeout", |s, text, _| set(&mut s.upstream.connect, values::seconds(text))),
    unserved_because("proxy-cookie-domain", COOKIE_REWRITE),
    unserved_because("proxy-cookie-path", COOKIE_REWRITE),
    served("proxy-http-version", |_, text, _| one_of(text, &["1.1"], &["1.0"])),
    unserved_because("proxy-max-temp-file-size", BUFFERS),
    served("proxy-read-timeout", |s, text, _| set(&mut s.upstream.read, values::seconds(text))),
    served("proxy-redirect-from", |_, text, _| one_of(text, &["off", "default"], &[])),
    unserved_because("proxy-redirect-to", "redirects of backends are passed on as they are"),
    served("proxy-request-buffering", |_, text, _| buffering(text)),
    served("proxy-send-timeout", |_, text, _| values::seconds(text).map(drop)),
    unserved_because("proxy-ssl-ciphers", OPENSSL),
    served("proxy-ssl-name", |s, text, _| {
        set(&mut s.upstream.tls.name, values::hostname(text).map(String::into_boxed_str))
    }),
    unserved_because("proxy-ssl-protocols", OPENSSL),
    served("proxy-ssl-secret", |s, text, namespace| set(&mut s.upstream.tls.secret, values::beside(text, namespace))),
    served("proxy-ssl-server-name", |s, text, _| put(&mut s.upstream.tls.send_name, switch(text))),
    served("proxy-ssl-verify", |s, text, _| put(&mut s.upstream.tls.verify, switch(text))).of("proxy-ssl-secret"),
    unserved_because(
        "proxy-ssl-verify-depth",
        "certificates are verified up to one of the roots, however many are between",
    ),
    served("rewrite-target", |s, text, _| set(&mut s.paths.rewrite, values::path(text))),
    served("server-alias", |s, text, _| put(&mut s.aliases, aliases(text))),
    unserved_because("server-snippet", SNIPPET),
    served("service-upstream", |s, text, _| put(&mut s.upstream.by_service_address, values::boolean(text))),
    unserved_because("ssl-ciphers", OPENSSL),
    served("ssl-passthrough", |s, text, _| put(&mut s.passthrough, values::boolean(text))),
    unserved_because("ssl-prefer-server-ciphers", OPENSSL),
    served("ssl-redirect", |s, text, _| set(&mut s.redirects.secure, values::boolean(text))),
    unserved_because("stream-snippet", SNIPPET),
    served("temporal-redirect", |s, text, _| set(&mut s.redirects.temporal, template(text))),
    served("temporal-redirect-code", |s, text, _| set(&mut s.redirects.temporal_status, values::redirection(text)))
        .of("temporal-redirect"),
    served("upstream-vhost", |s, text, _| set(&mut s.upstream.host, Ok(text.into()))),
    served("use-port-in-redirects", |_, text, _| one_of(text, &["false"], &["true"])),
    served("use-regex", |s, text, _| put(&mut s.paths.regex, values::boolean(text))),
    served("x-forwarded-prefix", |s, text, _| set(&mut s.forwarded_prefix, values::header_value(text))),
    unserved_because("affinity", LATER),
    unserved_because("affinity-mode", LATER),
    unserved_because("auth-always-set-cookie", LATER),
    unserved_because("auth-cache-duration", LATER),
    unserved_because("auth-cache-key", LATER),
    unserved_because("auth-keepalive", LATER),
    unserved_because("auth-keepalive-requests", LATER),
    unserved_because("auth-keepalive-share-vars", LATER),
    unserved_because("auth-keepalive-timeout", LATER),
    unserved_because("auth-method", LATER),
    unserved_because("auth-proxy-set-headers", LATER),
    unserved_because("auth-request-redirect", LATER),
    unserved_because("auth-response-headers", LATER),
    unserved_because("auth-signin", LATER),
    unserved_because("auth-signin-redirect-param", LATER),
    unserved_because("custom-http-errors", LATER),
    unserved_because("default-backend", LATER),
    unserved_because("global-rate-limit", LATER),
    unserved_because("global-rate-limit-ignored-cidrs", LATER),
    unserved_because("global-rate-limit-key", LATER),
    unserved_because("global-rate-limit-window", LATER),
    unserved_because("limit-allowlist", LATER),
    unserved_because("limit-burst-multiplier", LATER),
    unserved_because("limit-connections", LATER),
    unserved_because("limit-rpm", LATER),
    unserved_because("limit-rps", LATER),
    unserved_because("limit-whitelist", LATER),
    unserved_because("load-balance", LATER),
    unserved_because("proxy-body-size", LATER),
    unserved_because("proxy-next-upstream", LATER),
    unserved_because("proxy-next-upstream-timeout", LATER),
    unserved_because("proxy-next-upstream-tries", LATER),
    unserved_because("session-cookie-change-on-failure", LATER),
    unserved_because("session-cookie-conditional-samesite-none", LATER),
    unserved_because("session-cookie-domain", LATER),
    unserved_because("session-cookie-expires", LATER),
    unserved_because("session-cookie-max-age", LATER),
    unserved_because("session-cookie-name", LATER),
    unserved_because("session-cookie-partitioned", LATER),
    unserved_because("session-cookie-path", LATER),
    unserved_because("session-cookie-samesite", LATER),
    unserved_because("session-cookie-secure", LATER),
    unserved_because("upstream-hash-by", LATER),
    unserved_because("upstream-hash-by-subset", LATER),
    unserved_because("upstream-hash-by-subset-size", LATER),
    unserved_because("auth-snippet", SNIPPET),
    // What keeps requests out.
    unserved_because("allowlist-source-range", GUARD).guard(),
    unserved_because("auth-realm", GUARD),
    unserved_because("auth-secret", GUARD),
    unserved_because("auth-secret-type", GUARD),
    unserved_because("auth-type", GUARD).guard(),
    unserved_because("auth-url", GUARD).guard(),
    unserved_because("denylist-source-range", GUARD).guard(),
    unserved_because("satisfy", GUARD),
    unserved_because("whitelist-source-range", GUARD).guard(),
];

/// What the annotations of an Ingress ask for, and what of it is not done.
pub(crate) fn parse(annotations: &BTreeMap<String, String>, namespace: &str) -> (Settings, Vec<Report>) {
    let (mut settings, mut reports) = (Settings::default(), Vec::new());
    let ours = annotations.iter().filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?, value.trim())));
    for (name, value) in ours {
        let Some(annotation) = TABLE.iter().find(|annotation| annotation.name == name) else {
            let message = format!("annotation {PREFIX}{name} is not one of ingress-nginx's");
            reports.push(Report::new("UnknownAnnotation", message));
            continue;
        };
        let read = match annotation.read {
            Ok(read) => read(&mut settings, value, namespace),
            Err(why) => Err(unserved(why)),
        };
        if let Err(refusal) = read {
            settings.closed |= annotation.guards;
            reports.push(Report::refused(name, refusal));
        } else if let Some(needs) =
            annotation.needs.filter(|needs| !annotations.contains_key(&format!("{PREFIX}{needs}")))
        {
            reports.push(Report::refused(name, invalid(format!("it has no effect without {PREFIX}{needs}"))));
        }
    }
    complete(&mut settings, &mut reports);
    (settings, reports)
}

/// What takes more than one annotation.
fn complete(settings: &mut Settings, reports: &mut Vec<Report>) {
    let canary = &mut settings.canary;
    // Less than a hundred parts is not to be had.
    canary.of.total = canary.of.total.max(100);
    if canary.of.weight > canary.of.total {
        let why = format!("{} is more than the total of {}", canary.of.weight, canary.of.total);
        reports.push(Report::refused("canary-weight", invalid(why)));
        canary.of.weight = canary.of.total;
    }
    canary.of.header = canary.header.take().map(|name| {
        let values = match (canary.value.take(), canary.pattern.take()) {
            (Some(value), _) => Values::Exact(value),
            (None, Some(pattern)) => Values::Pattern(pattern),
            (None, None) => Values::Named,
        };
        (name, values)
    });
    // Answers to anybody and credentials exclude each other.
    let anybody = settings.cors.origins.as_ref().is_none_or(|origins| origins.iter().any(|origin| origin == "*"));
    if anybody && settings.cors.credentials == Some(true) {
        let why = "credentials are not for pages of every origin: name the origins in cors-allow-origin";
        reports.push(Report::refused("cors-allow-credentials", invalid(why)));
    }
    if anybody {
        settings.cors.credentials = Some(false);
    }
}

fn put<T>(place: &mut T, read: Read<T>) -> Read<()> {
    *place = read?;
    Ok(())
}

fn set<T>(place: &mut Option<T>, read: Read<T>) -> Read<()> {
    *place = Some(read?);
    Ok(())
}

/// A value that says what happens anyway, or that is known and not served.
fn one_of(text: &str, done: &[&str], known: &[&str]) -> Read<()> {
    if done.contains(&text) {
        return Ok(());
    }
    if known.contains(&text) {
        return Err(unserved(format!("{text:?} is not served, only {}", done.join(", "))));
    }
    Err(invalid(format!("{text:?} is none of {}", [done, known].concat().join(", "))))
}

fn switch(text: &str) -> Read<bool> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(invalid(format!("{text:?} is neither \"on\" nor \"off\""))),
    }
}

fn buffering(text: &str) -> Read<()> {
    match switch(text)? {
        false => Ok(()),
        true => Err(unserved("bodies pass through as they come")),
    }
}

fn spoken(text: &str) -> Read<Spoken> {
    match text.to_ascii_uppercase().as_str() {
        "HTTP" | "AUTO_HTTP" => Ok(Spoken::Http),
        "HTTPS" => Ok(Spoken::Https),
        "GRPC" => Ok(Spoken::Grpc),
        "GRPCS" => Ok(Spoken::Grpcs),
        "FCGI" | "AJP" => Err(unserved(FASTCGI)),
        _ => Err(invalid(format!("{text:?} is none of HTTP, HTTPS, GRPC, GRPCS, AUTO_HTTP"))),
    }
}

fn verify(text: &str) -> Read<Verify> {
    match text {
        "on" => Ok(Verify::On),
        "off" => Ok(Verify::Off),
        "optional_no_ca" => Ok(Verify::Asked),
        "optional" => Ok(Verify::Optional),
        _ => Err(invalid(format!("{text:?} is none of on, off, optional, optional_no_ca"))),
    }
}

fn template(text: &str) -> Read<Template> {
    let template = Template::parse(text, &|_| None).map_err(|error| invalid(format!("{text:?}: {error}")))?;
    match text {
        "" => Err(invalid("it names no place")),
        text if text.bytes().any(|b| b.is_ascii_control() || b == b' ') => Err(invalid(format!("{text:?} is no URL"))),
        _ => Ok(template),
    }
}

fn aliases(text: &str) -> Read<Vec<String>> {
    values::list(text).iter().map(|name| values::hostname(name)).collect()
}

fn origins(text: &str) -> Read<Vec<String>> {
    let origins = values::list(text);
    let web = |origin: &String| {
        origin == "*" || origin == "null" || origin.split_once("://").is_some_and(|(_, host)| !host.is_empty())
    };
    match origins.iter().find(|origin| !web(origin)) {
        Some(origin) => Err(invalid(format!("{origin:?} is no origin such as https://shop.test"))),
        None => Ok(origins),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(annotations: &[(&str, &str)]) -> (Settings, Vec<String>) {
        let named = annotations.iter().map(|(name, value)| {
            let name = if name.contains('/') { (*name).to_owned() } else { format!("{PREFIX}{name}") };
            (name, (*value).to_owned())
        });
        let (settings, reports) = parse(&named.collect(), "shop");
        let told = |report: Report| format!("{}: {}", report.reason, report.message.replace(PREFIX, ""));
        (settings, reports.into_iter().map(told).collect())
    }

    #[test]
    fn every_annotation_is_in_the_table_once_and_names_others_that_exist() {
        for (index, annotation) in TABLE.iter().enumerate() {
            assert!(TABLE[..index].iter().all(|other| other.name != annotation.name), "{}", annotation.name);
            let needed = annotation.needs.is_none_or(|needs| TABLE.iter().any(|other| other.name == needs));
            assert!(needed, "{}", annotation.name);
        }
    }

    #[test]
    fn what_is_not_followed_is_reported_with_name_and_rule() {
        for (annotations, expected) in [
            (vec![("no-such", "1")], "UnknownAnnotation: annotation no-such is not one of ingress-nginx's"),
            (
                vec![("proxy-read-timeout", "60s")],
                "InvalidAnnotation: annotation proxy-read-timeout: \"60s\" is no number of seconds (without a unit)",
            ),
            (
                vec![("enable-modsecurity", "true")],
                "UnservedAnnotation: annotation enable-modsecurity: there is no web application firewall",
            ),
            (
                vec![("cors-max-age", "5")],
                "InvalidAnnotation: annotation cors-max-age: it has no effect without enable-cors",
            ),
            (
                vec![("permanent-redirect", "https://$nowhere")],
                "InvalidAnnotation: annotation permanent-redirect: \"https://$nowhere\": variable $nowhere is not known",
            ),
            (
                vec![("canary", "true"), ("canary-weight", "101")],
                "InvalidAnnotation: annotation canary-weight: 101 is more than the total of 100",
            ),
            (
                vec![("auth-tls-secret", "other/ca")],
                "UnservedAnnotation: annotation auth-tls-secret: namespace other is not the Ingress's: only what is beside it is read",
            ),
        ] {
            assert_eq!(parsed(&annotations).1, [expected]);
        }
        let (_, reports) = parsed(&[("cert-manager.io/issuer", "a"), ("kubernetes.io/ingress.class", "b")]);
        assert!(reports.is_empty(), "others' annotations are none of ours: {reports:?}");
        let (settings, reports) = parsed(&[("configuration-snippet", "deny all;")]);
        assert!(reports[0].starts_with("UnservedAnnotation") && !settings.closed, "{reports:?}");
    }

    #[test]
    fn who_cannot_be_kept_out_keeps_everybody_out() {
        for (annotation, closed) in [
            (("auth-tls-secret", "other/ca"), true),
            (("auth-type", "digest"), true),
            (("proxy-read-timeout", "x"), false),
            (("auth-tls-secret", "ca"), false),
        ] {
            assert_eq!(parsed(&[annotation]).0.closed, closed, "{annotation:?}");
        }
    }

    #[test]
    fn canary_needs_its_switch_and_values_their_header() {
        let (settings, reports) = parsed(&[
            ("canary", "true"),
            ("canary-by-header", "x-canary"),
            ("canary-by-header-value", "de"),
            ("canary-weight-total", "1000"),
            ("canary-weight", "5"),
        ]);
        assert!(reports.is_empty(), "{reports:?}");
        let canary = settings.canary.of;
        assert!(matches!(canary.header, Some((_, Values::Exact(value))) if &*value == "de"));
        assert_eq!((canary.weight, canary.total), (5, 1000));
    }

    #[test]
    fn credentials_are_not_for_everybody() {
        for (annotations, expected, reported) in [
            (vec![("enable-cors", "true")], Some(false), 0),
            (vec![("enable-cors", "true"), ("cors-allow-credentials", "true")], Some(false), 1),
            (vec![("enable-cors", "true"), ("cors-allow-origin", "https://a.test")], None, 0),
        ] {
            let (settings, reports) = parsed(&annotations);
            assert_eq!((settings.cors.credentials, reports.len()), (expected, reported), "{reports:?}");
        }
    }
}
