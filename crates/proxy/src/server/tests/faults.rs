//! Clients that attack or are broken, with raw bytes on real sockets: each ends as `docs/gateway-faults.md` says, within its
//! deadline, and leaves nothing behind.

use super::*;

mod frames;
mod heads;
mod http2;
mod patience;

/// Nothing here takes this long unless it hangs.
const LIMIT: Duration = Duration::from_secs(20);

/// A backend that remembers the lines and bodies of the requests that it got.
async fn remembering() -> (Upstream, Arc<parking_lot::Mutex<Vec<String>>>) {
    let seen = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let remembered = Arc::clone(&seen);
    let upstream = upstream(move |request: Request<Incoming>| {
        let seen = Arc::clone(&remembered);
        async move {
            let (parts, body) = request.into_parts();
            let body = http_body_util::BodyExt::collect(body).await.map(|body| body.to_bytes());
            let body = body.map_or_else(|_| "broken off".into(), |body| String::from_utf8_lossy(&body).into_owned());
            seen.lock().push(format!("{} {} {body}", parts.method, parts.uri));
            Response::new(Full::from("ok"))
        }
    })
    .await;
    (upstream, seen)
}

/// The statuses of what comes back for these bytes, until the gateway closes the connection.
async fn statuses(gateway: &Gateway, bytes: &[u8]) -> Vec<u16> {
    let text = exchange(gateway, bytes).await;
    let heads = text.match_indices("HTTP/1.1 ").map(|(at, _)| text[at + 9..at + 12].parse().unwrap());
    heads.collect()
}

async fn exchange(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let (mut read, mut write) = stream.split();
    let mut answer = Vec::new();
    let sent = async {
        // The gateway may have closed the connection before everything was sent.
        let _ = write.write_all(bytes).await;
    };
    let read = async {
        // A reset takes the place of the end when something that was sent was not read.
        while let Ok(1..) = read.read_buf(&mut answer).await {}
    };
    tokio::time::timeout(LIMIT, async { tokio::join!(sent, read) })
        .await
        .expect("the gateway neither answers nor closes");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Ends a gateway: whatever is still under way in it would keep it from ending.
async fn nothing_is_left(mut gateway: Gateway) {
    gateway.stop.cancel();
    let ended = async { while gateway.tasks.join_next().await.is_some() {} };
    tokio::time::timeout(LIMIT, ended).await.expect("something is left behind");
}
