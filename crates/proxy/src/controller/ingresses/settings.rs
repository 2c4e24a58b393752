//! What the annotations of an Ingress amount to.

use std::time::Duration;

use http::StatusCode;

use super::values::Url;
use crate::routing::{Canary, Network, Template};

/// Everything that annotations can ask for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) paths: Paths,
    pub(crate) redirects: Redirects,
    /// More names for the host of the first rule.
    pub(crate) aliases: Vec<String>,
    pub(crate) upstream: Upstream,
    /// Value of the header `X-Forwarded-Prefix`.
    pub(crate) forwarded_prefix: Option<http::HeaderValue>,
    /// The ConfigMap with headers for answers.
    pub(crate) response_headers: Option<Box<str>>,
    pub(crate) cors: Cors,
    pub(crate) canary: CanarySettings,
    pub(crate) mirror: Option<Box<str>>,
    pub(crate) clients: ClientCertificates,
    pub(crate) traffic: TrafficSettings,
    pub(crate) session: SessionCookie,
    pub(crate) pages: Pages,
    pub(crate) access: Access,
    /// TLS is passed to the backend as it comes.
    pub(crate) passthrough: bool,
    /// Something that keeps requests out cannot be served: then nobody gets in.
    pub(crate) closed: bool,
}

/// How paths are matched and changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Paths {
    /// Paths are regular expressions.
    pub(crate) regex: bool,
    /// What becomes of the path.
    pub(crate) rewrite: Option<Box<str>>,
    /// Where `/` leads.
    pub(crate) app_root: Option<Box<str>>,
}

/// Answers that send clients elsewhere.
#[derive(Clone, Debug, Default)]
pub(crate) struct Redirects {
    /// Whether clear requests are sent to HTTPS; if it is not said, those are for whose host there is a certificate.
    pub(crate) secure: Option<bool>,
    /// Also without a certificate here.
    pub(crate) secure_always: bool,
    pub(crate) permanent: Option<Template>,
    pub(crate) permanent_status: Option<StatusCode>,
    pub(crate) temporal: Option<Template>,
    pub(crate) temporal_status: Option<StatusCode>,
    /// That of redirects to HTTPS, to the application's root and to the other name.
    pub(crate) status: Option<StatusCode>,
    /// With and without `www.` lead to the one that there are rules for.
    pub(crate) www: bool,
}

/// What backends speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Spoken {
    #[default]
    Http,
    Https,
    Grpc,
    Grpcs,
}

/// How backends are reached.
#[derive(Clone, Debug, Default)]
pub(crate) struct Upstream {
    /// As the annotation says; without it as the Service's port does.
    pub(crate) spoken: Option<Spoken>,
    /// The `Host` that backends are told; with variables that are known beforehand.
    pub(crate) host: Option<Box<str>>,
    /// Through the Service's own address.
    pub(crate) by_service_address: bool,
    pub(crate) tls: UpstreamTls,
}

/// TLS towards backends.
#[derive(Clone, Debug, Default)]
pub(crate) struct UpstreamTls {
    /// The Secret with the gateway's certificate and the roots.
    pub(crate) secret: Option<Box<str>>,
    pub(crate) verify: bool,
    /// The name that is verified.
    pub(crate) name: Option<Box<str>>,
    /// Whether the name is sent.
    pub(crate) send_name: bool,
}

/// Cross-origin resource sharing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cors {
    pub(crate) enabled: bool,
    pub(crate) origins: Option<Vec<String>>,
    pub(crate) methods: Option<Vec<String>>,
    pub(crate) headers: Option<Vec<String>>,
    pub(crate) expose: Vec<String>,
    pub(crate) credentials: Option<bool>,
    pub(crate) max_age: Option<u32>,
}

/// Whether the Ingress is a canary, and of which requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct CanarySettings {
    pub(crate) enabled: bool,
    pub(crate) of: Canary,
    /// Name of the header, which comes before its values.
    pub(crate) header: Option<http::HeaderName>,
    pub(crate) value: Option<Box<str>>,
    pub(crate) pattern: Option<regex::Regex>,
    /// It takes its requests whatever endpoint they were sent to before.
    pub(crate) legacy: bool,
}

/// Certificates of clients.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientCertificates {
    /// The Secret with the roots.
    pub(crate) secret: Option<Box<str>>,
    pub(crate) verify: Verify,
}

/// What is asked of clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Verify {
    #[default]
    On,
    Off,
    /// A certificate need not be there, but if it is it must be valid.
    Optional,
    /// A certificate need not be there nor be valid.
    Asked,
}

/// Who is let in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    /// From where.
    pub(crate) allow: Vec<Network>,
    /// From where not.
    pub(crate) deny: Vec<Network>,
    pub(crate) basic: Basic,
    /// One thing that is asked is enough.
    pub(crate) any: bool,
    pub(crate) external: ExternalAuth,
}

/// A service that is asked whether requests pass.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExternalAuth {
    /// Where; without it nobody is asked.
    pub(crate) url: Option<Url>,
    pub(crate) method: Option<http::Method>,
    /// Where those go who are unknown to it.
    pub(crate) sign_in: Option<Box<str>>,
    /// The parameter there that says where they come from.
    pub(crate) sign_in_parameter: Option<Box<str>>,
    /// Headers of its answer that backends are told.
    pub(crate) to_backend: Vec<http::HeaderName>,
    /// The ConfigMap with headers that it is told.
    pub(crate) headers: Option<Box<str>>,
    /// What it is told about where to come back to.
    pub(crate) come_back: Option<Template>,
}

/// Names and passwords.
#[derive(Clone, Debug, Default)]
pub(crate) struct Basic {
    pub(crate) wanted: bool,
    pub(crate) secret: Option<Box<str>>,
    /// The Secret has a key for each name, not one file.
    pub(crate) by_user: bool,
    pub(crate) realm: Option<Box<str>>,
}

/// Pages in place of errors.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pages {
    pub(crate) statuses: Vec<StatusCode>,
    /// The Service that has them, and that stands in for one without endpoints.
    pub(crate) service: Option<Box<str>>,
}

/// How requests are forwarded. As long as this is the same, what is counted goes on.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TrafficSettings {
    /// How long an attempt may take to connect; zero is no limit.
    pub(crate) connect: Option<Duration>,
    /// How long a backend may be silent; zero is no limit.
    pub(crate) read: Option<Duration>,
    /// Bytes of the longest body of a request; without a limit inside.
    pub(crate) body_max: Option<Option<u64>>,
    pub(crate) balancing: Option<Balancing>,
    /// What requests to the same endpoint have in common.
    pub(crate) hash: Option<Template>,
    /// To one of some endpoints.
    pub(crate) subset: bool,
    pub(crate) subset_size: Option<u32>,
    pub(crate) next: Next,
    pub(crate) limits: RequestLimits,
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Balancing {
    Turns,
    Fastest,
}

/// When another endpoint is tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Next {
    pub(crate) when: Option<NextUpstream>,
    /// How many are tried.
    pub(crate) tries: Option<u32>,
    /// For how long; zero is no limit.
    pub(crate) within: Option<Duration>,
}

/// What another endpoint is tried for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NextUpstream {
    pub(crate) error: bool,
    pub(crate) timeout: bool,
    pub(crate) statuses: Vec<StatusCode>,
    /// Also requests of which a repetition may do harm.
    pub(crate) any_method: bool,
}

/// How much each client may ask; zero is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestLimits {
    /// At once.
    pub(crate) connections: u32,
    pub(crate) second: u32,
    pub(crate) minute: u32,
    /// How many times as many may come at once.
    pub(crate) burst: Option<u32>,
    /// What is said about too many requests, and about too many at once.
    pub(crate) statuses: (Option<StatusCode>, Option<StatusCode>),
    /// Who is not limited.
    pub(crate) free: Vec<Network>,
}

/// The cookie by which a client finds its endpoint again.
#[derive(Clone, Debug, Default)]
pub(crate) struct SessionCookie {
    pub(crate) enabled: bool,
    pub(crate) name: Option<Box<str>>,
    pub(crate) path: Option<Box<str>>,
    pub(crate) domain: Option<String>,
    pub(crate) same_site: Option<SameSite>,
    /// As it is said; else where it is given out over TLS.
    pub(crate) secure: Option<bool>,
    pub(crate) partitioned: bool,
    pub(crate) max_age: Option<Duration>,
    /// The same, for browsers that are older.
    pub(crate) expires: Option<Duration>,
    /// A client moves when another endpoint had to answer.
    pub(crate) changes: bool,
}

/// To which pages' requests browsers add a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SameSite {
    None,
    Lax,
    Strict,
}
