//! The instance's nftables table: its fixed frame, and the changes of Services written into a batch.
//!
//! ```text
//! map services   { daddr . protocol . dport : goto service/… }       set hairpins { saddr . daddr }
//! map node-ports { protocol . dport : goto service/… }
//!
//! prerouting, output (nat)  jump translate: look in services, and for local addresses in node-ports
//! postrouting (nat)         masquerade translated hairpins, loopback sources towards pods, and what pods send out
//! guard (before all)        drop loopback addresses coming from pods
//! forward, local (filter)   refuse Service addresses that were not translated
//! service/ns/name/tcp/port  dnat to a random endpoint; local/… knows those of this node only
//! service-by-client/…       the same, or to the endpoint that the map of the same name has for the client
//! host-port/uid/tcp/ip:port dnat to the pod of this node that asked for the port
//! admit/ns/name/tcp/port    goto one of them for the sources that a load balancer admits
//! ```

use std::net::Ipv4Addr;

use super::ledger::Change;
use super::program::{Action, Match, Protocol, remembers};
use crate::netlink::{NetlinkError, Socket};
use crate::nft::{Batch, Compare, DataType, Hook, Memory, Register, Verdict, table_handle};
use crate::slot::{Cidr, Slot};

const SERVICES: &str = "services";
const NODE_PORTS: &str = "node-ports";
const HAIRPINS: &str = "hairpins";
const TRANSLATE: &str = "translate";

/// Clients that are remembered of one Service port, some 100 bytes each. Those beyond get any endpoint.
const CLIENTS_MAX: u32 = 65_536;

const PREROUTING: u32 = 0;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;
const PRIORITY_RAW: i32 = -300;
const PRIORITY_DNAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SNAT: i32 = 100;
const LOOPBACK: Cidr = Cidr { network: Ipv4Addr::new(127, 0, 0, 0), prefix: 8 };

/// Writes the frame with empty maps. An existing table is replaced in the same instant.
pub(crate) fn replace(batch: &mut Batch, slot: Slot) {
    // Deleting wants the table to be there, so it is created first.
    batch.add_table();
    batch.delete_table();
    batch.add_table();
    batch.add_verdict_map(SERVICES, &[DataType::Ipv4Address, DataType::Protocol, DataType::Port]);
    batch.add_verdict_map(NODE_PORTS, &[DataType::Protocol, DataType::Port]);
    batch.add_set(HAIRPINS, &[DataType::Ipv4Address, DataType::Ipv4Address]);
    translation(batch);
    source_translation(batch, slot);
    filters(batch, slot);
}

fn translation(batch: &mut Batch) {
    batch.add_chain(TRANSLATE, None);
    batch.add_rule(TRANSLATE, |rule| {
        rule.load_destination(Register::R0).load_protocol(Register::R1).load_port(Register::R2).verdict_of(SERVICES);
    });
    batch.add_rule(TRANSLATE, |rule| {
        rule.destination_is_local().load_protocol(Register::R0).load_port(Register::R1).verdict_of(NODE_PORTS);
    });
    for (chain, number) in [("prerouting", PREROUTING), ("output", OUTPUT)] {
        batch.add_chain(chain, Some(Hook { kind: "nat", number, priority: PRIORITY_DNAT }));
        batch.add_rule(chain, |rule| rule.verdict(Verdict::Jump(TRANSLATE)));
    }
}

fn source_translation(batch: &mut Batch, slot: Slot) {
    let bridge = slot.bridge();
    let chain = "postrouting";
    batch.add_chain(chain, Some(Hook { kind: "nat", number: POSTROUTING, priority: PRIORITY_SNAT }));
    batch.add_rule(chain, |rule| {
        // Who writes to its own address needs no other: a datagram's answer could not be told from somebody else's.
        rule.is_translated().load_source(Register::R0).load_destination(Register::R1).is_in(HAIRPINS).masquerade();
    });
    batch.add_rule(chain, |rule| rule.source_in(LOOPBACK).outgoing(Compare::Equal, &bridge).masquerade());
    batch.add_rule(chain, |rule| {
        // The machine's own addresses on the bridge are of that range, too, and what they send each other stays as it is.
        let leaving = rule.source_in(slot.pod_cidr()).outgoing(Compare::NotEqual, &bridge);
        leaving.outgoing(Compare::NotEqual, "lo").masquerade();
    });
}

fn filters(batch: &mut Batch, slot: Slot) {
    let bridge = slot.bridge();
    let guard = "guard";
    batch.add_chain(guard, Some(Hook { kind: "filter", number: PREROUTING, priority: PRIORITY_RAW }));
    // The bridge routes loopback addresses for NodePorts on 127.0.0.1; a pod must not reach the host's loopback by it.
    batch.add_rule(guard, |rule| {
        rule.incoming(Compare::Equal, &bridge).destination_in(LOOPBACK).verdict(Verdict::Drop);
    });
    batch.add_rule(guard, |rule| rule.incoming(Compare::Equal, &bridge).source_in(LOOPBACK).verdict(Verdict::Drop));

    let forward = "forward";
    batch.add_chain(forward, Some(Hook { kind: "filter", number: FORWARD, priority: PRIORITY_FILTER }));
    // A packet that belongs to no known flow would reach the peer untranslated, and be answered with a reset.
    batch.add_rule(forward, |rule| {
        rule.incoming(Compare::Equal, &bridge).is_invalid().verdict(Verdict::Drop);
    });
    let local = "local";
    batch.add_chain(local, Some(Hook { kind: "filter", number: OUTPUT, priority: PRIORITY_FILTER }));
    batch.add_rule(local, |rule| rule.outgoing(Compare::NotEqual, &bridge).verdict(Verdict::Accept));
    for chain in [forward, local] {
        batch.add_rule(chain, |rule| {
            rule.destination_in(slot.service_cidr()).protocol_is(Protocol::Tcp.number()).reset();
        });
        batch.add_rule(chain, |rule| rule.destination_in(slot.service_cidr()).reject());
    }
    batch.add_rule(forward, |rule| rule.incoming(Compare::Equal, &bridge).verdict(Verdict::Accept));
    batch.add_rule(forward, |rule| rule.outgoing(Compare::Equal, &bridge).verdict(Verdict::Accept));
}

/// Creates the table, with empty maps, unless it is there.
pub(crate) fn ensure(socket: &Socket, slot: Slot) -> Result<(), NetlinkError> {
    let table = slot.table();
    if table_handle(socket, &table)?.is_some() {
        return Ok(());
    }
    let mut batch = Batch::new(&table);
    replace(&mut batch, slot);
    batch.commit(socket, &format!("create nftables table {table}"))
}

/// Deletes the table, if it is there.
pub(crate) fn remove(socket: &Socket, slot: Slot) -> Result<(), NetlinkError> {
    let table = slot.table();
    let mut batch = Batch::new(&table);
    batch.add_table();
    batch.delete_table();
    batch.commit(socket, &format!("delete nftables table {table}"))
}

/// Writes a change into a batch.
pub(crate) fn write(batch: &mut Batch, change: &Change) {
    match change {
        Change::AddChain(chain) => {
            batch.add_chain(chain, None);
            if remembers(chain) {
                batch.add_client_map(chain, CLIENTS_MAX);
            }
        }
        Change::Fill { chain, action: Action::Admit { sources, chain: next }, .. } => {
            batch.flush_chain(chain);
            for source in sources {
                batch.add_rule(chain, |rule| rule.source_in(*source).verdict(Verdict::Goto(next)));
            }
            batch.add_rule(chain, |rule| rule.verdict(Verdict::Drop));
        }
        Change::Fill { chain, protocol, action: Action::Spread { affinity, targets } } => {
            batch.flush_chain(chain);
            if let Some(timeout) = affinity {
                // whom the map knows, if the endpoint is still one
                let current = batch.add_endpoint_set(targets);
                batch.add_rule(chain, |rule| {
                    rule.protocol_is(protocol.number()).endpoint_of_client(chain).is_endpoint(current);
                    rule.remember_client(chain, *timeout, Memory::Again).translate();
                });
                let map = batch.add_endpoint_map(targets);
                batch.add_rule(chain, |rule| {
                    rule.protocol_is(protocol.number()).random_index(map).endpoint_at(map);
                    rule.forget_client(chain).remember_client(chain, *timeout, Memory::New).translate();
                });
            }
            // also where no more clients can be remembered
            let map = batch.add_endpoint_map(targets);
            batch.add_rule(chain, |rule| {
                rule.protocol_is(protocol.number()).random_index(map).endpoint_at(map).translate();
            });
        }
        Change::RemoveChain(chain) => {
            batch.flush_chain(chain);
            batch.delete_chain(chain);
            if remembers(chain) {
                batch.delete_set(chain);
            }
        }
        Change::AddMatch(found, chain) => {
            let (map, key) = element(*found);
            batch.add_goto(map, &key, chain);
        }
        Change::RemoveMatch(found) => {
            let (map, key) = element(*found);
            batch.delete_element(map, &key);
        }
        Change::AddHairpin(address) => batch.add_element(HAIRPINS, &hairpin(*address)),
        Change::RemoveHairpin(address) => batch.delete_element(HAIRPINS, &hairpin(*address)),
    }
}

/// The map that holds a match, and its key: every part padded to four bytes.
fn element(found: Match) -> (&'static str, Vec<u8>) {
    let mut key = Vec::with_capacity(12);
    let (map, protocol, port) = match found {
        Match::Cluster(address, protocol, port) => {
            key.extend_from_slice(&address.octets());
            (SERVICES, protocol, port)
        }
        Match::Node(protocol, port) => (NODE_PORTS, protocol, port),
    };
    let [high, low] = port.to_be_bytes();
    key.extend_from_slice(&[protocol.number(), 0, 0, 0, high, low, 0, 0]);
    (map, key)
}

fn hairpin(address: Ipv4Addr) -> Vec<u8> {
    [address.octets(), address.octets()].concat()
}
