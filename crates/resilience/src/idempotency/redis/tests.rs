use std::{
    collections::HashMap,
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::{
    io::{DuplexStream, duplex},
    net::UnixStream,
    task::JoinSet,
    time::Instant,
};
use tower::{ServiceBuilder, ServiceExt as _};

use super::*;
use crate::{
    idempotency::{
        Buffered, ByAuthorization, IdempotencyConfig, IdempotencyLayer,
        store::contract::{self, LEASE, answer, begin, claim, holds, id, keep, print},
    },
    moment::now,
    retry::IDEMPOTENCY_KEY,
};

/// Values by key, and when their time is over.
type Values = HashMap<Vec<u8>, (Vec<u8>, Instant)>;

/// A server that knows what a store asks.
#[derive(Clone, Default)]
struct Fake {
    values: Arc<Mutex<Values>>,
    tasks: Arc<Mutex<JoinSet<()>>>,
    seen: Arc<Mutex<Vec<String>>>,
    /// Connections that end after the next command, before its reply.
    ending: Arc<Mutex<usize>>,
}

impl Fake {
    fn dial(&self) -> Dial {
        let fake = self.clone();
        Arc::new(move || {
            let (ours, theirs) = duplex(1 << 16);
            fake.tasks.lock().spawn(fake.clone().serve(theirs));
            Box::pin(async move { Ok(Box::new(ours) as Box<dyn Stream>) })
        })
    }

    async fn serve(self, mut stream: DuplexStream) {
        let mut bytes = Vec::new();
        loop {
            while let Some((command, length)) = command(&bytes) {
                bytes.drain(..length);
                let reply = self.answer(&command);
                if std::mem::take(&mut *self.ending.lock()) > 0 {
                    return;
                }
                stream.write_all(&reply).await.unwrap();
            }
            if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
                return;
            }
        }
    }

    fn answer(&self, command: &[Vec<u8>]) -> Vec<u8> {
        let name = String::from_utf8_lossy(&command[0]).into_owned();
        self.seen.lock().push(name.clone());
        let mut values = self.values.lock();
        values.retain(|_, (_, until)| *until > Instant::now());
        let number = |word: &[u8]| std::str::from_utf8(word).unwrap().parse().unwrap();
        let until = |word: &[u8]| Instant::now() + Duration::from_millis(number(word));
        match (&*name, &command[1..]) {
            ("AUTH", [user, password]) if (&**user, &**password) == (b"u", b"p") => b"+OK\r\n".to_vec(),
            ("AUTH", _) => b"-WRONGPASS invalid username-password pair\r\n".to_vec(),
            ("SELECT", [_]) => b"+OK\r\n".to_vec(),
            ("SET", [key, value, nx, px, time]) if (&**nx, &**px) == (b"NX", b"PX") => {
                if values.contains_key(key) {
                    return b"$-1\r\n".to_vec();
                }
                values.insert(key.clone(), (value.clone(), until(time)));
                b"+OK\r\n".to_vec()
            }
            ("GET", [key]) => match values.get(key) {
                Some((value, _)) => [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat(),
                None => b"$-1\r\n".to_vec(),
            },
            ("EVAL", [script, _, key, lease, more @ ..]) => {
                let ours = values.get(key).is_some_and(|(value, _)| value[0] == CLAIM && value.ends_with(lease));
                match (&**script == KEEP.as_bytes(), more) {
                    _ if !ours => return b":0\r\n".to_vec(),
                    (true, [kept, time]) => {
                        let value = [&[DONE][..], &values[key].0[1..33], kept].concat();
                        values.insert(key.clone(), (value, until(time)));
                    }
                    _ => drop(values.remove(key)),
                }
                b":1\r\n".to_vec()
            }
            _ => b"-ERR unknown command\r\n".to_vec(),
        }
    }
}

/// The command that bytes begin with.
fn command(bytes: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let line = |from: usize| {
        let end = bytes[from..].windows(2).position(|end| end == b"\r\n")?;
        Some((std::str::from_utf8(&bytes[from + 1..from + end]).ok()?.parse::<usize>().ok()?, from + end + 2))
    };
    let (count, mut at) = line(0)?;
    let mut words = Vec::new();
    for _ in 0..count {
        let (length, from) = line(at)?;
        words.push(bytes.get(from..from + length)?.to_vec());
        at = from + length + 2;
    }
    (bytes.len() >= at).then_some((words, at))
}

fn store(dial: Dial) -> RedisStore {
    RedisStore::new(&RedisUrl::parse("redis://u:p@r/2").unwrap(), None, dial)
}

#[tokio::test]
async fn a_server_is_a_store_for_two() {
    let fake = Fake::default();
    holds(&store(fake.dial()), &store(fake.dial())).await;
    assert!(fake.seen.lock().starts_with(&["AUTH".to_owned(), "SELECT".to_owned(), "SET".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn claims_and_answers_are_over_in_time() {
    let fake = Fake::default();
    let store = store(fake.dial());
    let lease = claim(&store, 1).await;
    tokio::time::advance(LEASE).await;
    claim(&store, 1).await;
    store.finish(now(), id(1), lease, answer("late"), contract::KEEP).await.unwrap();
    assert_eq!(begin(&store, 1).await, Begin::InProgress);
    keep(&store, 2, answer("kept")).await;
    tokio::time::advance(contract::KEEP).await;
    claim(&store, 2).await;
}

#[tokio::test]
async fn a_connection_that_is_closed_is_replaced_and_a_claim_found_again_is_ours() {
    let fake = Fake::default();
    let store = store(fake.dial());
    claim(&store, 1).await;
    // the command is done, and nobody hears of it
    *fake.ending.lock() = 1;
    let lease = claim(&store, 2).await;
    store.give_up(id(2), lease);
    claim(&store, 2).await;
}

#[tokio::test]
async fn several_instances_do_a_request_once() {
    let (fake, calls) = (Fake::default(), Arc::new(AtomicU32::new(0)));
    let mut tasks = JoinSet::new();
    for number in 0..40 {
        let layer = IdempotencyLayer::new(IdempotencyConfig::default(), store(fake.dial()), ByAuthorization).unwrap();
        let counted = Arc::clone(&calls);
        let service = tower::service_fn(move |_: Request<Buffered<Full<Bytes>>>| {
            let call = counted.fetch_add(1, Ordering::Relaxed);
            async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from(format!("call {call}"))))
            }
        });
        let service = ServiceBuilder::new().layer(layer).service(service);
        // two keys, and all instances at once
        let request = Request::post("http://orders/").header(IDEMPOTENCY_KEY, format!("k{}", number % 2));
        tasks.spawn(service.oneshot(request.body(Full::<Bytes>::from("order")).unwrap()));
    }
    for answer in tasks.join_all().await {
        assert_eq!(answer.unwrap().status(), 200);
    }
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn who_refuses_or_is_not_there_is_an_error() {
    let fake = Fake::default();
    let wrong = RedisStore::new(&RedisUrl::parse("redis://u:x@r").unwrap(), None, fake.dial());
    let told = wrong.begin(now(), id(1), print(1), LEASE).await.unwrap_err().to_string();
    assert_eq!(told, "redis: WRONGPASS invalid username-password pair");
    let nobody: Dial = Arc::new(|| Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) }));
    assert!(matches!(store(nobody).begin(now(), id(1), print(1), LEASE).await, Err(RedisError::Connection(_))));
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_waited_for_in_vain() {
    let silent: Dial = Arc::new(|| {
        Box::pin(async {
            let (ours, theirs) = duplex(1 << 10);
            std::mem::forget(theirs);
            Ok(Box::new(ours) as Box<dyn Stream>)
        })
    });
    assert!(matches!(store(silent).begin(now(), id(1), print(1), LEASE).await, Err(RedisError::Timeout)));
}

/// The real one, where the machine has it.
#[tokio::test]
async fn the_real_server_understands_us() {
    let program = std::env::var_os("REDIS_SERVER").unwrap_or("redis-server".into());
    let directory = tempfile::TempDir::new().unwrap();
    let socket = directory.path().join("redis.sock");
    let mut server = tokio::process::Command::new(&program);
    server.args(["--port", "0", "--save", "", "--unixsocket"]).arg(&socket).current_dir(directory.path());
    let Ok(mut server) = server.stdout(Stdio::null()).kill_on_drop(true).spawn() else {
        println!("skipped: there is no {}", program.display());
        return;
    };
    let dial: Dial = Arc::new(move || {
        let socket = socket.clone();
        Box::pin(async move {
            loop {
                match UnixStream::connect(&socket).await {
                    Ok(stream) => return Ok(Box::new(stream) as Box<dyn Stream>),
                    // It has just been started; the store's patience bounds this.
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        })
    });
    let url = RedisUrl::parse("redis://r/3").unwrap();
    let (one, other) = (RedisStore::new(&url, None, Arc::clone(&dial)), RedisStore::new(&url, None, dial));
    holds(&one, &other).await;
    server.kill().await.unwrap();
}
