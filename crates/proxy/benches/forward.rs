//! Requests per second through the gateway, straight to the backend, and through nginx where it is installed.
//!
//! `cargo bench -p proxy`. All run one after the other on the same machine, against the same backend.

use std::{
    convert::Infallible,
    error::Error,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use proxy::{
    routing::{
        Action, Backend, Entry, ListenerConfig, Mode, Owner, Place, Protocol, Rank, RequestMatch, RouteTable, Rule,
        Share, Site, Spot, Transport,
    },
    server::{Server, ServerConfig, Sockets},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Builder,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

const CONNECTIONS: usize = 32;
const RUN: Duration = Duration::from_secs(4);
const BODY: &str = "hello world\n";
/// The table's port; the real one is the kernel's choice.
const PORT: u16 = 80;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome<()> {
    // Two threads each, as nginx has two workers: sharing them would halve the processor time of one side.
    let (backends, gateways) = (two_threads()?, two_threads()?);
    let (mut backend_tasks, mut gateway_tasks) = (JoinSet::new(), JoinSet::new());
    let backend = backends.block_on(start_backend(&mut backend_tasks))?;
    let gateway = gateways.block_on(start_gateway(backend, &mut gateway_tasks))?;
    let nginx = Nginx::start(backend)?;
    let load = Builder::new_current_thread().enable_all().build()?;
    // Twice, because the first run of each also warms up.
    for _ in 0..2 {
        println!("backend alone    {:>8.0} requests/s", load.block_on(measure(backend))?);
        println!("through keelson  {:>8.0} requests/s", load.block_on(measure(gateway))?);
        match &nginx {
            Some(nginx) => println!("through nginx    {:>8.0} requests/s", load.block_on(measure(nginx.address))?),
            None => println!("through nginx    not measured: nginx is not installed"),
        }
    }
    Ok(())
}

fn two_threads() -> std::io::Result<tokio::runtime::Runtime> {
    Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

async fn start_backend(tasks: &mut JoinSet<()>) -> Outcome<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tasks.spawn(serve(listener));
    Ok(address)
}

/// A gateway that sends everything to `address`.
async fn start_gateway(address: SocketAddr, tasks: &mut JoinSet<()>) -> Outcome<SocketAddr> {
    let backend = Backend::new("backend");
    backend.set_endpoints(vec![address]);
    let owner = Owner { kind: "HTTPRoute", name: "bench/route".into() };
    let rule = Rule::new(owner, Action::Forward(vec![Share::new(backend, 1)]));
    let site = Site { place: Place::Shared, port: PORT, transport: Transport::Tcp };
    let mut table = RouteTable::default();
    let listener = ListenerConfig::new(None, Mode::Http(None));
    table.listen(site, Protocol::Http, vec![listener]);
    let entry = Entry::new(RequestMatch::prefix("/"), Rank::default(), Arc::new(rule));
    table.insert(&Spot { site, listener: None, host: None }, Arc::new(entry));
    let server = Server::new(ServerConfig {
        addresses: vec![Ipv4Addr::LOCALHOST.into()],
        ephemeral: true,
        sockets: Sockets::default(),
        threads: 2,
    });
    server.install(table);
    let mut bindings = server.bindings();
    tasks.spawn(async move { server.run(CancellationToken::new()).await });
    let bound = bindings.wait_for(|b| !b.is_empty()).await?.values().next().cloned();
    Ok(bound.ok_or("nothing is bound")?.map_err(|error| error.to_string())?)
}

async fn serve(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(async move {
            let answer =
                service_fn(|_: Request<Incoming>| async { Ok::<_, Infallible>(Response::new(BODY.to_owned())) });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

/// Requests per second over kept connections.
async fn measure(address: SocketAddr) -> Outcome<f64> {
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        clients.spawn(async move {
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (mut count, mut answer) = (0u64, Vec::new());
            while start.elapsed() < RUN {
                stream.write_all(b"GET / HTTP/1.1\r\nhost: bench.test\r\n\r\n").await?;
                answer.clear();
                while !answer.ends_with(BODY.as_bytes()) {
                    if stream.read_buf(&mut answer).await? == 0 {
                        return Err("the connection was closed".into());
                    }
                }
                count += 1;
            }
            Outcome::Ok(count)
        });
    }
    let mut requests = 0;
    for count in clients.join_all().await {
        requests += count?;
    }
    Ok(requests as f64 / start.elapsed().as_secs_f64())
}

/// nginx as a proxy that does the same work; ends with this value.
struct Nginx {
    process: Child,
    address: SocketAddr,
    directory: std::path::PathBuf,
}

impl Nginx {
    /// `None` when there is no nginx.
    fn start(backend: SocketAddr) -> Outcome<Option<Nginx>> {
        let directory = std::env::temp_dir().join(format!("gateway-bench-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        let address = StdListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let at = directory.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("{name}_temp_path {at}/{name};\n"))
            .collect();
        let configuration = format!(
            "daemon off; worker_processes 2; pid {at}/pid; error_log {at}/log;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; keepalive_requests 100000000; {temporary}\
             upstream backend {{ server {backend}; keepalive 64; keepalive_requests 100000000; }}\n\
             server {{ listen {address}; location / {{ proxy_pass http://backend; proxy_http_version 1.1;\n\
             proxy_set_header Connection \"\"; proxy_set_header Host $host;\n\
             proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
             proxy_set_header X-Forwarded-Host $host; proxy_set_header X-Forwarded-Proto $scheme;\n\
             proxy_set_header X-Request-Id $request_id; }} }} }}"
        );
        let path = directory.join("nginx.conf");
        fs::write(&path, configuration)?;
        let spawned =
            Command::new("nginx").arg("-p").arg(&directory).arg("-c").arg(&path).stderr(Stdio::null()).spawn();
        let Ok(process) = spawned else {
            fs::remove_dir_all(&directory)?;
            return Ok(None);
        };
        let nginx = Nginx { process, address, directory };
        let deadline = Instant::now() + Duration::from_secs(5);
        while std::net::TcpStream::connect(address).is_err() {
            if Instant::now() > deadline {
                return Err("nginx does not listen".into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Some(nginx))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers notice by themselves that the master is asked to end.
        let ended = Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status();
        let ended = ended.and_then(|_| self.process.wait());
        if let Err(error) = ended.and_then(|_| fs::remove_dir_all(&self.directory)) {
            eprintln!("cannot clean up after nginx: {error}");
        }
    }
}
