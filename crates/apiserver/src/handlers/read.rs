//! Reading one object.

use http::{Response, StatusCode};

use crate::{
    body::Body,
    conversion,
    dispatch::Call,
    options::{ListOptions, Query},
    output::{self, Payload},
    status::ApiError,
};

/// Answers a GET of an object, or of its status.
pub(super) async fn get(call: &Call) -> Result<Response<Body>, ApiError> {
    let snapshot = call.server.snapshot();
    if let Some(query) = call.parts.uri.query().filter(|query| query.contains("export")) {
        let export = Query::parse(Some(query)).get("export").is_some_and(|value| value != "0" && value != "false");
        if export {
            return Err(ApiError::bad_request("the export parameter, deprecated since v1.14, is no longer supported"));
        }
    }
    if let Some(query) = call.parts.uri.query().filter(|query| query.contains("resourceVersion")) {
        let options = ListOptions::parse(&Query::parse(Some(query)))?;
        let current = snapshot.revision().0;
        if let Some(asked) = options.resource_version.filter(|asked| *asked > current) {
            return Err(ApiError::too_large_resource_version(asked, current));
        }
    }
    match snapshot.get(&call.served.collection, &call.path()) {
        Some(object) => {
            let bytes = conversion::read_one(call, call.served.bytes(object)).await?;
            output::object(call, Payload::Stored(bytes), StatusCode::OK)
        }
        None => Err(ApiError::not_found(call.group_resource(), &call.name)),
    }
}
