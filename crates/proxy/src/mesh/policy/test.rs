//! One condition on a connection or a request.

use std::{borrow::Cow, net::IpAddr};

use http::{HeaderName, header};
use serde_json::{Map, Value};

use super::{
    Connection, Request, Token,
    patterns::{Block, PathPattern, Text},
};

/// What a decision looks at.
#[derive(Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) connection: &'a Connection<'a>,
    /// The request, and one form of its path.
    pub(super) request: Option<(&'a Request<'a>, &'a str)>,
}

/// A condition: an attribute has one of some values, or none of them.
#[derive(Clone, Debug)]
pub(super) struct Test {
    pub(super) attribute: Attribute,
    pub(super) negated: bool,
}

/// An attribute, and the values it is compared with.
#[derive(Clone, Debug)]
pub(super) enum Attribute {
    Principal(Vec<Text>),
    Namespace(Vec<Text>),
    /// Namespace and name.
    ServiceAccount(Vec<(Text, Text)>),
    TrustDomain(Vec<Text>),
    Source(Vec<Block>),
    Remote(Vec<Block>),
    Destination(Vec<Block>),
    Port(Vec<u16>),
    ServerName(Vec<Text>),
    Host(Vec<Text>),
    Method(Vec<Text>),
    Path(Vec<PathPattern>),
    Header(HeaderName, Vec<Text>),
    RequestPrincipal(Vec<Text>),
    /// The way to a claim.
    Claim(Vec<Box<str>>, Vec<Text>),
    /// Cannot be known or was not understood.
    Unknown,
}

impl Test {
    /// Whether it is about HTTP.
    pub(super) fn is_http(&self) -> bool {
        matches!(
            self.attribute,
            Attribute::Host(_)
                | Attribute::Method(_)
                | Attribute::Path(_)
                | Attribute::Header(..)
                | Attribute::RequestPrincipal(_)
                | Attribute::Claim(..)
        )
    }

    /// Whether it may hold for a port of the workload.
    pub(super) fn concerns(&self, port: u16) -> bool {
        match &self.attribute {
            Attribute::Port(ports) => ports.contains(&port) != self.negated,
            _ => true,
        }
    }

    /// Whether it holds; `unknown` where that cannot be known.
    pub(super) fn holds(&self, facts: &Facts<'_>, unknown: bool) -> bool {
        self.attribute.takes(facts).map_or(unknown, |taken| taken != self.negated)
    }
}

impl Attribute {
    fn takes(&self, facts: &Facts<'_>) -> Option<bool> {
        let connection = facts.connection;
        let of_peer = |patterns: &[Text], part: fn(&super::Peer) -> &str| {
            connection.peer.is_some_and(|peer| takes(patterns, part(peer)))
        };
        let of_block = |blocks: &[Block], address: IpAddr| blocks.iter().any(|block| block.takes(address));
        Some(match self {
            Attribute::Principal(patterns) => of_peer(patterns, super::Peer::principal),
            Attribute::Namespace(patterns) => of_peer(patterns, super::Peer::namespace),
            Attribute::TrustDomain(patterns) => of_peer(patterns, super::Peer::trust_domain),
            Attribute::ServiceAccount(accounts) => connection.peer.is_some_and(|peer| {
                let of = |(namespace, name): &(Text, Text)| {
                    namespace.takes(peer.namespace()) && name.takes(peer.service_account())
                };
                accounts.iter().any(of)
            }),
            Attribute::Source(blocks) => of_block(blocks, connection.source),
            Attribute::Remote(blocks) => of_block(blocks, remote(facts)),
            Attribute::Destination(blocks) => of_block(blocks, connection.destination.ip()),
            Attribute::Port(ports) => ports.contains(&connection.destination.port()),
            Attribute::ServerName(patterns) => connection.sni.is_some_and(|name| takes(patterns, name)),
            Attribute::Unknown => return None,
            of_request => of_request.takes_request(facts.request?)?,
        })
    }

    fn takes_request(&self, (request, path): (&Request<'_>, &str)) -> Option<bool> {
        let claims = || match request.token {
            Token::Unverified => None,
            Token::None => Some(None),
            Token::Good(claims) => Some(Some(claims)),
        };
        Some(match self {
            Attribute::Host(patterns) => {
                let authority = lower(request.authority);
                takes(patterns, request.head.host) || takes(patterns, &authority)
            }
            Attribute::Method(patterns) => takes(patterns, request.head.method.as_str()),
            Attribute::Path(patterns) => patterns.iter().any(|pattern| pattern.takes(path)),
            Attribute::Header(name, patterns) => {
                let mut values = request.head.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
                let Some(first) = values.next() else { return Some(false) };
                let all = values.fold(Cow::Borrowed(first), |all, value| Cow::Owned(format!("{all},{value}")));
                takes(patterns, &all)
            }
            Attribute::RequestPrincipal(patterns) => {
                let claims = claims()?;
                let claim = |name: &str| claims.and_then(|claims| claims.get(name)?.as_str());
                claim("iss").zip(claim("sub")).is_some_and(|(issuer, subject)| {
                    let principal = format!("{issuer}/{subject}");
                    takes(patterns, &principal)
                })
            }
            Attribute::Claim(way, patterns) => {
                let found = claims()?.and_then(|claims| find(claims, way));
                found.is_some_and(|(name, value)| claims_take(patterns, name, value))
            }
            _ => false,
        })
    }
}

fn takes(patterns: &[Text], text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.takes(text))
}

fn lower(text: &str) -> Cow<'_, str> {
    match text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(text.to_ascii_lowercase()),
        false => Cow::Borrowed(text),
    }
}

/// The client behind proxies: what the last of them says, if it is known who it is; else the other end.
fn remote(facts: &Facts<'_>) -> IpAddr {
    let told = || {
        let (request, _) = facts.request.filter(|_| facts.connection.peer.is_some())?;
        let last = request.head.headers.get_all(X_FORWARDED_FOR).iter().next_back()?;
        last.to_str().ok()?.rsplit(',').next()?.trim().parse().ok()
    };
    told().unwrap_or(facts.connection.source)
}

/// Who asked, one address per proxy on the way.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The claim at the end of a way, and its name.
fn find<'a>(claims: &'a Map<String, Value>, way: &'a [Box<str>]) -> Option<(&'a str, &'a Value)> {
    let (first, rest) = way.split_first()?;
    let mut at = (&**first, claims.get(&**first)?);
    for name in rest {
        at = (name, at.1.get(&**name)?);
    }
    Some(at)
}

/// Claims that are lists, separated by spaces (RFC 8693).
const SPACED: [&str; 2] = ["scope", "permission"];

fn claims_take(patterns: &[Text], name: &str, value: &Value) -> bool {
    match value {
        Value::String(text) => {
            takes(patterns, text) || SPACED.contains(&name) && text.split(' ').any(|part| takes(patterns, part))
        }
        Value::Array(values) => values.iter().filter_map(Value::as_str).any(|text| takes(patterns, text)),
        Value::Bool(flag) => takes(patterns, if *flag { "true" } else { "false" }),
        Value::Number(number) => takes(patterns, &number.to_string()),
        Value::Object(_) | Value::Null => false,
    }
}

/// The attribute that a condition of a policy names; an error says what is wrong with it.
pub(super) fn condition(key: &str, values: &[String]) -> Result<Attribute, String> {
    let texts = || values.iter().map(|value| Text::parse(value)).collect();
    Ok(match key {
        "source.ip" => Attribute::Source(blocks(values)?),
        "remote.ip" => Attribute::Remote(blocks(values)?),
        "source.namespace" => Attribute::Namespace(texts()),
        "source.principal" => Attribute::Principal(principals(values)),
        "source.trustDomain" => Attribute::TrustDomain(texts()),
        "destination.ip" => Attribute::Destination(blocks(values)?),
        "destination.port" => Attribute::Port(ports(values)?),
        "connection.sni" => Attribute::ServerName(texts()),
        "request.auth.principal" => Attribute::RequestPrincipal(texts()),
        "request.auth.audiences" => Attribute::Claim(vec!["aud".into()], texts()),
        "request.auth.presenter" => Attribute::Claim(vec!["azp".into()], texts()),
        _ => match (key.strip_prefix("request.headers"), key.strip_prefix("request.auth.claims")) {
            (Some(name), _) => match &*brackets(name)? {
                [name] if name.eq_ignore_ascii_case(header::HOST.as_str()) => {
                    Attribute::Host(values.iter().map(|value| Text::parse_lower(value)).collect())
                }
                [name] => {
                    let name = HeaderName::try_from(&**name).map_err(|_| format!("{name:?} is no header name"))?;
                    Attribute::Header(name, texts())
                }
                _ => return Err(format!("key {key:?} names more than one header")),
            },
            (_, Some(way)) => Attribute::Claim(brackets(way)?, texts()),
            _ => return Err(format!("key {key:?} is not supported")),
        },
    })
}

/// What stands in `[a][b]`.
fn brackets(text: &str) -> Result<Vec<Box<str>>, String> {
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).filter(|inner| !inner.is_empty());
    let inner = inner.ok_or_else(|| format!("{text:?} is no name in brackets"))?;
    Ok(inner.split("][").map(Into::into).collect())
}

pub(super) fn blocks(values: &[String]) -> Result<Vec<Block>, String> {
    let block =
        |value: &String| Block::parse(value).ok_or_else(|| format!("{value:?} is no address and no block of them"));
    values.iter().map(block).collect()
}

pub(super) fn ports(values: &[String]) -> Result<Vec<u16>, String> {
    values.iter().map(|value| value.parse().map_err(|_| format!("{value:?} is no port"))).collect()
}

/// Identities, with or without their scheme.
pub(super) fn principals(values: &[String]) -> Vec<Text> {
    values.iter().map(|value| Text::parse(value.strip_prefix("spiffe://").unwrap_or(value))).collect()
}
