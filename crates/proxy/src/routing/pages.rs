//! Pages in place of errors, by a backend that is asked for them.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode};

use super::backend::Backend;

/// Who has pages for which errors.
#[derive(Clone, Debug)]
pub struct ErrorPages {
    /// The errors, the gateway's own and those of backends.
    pub statuses: Vec<StatusCode>,
    /// Whether also requests go there for which there is no endpoint.
    pub vacant: bool,
    /// Who has the pages.
    pub backend: Arc<Backend>,
    /// What it is told about where the error is from.
    pub about: Vec<(HeaderName, HeaderValue)>,
}

impl ErrorPages {
    /// Whether an error has a page.
    pub fn takes(&self, status: StatusCode) -> bool {
        self.statuses.contains(&status)
    }
}
