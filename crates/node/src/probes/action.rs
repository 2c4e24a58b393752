//! What a probe or a lifecycle hook does: HTTP, TCP, gRPC, a command, or waiting.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Request, header};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::{
    api::core::v1::{Container, GRPCAction, HTTPGetAction, LifecycleHandler, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use runtime::RuntimeError;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::Target;

/// Bytes of an answer that are read, as upstream.
const ANSWER_BYTES_MAX: usize = 10 << 10;
/// The longest command output shown in an event.
const OUTPUT_SHOWN_BYTES: usize = 1024;
/// How long a hook's HTTP request or command may take; the pod's grace period cuts it earlier.
const HOOK_TIMEOUT: Duration = Duration::from_secs(600);

/// Why a lifecycle hook failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct HookError(pub(crate) String);

/// Runs a probe once; the error is the text after `Liveness probe failed: `.
pub(super) async fn probe(target: &Target, probe: &Probe, timeout: Duration) -> Result<(), String> {
    if let Some(action) = &probe.exec {
        return exec(target, action.command.clone().unwrap_or_default(), timeout).await;
    }
    let attempt = async {
        if let Some(action) = &probe.http_get {
            http_get(target, action).await
        } else if let Some(action) = &probe.tcp_socket {
            let address = address(target, action.host.as_deref(), port(&target.container, &action.port)?).await?;
            connect(address).await.map(drop)
        } else if let Some(action) = &probe.grpc {
            grpc(target, action).await
        } else {
            Ok(())
        }
    };
    match tokio::time::timeout(timeout, attempt).await {
        Ok(result) => result,
        Err(_elapsed) => Err("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned()),
    }
}

/// Runs a postStart or preStop handler to its end.
pub(crate) async fn run_handler(target: &Target, handler: &LifecycleHandler) -> Result<(), HookError> {
    let outcome = if let Some(action) = &handler.exec {
        exec(target, action.command.clone().unwrap_or_default(), HOOK_TIMEOUT).await
    } else if let Some(action) = &handler.http_get {
        match tokio::time::timeout(HOOK_TIMEOUT, http_get(target, action)).await {
            Ok(result) => result,
            Err(_elapsed) => Err("hook timed out".to_owned()),
        }
    } else if let Some(action) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(action.seconds).unwrap_or_default())).await;
        Ok(())
    } else {
        Ok(())
    };
    outcome.map_err(HookError)
}

async fn exec(target: &Target, command: Vec<String>, timeout: Duration) -> Result<(), String> {
    let shown = command.join(" ");
    match target.runtime.exec_sync(&target.id, command, timeout).await {
        Ok(output) if output.exit_code == 0 => Ok(()),
        Ok(output) => {
            let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.push_str(&String::from_utf8_lossy(&output.stderr));
            text.truncate(text.floor_char_boundary(OUTPUT_SHOWN_BYTES));
            if text.trim().is_empty() {
                let _infallible = write!(text, "command {shown:?} exited with {}", output.exit_code);
            }
            Err(text)
        }
        Err(RuntimeError::ExecTimeout(after)) => Err(format!("command {shown:?} timed out after {}s", after.as_secs())),
        Err(error) => Err(error.to_string()),
    }
}

/// The number a probe's port means, by number or by the name of one of the container's ports.
pub(super) fn port(container: &Container, wanted: &IntOrString) -> Result<u16, String> {
    let number = match wanted {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
            .or_else(|| name.parse().ok()),
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number != 0)
        .ok_or_else(|| format!("couldn't find port {wanted:?} in container {:?}", container.name))
}

async fn address(target: &Target, host: Option<&str>, port: u16) -> Result<SocketAddr, String> {
    let host = host.filter(|host| !host.is_empty()).unwrap_or(&target.ip);
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    let mut found = tokio::net::lookup_host((host, port)).await.map_err(|error| format!("lookup {host}: {error}"))?;
    found.next().ok_or_else(|| format!("lookup {host}: no such host"))
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| {
        let text = match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
            _ => error.to_string(),
        };
        format!("dial tcp {address}: connect: {text}")
    })
}

async fn http_get(target: &Target, action: &HTTPGetAction) -> Result<(), String> {
    let port = port(&target.container, &action.port)?;
    let address = address(target, action.host.as_deref(), port).await?;
    let path = action.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let secure = action.scheme.as_deref() == Some("HTTPS");
    let url = format!("{}://{address}{path}", if secure { "https" } else { "http" });
    let get = |error: &dyn std::fmt::Display| format!("Get \"{url}\": {error}");
    let mut request = Request::get(path.as_str()).body(Empty::<Bytes>::new()).map_err(|error| get(&error))?;
    let headers = request.headers_mut();
    headers.insert(header::USER_AGENT, HeaderValue::from_static("kube-probe/1.36"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.insert(header::HOST, HeaderValue::from_str(&address.to_string()).map_err(|error| get(&error))?);
    for own in action.http_headers.iter().flatten() {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(&own.name), HeaderValue::try_from(&own.value)) {
            headers.insert(name, value);
        }
    }
    let socket = connect(address).await.map_err(|error| get(&error))?;
    let status = if secure {
        let tls = tls::connect(socket, address.ip()).await.map_err(|error| get(&error))?;
        exchange(tls, request).await
    } else {
        exchange(socket, request).await
    };
    let status = status.map_err(|error| get(&error))?;
    // Redirects count as success, as upstream counts those it does not follow.
    if (200..400).contains(&status) { Ok(()) } else { Err(format!("HTTP probe failed with statuscode: {status}")) }
}

async fn exchange<T>(io: T, request: Request<Empty<Bytes>>) -> Result<u16, hyper::Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
    let answer = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status().as_u16();
        // Reading the body lets the server end the exchange in order; how it ends is not the probe's concern.
        let _unread_rest = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok(status)
    };
    tokio::pin!(connection, answer);
    tokio::select! {
        result = &mut answer => result,
        ended = &mut connection => {
            ended?;
            answer.await
        }
    }
}

/// Asks the gRPC health service; the messages are small enough to be written by hand.
async fn grpc(target: &Target, action: &GRPCAction) -> Result<(), String> {
    let port = u16::try_from(action.port).map_err(|_| format!("invalid port {}", action.port))?;
    let address = address(target, None, port).await?;
    let failed = |error: &dyn std::fmt::Display| format!("error: health rpc probe failed: {error}");
    let service = action.service.as_deref().unwrap_or_default().as_bytes();
    let mut body = BytesMut::new();
    let message_length = if service.is_empty() { 0 } else { service.len() + 2 };
    body.put_u8(0);
    body.put_u32(message_length as u32);
    if !service.is_empty() {
        // Field 1, length-delimited; a service name of 128 bytes or more is not a valid Kubernetes value.
        body.put_u8(0x0a);
        body.put_u8(service.len().min(127) as u8);
        body.put_slice(&service[..service.len().min(127)]);
    }
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "kube-probe/1.36")
        .body(Full::new(body.freeze()))
        .map_err(|error| failed(&error))?;
    let socket = connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
        .await
        .map_err(|error| failed(&error))?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|error| failed(&error))?;
        let read = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        read.map(|body| body.to_bytes()).map_err(|error| failed(&error))
    };
    tokio::pin!(connection, answer);
    let body = tokio::select! {
        result = &mut answer => result?,
        ended = &mut connection => return Err(failed(&ended.err().map_or("connection closed".to_owned(), |e| e.to_string()))),
    };
    // A frame header of five bytes, then field 1 as a varint: 1 is SERVING.
    match body.get(5..7) {
        Some([0x08, 1]) => Ok(()),
        Some([0x08, status]) => Err(format!("service unhealthy (responded with status {status})")),
        _ => Err("service unhealthy (responded with \"UNKNOWN\")".to_owned()),
    }
}

/// TLS without looking at the certificate: a probe asks whether the server answers, not who it is (as upstream).
mod tls {
    use std::{net::IpAddr, sync::Arc};

    use tokio::net::TcpStream;
    use tokio_rustls::{
        TlsConnector,
        client::TlsStream,
        rustls::{
            ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
            client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
            crypto::{CryptoProvider, ring},
            pki_types::{CertificateDer, ServerName, UnixTime},
        },
    };

    #[derive(Debug)]
    struct AnyCertificate(Arc<CryptoProvider>);

    impl ServerCertVerifier for AnyCertificate {
        fn verify_server_cert(
            &self,
            _end_entity: &CertificateDer<'_>,
            _intermediates: &[CertificateDer<'_>],
            _server_name: &ServerName<'_>,
            _ocsp_response: &[u8],
            _now: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _cert: &CertificateDer<'_>,
            _signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _message: &[u8],
            _cert: &CertificateDer<'_>,
            _signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }

    pub(super) async fn connect(socket: TcpStream, ip: IpAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(std::io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        TlsConnector::from(Arc::new(config)).connect(ServerName::IpAddress(ip.into()), socket).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_resolve_by_number_and_name() {
        let container: Container = serde_json::from_value(serde_json::json!(
            {"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}
        ))
        .unwrap();
        assert_eq!(port(&container, &IntOrString::Int(80)), Ok(80));
        assert_eq!(port(&container, &IntOrString::String("http".into())), Ok(8080));
        for wrong in [IntOrString::Int(0), IntOrString::Int(70_000), IntOrString::String("none".into())] {
            assert!(port(&container, &wrong).is_err());
        }
    }
}
