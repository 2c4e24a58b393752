//! Forgets connection-tracking entries of UDP endpoints that are gone: a UDP flow has no end that the kernel would see,
//! so a client that keeps its socket would be translated to the dead endpoint for as long as it sends.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use super::program::{Protocol, Target};
use crate::netlink::{ACK, Attributes, Encoder, Message, NetlinkError, REQUEST, Socket, tolerate};

const SUBSYSTEM: u16 = 1;
const GET: u16 = SUBSYSTEM << 8 | 1;
const DELETE: u16 = SUBSYSTEM << 8 | 2;
const NFGENMSG_LEN: usize = 4;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;

/// Deletes the UDP flows that were translated to one of the targets.
pub(crate) fn forget_udp(socket: &Socket, targets: &HashSet<Target>) -> Result<(), NetlinkError> {
    let header = [libc::AF_INET as u8, 0, 0, 0];
    let mut stale = Vec::new();
    socket.dump(
        "list connections",
        GET,
        |message| message.raw(&header),
        |message| stale.extend(translated_to(&message, targets)),
    )?;
    for original in stale {
        let mut encoder = Encoder::default();
        encoder.message(DELETE, REQUEST | ACK, |message| {
            message.raw(&header);
            message.nest(CTA_TUPLE_ORIG, |nest| nest.raw(&original));
        });
        tolerate(socket.request("delete a connection", &encoder), &[libc::ENOENT])?;
    }
    Ok(())
}

/// The original tuple of a UDP flow, when its replies come from one of the targets and it was sent to another address.
fn translated_to(message: &Message<'_>, targets: &HashSet<Target>) -> Option<Vec<u8>> {
    let attributes = message.attributes(NFGENMSG_LEN);
    let original = attributes.find(CTA_TUPLE_ORIG)?;
    let reply = Attributes(attributes.find(CTA_TUPLE_REPLY)?);
    let protocol = Attributes(reply.find(CTA_TUPLE_PROTO)?);
    if protocol.find(CTA_PROTO_NUM)? != [Protocol::Udp.number()] {
        return None;
    }
    let port = u16::from_be_bytes(protocol.find(CTA_PROTO_SRC_PORT)?.try_into().ok()?);
    let source = address(reply, CTA_IP_V4_SRC)?;
    let asked = address(Attributes(original), CTA_IP_V4_DST)?;
    (asked != source && targets.contains(&(source, port))).then(|| original.to_vec())
}

fn address(tuple: Attributes<'_>, kind: u16) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = Attributes(tuple.find(CTA_TUPLE_IP)?).find(kind)?.try_into().ok()?;
    Some(octets.into())
}
