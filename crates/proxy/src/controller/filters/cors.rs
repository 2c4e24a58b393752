//! CORS.

use std::sync::Arc;

use kinds::gateway::HTTPCorsFilter;

use crate::routing::Cors;

/// Seconds for which browsers keep an answer, unless the filter says otherwise: the API's default.
const MAX_AGE: u32 = 5;

pub(super) fn compile(from: &HTTPCorsFilter) -> Arc<Cors> {
    let age = from.max_age.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(MAX_AGE);
    let cors = Cors::new(&from.allow_origins, &from.allow_methods, &from.allow_headers, &from.expose_headers);
    Arc::new(cors.with_credentials(from.allow_credentials.unwrap_or(false)).with_max_age(age))
}
