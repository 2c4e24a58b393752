//! How endpoints are asked whether they are well.

part!(
    /// How endpoints are asked whether they are well.
    ActiveHealthCheck {
        /// `HTTP`, `TCP` or `GRPC`.
        r#type: String,
        /// How long the answer may take.
        timeout: String,
        /// The time between two questions.
        interval: String,
        /// The longest time until the first.
        initial_jitter: String,
        /// Failures in a row until one is not well.
        unhealthy_threshold: u32,
        /// Successes in a row until it is.
        healthy_threshold: u32,
        /// By requests.
        http: HttpHealthCheck,
        /// By bytes.
        tcp: TcpHealthCheck,
        /// By calls.
        grpc: GrpcHealthCheck,
        /// What is different from where requests go.
        overrides: HealthCheckOverrides,
    }
);

part!(
    /// A request that endpoints answer if they are well.
    HttpHealthCheck {
        /// The host.
        hostname: String,
        /// The path.
        path: String,
        /// The method.
        method: String,
        /// Statuses of who is well.
        expected_statuses: Vec<u16>,
        /// Statuses that count as a failure among others.
        retriable_statuses: Vec<u16>,
        /// What is in the answer of who is well.
        expected_response: HealthCheckPayload,
    }
);

part!(
    /// Bytes that endpoints answer if they are well.
    TcpHealthCheck {
        /// What is sent.
        send: HealthCheckPayload,
        /// What comes.
        receive: HealthCheckPayload,
    }
);

part!(
    /// A call that endpoints answer if they are well.
    GrpcHealthCheck {
        /// About which service.
        service: String,
    }
);

part!(
    /// Text or bytes.
    HealthCheckPayload {
        /// `Text` or `Binary`.
        r#type: String,
        /// Text.
        text: String,
        /// Bytes, in Base64.
        binary: String,
    }
);

part!(
    /// What is different from where requests go.
    HealthCheckOverrides {
        /// The port.
        port: u16,
    }
);
