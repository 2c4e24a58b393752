//! The expressions of rules: loads into registers, tests on registers, and what is done at the end.

use std::time::Duration;

use crate::netlink::Encoder;
use crate::slot::Cidr;

use super::{ANONYMOUS_MAP, ANONYMOUS_SET, EndpointMap, EndpointSet, NFTA_DATA_VALUE, NFTA_LIST_ELEM, verdict};

const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const SOURCE_OFFSET: u32 = 12;
const DESTINATION_OFFSET: u32 = 16;
const META_MARK: u32 = 3;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_L4PROTO: u32 = 16;
const CT_STATE: u32 = 0;
const CT_STATE_INVALID: u32 = 1;
const CT_STATUS: u32 = 2;
const CT_MARK: u32 = 3;
const CT_STATUS_DNAT: u32 = 1 << 5;
const FIB_RESULT_ADDRTYPE: u32 = 3;
const FIB_DESTINATION: u32 = 2;
const RTN_LOCAL: u32 = 2;
const TCP_FLAGS_OFFSET: u32 = 13;
/// FIN, SYN, RST and ACK.
const TCP_FLAGS_MASK: u8 = 0x17;
const TCP_SYN: u8 = 0x02;
const NAT_DESTINATION: u32 = 1;
const NUMGEN_RANDOM: u32 = 1;
const REJECT_ICMP_UNREACHABLE: u32 = 0;
const REJECT_TCP_RESET: u32 = 1;
const ICMP_PORT_UNREACHABLE: u8 = 3;
const IFNAME_LEN: usize = 16;
const DYNSET_ADD: u32 = 0;
const DYNSET_UPDATE: u32 = 1;
const DYNSET_DELETE: u32 = 2;

/// How a map comes to know a client.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Memory {
    /// It is not in the map.
    New,
    /// It is, and its time begins anew.
    Again,
}

/// A register. `R0` to `R2` are adjacent, so that what they hold together is one key.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(crate) enum Register {
    /// The first four bytes; also the whole of a key or value that starts there.
    R0 = 8,
    /// The next four.
    R1 = 9,
    /// The next four.
    R2 = 10,
}

/// How a test compares.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(crate) enum Compare {
    /// Equal.
    Equal = 0,
    /// Not equal.
    NotEqual = 1,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Verdict<'a> {
    /// It disappears.
    Drop,
    /// This hook's chain lets it pass.
    Accept,
    /// It goes through another chain and comes back.
    Jump(&'a str),
    /// It goes through another chain.
    Goto(&'a str),
}

impl<'a> Verdict<'a> {
    pub(super) fn code(self) -> i32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
            Self::Jump(_) => -3,
            Self::Goto(_) => -4,
        }
    }

    pub(super) fn chain(self) -> Option<&'a str> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(chain),
            Self::Drop | Self::Accept => None,
        }
    }
}

/// The expressions of one rule, written in the order in which they run.
#[derive(Debug)]
pub(crate) struct Expressions<'e> {
    list: &'e mut Encoder,
}

impl<'e> Expressions<'e> {
    pub(super) fn new(list: &'e mut Encoder) -> Self {
        Self { list }
    }

    fn push(&mut self, name: &str, data: impl FnOnce(&mut Encoder)) -> &mut Self {
        self.list.nest(NFTA_LIST_ELEM, |element| {
            element.attr_str(NFTA_EXPR_NAME, name);
            element.nest(NFTA_EXPR_DATA, data);
        });
        self
    }

    /// Attributes 1, 2, … with numbers.
    fn push_numbers(&mut self, name: &str, numbers: &[u32]) -> &mut Self {
        self.push(name, |data| (1..).zip(numbers).for_each(|(kind, number)| data.attr_be32(kind, *number)))
    }

    fn payload(&mut self, register: Register, base: u32, offset: u32, len: u32) -> &mut Self {
        self.push_numbers("payload", &[register as u32, base, offset, len])
    }

    fn meta(&mut self, register: Register, key: u32) -> &mut Self {
        self.push_numbers("meta", &[register as u32, key])
    }

    fn compare(&mut self, operator: Compare, value: &[u8]) -> &mut Self {
        self.push("cmp", |data| {
            data.attr_be32(1, Register::R0 as u32);
            data.attr_be32(2, operator as u32);
            data.nest(3, |nest| nest.attr(NFTA_DATA_VALUE, value));
        })
    }

    fn mask(&mut self, mask: [u8; 4]) -> &mut Self {
        self.push("bitwise", |data| {
            [Register::R0 as u32, Register::R0 as u32, 4]
                .iter()
                .zip(1..)
                .for_each(|(number, kind)| data.attr_be32(kind, *number));
            data.nest(4, |nest| nest.attr(NFTA_DATA_VALUE, &mask));
            data.nest(5, |nest| nest.attr(NFTA_DATA_VALUE, &[0; 4]));
        })
    }

    /// Loads the source address.
    pub(crate) fn load_source(&mut self, register: Register) -> &mut Self {
        self.payload(register, NETWORK_HEADER, SOURCE_OFFSET, 4)
    }

    /// Loads the destination address.
    pub(crate) fn load_destination(&mut self, register: Register) -> &mut Self {
        self.payload(register, NETWORK_HEADER, DESTINATION_OFFSET, 4)
    }

    /// Loads the transport protocol.
    pub(crate) fn load_protocol(&mut self, register: Register) -> &mut Self {
        self.meta(register, META_L4PROTO)
    }

    /// Loads the destination port.
    pub(crate) fn load_port(&mut self, register: Register) -> &mut Self {
        self.payload(register, TRANSPORT_HEADER, 2, 2)
    }

    /// Goes on when the source address is in the range.
    pub(crate) fn source_in(&mut self, range: Cidr) -> &mut Self {
        self.load_source(Register::R0).mask(range.mask().octets()).compare(Compare::Equal, &range.network.octets())
    }

    /// Goes on when the destination address is in the range.
    pub(crate) fn destination_in(&mut self, range: Cidr) -> &mut Self {
        self.load_destination(Register::R0).mask(range.mask().octets()).compare(Compare::Equal, &range.network.octets())
    }

    /// Goes on when the destination is an address of this machine.
    pub(crate) fn destination_is_local(&mut self) -> &mut Self {
        self.push_numbers("fib", &[Register::R0 as u32, FIB_RESULT_ADDRTYPE, FIB_DESTINATION])
            .compare(Compare::Equal, &RTN_LOCAL.to_ne_bytes())
    }

    /// Compares the link that the packet came in by.
    pub(crate) fn incoming(&mut self, operator: Compare, link: &str) -> &mut Self {
        self.meta(Register::R0, META_IIFNAME).compare(operator, &link_name(link))
    }

    /// Compares the link that the packet leaves by.
    pub(crate) fn outgoing(&mut self, operator: Compare, link: &str) -> &mut Self {
        self.meta(Register::R0, META_OIFNAME).compare(operator, &link_name(link))
    }

    /// Goes on when connection tracking cannot place the packet.
    pub(crate) fn is_invalid(&mut self) -> &mut Self {
        self.push_numbers("ct", &[Register::R0 as u32, CT_STATE])
            .mask(CT_STATE_INVALID.to_ne_bytes())
            .compare(Compare::NotEqual, &[0; 4])
    }

    /// Goes on when the packet's destination was translated.
    pub(crate) fn is_translated(&mut self) -> &mut Self {
        self.push_numbers("ct", &[Register::R0 as u32, CT_STATUS])
            .mask(CT_STATUS_DNAT.to_ne_bytes())
            .compare(Compare::NotEqual, &[0; 4])
    }

    /// Goes on when the set holds the key that starts in the first register.
    pub(crate) fn is_in(&mut self, set: &str) -> &mut Self {
        self.push("lookup", |data| {
            data.attr_str(1, set);
            data.attr_be32(2, Register::R0 as u32);
        })
    }

    /// Takes the verdict that the map gives for the key that starts in the first register.
    pub(crate) fn verdict_of(&mut self, map: &str) {
        self.push("lookup", |data| {
            data.attr_str(1, map);
            data.attr_be32(2, Register::R0 as u32);
            data.attr_be32(3, 0);
        });
    }

    /// Goes on when the packet's transport protocol has this number.
    pub(crate) fn protocol_is(&mut self, protocol: u8) -> &mut Self {
        self.load_protocol(Register::R0).compare(Compare::Equal, &[protocol])
    }

    /// Goes on when the packet asks for a new TCP connection.
    pub(crate) fn opens_tcp(&mut self) -> &mut Self {
        // one byte fills a register of four, the rest of which is zero
        self.protocol_is(libc::IPPROTO_TCP as u8)
            .payload(Register::R0, TRANSPORT_HEADER, TCP_FLAGS_OFFSET, 1)
            .mask([TCP_FLAGS_MASK, 0, 0, 0])
            .compare(Compare::Equal, &[TCP_SYN, 0, 0, 0])
    }

    /// Goes on when the destination port is this.
    pub(crate) fn port_is(&mut self, port: u16) -> &mut Self {
        self.load_port(Register::R0).compare(Compare::Equal, &port.to_be_bytes())
    }

    /// Compares the packet's mark.
    pub(crate) fn mark(&mut self, operator: Compare, mark: u32) -> &mut Self {
        self.meta(Register::R0, META_MARK).compare(operator, &mark.to_ne_bytes())
    }

    /// Compares the mark of the packet's connection.
    pub(crate) fn connection_mark(&mut self, operator: Compare, mark: u32) -> &mut Self {
        self.push_numbers("ct", &[Register::R0 as u32, CT_MARK]).compare(operator, &mark.to_ne_bytes())
    }

    /// Marks the packet.
    pub(crate) fn set_mark(&mut self, mark: u32) -> &mut Self {
        self.constant(&mark.to_ne_bytes()).push("meta", |data| {
            data.attr_be32(2, META_MARK);
            data.attr_be32(3, Register::R0 as u32);
        })
    }

    /// Marks the packet's connection.
    pub(crate) fn set_connection_mark(&mut self, mark: u32) -> &mut Self {
        self.constant(&mark.to_ne_bytes()).push("ct", |data| {
            data.attr_be32(2, CT_MARK);
            data.attr_be32(4, Register::R0 as u32);
        })
    }

    /// Translates the destination to a port of this machine.
    pub(crate) fn redirect(&mut self, port: u16) {
        self.constant(&port.to_be_bytes()).push_numbers("redir", &[Register::R0 as u32]);
    }

    fn constant(&mut self, value: &[u8]) -> &mut Self {
        self.push("immediate", |data| {
            data.attr_be32(1, Register::R0 as u32);
            data.nest(2, |nest| nest.attr(NFTA_DATA_VALUE, value));
        })
    }

    /// Chooses an index into the map at random.
    pub(crate) fn random_index(&mut self, map: EndpointMap) -> &mut Self {
        self.push_numbers("numgen", &[Register::R0 as u32, map.len, NUMGEN_RANDOM])
    }

    /// Goes on when the map of clients has an endpoint for the source address, with that endpoint.
    pub(crate) fn endpoint_of_client(&mut self, clients: &str) -> &mut Self {
        self.load_source(Register::R2).push("lookup", |data| {
            data.attr_str(1, clients);
            data.attr_be32(2, Register::R2 as u32);
            data.attr_be32(3, Register::R0 as u32);
        })
    }

    /// Goes on when the endpoint is one of the set.
    pub(crate) fn is_endpoint(&mut self, set: EndpointSet) -> &mut Self {
        self.push("lookup", |data| {
            data.attr_str(1, ANONYMOUS_SET);
            data.attr_be32(2, Register::R0 as u32);
            data.attr_be32(4, set.id);
        })
    }

    /// Removes the source address from the map of clients. The kernel wants an endpoint to be there, and does not look at it.
    pub(crate) fn forget_client(&mut self, clients: &str) -> &mut Self {
        self.load_source(Register::R2).push("dynset", |data| {
            data.attr_str(1, clients);
            data.attr_be32(3, DYNSET_DELETE);
            data.attr_be32(4, Register::R2 as u32);
            data.attr_be32(5, Register::R0 as u32);
        })
    }

    /// Has the map of clients know the source address and the endpoint for so long. Goes on unless the map is full.
    pub(crate) fn remember_client(&mut self, clients: &str, time: Duration, memory: Memory) -> &mut Self {
        let operation = match memory {
            Memory::New => DYNSET_ADD,
            Memory::Again => DYNSET_UPDATE,
        };
        let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.load_source(Register::R2).push("dynset", |data| {
            data.attr_str(1, clients);
            data.attr_be32(3, operation);
            data.attr_be32(4, Register::R2 as u32);
            data.attr_be32(5, Register::R0 as u32);
            data.attr(6, &milliseconds.to_be_bytes());
        })
    }

    /// Takes the endpoint at the chosen index.
    pub(crate) fn endpoint_at(&mut self, map: EndpointMap) -> &mut Self {
        self.push("lookup", |data| {
            data.attr_str(1, ANONYMOUS_MAP);
            data.attr_be32(2, Register::R0 as u32);
            data.attr_be32(3, Register::R0 as u32);
            data.attr_be32(4, map.id);
        })
    }

    /// Translates the destination to the endpoint.
    pub(crate) fn translate(&mut self) {
        self.push("nat", |data| {
            data.attr_be32(1, NAT_DESTINATION);
            data.attr_be32(2, libc::AF_INET as u32);
            data.attr_be32(3, Register::R0 as u32);
            data.attr_be32(5, Register::R1 as u32);
        });
    }

    /// Translates the source to the address of the link that the packet leaves by.
    pub(crate) fn masquerade(&mut self) {
        self.push("masq", |_| {});
    }

    /// Refuses the packet of a TCP connection with a reset. Unlike ICMP messages, resets have no rate limit per client.
    pub(crate) fn reset(&mut self) {
        self.push_numbers("reject", &[REJECT_TCP_RESET]);
    }

    /// Refuses the packet with "port unreachable".
    pub(crate) fn reject(&mut self) {
        self.push("reject", |data| {
            data.attr_be32(1, REJECT_ICMP_UNREACHABLE);
            data.attr(2, &[ICMP_PORT_UNREACHABLE]);
        });
    }

    /// Ends the rule with a verdict.
    pub(crate) fn verdict(&mut self, end: Verdict<'_>) {
        self.push("immediate", |data| {
            data.attr_be32(1, 0);
            data.nest(2, |nest| verdict(nest, end));
        });
    }
}

fn link_name(name: &str) -> [u8; IFNAME_LEN] {
    let mut bytes = [0; IFNAME_LEN];
    let len = name.len().min(IFNAME_LEN - 1);
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    bytes
}
