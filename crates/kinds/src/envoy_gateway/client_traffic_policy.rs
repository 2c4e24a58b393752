//! How a listener treats its clients.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::PolicyTargets;
use crate::gateway::Reference;

/// Desired state of a `ClientTrafficPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientTrafficPolicySpec {
    /// What it is about.
    #[serde(flatten)]
    pub targets: PolicyTargets,
    /// The rest of it.
    #[serde(flatten)]
    pub clients: ClientTraffic,
}

part!(
    /// How clients are treated.
    ClientTraffic {
        /// How dead connections are found out.
        tcp_keepalive: TcpKeepalive,
        /// The older way to ask for PROXY headers.
        enable_proxy_protocol: bool,
        /// PROXY headers before connections.
        proxy_protocol: ClientProxyProtocol,
        /// How a client's address is known.
        #[serde(rename = "clientIPDetection")]
        client_ip_detection: ClientAddress,
        /// TLS.
        tls: ClientTls,
        /// How paths are made uniform.
        path: ClientPath,
        /// Headers.
        headers: ClientHeaders,
        /// How long things may take.
        timeout: ClientTimeout,
        /// Connections.
        connection: ClientConnection,
        /// HTTP/1.1.
        http1: ClientHttp1,
        /// HTTP/2.
        http2: ClientHttp2,
        /// What asks whether the listener is well.
        health_check: ClientHealthCheck,
    }
);

part!(
    /// How dead connections are found out.
    TcpKeepalive {
        /// Questions without an answer until a connection is dead.
        probes: u32,
        /// How long it is silent before the first.
        idle_time: String,
        /// The time between two.
        interval: String,
    }
);

part!(
    /// PROXY headers before connections.
    ClientProxyProtocol {
        /// Whether connections without one are served too.
        optional: bool,
    }
);

part!(
    /// How a client's address is known.
    ClientAddress {
        /// By `X-Forwarded-For`.
        x_forwarded_for: XForwardedFor,
        /// By another header.
        custom_header: AddressHeader,
        /// By the connection.
        #[serde(rename = "directSourceIP")]
        direct_source_ip: Value,
    }
);

part!(
    /// What of `X-Forwarded-For` is believed.
    XForwardedFor {
        /// So many entries from the right.
        num_trusted_hops: u32,
        /// What proxies with these addresses have added.
        #[serde(rename = "trustedCIDRs")]
        trusted_cidrs: Vec<String>,
        /// Whether the connection's address is left out.
        #[serde(rename = "disableXForwardedForAppend")]
        disable_append: bool,
    }
);

part!(
    /// A header with a client's address.
    AddressHeader {
        /// Its name.
        name: String,
        /// Whether requests without it are refused.
        fail_closed: bool,
    }
);

part!(
    /// TLS towards clients.
    ClientTls {
        /// The lowest version.
        min_version: String,
        /// The highest version.
        max_version: String,
        /// Cipher suites below TLS 1.3, by OpenSSL's names.
        ciphers: Vec<String>,
        /// Groups for the key exchange.
        #[serde(rename = "ecdhCurves")]
        ecdh_curves: Vec<String>,
        /// Signatures.
        signature_algorithms: Vec<String>,
        /// Protocols.
        #[serde(rename = "alpnProtocols")]
        alpn_protocols: Vec<String>,
        /// What is asked of clients.
        client_validation: ClientValidation,
        /// Sessions that go on in another connection.
        session: TlsSession,
    }
);

part!(
    /// What is asked of clients.
    ClientValidation {
        /// Whether clients without a certificate are served; the older way to say it.
        optional: bool,
        /// `Request`, `RequireAny`, `VerifyIfGiven` or `RequireAndVerify`.
        mode: String,
        /// Roots.
        ca_certificate_refs: Vec<Reference>,
        /// Which certificates are taken, by their digests in hexadecimal.
        certificate_hashes: Vec<String>,
        /// Which keys are taken, by their digests in Base64.
        spki_hashes: Vec<String>,
        /// Names of which certificates must have one.
        subject_alt_names: SubjectAltNames,
    }
);

part!(
    /// Names of which certificates must have one.
    SubjectAltNames {
        /// Hostnames.
        dns_names: Vec<StringMatch>,
        /// Addresses of people.
        email_addresses: Vec<StringMatch>,
        /// Addresses of machines.
        ip_addresses: Vec<StringMatch>,
        /// URIs.
        uris: Vec<StringMatch>,
    }
);

part!(
    /// A condition on a text.
    StringMatch {
        /// `Exact`, `Prefix`, `Suffix` or `RegularExpression`.
        r#type: String,
        /// What it is compared with.
        value: String,
    }
);

part!(
    /// Sessions of TLS.
    TlsSession {
        /// How they go on in another connection.
        resumption: TlsResumption,
    }
);

part!(
    /// How sessions go on in another connection.
    TlsResumption {
        /// By what the gateway remembers.
        stateful: Value,
        /// By what the client was given.
        stateless: Value,
    }
);

part!(
    /// How paths are made uniform.
    ClientPath {
        /// What becomes of slashes that are written with a percent sign.
        escaped_slashes_action: String,
        /// Whether neighbouring slashes stay.
        disable_merge_slashes: bool,
    }
);

part!(
    /// Headers of requests and answers.
    ClientHeaders {
        /// Changes of requests before they are routed.
        early_request_headers: ClientHeaderEdits,
        /// Changes of answers when all else is done.
        late_response_headers: ClientHeaderEdits,
        /// Whether headers are added that tell what the gateway did.
        enable_envoy_headers: bool,
        /// What becomes of names with underscores.
        with_underscores_action: String,
        /// What becomes of certificates that proxies tell of.
        x_forwarded_client_cert: XForwardedClientCert,
        /// What becomes of `X-Request-ID`.
        #[serde(rename = "requestID")]
        request_id: String,
        /// The older way to say that it stays.
        #[serde(rename = "preserveXRequestID")]
        preserve_request_id: bool,
        /// Bytes of the longest head.
        max_request_header_limit: Value,
        /// The host.
        host: ClientHost,
    }
);

part!(
    /// Changes of headers.
    ClientHeaderEdits {
        /// Those that get one value in place of all they had.
        set: Vec<HeaderPair>,
        /// Those that get one more value.
        add: Vec<HeaderPair>,
        /// Those that get a value if they have none.
        add_if_absent: Vec<HeaderPair>,
        /// Those that go.
        remove: Vec<String>,
        /// Those that go, by their names.
        remove_on_match: Vec<StringMatch>,
    }
);

part!(
    /// A header and its value.
    HeaderPair {
        /// The name.
        name: String,
        /// The value.
        value: String,
    }
);

part!(
    /// What becomes of certificates that proxies tell of.
    XForwardedClientCert {
        /// `Sanitize`, `ForwardOnly`, `AppendForward`, `SanitizeSet` or `AlwaysForwardOnly`.
        mode: String,
        /// What is told of a client's certificate besides its digest.
        cert_details_to_add: Vec<String>,
    }
);

part!(
    /// The host of requests.
    ClientHost {
        /// Whether a dot at its end goes.
        strip_trailing_host_dot: bool,
    }
);

part!(
    /// How long things may take.
    ClientTimeout {
        /// Connections.
        tcp: ClientTcpTimeout,
        /// Requests.
        http: ClientHttpTimeout,
    }
);

part!(
    /// How long connections may take.
    ClientTcpTimeout {
        /// Silence.
        idle_timeout: String,
        /// Until it is known what is spoken.
        connection_inspection_timeout: String,
        /// A handshake of TLS.
        tls_handshake_timeout: String,
    }
);

part!(
    /// How long requests may take.
    ClientHttpTimeout {
        /// A whole request.
        request_received_timeout: String,
        /// The head of a request.
        request_headers_received_timeout: String,
        /// Time without requests.
        idle_timeout: String,
        /// Time in which nothing happens to a request.
        stream_idle_timeout: String,
    }
);

part!(
    /// Connections.
    ClientConnection {
        /// How many, and for how long.
        connection_limit: ClientConnectionLimit,
        /// Bytes that are held back for a connection.
        buffer_limit: Value,
        /// The same in the kernel.
        socket_buffer_limit: Value,
        /// Connections that are accepted in one go.
        max_accept_per_socket_event: u32,
    }
);

part!(
    /// How many connections there may be, and for how long.
    ClientConnectionLimit {
        /// So many at a time.
        value: u64,
        /// How long those that are too many are kept.
        close_delay: String,
        /// How long each may last.
        max_connection_duration: String,
        /// Requests on each.
        max_requests_per_connection: u32,
        /// How long a request may last.
        max_stream_duration: String,
    }
);

part!(
    /// HTTP/1.1.
    ClientHttp1 {
        /// Whether fields after bodies are passed on.
        enable_trailers: bool,
        /// Whether names of headers are passed on as they were written.
        preserve_header_case: bool,
        /// About HTTP/1.0.
        http10: ClientHttp10,
        /// Whether connections that lasted too long are closed without another request.
        disable_safe_max_connection_duration: bool,
        /// Protocols that nobody switches to.
        ignored_upgrade_types: Vec<StringMatch>,
    }
);

part!(
    /// HTTP/1.0.
    ClientHttp10 {
        /// Whether requests without a host are for the listener's.
        use_default_host: bool,
    }
);

part!(
    /// HTTP/2.
    ClientHttp2 {
        /// Bytes that may be sent ahead on a stream.
        initial_stream_window_size: Value,
        /// The same for all streams of a connection.
        initial_connection_window_size: Value,
        /// Streams at a time.
        max_concurrent_streams: u32,
        /// `TerminateConnection` or `TerminateStream`.
        on_invalid_message: String,
        /// How it is found out that nobody is there any more.
        connection_keepalive: Http2Keepalive,
    }
);

part!(
    /// How it is found out that nobody is there any more.
    Http2Keepalive {
        /// How often.
        interval: String,
        /// How long the answer may take.
        timeout: String,
    }
);

part!(
    /// What asks whether the listener is well.
    ClientHealthCheck {
        /// The path that it asks for.
        path: String,
    }
);
