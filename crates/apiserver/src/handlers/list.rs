//! Lists: a walk over one immutable snapshot; pages of a long list are walks over the same one.

use std::sync::Arc;

use base64::{DecodeError, Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::Response;
use serde::{Deserialize, Serialize};
use store::{Object, Revision, Snapshot};

use crate::{
    body::Body,
    conversion,
    convert::Form,
    dispatch::Call,
    options::{ListOptions, ResourceVersionMatch},
    output::{self, ListMeta},
    selection::Selection,
    status::ApiError,
};

/// What a continue token says, in upstream's form; opaque to clients.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Continue {
    #[serde(rename = "v", default)]
    form: String,
    /// Revision of the snapshot the list began with; negative goes on in the newest state.
    #[serde(rename = "rv", default)]
    revision: i64,
    /// Path of the last object of the page before, and a zero: where the next page begins.
    #[serde(default)]
    start: String,
}

const FORM: &str = "meta.k8s.io/v1";

impl Continue {
    fn after(revision: i64, path: &str) -> Self {
        Self { form: FORM.to_owned(), revision, start: format!("{path}\0") }
    }

    /// Path of the last object of the page before.
    fn path(&self) -> &str {
        self.start.strip_suffix('\0').unwrap_or(&self.start)
    }

    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn decode(token: &str) -> Result<Self, ApiError> {
        Self::read(token)
            .map_err(|why| ApiError::bad_request(format!("invalid continue token: continue key is not valid: {why}")))
    }

    fn read(token: &str) -> Result<Self, String> {
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|error| {
            let at = match error {
                DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol { offset: at, .. } => at,
                DecodeError::InvalidLength(length) => length.saturating_sub(1),
                DecodeError::InvalidPadding => token.len(),
            };
            format!("illegal base64 data at input byte {at}")
        })?;
        let read: Self = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        // nobody begins above the collection
        let climbs = |segment: &str| matches!(segment, "" | "." | "..");
        match &read {
            Self { form, .. } if form != FORM => Err(format!("server does not recognize this encoded version {form}")),
            Self { revision: 0, .. } => Err(format!("incorrect encoded start resourceVersion (version {FORM})")),
            Self { start, .. } if start.is_empty() => Err(format!("encoded start key empty (version {FORM})")),
            Self { start, .. } if start.trim_start_matches('/').split('/').any(climbs) => Err(start.clone()),
            _ => Ok(read),
        }
    }
}

const TOO_OLD_TO_CONTINUE: &str = "The provided continue parameter is too old to display a consistent list result. \
    You can start a new list without the continue parameter, or use the continue token in this response to retrieve the \
    remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were \
    created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// Answers a GET of a collection.
pub(super) async fn list(call: &Arc<Call>) -> Result<Response<Body>, ApiError> {
    let options = ListOptions::parse(&call.query())?;
    let (snapshot, after) = start(call, &options).await?;
    let selection = Selection::parse(&call.served, &options, "")?;
    let prefix = selection.prefix(&call.served, &call.namespace);
    let (collection, after) = (&call.served.collection, after.as_deref());
    // who takes any state gets it whole, as from upstream's cache
    let any = options.resource_version == Some(0) && options.continue_token.is_none();
    let limit = options.limit.filter(|_| !any).unwrap_or(usize::MAX);
    let mut page = Page { items: Vec::new(), last: None, more: false, limit };
    if call.served.form == Form::Webhook {
        // selectors are about the version asked for, so conversion comes first
        let needed = if selection.is_everything() { limit.saturating_add(1) } else { usize::MAX };
        let found = snapshot.range(collection, &prefix, after).take(needed);
        let (paths, stored): (Vec<_>, Vec<_>) = found.map(|(path, object)| (path, object.clone())).unzip();
        let converted = conversion::objects(call, stored).await?;
        page.fill(paths.into_iter().zip(&converted), call, &selection).await;
    } else {
        page.fill(selection.candidates(&snapshot, collection, &prefix, after), call, &selection).await;
    }
    let Page { items, last, more, .. } = page;
    let mut meta = ListMeta { revision: snapshot.revision(), ..ListMeta::default() };
    if let (true, Some(last)) = (more, &last) {
        call.server.store.retain(&snapshot);
        let revision = snapshot.revision().0.cast_signed();
        meta.continue_token = Some(Continue::after(revision, last).encode());
        meta.remaining = selection.is_everything().then(|| snapshot.count(collection, &prefix, Some(last)));
    }
    output::list(call, items, &meta)
}

/// A page of a list on its way.
struct Page {
    items: Vec<Bytes>,
    /// Path of the last item.
    last: Option<Arc<str>>,
    /// Whether there is more than fits.
    more: bool,
    limit: usize,
}

impl Page {
    async fn fill<'a>(
        &mut self,
        objects: impl Iterator<Item = (&'a Arc<str>, &'a Object)>,
        call: &Call,
        selection: &Selection,
    ) {
        let mut last = None;
        let turn = objects_in_a_turn(call, selection);
        for (index, (path, object)) in objects.enumerate() {
            if index % turn == turn - 1 {
                tokio::task::yield_now().await;
            }
            if !selection.is_everything() && !selection.matches(&call.served, path, &object.bytes) {
                continue;
            }
            if self.items.len() == self.limit {
                self.more = true;
                break;
            }
            self.items.push(call.served.bytes(object));
            last = Some(path);
        }
        self.last = last.cloned();
    }
}

/// How many objects are looked at before others have their turn; for less than a millisecond either way.
pub(super) fn objects_in_a_turn(call: &Call, selection: &Selection) -> usize {
    // what is selected by, or shown otherwise than stored, has to be decoded
    if selection.is_everything() && output::is_verbatim(call) { 2048 } else { 32 }
}

/// The path prefix of the namespace, or of everything.
pub(super) fn prefix(call: &Call) -> String {
    if call.namespace.is_empty() { String::new() } else { format!("{}/", call.namespace) }
}

/// Every object a collection delete is about.
pub(super) async fn select(call: &Call, options: &ListOptions) -> Result<Vec<(Arc<str>, Object)>, ApiError> {
    let selection = Selection::parse(&call.served, options, "")?;
    let snapshot = call.server.snapshot();
    let prefix = selection.prefix(&call.served, &call.namespace);
    let objects = selection.candidates(&snapshot, &call.served.collection, &prefix, None);
    let mut objects: Vec<(Arc<str>, Object)> = objects.map(|(path, object)| (path.clone(), object.clone())).collect();
    if selection.is_everything() {
        return Ok(objects);
    }
    let stored = objects.iter().map(|(_, object)| object.bytes.clone()).collect();
    let mut shown = conversion::read(call, stored).await?.into_iter();
    objects.retain(|(path, _)| shown.next().is_some_and(|bytes| selection.matches(&call.served, path, &bytes)));
    Ok(objects)
}

/// The state of the collection at a past revision, where it is still known.
async fn past(call: &Call, revision: u64) -> Result<Option<Arc<Snapshot>>, ApiError> {
    let found = call.server.store.collection_at(&call.served.collection, Revision(revision)).await;
    found.map_err(|error| ApiError::unavailable(error.to_string()))
}

/// Whether a list is of one state and no other: a page of a past state is, also where the client does not say so.
fn is_exact(options: &ListOptions) -> bool {
    match options.version_match {
        Some(matching) => matching == ResourceVersionMatch::Exact,
        None => options.limit.is_some() && options.resource_version.is_some_and(|version| version != 0),
    }
}

/// The snapshot a list reads, and the path it goes on after.
async fn start(call: &Call, options: &ListOptions) -> Result<(Arc<Snapshot>, Option<String>), ApiError> {
    if let Some(token) = &options.continue_token {
        let token = Continue::decode(token)?;
        if options.resource_version.is_some_and(|version| version != 0) {
            return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
        }
        let Ok(revision) = u64::try_from(token.revision) else {
            return Ok((call.server.snapshot(), Some(token.path().to_owned())));
        };
        return match past(call, revision).await? {
            Some(snapshot) => Ok((snapshot, Some(token.path().to_owned()))),
            None => {
                let inconsistent = Continue::after(-1, token.path());
                Err(ApiError::expired(TOO_OLD_TO_CONTINUE).with_continue(inconsistent.encode()))
            }
        };
    }
    let head = call.server.snapshot();
    let current = head.revision().0;
    match (options.resource_version, options.version_match) {
        (Some(asked), _) if asked > current => Err(ApiError::too_large_resource_version(asked, current)),
        (Some(asked), _) if is_exact(options) => {
            let snapshot = match call.server.store.rewound(&call.served.collection, Revision(asked)) {
                Some(snapshot) => Some(snapshot),
                None => past(call, asked).await?,
            };
            let gone = || ApiError::expired("The resourceVersion for the provided list is too old.");
            Ok((snapshot.ok_or_else(gone)?, None))
        }
        _ => Ok((head, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continue_tokens_survive_the_round_trip_and_junk_is_refused() {
        let token = Continue::after(7, "default/a");
        assert_eq!(
            URL_SAFE_NO_PAD.decode(token.encode()).unwrap(),
            br#"{"v":"meta.k8s.io/v1","rv":7,"start":"default/a\u0000"}"#
        );
        let read = Continue::decode(&token.encode()).unwrap();
        assert_eq!((read.path(), &read), ("default/a", &token));
        for (json, why) in [
            (r#"{"v":"v2","rv":7,"start":"a"}"#, "server does not recognize this encoded version v2"),
            (
                r#"{"v":"meta.k8s.io/v1","start":"a"}"#,
                "incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
            ),
            (r#"{"v":"meta.k8s.io/v1","rv":7}"#, "encoded start key empty (version meta.k8s.io/v1)"),
            (r#"{"v":"meta.k8s.io/v1","rv":7,"start":"../a"}"#, "../a"),
        ] {
            assert_eq!(Continue::read(&URL_SAFE_NO_PAD.encode(json)).unwrap_err(), why);
        }
        assert_eq!(Continue::read("###").unwrap_err(), "illegal base64 data at input byte 0");
        assert_eq!(Continue::decode("e30").unwrap_err().code, 400);
    }
}
