//! What is noted about one request while it is answered, and the `audit.k8s.io/v1` Event made of it later.
//!
//! Noting copies references only; the event is put together where it is written, away from the request's path. A level
//! below Request never sees a body, so nothing of a Secret can be in its events.

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Uri};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Serialize, Serializer};
use serde_json::Value;
use strategy::User;

use super::policy::{Level, Stage, Verdict};
use crate::{
    codec,
    path::{self, Route},
    status::ApiError,
};

/// Longest user agent noted, as upstream cuts it.
const USER_AGENT_BYTES_MAX: usize = 1024;
/// Annotations of one event at most: admission adds a few, and a policy with many bindings must not grow without end.
const ANNOTATIONS_MAX: usize = 64;

/// How a request ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) code: u16,
    /// What the client was told, when it failed.
    pub(crate) error: Option<Box<ApiError>>,
}

/// Everything about one request at one stage.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) verdict: Verdict,
    pub(crate) id: HeaderValue,
    pub(crate) stage: Stage,
    pub(crate) uri: Uri,
    pub(crate) verb: Cow<'static, str>,
    pub(crate) user: Option<Arc<User>>,
    pub(crate) impersonated: Option<Arc<User>>,
    pub(crate) source: Source,
    pub(crate) received: Timestamp,
    pub(crate) staged: Timestamp,
    pub(crate) named: Named,
    pub(crate) ended: Option<Ended>,
    pub(crate) annotations: Vec<(Cow<'static, str>, String)>,
    pub(crate) request: Option<Bytes>,
    pub(crate) response: Option<Bytes>,
}

/// Where a request came from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Source {
    peer: Option<IpAddr>,
    forwarded_for: Option<HeaderValue>,
    real_ip: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
}

/// What the path of a request does not say about its object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Named {
    name: String,
    uid: String,
    resource_version: String,
}

impl Source {
    pub(crate) fn new(headers: &HeaderMap, peer: Option<IpAddr>) -> Self {
        let header = |name: &str| headers.get(name).cloned();
        Self {
            peer,
            forwarded_for: header("x-forwarded-for"),
            real_ip: header("x-real-ip"),
            user_agent: header("user-agent"),
        }
    }

    /// The chain of addresses, the peer's own last; this process itself counts as loopback.
    fn addresses(&self) -> Vec<IpAddr> {
        let text =
            |value: &Option<HeaderValue>| value.as_ref().and_then(|value| value.to_str().ok()).map(str::to_owned);
        let forwarded = text(&self.forwarded_for).unwrap_or_default();
        let mut chain: Vec<IpAddr> = forwarded.split(',').filter_map(|part| part.trim().parse().ok()).collect();
        if let Some(real) = text(&self.real_ip).and_then(|text| text.trim().parse().ok())
            && !chain.contains(&real)
        {
            chain.push(real);
        }
        let peer = self.peer.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
        if chain.last() != Some(&peer) {
            chain.push(peer);
        }
        chain
    }

    fn user_agent(&self) -> Cow<'_, str> {
        let bytes = self.user_agent.as_ref().map(HeaderValue::as_bytes).unwrap_or_default();
        let text = String::from_utf8_lossy(bytes);
        if text.len() <= USER_AGENT_BYTES_MAX {
            return text;
        }
        let end = text.floor_char_boundary(USER_AGENT_BYTES_MAX);
        format!("{}...TRUNCATED", &text[..end]).into()
    }
}

/// The notes of one request; empty when its level is None, and then every method returns at once. The last stage takes
/// the record away, so that what most requests have only one event of is not copied.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trail(Option<Arc<Mutex<Option<Record>>>>);

impl Trail {
    pub(crate) fn new(record: Record) -> Self {
        Self(Some(Arc::new(Mutex::new(Some(record)))))
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    fn note(&self, note: impl FnOnce(&mut Record)) {
        if let Some(record) = &self.0
            && let Some(record) = record.lock().as_mut()
        {
            note(record);
        }
    }

    fn has_level(&self, level: Level) -> bool {
        self.0.as_ref().is_some_and(|record| record.lock().as_ref().is_some_and(|record| record.verdict.level >= level))
    }

    /// Whether the object sent is part of the event.
    pub(crate) fn takes_request(&self) -> bool {
        self.has_level(Level::Request)
    }

    /// Whether the object answered is part of the event.
    pub(crate) fn takes_response(&self) -> bool {
        self.has_level(Level::RequestResponse)
    }

    /// Adds an annotation; as upstream, the first value of a key stays.
    pub(crate) fn annotate(&self, key: impl Into<Cow<'static, str>>, value: impl Into<String>) {
        self.note(|record| {
            let key = key.into();
            if record.annotations.len() < ANNOTATIONS_MAX && record.annotations.iter().all(|(known, _)| *known != key) {
                record.annotations.push((key, value.into()));
            }
        });
    }

    /// Notes as whom the request is carried out.
    pub(crate) fn impersonates(&self, user: &Arc<User>) {
        self.note(|record| record.impersonated = Some(user.clone()));
    }

    /// Notes what the object that was sent calls itself.
    pub(crate) fn names(&self, object: &Value) {
        self.note(|record| {
            let metadata = &object["metadata"];
            let mut take = |key: &str, into: fn(&mut Named) -> &mut String| {
                let into = into(&mut record.named);
                if let Some(text) = metadata[key].as_str().filter(|_| into.is_empty()) {
                    text.clone_into(into);
                }
            };
            take("name", |named| &mut named.name);
            take("uid", |named| &mut named.uid);
            take("resourceVersion", |named| &mut named.resource_version);
        });
    }

    /// Notes the name the server gave the object.
    pub(crate) fn name(&self, name: &str) {
        self.note(|record| name.clone_into(&mut record.named.name));
    }

    /// Keeps the body of the request, where the level says so.
    pub(crate) fn request(&self, body: &Bytes) {
        if !body.is_empty() && self.has_level(Level::Request) {
            self.note(|record| record.request = Some(body.clone()));
        }
    }

    /// Keeps the body of the answer.
    pub(crate) fn response(&self, body: &Bytes) {
        self.note(|record| record.response = Some(body.clone()));
    }

    /// The record as it is at `stage`, `None` where the policy leaves that stage out.
    pub(crate) fn at(&self, stage: Stage, now: Timestamp, ended: Option<Ended>) -> Option<Record> {
        let mut kept = self.0.as_ref()?.lock();
        if kept.as_ref()?.verdict.omitted.contains(stage) {
            return None;
        }
        let record = match stage {
            Stage::ResponseComplete | Stage::Panic => kept.take()?,
            Stage::RequestReceived | Stage::ResponseStarted => kept.clone()?,
        };
        Some(Record { stage, staged: now, ended, ..record })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    kind: &'static str,
    api_version: &'static str,
    level: &'static str,
    #[serde(rename = "auditID")]
    audit_id: Cow<'a, str>,
    stage: &'static str,
    #[serde(rename = "requestURI")]
    request_uri: &'a str,
    verb: &'a str,
    user: UserInfo<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: Option<UserInfo<'a>>,
    #[serde(rename = "sourceIPs")]
    source_ips: Vec<IpAddr>,
    #[serde(skip_serializing_if = "str::is_empty")]
    user_agent: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ref: Option<ObjectReference<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<ResponseStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_object: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_object: Option<Value>,
    request_received_timestamp: MicroTime,
    stage_timestamp: MicroTime,
    #[serde(skip_serializing_if = "Annotations::is_empty")]
    annotations: Annotations<'a>,
}

/// `metav1.MicroTime`.
struct MicroTime(Timestamp);

impl Serialize for MicroTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:.6}", self.0))
    }
}

/// In the order of their keys.
struct Annotations<'a>(Vec<(&'a str, &'a str)>);

impl Annotations<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Annotations<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

/// How a request ended. Of most there is nothing to say but the code, which needs no tree.
#[derive(Serialize)]
#[serde(untagged)]
enum ResponseStatus {
    Succeeded { metadata: Empty, code: u16 },
    Failed(Value),
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct UserInfo<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    username: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    groups: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    extra: Option<&'a BTreeMap<String, Vec<String>>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ObjectReference<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    resource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    api_group: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    api_version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    resource_version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    subresource: &'a str,
}

impl Record {
    /// Appends the event as one line of JSON.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        codec::write_json(out, &self.event());
        out.push(b'\n');
    }

    fn event(&self) -> Event<'_> {
        Event {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: self.verdict.level.as_str(),
            audit_id: String::from_utf8_lossy(self.id.as_bytes()),
            stage: self.stage.as_str(),
            request_uri: self.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str),
            verb: &self.verb,
            user: UserInfo::of(self.user.as_deref()),
            impersonated_user: self.impersonated.as_deref().map(|user| UserInfo::of(Some(user))),
            source_ips: self.source.addresses(),
            user_agent: self.source.user_agent(),
            object_ref: self.object(),
            response_status: self.ended.as_ref().map(Ended::status),
            request_object: self.request.as_ref().and_then(|body| self.decode(body)),
            response_object: self.response.as_ref().and_then(|body| self.decode(body)),
            request_received_timestamp: MicroTime(self.received),
            stage_timestamp: MicroTime(self.staged),
            annotations: self.annotations(),
        }
    }

    fn annotations(&self) -> Annotations<'_> {
        let mut annotations: Vec<_> = self.annotations.iter().map(|(key, value)| (&**key, value.as_str())).collect();
        annotations.sort_unstable();
        Annotations(annotations)
    }

    fn object(&self) -> Option<ObjectReference<'_>> {
        let Route::Resource(asked) = path::parse(self.uri.path()) else { return None };
        let named = &self.named;
        Some(ObjectReference {
            resource: asked.resource,
            // as upstream has it, a namespace's own requests carry its name twice
            namespace: if asked.resource == "namespaces" { asked.name.clone() } else { asked.namespace },
            name: if asked.name.is_empty() { named.name.as_str().into() } else { asked.name },
            uid: &named.uid,
            api_group: asked.group,
            api_version: asked.version,
            resource_version: &named.resource_version,
            subresource: asked.subresource,
        })
    }

    /// A body as a tree, in whichever of the three encodings it is; anything else is left out.
    fn decode(&self, body: &Bytes) -> Option<Value> {
        let mut value = if schema::protobuf::is_encoded(body) {
            schema::protobuf::decode(body).ok()
        } else {
            schema::json::parse(body).map(|(value, _)| value).ok().or_else(|| Some(schema::yaml::parse(body).ok()?.0))
        }?;
        if self.verdict.omit_managed_fields {
            drop_managed_fields(&mut value);
        }
        Some(value)
    }
}

impl<'a> UserInfo<'a> {
    fn of(user: Option<&'a User>) -> Self {
        match user {
            Some(user) => Self {
                username: &user.name,
                uid: &user.uid,
                groups: &user.groups,
                extra: Some(&user.extra).filter(|extra| !extra.is_empty()),
            },
            None => Self { username: "", uid: "", groups: &[], extra: None },
        }
    }
}

impl Ended {
    fn status(&self) -> ResponseStatus {
        match &self.error {
            Some(error) => {
                let mut status = error.to_value();
                if let Some(status) = status.as_object_mut() {
                    status.remove("kind");
                    status.remove("apiVersion");
                }
                ResponseStatus::Failed(status)
            }
            None => ResponseStatus::Succeeded { metadata: Empty {}, code: self.code },
        }
    }
}

/// Of an object, of each item of a list, and of the objects in a table's rows.
fn drop_managed_fields(value: &mut Value) {
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    for item in value.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        drop_managed_fields(item);
    }
    for row in value.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(object) = row.get_mut("object") {
            drop_managed_fields(object);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::audit::policy::Policy;

    pub(crate) fn record(policy: &str, uri: &'static str) -> Record {
        let user = User { uid: "u".into(), ..User::new("alice", &["dev"]) };
        let attributes = crate::authorization::Attributes {
            user: &user,
            verb: "create",
            group: "",
            resource: "pods",
            subresource: "",
            namespace: "n",
            name: "",
            path: None,
        };
        let verdict = Policy::parse(policy.as_bytes()).unwrap().verdict(Some(&user), &attributes);
        let mut headers = HeaderMap::new();
        headers.insert("user-agent", HeaderValue::from_static("kubectl/v1"));
        headers.insert("x-forwarded-for", HeaderValue::from_static("10.0.0.1, junk, 10.0.0.2"));
        Record {
            verdict,
            id: HeaderValue::from_static("id-1"),
            stage: Stage::RequestReceived,
            uri: Uri::from_static(uri),
            verb: "create".into(),
            user: Some(Arc::new(user)),
            impersonated: None,
            source: Source::new(&headers, Some([10, 0, 0, 2].into())),
            received: "2026-01-02T03:04:05.000001Z".parse().unwrap(),
            staged: "2026-01-02T03:04:05.5Z".parse().unwrap(),
            named: Named::default(),
            ended: None,
            annotations: Vec::new(),
            request: None,
            response: None,
        }
    }

    fn event(record: &Record) -> Value {
        let mut line = Vec::new();
        record.write(&mut line);
        serde_json::from_slice(&line).unwrap()
    }

    const REQUEST: &str =
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitManagedFields: true\nrules: [{level: Request}]";

    #[test]
    fn an_event_has_upstreams_fields() {
        let trail = Trail::new(record(REQUEST, "/api/v1/namespaces/n/pods?dryRun=All"));
        trail.names(&json!({"metadata": {"name": "p", "uid": "u1"}}));
        trail.annotate("authorization.k8s.io/decision", "allow");
        trail.annotate("authorization.k8s.io/decision", "forbid");
        trail.request(&Bytes::from_static(b"metadata:\n  name: p\n  managedFields: []\n"));
        let ended = Some(Ended { code: 201, error: None });
        let event = event(&trail.at(Stage::ResponseComplete, Timestamp::UNIX_EPOCH, ended).unwrap());
        let expected = json!({"kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Request", "auditID": "id-1",
            "stage": "ResponseComplete", "requestURI": "/api/v1/namespaces/n/pods?dryRun=All", "verb": "create",
            "user": {"username": "alice", "uid": "u", "groups": ["dev"]}, "sourceIPs": ["10.0.0.1", "10.0.0.2"],
            "userAgent": "kubectl/v1",
            "objectRef": {"resource": "pods", "namespace": "n", "name": "p", "uid": "u1", "apiVersion": "v1"},
            "responseStatus": {"metadata": {}, "code": 201}, "requestObject": {"metadata": {"name": "p"}},
            "requestReceivedTimestamp": "2026-01-02T03:04:05.000001Z", "stageTimestamp": "1970-01-01T00:00:00.000000Z",
            "annotations": {"authorization.k8s.io/decision": "allow"}});
        assert_eq!(event, expected);
    }

    #[test]
    fn metadata_keeps_no_body_and_failures_say_why() {
        let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [Panic]\nrules: [{level: Metadata}]";
        let trail = Trail::new(record(policy, "/readyz"));
        trail.request(&Bytes::from_static(b"{\"data\":{\"password\":\"x\"}}"));
        assert!(!trail.takes_response());
        assert!(trail.at(Stage::Panic, Timestamp::UNIX_EPOCH, None).is_none());
        let error = Some(Box::new(ApiError::bad_request("no")));
        let ended = Some(Ended { code: 400, error });
        let event = event(&trail.at(Stage::ResponseComplete, Timestamp::UNIX_EPOCH, ended).unwrap());
        assert!(event.get("requestObject").is_none() && event.get("objectRef").is_none());
        let status = json!({"metadata": {}, "status": "Failure", "message": "no", "reason": "BadRequest", "code": 400});
        assert_eq!(event["responseStatus"], status);
    }

    #[test]
    fn long_user_agents_are_cut() {
        let mut headers = HeaderMap::new();
        headers.insert("user-agent", HeaderValue::from_str(&"x".repeat(2000)).unwrap());
        let text = Source::new(&headers, None).user_agent().into_owned();
        assert_eq!(text.len(), USER_AGENT_BYTES_MAX + "...TRUNCATED".len());
    }
}
