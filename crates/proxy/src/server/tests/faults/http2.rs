//! What becomes of clients that break the rules of RFC 9113, case by case. A frame that cannot be read ends the connection,
//! with one code for nearly all.

use super::{frames::*, *};

use Outcome::{Gone, Reset, Status};

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const FRAME_SIZE_ERROR: u32 = 6;

/// Sends frames on connections of their own, and compares what the client is told.
async fn check(cases: Vec<(&str, Vec<Frame>, Outcome)>) {
    let upstream = named("ok").await;
    let gateway = Gateway::start(to(&upstream)).await;
    let mut wrong = Vec::new();
    for (name, sent, expected) in cases {
        let mut wire = Wire::connect(&gateway).await;
        let bytes: Vec<u8> = sent.iter().flat_map(Frame::bytes).collect();
        wire.send(&bytes).await;
        let outcome = wire.outcome().await;
        if outcome != expected {
            wrong.push(format!("{name}: {outcome:?} instead of {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    nothing_is_left(gateway).await;
}

fn setting(id: u16, value: u32) -> Frame {
    frame(SETTINGS, 0, 0, [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

fn window(stream: u32, more: u32) -> Frame {
    frame(WINDOW_UPDATE, 0, stream, more.to_be_bytes())
}

/// A request of which the body is still to come.
fn open(stream: u32) -> Frame {
    frame(
        HEADERS,
        END_HEADERS,
        stream,
        block(&[(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "h")]),
    )
}

/// A request with these fields besides.
fn with(more: &[(&str, &str)]) -> Frame {
    frame(HEADERS, END_STREAM | END_HEADERS, 1, block(&[&GET[..], more].concat()))
}

/// A request of these fields only.
fn only(fields: &[(&str, &str)]) -> Frame {
    frame(HEADERS, END_STREAM | END_HEADERS, 1, block(fields))
}

#[tokio::test]
async fn frames_have_their_form_and_their_place() {
    check(vec![
        ("a plain request", vec![get(1)], Status(200)),
        ("a frame of an unknown kind", vec![frame(0x42, 0xff, 0, [1, 2, 3]), get(1)], Status(200)),
        ("unknown flags", vec![frame(PING, 0x06, 0, [0; 8]), get(1)], Status(200)),
        ("an unknown setting", vec![setting(0x42, 7), get(1)], Status(200)),
        ("a priority", vec![frame(PRIORITY, 0, 1, [0, 0, 0, 3, 9]), get(1)], Status(200)),
        (
            "padding",
            vec![frame(HEADERS, END_STREAM | END_HEADERS | PADDED, 1, [&[2][..], &block(&GET), &[0, 0]].concat())],
            Status(200),
        ),
        (
            "too much padding",
            vec![frame(HEADERS, END_STREAM | END_HEADERS | PADDED, 1, [&[200][..], &block(&GET)].concat())],
            Gone(PROTOCOL_ERROR),
        ),
        ("padding of data", vec![open(1), frame(DATA, END_STREAM | PADDED, 1, [9, 1, 2])], Gone(PROTOCOL_ERROR)),
        ("data on no stream", vec![frame(DATA, 0, 0, [1])], Gone(PROTOCOL_ERROR)),
        ("a head on no stream", vec![frame(HEADERS, END_HEADERS, 0, block(&GET))], Gone(PROTOCOL_ERROR)),
        ("a reset of no stream", vec![frame(RST_STREAM, 0, 0, [0; 4])], Gone(PROTOCOL_ERROR)),
        ("settings on a stream", vec![frame(SETTINGS, 0, 1, [])], Gone(PROTOCOL_ERROR)),
        ("a ping on a stream", vec![frame(PING, 0, 1, [0; 8])], Gone(PROTOCOL_ERROR)),
        ("a good-bye on a stream", vec![frame(GOAWAY, 0, 1, [0; 8])], Gone(PROTOCOL_ERROR)),
        ("a continuation of nothing", vec![frame(CONTINUATION, END_HEADERS, 1, block(&GET))], Gone(PROTOCOL_ERROR)),
        (
            "a promise by a client",
            vec![frame(PUSH_PROMISE, END_HEADERS, 1, [&[0, 0, 0, 2][..], &block(&GET)].concat())],
            Gone(PROTOCOL_ERROR),
        ),
        ("a short ping", vec![frame(PING, 0, 0, [0; 6])], Gone(PROTOCOL_ERROR)),
        ("a short reset", vec![get(1), frame(RST_STREAM, 0, 1, [0; 3])], Gone(PROTOCOL_ERROR)),
        ("a short priority", vec![frame(PRIORITY, 0, 1, [0; 4])], Gone(PROTOCOL_ERROR)),
        ("half a setting", vec![frame(SETTINGS, 0, 0, [0; 5])], Gone(PROTOCOL_ERROR)),
        ("an acknowledgement with content", vec![frame(SETTINGS, ACK, 0, [0; 6])], Gone(PROTOCOL_ERROR)),
        ("a short window", vec![frame(WINDOW_UPDATE, 0, 0, [0; 3])], Gone(PROTOCOL_ERROR)),
        ("a frame that is too long", vec![open(1), frame(DATA, 0, 1, vec![0; (16 << 10) + 1])], Gone(FRAME_SIZE_ERROR)),
        ("push that is neither on nor off", vec![setting(2, 2)], Gone(PROTOCOL_ERROR)),
        ("a window beyond its maximum", vec![setting(4, 1 << 31)], Gone(PROTOCOL_ERROR)),
        ("frames below their minimum", vec![setting(5, 100)], Gone(PROTOCOL_ERROR)),
        ("frames beyond their maximum", vec![setting(5, 1 << 24)], Gone(PROTOCOL_ERROR)),
    ])
    .await;
}

#[tokio::test]
async fn streams_go_through_their_states() {
    let broken = frame(HEADERS, END_STREAM, 1, block(&GET));
    check(vec![
        ("data before a head", vec![frame(DATA, 0, 1, [1])], Gone(PROTOCOL_ERROR)),
        ("a reset before a head", vec![frame(RST_STREAM, 0, 1, [0; 4])], Gone(PROTOCOL_ERROR)),
        ("a window before a head", vec![window(1, 1)], Gone(PROTOCOL_ERROR)),
        ("an even stream", vec![get(2)], Gone(PROTOCOL_ERROR)),
        ("a stream before the last", vec![get(5), get(3)], Gone(PROTOCOL_ERROR)),
        ("data after the end", vec![get(1), frame(DATA, END_STREAM, 1, [1])], Gone(PROTOCOL_ERROR)),
        ("a head in the middle", vec![open(1), get(1), frame(DATA, END_STREAM, 1, [])], Gone(PROTOCOL_ERROR)),
        ("something between a head's frames", vec![broken.clone(), frame(PING, 0, 0, [0; 8])], Gone(PROTOCOL_ERROR)),
        (
            "another stream between a head's frames",
            vec![broken, frame(CONTINUATION, END_HEADERS, 3, [])],
            Gone(PROTOCOL_ERROR),
        ),
        (
            "a head in several frames",
            vec![
                frame(HEADERS, END_STREAM, 1, &block(&GET)[..20]),
                frame(CONTINUATION, END_HEADERS, 1, &block(&GET)[20..]),
            ],
            Status(200),
        ),
        ("no more window", vec![open(1), window(1, 0)], Gone(PROTOCOL_ERROR)),
        ("no more window for all", vec![window(0, 0)], Gone(PROTOCOL_ERROR)),
        ("too much window", vec![window(0, (1 << 31) - 1)], Gone(FLOW_CONTROL_ERROR)),
        ("too much window of a stream", vec![open(1), window(1, (1 << 31) - 1)], Reset(FLOW_CONTROL_ERROR)),
    ])
    .await;
}

#[tokio::test]
async fn heads_have_the_fields_of_a_request() {
    check(vec![
        ("no compressed head", vec![frame(HEADERS, END_STREAM | END_HEADERS, 1, [0x80])], Gone(PROTOCOL_ERROR)),
        (
            "an index that is not there",
            vec![frame(HEADERS, END_STREAM | END_HEADERS, 1, [0xff, 0xff, 0x7f])],
            Gone(PROTOCOL_ERROR),
        ),
        (
            "a table that is too large",
            vec![frame(HEADERS, END_STREAM | END_HEADERS, 1, [0x3f, 0xe1, 0xff, 0x03])],
            Gone(PROTOCOL_ERROR),
        ),
        ("upper case", vec![with(&[("X-Upper", "1")])], Gone(PROTOCOL_ERROR)),
        (
            "a pseudo-header after others",
            vec![only(&[(":method", "GET"), ("x", "1"), (":scheme", "http"), (":path", "/"), (":authority", "h")])],
            Reset(PROTOCOL_ERROR),
        ),
        ("an unknown pseudo-header", vec![with(&[(":what", "1")])], Gone(PROTOCOL_ERROR)),
        ("one of answers", vec![with(&[(":status", "200")])], Reset(PROTOCOL_ERROR)),
        ("a field of the connection", vec![with(&[("connection", "close")])], Reset(PROTOCOL_ERROR)),
        ("chunks", vec![with(&[("transfer-encoding", "chunked")])], Reset(PROTOCOL_ERROR)),
        ("another coding than trailers", vec![with(&[("te", "gzip")])], Reset(PROTOCOL_ERROR)),
        ("trailers", vec![with(&[("te", "trailers")])], Status(200)),
        ("no method", vec![only(&GET[1..])], Reset(PROTOCOL_ERROR)),
        ("no scheme", vec![only(&[GET[0], GET[2], GET[3]])], Reset(PROTOCOL_ERROR)),
        ("no path", vec![only(&[GET[0], GET[1], GET[3]])], Reset(PROTOCOL_ERROR)),
        ("an empty path", vec![only(&[GET[0], GET[1], (":path", ""), GET[3]])], Reset(PROTOCOL_ERROR)),
        ("two methods", vec![only(&[GET[0], GET[0], GET[1], GET[2], GET[3]])], Reset(PROTOCOL_ERROR)),
        ("two paths", vec![only(&[GET[0], GET[1], GET[2], GET[2], GET[3]])], Reset(PROTOCOL_ERROR)),
        ("no host", vec![only(&GET[..3])], Status(400)),
        ("another host besides", vec![with(&[("host", "other")])], Status(400)),
        ("the same host besides", vec![with(&[("host", "h")])], Status(200)),
        ("a line feed in a value", vec![with(&[("x", "a\r\nevil: 1")])], Gone(PROTOCOL_ERROR)),
        ("a head that is too large", vec![with(&[("x", &"x".repeat(15 << 10)), ("y", &"y".repeat(900))])], Status(431)),
    ])
    .await;
}

#[tokio::test]
async fn bodies_are_as_long_as_they_say() {
    let post = |length: &str| {
        frame(
            HEADERS,
            END_HEADERS,
            1,
            block(&[
                (":method", "POST"),
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "h"),
                ("content-length", length),
            ]),
        )
    };
    check(vec![
        ("as it says", vec![post("2"), frame(DATA, END_STREAM, 1, "ab")], Status(200)),
        ("shorter", vec![post("3"), frame(DATA, END_STREAM, 1, "ab")], Reset(PROTOCOL_ERROR)),
        ("longer", vec![post("1"), frame(DATA, END_STREAM, 1, "ab")], Reset(PROTOCOL_ERROR)),
        ("no number", vec![post("x"), frame(DATA, END_STREAM, 1, "ab")], Reset(PROTOCOL_ERROR)),
        ("in two frames", vec![post("2"), frame(DATA, 0, 1, "a"), frame(DATA, END_STREAM, 1, "b")], Status(200)),
    ])
    .await;
}
