//! A client of the OCI distribution API: fetches, follows redirects, obtains tokens.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, pki_types::ServerName},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{api::RegistryAuth, error::PullErrorKind};

/// How long a registry may take to accept a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a registry may take to begin its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a body may stand still.
pub(super) const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Redirects followed for one fetch; registries send one, to their blob storage.
const REDIRECTS_MAX: u32 = 5;
/// Largest token answer.
const TOKEN_BYTES_MAX: usize = 1024 * 1024;
/// Where the registry called `docker.io` really is.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// Why a fetch failed.
#[derive(Debug)]
pub(super) struct FetchError {
    pub(super) kind: PullErrorKind,
    pub(super) message: String,
}

impl FetchError {
    pub(super) fn new(kind: PullErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    fn network(what: &str, error: &dyn std::error::Error) -> Self {
        let mut message = format!("{what}: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        Self::new(PullErrorKind::Network, message)
    }
}

/// An answer whose connection lives as long as it does.
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    _connection: AbortOnDropHandle<()>,
}

/// One repository of one registry.
pub(super) struct Repository {
    base: String,
    repository: String,
    auth: Option<RegistryAuth>,
    authorization: Mutex<Option<String>>,
    tls: Option<Arc<ClientConfig>>,
}

/// Whether a registry (`host[:port]`) is on this machine, and so is spoken to without TLS, as everywhere.
pub(super) fn is_local(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name.starts_with("127.")
}

impl Repository {
    /// A repository of the registry `host[:port]`, which needs `tls` unless it is local.
    pub(super) fn new(
        host: &str,
        repository: &str,
        auth: Option<RegistryAuth>,
        tls: Option<Arc<ClientConfig>>,
    ) -> Self {
        let scheme = if is_local(host) { "http" } else { "https" };
        let host = if host == "docker.io" { DOCKER_HUB } else { host };
        Self {
            base: format!("{scheme}://{host}"),
            repository: repository.to_owned(),
            auth,
            authorization: Mutex::default(),
            tls,
        }
    }

    /// Fetches `/v2/<repository>/<path>`.
    pub(super) async fn get(&self, path: &str, accept: &str) -> Result<Answer, FetchError> {
        let url = format!("{}/v2/{}/{path}", self.base, self.repository);
        let authorization = self.authorization.lock().clone();
        let answer = self.follow(&url, accept, authorization).await?;
        if answer.response.status() != StatusCode::UNAUTHORIZED {
            return check(answer, &url);
        }
        let authorization = self.authorize(answer.response.headers()).await?;
        *self.authorization.lock() = Some(authorization.clone());
        check(self.follow(&url, accept, Some(authorization)).await?, &url)
    }

    async fn follow(&self, url: &str, accept: &str, authorization: Option<String>) -> Result<Answer, FetchError> {
        let mut url: Uri = parse(url)?;
        let origin = url.authority().cloned();
        for _ in 0..=REDIRECTS_MAX {
            // Credentials are for the registry, not for where it sends us.
            let authorization = authorization.as_deref().filter(|_| url.authority() == origin.as_ref());
            let answer = send(&url, accept, authorization, &self.tls).await?;
            if !answer.response.status().is_redirection() {
                return Ok(answer);
            }
            let location =
                answer.response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()).ok_or_else(
                    || FetchError::new(PullErrorKind::Network, format!("redirect of {url} without location")),
                )?;
            url = redirected(&url, location)?;
        }
        Err(FetchError::new(PullErrorKind::Network, format!("more than {REDIRECTS_MAX} redirects from {url}")))
    }

    /// Answers a challenge: with the credentials themselves, or with a token obtained for them.
    async fn authorize(&self, headers: &HeaderMap) -> Result<String, FetchError> {
        let challenges = headers.get_all(header::WWW_AUTHENTICATE);
        let challenge = challenges.iter().filter_map(|value| value.to_str().ok()).find_map(parse_challenge);
        let basic = self.auth.as_ref().map(basic);
        match (challenge, basic) {
            (Some(Challenge::Basic), Some(basic)) => Ok(basic),
            (Some(Challenge::Bearer { realm, service, scope }), basic) => {
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.repository));
                let separator = if realm.contains('?') { '&' } else { '?' };
                let mut url = format!("{realm}{separator}scope={}", encode(&scope));
                if let Some(service) = service {
                    url = format!("{url}&service={}", encode(&service));
                }
                let url = parse(&url)?;
                if url.scheme_str() != Some("https") && self.base.starts_with("https") {
                    return Err(FetchError::new(
                        PullErrorKind::Unauthorized,
                        format!("token service {realm} is not https"),
                    ));
                }
                let answer = check(send(&url, "application/json", basic.as_deref(), &self.tls).await?, &realm)?;
                let bytes = collect(answer, TOKEN_BYTES_MAX).await?;
                let token: Token = serde_json::from_slice(&bytes).map_err(|error| {
                    FetchError::new(PullErrorKind::Unauthorized, format!("token from {realm}: {error}"))
                })?;
                token.token.or(token.access_token).map(|token| format!("Bearer {token}")).ok_or_else(|| {
                    FetchError::new(PullErrorKind::Unauthorized, format!("no token in the answer of {realm}"))
                })
            }
            _ => Err(FetchError::new(
                PullErrorKind::Unauthorized,
                "pull access denied, repository does not exist or may require authorization",
            )),
        }
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

fn basic(auth: &RegistryAuth) -> String {
    use base64::Engine as _;
    let pair = format!("{}:{}", auth.username, auth.password);
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// Reads one `WWW-Authenticate` value.
fn parse_challenge(value: &str) -> Option<Challenge> {
    let (scheme, mut rest) = value.split_once(' ').unwrap_or((value, ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope) = (None, None, None);
    while let Some((name, after)) = rest.split_once('=') {
        let (parameter, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        match name.trim_matches([' ', ',']) {
            "realm" => realm = Some(parameter.to_owned()),
            "service" => service = Some(parameter.to_owned()),
            "scope" => scope = Some(parameter.to_owned()),
            _ => {}
        }
        rest = after;
    }
    Some(Challenge::Bearer { realm: realm?, service, scope })
}

/// Percent-encodes a query value.
fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b',' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

fn parse(url: &str) -> Result<Uri, FetchError> {
    url.parse().map_err(|error| FetchError::new(PullErrorKind::Network, format!("invalid address {url:?}: {error}")))
}

fn redirected(from: &Uri, location: &str) -> Result<Uri, FetchError> {
    if !location.starts_with('/') {
        let to = parse(location)?;
        if from.scheme_str() == Some("https") && to.scheme_str() != Some("https") {
            return Err(FetchError::new(PullErrorKind::Network, format!("redirect from {from} to unencrypted {to}")));
        }
        return Ok(to);
    }
    let (scheme, authority) = (from.scheme_str().unwrap_or("https"), from.authority().map_or("", |a| a.as_str()));
    parse(&format!("{scheme}://{authority}{location}"))
}

/// Turns a status that is no success into an error in the registry's terms.
fn check(answer: Answer, url: &str) -> Result<Answer, FetchError> {
    let status = answer.response.status();
    let kind = match status {
        status if status.is_success() => return Ok(answer),
        StatusCode::NOT_FOUND => PullErrorKind::NotFound,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => PullErrorKind::Unauthorized,
        _ => PullErrorKind::Unavailable,
    };
    let message = match kind {
        PullErrorKind::NotFound => "not found".to_owned(),
        PullErrorKind::Unauthorized => {
            "pull access denied, repository does not exist or may require authorization".to_owned()
        }
        _ => format!("unexpected status from GET request to {url}: {status}"),
    };
    Err(FetchError::new(kind, message))
}

async fn send(
    url: &Uri,
    accept: &str,
    authorization: Option<&str>,
    tls: &Option<Arc<ClientConfig>>,
) -> Result<Answer, FetchError> {
    let host = url.host().unwrap_or_default();
    let secure = url.scheme_str() == Some("https");
    let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let mut request = Request::get(url.path_and_query().map_or("/", |path| path.as_str()))
        .header(header::HOST, url.authority().map_or(host, |authority| authority.as_str()))
        .header(header::USER_AGENT, concat!("keelson/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, accept);
    if let Some(authorization) = authorization {
        request = request.header(header::AUTHORIZATION, authorization);
    }
    let request =
        request.body(Empty::<Bytes>::new()).map_err(|error| FetchError::network("make the request", &error))?;
    let connect = async {
        let dial = format!("dial {host}:{port}");
        let stream = TcpStream::connect((host, port)).await.map_err(|error| FetchError::network(&dial, &error))?;
        let stream: Box<dyn Stream> = if secure {
            let tls = tls.clone().unwrap_or_else(tls_config);
            let name = ServerName::try_from(host.to_owned()).map_err(|error| FetchError::network(&dial, &error))?;
            let stream = TlsConnector::from(tls).connect(name, stream).await;
            Box::new(stream.map_err(|error| FetchError::network(&dial, &error))?)
        } else {
            Box::new(stream)
        };
        hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| FetchError::network(&dial, &error))
    };
    let late = |what: &str| FetchError::new(PullErrorKind::Network, format!("{what} {host}:{port}: i/o timeout"));
    let (mut sender, connection) = timeout(CONNECT_TIMEOUT, connect).await.map_err(|_| late("dial"))??;
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        // A broken connection shows in the answer's body.
        let _ = connection.await;
    }));
    let response = timeout(ANSWER_TIMEOUT, sender.send_request(request))
        .await
        .map_err(|_| late("read from"))?
        .map_err(|error| FetchError::network(&format!("GET {url}"), &error))?;
    Ok(Answer { response, _connection: connection })
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Reads a whole body of bounded size.
pub(super) async fn collect(answer: Answer, bytes_max: usize) -> Result<Bytes, FetchError> {
    let body = Limited::new(answer.response.into_body(), bytes_max);
    let body = timeout(BODY_IDLE_TIMEOUT, body.collect())
        .await
        .map_err(|_| FetchError::new(PullErrorKind::Network, "body: i/o timeout"))?;
    Ok(body.map_err(|error| FetchError::network("body", error.as_ref()))?.to_bytes())
}

/// TLS with the machine's certificate authorities.
pub(super) fn tls_config() -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "load certificate authorities");
    }
    roots.add_parsable_certificates(found.certs);
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("invariant: ring supports the default protocol versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        assert_eq!(
            parse_challenge(
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#
            ),
            Some(Challenge::Bearer {
                realm: "https://auth.docker.io/token".into(),
                service: Some("registry.docker.io".into()),
                scope: Some("repository:a/b:pull,push".into()),
            })
        );
        assert_eq!(parse_challenge("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(parse_challenge("Bearer service=\"x\""), None);
        assert_eq!(parse_challenge("Negotiate"), None);
    }

    #[test]
    fn redirects_stay_encrypted() {
        let from: Uri = "https://a.io/v2/x".parse().unwrap();
        assert_eq!(redirected(&from, "/y?z=1").unwrap(), "https://a.io/y?z=1");
        assert!(redirected(&from, "http://b.io/").is_err());
        assert!(redirected(&from, "https://b.io/").is_ok());
    }
}
