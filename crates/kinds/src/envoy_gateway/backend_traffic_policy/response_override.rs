//! Answers in place of others.

part!(
    /// Answers in place of others.
    ResponseOverride {
        /// `All`, `Local` or `Backend`.
        source: String,
        /// Which ones.
        r#match: ResponseMatch,
        /// What is sent instead.
        response: CustomResponse,
        /// Where the client is sent instead.
        redirect: ResponseRedirect,
    }
);

part!(
    /// Which answers are replaced.
    ResponseMatch {
        /// Those with one of these statuses.
        status_codes: Vec<StatusCodeMatch>,
        /// Those with all of these headers.
        response_headers: Vec<ResponseHeaderMatch>,
    }
);

part!(
    /// Statuses.
    StatusCodeMatch {
        /// `Value` or `Range`.
        r#type: String,
        /// One.
        value: u16,
        /// Several.
        range: StatusCodeRange,
    }
);

part!(
    /// Statuses from one to another.
    StatusCodeRange {
        /// The first.
        start: u16,
        /// The last.
        end: u16,
    }
);

part!(
    /// A header of an answer.
    ResponseHeaderMatch {
        /// Its name.
        name: String,
        /// Its value.
        value: crate::envoy_gateway::StringMatch,
    }
);

part!(
    /// What is sent instead of an answer.
    CustomResponse {
        /// The type of the body.
        content_type: String,
        /// The body.
        body: CustomResponseBody,
        /// The status.
        status_code: u16,
        /// Changes of the headers.
        header: crate::envoy_gateway::ClientHeaderEdits,
    }
);

part!(
    /// A body.
    CustomResponseBody {
        /// `Inline` or `ValueRef`.
        r#type: String,
        /// The body itself.
        inline: String,
        /// A ConfigMap that has it.
        value_ref: ValueReference,
    }
);

part!(
    /// An object of the policy's namespace.
    ValueReference {
        /// API group.
        group: String,
        /// Kind.
        kind: String,
        /// Name.
        name: String,
    }
);

part!(
    /// Where the client is sent instead.
    ResponseRedirect {
        /// The scheme.
        scheme: String,
        /// The host.
        hostname: String,
        /// The path.
        path: RedirectPath,
        /// The port.
        port: u16,
        /// The status.
        status_code: u16,
    }
);

part!(
    /// The path where a client is sent.
    RedirectPath {
        /// `ReplaceFullPath`.
        r#type: String,
        /// All of it.
        replace_full_path: String,
    }
);
