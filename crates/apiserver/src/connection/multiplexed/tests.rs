//! Whether silent clients are told from dead ones.

use bytes::Bytes;

use super::*;

/// Polls a connection and its keep-alive for ten periods; whether the client was found dead.
async fn is_found_dead(client_lives: bool) -> bool {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (client, server) = tokio::join!(
        h2::client::Builder::new().handshake::<_, Bytes>(far),
        h2::server::Builder::new().handshake::<_, Bytes>(near)
    );
    let ((_requests, client), mut server) = (client.unwrap(), server.unwrap());
    let mut client = pin!(client);
    let mut keep_alive = KeepAlive::new(server.ping_pong().unwrap());
    let dead = poll_fn(|cx| {
        if client_lives {
            assert!(client.as_mut().poll(cx).is_pending());
        }
        assert!(server.poll_closed(cx).is_pending());
        let polled = keep_alive.poll(cx, false);
        // what it may have had to say
        assert!(server.poll_closed(cx).is_pending());
        polled
    });
    tokio::time::timeout(10 * KEEP_ALIVE, dead).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_pings_is_kept_and_one_that_does_not_is_cut() {
    assert!(!is_found_dead(true).await);
    assert!(is_found_dead(false).await);
}
