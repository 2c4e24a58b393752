//! Every annotation of ingress-nginx, with what reads it or why nothing does.

use super::readers::{
    FASTCGI, aliases, buffering, choice, hash_key, header_names, load_balance, method, next_upstream, one_of, origins,
    put, refusing, same_site, set, spoken, statuses, switch, template, tries, variables, verify,
};
use crate::controller::ingresses::{
    settings::Settings,
    values::{self, Read, invalid, unserved},
};

/// Reads a value into the settings; the namespace is the Ingress's.
pub(super) type Reader = fn(&mut Settings, &str, &str) -> Read<()>;

/// One annotation.
pub(super) struct Annotation {
    pub(super) name: &'static str,
    read: Result<Reader, &'static str>,
    /// Whether it keeps requests out.
    pub(super) guards: bool,
    /// The annotation without which it has no effect.
    pub(super) needs: Option<&'static str>,
}

const fn served(name: &'static str, read: Reader) -> Annotation {
    Annotation { name, read: Ok(read), guards: false, needs: None }
}

const fn unserved_because(name: &'static str, why: &'static str) -> Annotation {
    Annotation { name, read: Err(why), guards: false, needs: None }
}

impl Annotation {
    /// Why it is not served.
    #[cfg(test)]
    pub(super) fn refused(&self) -> Option<&'static str> {
        self.read.err()
    }

    pub(super) fn read(&self, settings: &mut Settings, text: &str, namespace: &str) -> Read<()> {
        match self.read {
            Ok(read) => read(settings, text, namespace),
            Err(why) => Err(unserved(why)),
        }
    }

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
const INFLUX: &str = "the gateway has metrics of its own";
const COOKIE_REWRITE: &str = "cookies of backends are passed on as they are";
const TRACING: &str = "the trace context of requests is passed on as it is";
const EXTERNAL: &str = "connections to the service that is asked are kept as those to all backends are";
const CACHE: &str = "whoever is asked about a request is asked about every one";
const GLOBAL: &str = "there is no store for counts of several gateways: use limit-rps or limit-rpm";
const GUARD: &str = "it is not served, so that nobody is let in";

/// Every annotation that ingress-nginx has.
pub(super) const TABLE: &[Annotation] = &[
    served("affinity", |s, text, _| match text {
        "cookie" => put(&mut s.session.enabled, Ok(true)),
        _ => Err(invalid(format!("{text:?} is not \"cookie\""))),
    }),
    served("affinity-canary-behavior", |s, text, _| {
        put(&mut s.canary.legacy, choice(text, &[("sticky", false), ("legacy", true)]))
    })
    .of("canary"),
    // A client finds its endpoint for as long as it is there, in either mode.
    served("affinity-mode", |_, text, _| one_of(text, &["balanced", "persistent"], &[])).of("affinity"),
    served("allowlist-source-range", |s, text, _| put(&mut s.access.allow, values::networks(text))).guard(),
    served("app-root", |s, text, _| set(&mut s.paths.app_root, values::path(text))),
    served("auth-method", |s, text, _| set(&mut s.access.external.method, method(text))).of("auth-url"),
    served("auth-proxy-set-headers", |s, text, namespace| {
        set(&mut s.access.external.headers, values::beside(text, namespace))
    })
    .of("auth-url"),
    served("auth-realm", |s, text, _| set(&mut s.access.basic.realm, Ok(text.into()))).of("auth-type"),
    served("auth-request-redirect", |s, text, _| set(&mut s.access.external.come_back, variables(text))).of("auth-url"),
    served("auth-response-headers", |s, text, _| put(&mut s.access.external.to_backend, header_names(text)))
        .of("auth-url"),
    served("auth-secret", |s, text, namespace| set(&mut s.access.basic.secret, values::beside(text, namespace)))
        .guard()
        .of("auth-type"),
    served("auth-secret-type", |s, text, _| {
        put(&mut s.access.basic.by_user, choice(text, &[("auth-file", false), ("auth-map", true)]))
    })
    .guard()
    .of("auth-secret"),
    served("auth-signin", |s, text, _| {
        variables(text)?;
        set(&mut s.access.external.sign_in, Ok(text.into()))
    })
    .of("auth-url"),
    served("auth-signin-redirect-param", |s, text, _| {
        set(&mut s.access.external.sign_in_parameter, values::cookie_name(text))
    })
    .of("auth-signin"),
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
    served("auth-type", |s, text, _| match text {
        "basic" => put(&mut s.access.basic.wanted, Ok(true)),
        "digest" => Err(unserved("digests are made with MD5, which is broken: use basic over TLS")),
        _ => Err(invalid(format!("{text:?} is neither basic nor digest"))),
    })
    .guard(),
    served("auth-url", |s, text, _| set(&mut s.access.external.url, values::url(text))).guard(),
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
    served("custom-http-errors", |s, text, _| put(&mut s.pages.statuses, statuses(text))),
    served("default-backend", |s, text, namespace| set(&mut s.pages.service, values::beside(text, namespace))),
    served("denylist-source-range", |s, text, _| put(&mut s.access.deny, values::networks(text))).guard(),
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
    served("limit-allowlist", |s, text, _| put(&mut s.traffic.limits.free, values::networks(text))),
    served("limit-burst-multiplier", |s, text, _| set(&mut s.traffic.limits.burst, values::number(text))),
    served("limit-connections", |s, text, _| put(&mut s.traffic.limits.connections, values::number(text))),
    unserved_because("limit-rate", "answers are sent as fast as the client takes them"),
    unserved_because("limit-rate-after", "answers are sent as fast as the client takes them"),
    served("limit-rpm", |s, text, _| put(&mut s.traffic.limits.minute, values::number(text))),
    served("limit-rps", |s, text, _| put(&mut s.traffic.limits.second, values::number(text))),
    served("limit-whitelist", |s, text, _| put(&mut s.traffic.limits.free, values::networks(text))),
    served("load-balance", |s, text, _| set(&mut s.traffic.balancing, load_balance(text))),
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
    served("proxy-body-size", |s, text, _| set(&mut s.traffic.body_max, values::size(text))),
    unserved_because("proxy-buffer-size", BUFFERS),
    served("proxy-buffering", |_, text, _| buffering(text)),
    unserved_because("proxy-buffers-number", BUFFERS),
    unserved_because("proxy-busy-buffers-size", BUFFERS),
    served("proxy-connect-timeout", |s, text, _| set(&mut s.traffic.connect, values::seconds(text))),
    unserved_because("proxy-cookie-domain", COOKIE_REWRITE),
    unserved_because("proxy-cookie-path", COOKIE_REWRITE),
    served("proxy-http-version", |_, text, _| one_of(text, &["1.1"], &["1.0"])),
    unserved_because("proxy-max-temp-file-size", BUFFERS),
    served("proxy-next-upstream", |s, text, _| set(&mut s.traffic.next.when, next_upstream(text))),
    served("proxy-next-upstream-timeout", |s, text, _| set(&mut s.traffic.next.within, values::seconds(text))),
    served("proxy-next-upstream-tries", |s, text, _| set(&mut s.traffic.next.tries, tries(text))),
    served("proxy-read-timeout", |s, text, _| set(&mut s.traffic.read, values::seconds(text))),
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
    served("satisfy", |s, text, _| put(&mut s.access.any, choice(text, &[("all", false), ("any", true)]))),
    served("server-alias", |s, text, _| put(&mut s.aliases, aliases(text))),
    unserved_because("server-snippet", SNIPPET),
    served("service-upstream", |s, text, _| put(&mut s.upstream.by_service_address, values::boolean(text))),
    served("session-cookie-change-on-failure", |s, text, _| put(&mut s.session.changes, values::boolean(text)))
        .of("affinity"),
    served("session-cookie-conditional-samesite-none", |_, text, _| one_of(text, &["false"], &["true"])).of("affinity"),
    served("session-cookie-domain", |s, text, _| {
        set(&mut s.session.domain, values::hostname(text.trim_start_matches('.')))
    })
    .of("affinity"),
    served("session-cookie-expires", |s, text, _| set(&mut s.session.expires, values::seconds(text))).of("affinity"),
    served("session-cookie-max-age", |s, text, _| set(&mut s.session.max_age, values::seconds(text))).of("affinity"),
    served("session-cookie-name", |s, text, _| set(&mut s.session.name, values::cookie_name(text))).of("affinity"),
    served("session-cookie-partitioned", |s, text, _| put(&mut s.session.partitioned, values::boolean(text)))
        .of("affinity"),
    served("session-cookie-path", |s, text, _| set(&mut s.session.path, values::cookie_path(text))).of("affinity"),
    served("session-cookie-samesite", |s, text, _| set(&mut s.session.same_site, same_site(text))).of("affinity"),
    served("session-cookie-secure", |s, text, _| set(&mut s.session.secure, values::boolean(text))).of("affinity"),
    unserved_because("ssl-ciphers", OPENSSL),
    served("ssl-passthrough", |s, text, _| put(&mut s.passthrough, values::boolean(text))),
    unserved_because("ssl-prefer-server-ciphers", OPENSSL),
    served("ssl-redirect", |s, text, _| set(&mut s.redirects.secure, values::boolean(text))),
    unserved_because("stream-snippet", SNIPPET),
    served("temporal-redirect", |s, text, _| set(&mut s.redirects.temporal, template(text))),
    served("temporal-redirect-code", |s, text, _| set(&mut s.redirects.temporal_status, values::redirection(text)))
        .of("temporal-redirect"),
    served("upstream-hash-by", |s, text, _| set(&mut s.traffic.hash, hash_key(text))),
    served("upstream-hash-by-subset", |s, text, _| put(&mut s.traffic.subset, values::boolean(text)))
        .of("upstream-hash-by"),
    served("upstream-hash-by-subset-size", |s, text, _| set(&mut s.traffic.subset_size, values::number(text)))
        .of("upstream-hash-by-subset"),
    served("upstream-vhost", |s, text, _| set(&mut s.upstream.host, Ok(text.into()))),
    served("use-port-in-redirects", |_, text, _| one_of(text, &["false"], &["true"])),
    served("use-regex", |s, text, _| put(&mut s.paths.regex, values::boolean(text))),
    served("whitelist-source-range", |s, text, _| put(&mut s.access.allow, values::networks(text))).guard(),
    served("x-forwarded-prefix", |s, text, _| set(&mut s.forwarded_prefix, values::header_value(text))),
    unserved_because("auth-always-set-cookie", "cookies of who is asked are the client's in any case"),
    unserved_because("auth-cache-duration", CACHE),
    unserved_because("auth-cache-key", CACHE),
    unserved_because("auth-keepalive", EXTERNAL),
    unserved_because("auth-keepalive-requests", EXTERNAL),
    unserved_because("auth-keepalive-share-vars", EXTERNAL),
    unserved_because("auth-keepalive-timeout", EXTERNAL),
    unserved_because("global-rate-limit", GLOBAL),
    unserved_because("global-rate-limit-ignored-cidrs", GLOBAL),
    unserved_because("global-rate-limit-key", GLOBAL),
    unserved_because("global-rate-limit-window", GLOBAL),
    unserved_because("auth-snippet", SNIPPET),
    // What keeps requests out.
];

/// What only an IngressClass can say, besides what every annotation would be where an Ingress does not have it.
pub(super) const CLASS_TABLE: &[Annotation] = &[
    served("http-redirect-code", |s, text, _| set(&mut s.redirects.status, values::redirection(text))),
    served("limit-conn-status-code", |s, text, _| set(&mut s.traffic.limits.statuses.1, refusing(text))),
    served("limit-req-status-code", |s, text, _| set(&mut s.traffic.limits.statuses.0, refusing(text))),
];
