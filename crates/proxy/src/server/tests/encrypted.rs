//! TLS: passed through, ended for bytes, asked of clients, and towards backends.

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::{RootCertStore, pki_types::CertificateDer, version::TLS13};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use super::{protocols::repeating, *};
use crate::routing::{
    CertificateDetail, Identity, Kept, ListenerConfig, Owner, Rank, Security, StreamRule, TextMatch, ToldCertificates,
    Wire,
};

/// Someone who vouches for certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Authority {
    fn new() -> Authority {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = parameters.self_signed(&key).unwrap().der().clone();
        Authority { issuer: Issuer::new(parameters, key), root }
    }

    /// A certificate for these hostnames and this URI.
    fn issue(&self, hosts: &[&str], uri: Option<&str>) -> Certificate {
        let mut parameters = CertificateParams::new(hosts.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>()).unwrap();
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        parameters.subject_alt_names.extend(uri.map(|uri| SanType::URI(uri.try_into().unwrap())));
        let key = KeyPair::generate().unwrap();
        let made = parameters.signed_by(&key, &self.issuer).unwrap();
        certificate(made.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap()
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        roots
    }

    /// A client that knows this authority, and shows a certificate where it has one.
    async fn connect(
        &self,
        address: SocketAddr,
        host: &'static str,
        own: Option<&Certificate>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_root_certificates(self.roots()).with_no_client_auth();
        if let Some(own) = own {
            let own = rustls::sign::SingleCertAndKey::from(Arc::clone(own));
            config.client_auth_cert_resolver = Arc::new(own);
        }
        let stream = TcpStream::connect(address).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(host).unwrap(), stream).await
    }
}

async fn request(stream: TlsStream<TcpStream>, host: &str) -> Result<Answer, hyper::Error> {
    let request = Request::get("/").header("host", host).body(Full::<Bytes>::default()).unwrap();
    Client::over(stream).await.send(request).await
}

/// A backend that ends TLS itself; says whether the client showed a certificate.
async fn encrypted(certificate: &Certificate, clients: Clients) -> Upstream {
    let config = termination(vec![Arc::clone(certificate)], &clients, false).unwrap();
    accepting(move |stream| {
        let acceptor = TlsAcceptor::from(Arc::clone(&config));
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let known = stream.get_ref().1.peer_certificates().is_some();
            let asked = stream.get_ref().1.server_name().unwrap_or("").to_owned();
            let service = hyper::service::service_fn(move |_: Request<Incoming>| {
                let text = format!("{asked} {known}");
                async move { Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from(text))) }
            });
            let connection = hyper::server::conn::http1::Builder::new();
            let _ = connection.serve_connection(TokioIo::new(stream), service).await;
        }
    })
    .await
}

#[tokio::test]
async fn server_name_decides_between_passing_through_ending_and_http() {
    let authority = Authority::new();
    let behind = authority.issue(&["pass.test"], None);
    let passed = encrypted(&behind, Clients::Anybody).await;
    let bytes = repeating("raw").await;
    let web = named("web").await;
    let ended =
        |host: &str, http: bool| termination(vec![authority.issue(&[host], None)], &Clients::Anybody, http).unwrap();
    let mut table = listening(
        Protocol::Tls,
        vec![
            config(Some("pass.test"), Mode::Passthrough),
            config(Some("end.test"), Mode::Stream(Some(ended("end.test", false)))),
            config(Some("*.web.test"), Mode::Http(Some(ended("a.web.test", true)))),
        ],
    );
    for (host, address) in [("pass.test", passed.address), ("end.test", bytes.address)] {
        let owner = Owner { kind: "TLSRoute", name: host.into() };
        let rule = StreamRule::new(owner, vec![share(&backend(&[address]), 1)]);
        table.insert_stream(&spot(Some(host)), Rank::default(), Arc::new(rule));
    }
    insert(&mut table, Some("*.web.test"), "/", forward(vec![share(&backend(&[web.address]), 1)]));
    let gateway = Gateway::start(table).await;
    let stream = authority.connect(gateway.address, "pass.test", None).await.unwrap();
    assert_eq!(request(stream, "pass.test").await.unwrap().body, "pass.test false", "the backend ended it");
    let mut stream = authority.connect(gateway.address, "end.test", None).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut heard = [0; 8];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"rawhello");
    let stream = authority.connect(gateway.address, "a.web.test", None).await.unwrap();
    assert_eq!(request(stream, "a.web.test").await.unwrap().body, "web");
    let stream = authority.connect(gateway.address, "a.web.test", None).await.unwrap();
    assert_eq!(request(stream, "end.test").await.unwrap().status, StatusCode::MISDIRECTED_REQUEST);
    authority.connect(gateway.address, "other.test", None).await.unwrap_err();
}

#[tokio::test]
async fn clients_show_the_certificates_that_are_asked_for() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let upstream = named("in").await;
    let (known, unknown) = (authority.issue(&["client"], None), stranger.issue(&["client"], None));
    let verified = Clients::Verified(Arc::new(authority.roots()));
    for (clients, with_known, with_unknown, without) in
        [(verified, true, false, false), (Clients::Asked, true, true, true), (Clients::Anybody, true, true, true)]
    {
        let mode = termination(vec![authority.issue(&["web.test"], None)], &clients, true).unwrap();
        let mut table = listening(Protocol::Tls, vec![config(None, Mode::Http(Some(mode)))]);
        insert(&mut table, None, "/", forward(vec![share(&backend(&[upstream.address]), 1)]));
        let gateway = Gateway::start(table).await;
        for (own, expected) in [(Some(&known), with_known), (Some(&unknown), with_unknown), (None, without)] {
            // With TLS 1.3 a client learns that it was refused only when it reads.
            let served = match authority.connect(gateway.address, "web.test", own).await {
                Ok(stream) => request(stream, "web.test").await.is_ok_and(|answer| answer.body == "in"),
                Err(_) => false,
            };
            assert_eq!(served, expected, "{clients:?}");
        }
    }
}

#[tokio::test]
async fn a_policy_says_how_tls_is_spoken_and_what_is_told_of_clients() {
    let authority = Authority::new();
    let upstream = echo().await;
    let (known, other) = (authority.issue(&["a.client"], Some("spiffe://td/a")), authority.issue(&["b.client"], None));
    let terms = Terms {
        versions: Some(vec![&TLS13]),
        protocols: Some(vec![b"http/1.1".to_vec()]),
        clients: Some(Clients::Optional(Arc::new(authority.roots()))),
        demands: Demands { hosts: vec![TextMatch::Prefix("a.".into())], ..Demands::default() },
        ..Terms::default()
    };
    let own = vec![authority.issue(&["web.test"], None)];
    let mode = Mode::Http(Some(termination_by(own, &Clients::Anybody, true, &terms).unwrap()));
    let certificates = ToldCertificates {
        kept: Kept::Known,
        told: true,
        details: vec![CertificateDetail::Uris, CertificateDetail::Hosts],
    };
    let client = Some(Arc::new(crate::routing::Client { certificates, ..Default::default() }));
    let mut table = listening(Protocol::Tls, vec![ListenerConfig { client, ..config(None, mode) }]);
    insert(&mut table, None, "/", forward(vec![share(&backend(&[upstream.address]), 1)]));
    let gateway = Gateway::start(table).await;
    let ask = async |own: Option<&Certificate>| {
        let stream = authority.connect(gateway.address, "web.test", own).await?;
        assert_eq!(stream.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        let request = Request::get("/").header("host", "web.test").header("x-forwarded-client-cert", "By=proxy");
        let answer = Client::over(stream).await.send(request.body(Full::default()).unwrap()).await;
        answer.map(|answer| answer.body).map_err(std::io::Error::other)
    };
    let told = ask(Some(&known)).await.unwrap();
    let line = told.lines().find_map(|line| line.strip_prefix("x-forwarded-client-cert: ")).unwrap();
    assert!(line.starts_with("By=proxy,Hash=") && line.contains(";URI=spiffe://td/a;DNS=a.client"), "{line}");
    assert!(!ask(None).await.unwrap().contains("x-forwarded-client-cert"), "who shows none tells of none");
    ask(Some(&other)).await.expect_err("a certificate without the name");
}

#[tokio::test]
async fn backends_are_verified_by_the_names_that_are_expected() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let spiffe = "spiffe://shop/web";
    let upstream = encrypted(&authority.issue(&["web.test"], Some(spiffe)), Clients::Anybody).await;
    let host = |name: &'static str| Expected::Host(ServerName::try_from(name).unwrap());
    for (roots, asked, expected, served) in [
        (&authority, "web.test", vec![], true),
        (&authority, "other.test", vec![], false),
        (&stranger, "web.test", vec![], false),
        (&authority, "other.test", vec![host("web.test")], true),
        (&authority, "web.test", vec![host("other.test")], false),
        (&authority, "other.test", vec![Expected::Uri(spiffe.into())], true),
        (&authority, "web.test", vec![Expected::Uri("spiffe://shop/api".into())], false),
        (&authority, "web.test", vec![host("other.test"), Expected::Uri(spiffe.into())], true),
    ] {
        let target = backend(&[upstream.address]);
        let config = verification(roots.roots(), expected.clone()).unwrap();
        target.set_wire(Wire::new(false, Security::Tls { name: ServerName::try_from(asked).unwrap(), config }));
        let gateway = Gateway::start(table(forward(vec![share(&target, 1)]))).await;
        let answer = gateway.get("/").await;
        let told = format!("{asked} false");
        assert_eq!(answer.body == told, served, "{asked} {expected:?}: {answer:?}");
        assert_eq!(answer.status == StatusCode::BAD_GATEWAY, !served, "{answer:?}");
    }
    let broken = backend(&[upstream.address]);
    broken.set_wire(Wire::new(false, Security::Broken));
    let gateway = Gateway::start(table(forward(vec![share(&broken, 1)]))).await;
    assert_eq!(gateway.get("/").await.status, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn gateway_shows_its_own_certificate_to_backends() {
    let authority = Authority::new();
    let clients = Clients::Verified(Arc::new(authority.roots()));
    let upstream = encrypted(&authority.issue(&["web.test"], None), clients).await;
    let target = backend(&[upstream.address]);
    let verification = verification(authority.roots(), Vec::new()).unwrap();
    let name = ServerName::try_from("web.test").unwrap();
    target.set_wire(Wire::new(false, Security::Tls { name, config: verification }));
    let own = Identity { id: 1, key: authority.issue(&["gateway"], None) };
    for (identity, expected) in [(None, StatusCode::BAD_GATEWAY), (Some(Arc::new(own)), StatusCode::OK)] {
        let listener = ListenerConfig { identity, ..config(None, Mode::Http(None)) };
        let mut table = listening(Protocol::Http, vec![listener]);
        insert(&mut table, None, "/", forward(vec![share(&target, 1)]));
        let gateway = Gateway::start(table).await;
        assert_eq!(gateway.get("/").await.status, expected);
    }
}

#[tokio::test]
async fn ended_bytes_are_encrypted_again_for_a_backend_that_wants_it() {
    let authority = Authority::new();
    let upstream = encrypted(&authority.issue(&["inner.test"], None), Clients::Anybody).await;
    let target = backend(&[upstream.address]);
    let config = verification(authority.roots(), Vec::new()).unwrap();
    let name = ServerName::try_from("inner.test").unwrap();
    target.set_wire(Wire::new(false, Security::Tls { name, config }));
    let mode = termination(vec![authority.issue(&["outer.test"], None)], &Clients::Anybody, false).unwrap();
    let mut table = listening(Protocol::Tls, vec![harness::config(None, Mode::Stream(Some(mode)))]);
    let owner = Owner { kind: "TLSRoute", name: "ns/route".into() };
    let rule = StreamRule::new(owner, vec![share(&target, 1)]);
    table.insert_stream(&spot(None), Rank::default(), Arc::new(rule));
    let gateway = Gateway::start(table).await;
    let stream = authority.connect(gateway.address, "outer.test", None).await.unwrap();
    assert_eq!(request(stream, "outer.test").await.unwrap().body, "inner.test false");
}

#[tokio::test]
async fn encrypted_calls_agree_on_http_2_with_the_backend() {
    let authority = Authority::new();
    let mut config = rustls::ServerConfig::clone(
        &termination(vec![authority.issue(&["web.test"], None)], &Clients::Anybody, true).unwrap(),
    );
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (listener, config) = (TcpListener::bind((LOCAL, 0)).await.unwrap(), Arc::new(config));
    let target = backend(&[listener.local_addr().unwrap()]);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = TlsAcceptor::from(config).accept(stream).await.unwrap();
        let service = hyper::service::service_fn(|request: Request<Incoming>| async move {
            let text = format!("{:?} {}", request.version(), request.uri());
            Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from(text)))
        });
        let builder = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    });
    let verification = verification(authority.roots(), Vec::new()).unwrap();
    let name = ServerName::try_from("web.test").unwrap();
    target.set_wire(Wire::new(false, Security::Tls { name, config: verification }));
    let http2 = crate::routing::Target::Service { backend: target, http2: true };
    let share = crate::routing::Share { target: http2, ..share(&backend(&[]), 1) };
    let gateway = Gateway::start(table(forward(vec![share]))).await;
    let mut client = gateway.connect().await;
    for _ in 0..2 {
        assert_eq!(client.get("/call").await.body, "HTTP/2.0 https://h/call");
    }
}
