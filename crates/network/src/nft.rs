//! nftables over netlink: batches of changes to one IPv4 table, and the expressions that its rules are made of.
//!
//! A batch is all or nothing: the kernel applies every change at one moment, or none.

mod expression;

use std::net::Ipv4Addr;

use crate::netlink::{APPEND, Attributes, CREATE, Encoder, NetlinkError, Protocol, REQUEST, Socket};

pub(crate) use expression::{Compare, Expressions, Memory, Register, Verdict};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEWTABLE: u16 = SUBSYSTEM << 8;
const DELTABLE: u16 = SUBSYSTEM << 8 | 2;
const NEWCHAIN: u16 = SUBSYSTEM << 8 | 3;
const DELCHAIN: u16 = SUBSYSTEM << 8 | 5;
const NEWRULE: u16 = SUBSYSTEM << 8 | 6;
const DELRULE: u16 = SUBSYSTEM << 8 | 8;
const NEWSET: u16 = SUBSYSTEM << 8 | 9;
const DELSET: u16 = SUBSYSTEM << 8 | 11;
const NEWSETELEM: u16 = SUBSYSTEM << 8 | 12;
const DELSETELEM: u16 = SUBSYSTEM << 8 | 14;

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DATA_TYPE: u16 = 6;
const NFTA_SET_DATA_LEN: u16 = 7;
const NFTA_SET_DESC: u16 = 9;
const NFTA_SET_DESC_SIZE: u16 = 1;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_USERDATA: u16 = 13;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_LIST_SET_ID: u16 = 4;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;

const SET_ANONYMOUS: u32 = 1;
const SET_CONSTANT: u32 = 2;
const SET_MAP: u32 = 8;
const SET_TIMEOUT: u32 = 16;
/// Rules may add to it.
const SET_EVALUATED: u32 = 32;
const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;

/// The kernel's placeholder in the name of an anonymous map.
const ANONYMOUS_MAP: &str = "__map%d";
/// The same of an anonymous set.
const ANONYMOUS_SET: &str = "__set%d";

/// The number that `nft` shows a type by. Composed keys take six bits for each part.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(crate) enum DataType {
    /// `ipv4_addr`.
    Ipv4Address = 7,
    /// `inet_proto`.
    Protocol = 12,
    /// `inet_service`.
    Port = 13,
}

/// The bytes that every part of a key is padded to.
const PART_LEN: u32 = 4;
/// `integer`, the type of what `numgen` and `jhash` produce.
const TYPE_INTEGER: u32 = 4;

/// A remark for tools that show the table: the keys are numbers in host order. Type 0, length 4, value 1.
const KEY_IN_HOST_ORDER: [u8; 6] = [0, 4, 1, 0, 0, 0];

fn composed(parts: &[DataType]) -> u32 {
    parts.iter().fold(0, |id, part| id << 6 | *part as u32)
}

/// A point in a packet's way where a chain is hooked in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hook {
    /// The chain type: `filter` or `nat`.
    pub(crate) kind: &'static str,
    /// Where: 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting.
    pub(crate) number: u32,
    /// The order among the chains of the same hook.
    pub(crate) priority: i32,
}

/// Changes to one table that are applied together.
#[derive(Debug)]
pub(crate) struct Batch {
    table: String,
    encoder: Encoder,
    sets: u32,
}

impl Batch {
    /// An empty batch for a table.
    pub(crate) fn new(table: &str) -> Self {
        let mut encoder = Encoder::default();
        encoder.message(BATCH_BEGIN, REQUEST, |message| message.raw(&batch_header()));
        Self { table: table.to_owned(), encoder, sets: 0 }
    }

    /// Creates the table, or keeps it.
    pub(crate) fn add_table(&mut self) {
        self.change(NEWTABLE, CREATE, NFTA_TABLE_NAME, |_| {});
    }

    /// Deletes the table with everything in it.
    pub(crate) fn delete_table(&mut self) {
        self.change(DELTABLE, 0, NFTA_TABLE_NAME, |_| {});
    }

    /// Creates a chain, or keeps it.
    pub(crate) fn add_chain(&mut self, name: &str, hook: Option<Hook>) {
        self.change(NEWCHAIN, CREATE, NFTA_CHAIN_TABLE, |message| {
            message.attr_str(NFTA_CHAIN_NAME, name);
            let Some(hook) = hook else { return };
            message.nest(NFTA_CHAIN_HOOK, |nest| {
                nest.attr_be32(NFTA_HOOK_HOOKNUM, hook.number);
                nest.attr_be32(NFTA_HOOK_PRIORITY, hook.priority as u32);
            });
            message.attr_str(NFTA_CHAIN_TYPE, hook.kind);
        });
    }

    /// Removes all rules of a chain.
    pub(crate) fn flush_chain(&mut self, name: &str) {
        self.change(DELRULE, 0, NFTA_RULE_TABLE, |message| message.attr_str(NFTA_RULE_CHAIN, name));
    }

    /// Deletes a chain that has no rules.
    pub(crate) fn delete_chain(&mut self, name: &str) {
        self.change(DELCHAIN, 0, NFTA_CHAIN_TABLE, |message| message.attr_str(NFTA_CHAIN_NAME, name));
    }

    /// Appends a rule to a chain.
    pub(crate) fn add_rule(&mut self, chain: &str, write: impl FnOnce(&mut Expressions<'_>)) {
        self.change(NEWRULE, CREATE | APPEND, NFTA_RULE_TABLE, |message| {
            message.attr_str(NFTA_RULE_CHAIN, chain);
            message.nest(NFTA_RULE_EXPRESSIONS, |list| write(&mut Expressions::new(list)));
        });
    }

    /// Creates a set, or keeps it.
    pub(crate) fn add_set(&mut self, name: &str, key: &[DataType]) {
        self.named_set(name, key, |_| {}, 0);
    }

    /// Creates a map from keys to verdicts, or keeps it.
    pub(crate) fn add_verdict_map(&mut self, name: &str, key: &[DataType]) {
        self.named_set(name, key, |message| message.attr_be32(NFTA_SET_DATA_TYPE, DATA_TYPE_VERDICT), SET_MAP);
    }

    fn named_set(&mut self, name: &str, key: &[DataType], data: impl FnOnce(&mut Encoder), flags: u32) {
        self.sets += 1;
        let id = self.sets;
        self.change(NEWSET, CREATE, NFTA_SET_TABLE, |message| {
            message.attr_str(NFTA_SET_NAME, name);
            message.attr_be32(NFTA_SET_FLAGS, flags);
            message.attr_be32(NFTA_SET_KEY_TYPE, composed(key));
            message.attr_be32(NFTA_SET_KEY_LEN, PART_LEN * key.len() as u32);
            data(message);
            message.attr_be32(NFTA_SET_ID, id);
        });
    }

    /// Creates a map from clients to their endpoints, or keeps it; rules fill it, up to `size` clients.
    pub(crate) fn add_client_map(&mut self, name: &str, size: u32) {
        let data = |message: &mut Encoder| {
            message.attr_be32(NFTA_SET_DATA_TYPE, composed(&ENDPOINT));
            message.attr_be32(NFTA_SET_DATA_LEN, PART_LEN * ENDPOINT.len() as u32);
            message.nest(NFTA_SET_DESC, |desc| desc.attr_be32(NFTA_SET_DESC_SIZE, size));
        };
        self.named_set(name, &[DataType::Ipv4Address], data, SET_MAP | SET_TIMEOUT | SET_EVALUATED);
    }

    /// Deletes a set or map that no rule names.
    pub(crate) fn delete_set(&mut self, name: &str) {
        self.change(DELSET, 0, NFTA_SET_TABLE, |message| message.attr_str(NFTA_SET_NAME, name));
    }

    /// Adds a key to a set.
    pub(crate) fn add_element(&mut self, set: &str, key: &[u8]) {
        self.element(NEWSETELEM, CREATE, set, key, None);
    }

    /// Maps a key to a chain.
    pub(crate) fn add_goto(&mut self, map: &str, key: &[u8], chain: &str) {
        self.element(NEWSETELEM, CREATE, map, key, Some(chain));
    }

    /// Removes a key.
    pub(crate) fn delete_element(&mut self, set: &str, key: &[u8]) {
        self.element(DELSETELEM, 0, set, key, None);
    }

    fn element(&mut self, kind: u16, flags: u16, set: &str, key: &[u8], chain: Option<&str>) {
        self.change(kind, flags, NFTA_SET_ELEM_LIST_TABLE, |message| {
            message.attr_str(NFTA_SET_ELEM_LIST_SET, set);
            message.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                list.nest(NFTA_LIST_ELEM, |element| {
                    element.nest(NFTA_SET_ELEM_KEY, |nest| nest.attr(NFTA_DATA_VALUE, key));
                    if let Some(chain) = chain {
                        element.nest(NFTA_SET_ELEM_DATA, |data| verdict(data, Verdict::Goto(chain)));
                    }
                });
            });
        });
    }

    /// Creates the anonymous map from an index to an endpoint that a rule of this batch looks up by the returned
    /// number. `endpoints` must be few enough for one message, see [`ENDPOINTS_MAX`].
    pub(crate) fn add_endpoint_map(&mut self, endpoints: &[(Ipv4Addr, u16)]) -> EndpointMap {
        self.sets += 1;
        let id = self.sets;
        self.change(NEWSET, CREATE, NFTA_SET_TABLE, |message| {
            message.attr_str(NFTA_SET_NAME, ANONYMOUS_MAP);
            message.attr_be32(NFTA_SET_FLAGS, SET_ANONYMOUS | SET_CONSTANT | SET_MAP);
            message.attr_be32(NFTA_SET_KEY_TYPE, TYPE_INTEGER);
            message.attr_be32(NFTA_SET_KEY_LEN, PART_LEN);
            message.attr_be32(NFTA_SET_DATA_TYPE, composed(&ENDPOINT));
            message.attr_be32(NFTA_SET_DATA_LEN, PART_LEN * ENDPOINT.len() as u32);
            message.attr(NFTA_SET_USERDATA, &KEY_IN_HOST_ORDER);
            message.nest(NFTA_SET_DESC, |desc| desc.attr_be32(NFTA_SET_DESC_SIZE, endpoints.len() as u32));
            message.attr_be32(NFTA_SET_ID, id);
        });
        self.change(NEWSETELEM, CREATE, NFTA_SET_ELEM_LIST_TABLE, |message| {
            message.attr_str(NFTA_SET_ELEM_LIST_SET, ANONYMOUS_MAP);
            message.attr_be32(NFTA_SET_ELEM_LIST_SET_ID, id);
            message.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                for (index, (address, port)) in endpoints.iter().enumerate() {
                    list.nest(NFTA_LIST_ELEM, |element| {
                        // Both generators leave a number in host order.
                        let key = (index as u32).to_ne_bytes();
                        element.nest(NFTA_SET_ELEM_KEY, |nest| nest.attr(NFTA_DATA_VALUE, &key));
                        let value = endpoint(*address, *port);
                        element.nest(NFTA_SET_ELEM_DATA, |data| data.attr(NFTA_DATA_VALUE, &value));
                    });
                }
            });
        });
        EndpointMap { id, len: endpoints.len() as u32 }
    }

    /// Creates the anonymous set of endpoints that a rule of this batch looks in; as many as in a map.
    pub(crate) fn add_endpoint_set(&mut self, endpoints: &[(Ipv4Addr, u16)]) -> EndpointSet {
        self.sets += 1;
        let id = self.sets;
        self.change(NEWSET, CREATE, NFTA_SET_TABLE, |message| {
            message.attr_str(NFTA_SET_NAME, ANONYMOUS_SET);
            message.attr_be32(NFTA_SET_FLAGS, SET_ANONYMOUS | SET_CONSTANT);
            message.attr_be32(NFTA_SET_KEY_TYPE, composed(&ENDPOINT));
            message.attr_be32(NFTA_SET_KEY_LEN, PART_LEN * ENDPOINT.len() as u32);
            message.nest(NFTA_SET_DESC, |desc| desc.attr_be32(NFTA_SET_DESC_SIZE, endpoints.len() as u32));
            message.attr_be32(NFTA_SET_ID, id);
        });
        self.change(NEWSETELEM, CREATE, NFTA_SET_ELEM_LIST_TABLE, |message| {
            message.attr_str(NFTA_SET_ELEM_LIST_SET, ANONYMOUS_SET);
            message.attr_be32(NFTA_SET_ELEM_LIST_SET_ID, id);
            message.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                for (address, port) in endpoints {
                    let key = endpoint(*address, *port);
                    list.nest(NFTA_LIST_ELEM, |element| {
                        element.nest(NFTA_SET_ELEM_KEY, |nest| nest.attr(NFTA_DATA_VALUE, &key));
                    });
                }
            });
        });
        EndpointSet { id }
    }

    /// Sends the batch.
    pub(crate) fn commit(mut self, socket: &Socket, action: &str) -> Result<(), NetlinkError> {
        self.encoder.message(BATCH_END, REQUEST, |message| message.raw(&batch_header()));
        socket.request(action, &self.encoder)
    }

    fn change(&mut self, kind: u16, flags: u16, table_attribute: u16, body: impl FnOnce(&mut Encoder)) {
        let table = &self.table;
        self.encoder.message(kind, REQUEST | flags, |message| {
            message.raw(&[libc::AF_INET as u8, 0, 0, 0]);
            message.attr_str(table_attribute, table);
            body(message);
        });
    }
}

/// Endpoints of one Service port that fit one message: an element takes 48 bytes of the 65535 that an attribute may have.
pub(crate) const ENDPOINTS_MAX: usize = 1300;

/// An anonymous map of a batch, to be looked up by one rule of the same batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EndpointMap {
    id: u32,
    len: u32,
}

/// An anonymous set of a batch, to be looked in by one rule of the same batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EndpointSet {
    id: u32,
}

/// What an endpoint consists of.
const ENDPOINT: [DataType; 2] = [DataType::Ipv4Address, DataType::Port];

/// An endpoint as a key or value.
fn endpoint(address: Ipv4Addr, port: u16) -> [u8; 8] {
    let mut value = [0; 8];
    value[..4].copy_from_slice(&address.octets());
    value[4..6].copy_from_slice(&port.to_be_bytes());
    value
}

/// The handle of a table, which the kernel gives to no other table again; nothing when there is no such table.
pub(crate) fn table_handle(socket: &Socket, table: &str) -> Result<Option<u64>, NetlinkError> {
    const GETTABLE: u16 = SUBSYSTEM << 8 | 1;
    const NFTA_TABLE_HANDLE: u16 = 4;
    const FAMILY_HEADER_LEN: usize = 4;
    let action = format!("look for nftables table {table}");
    let mut handle = None;
    let body = |message: &mut Encoder| {
        message.raw(&[libc::AF_INET as u8, 0, 0, 0]);
        message.attr_str(NFTA_TABLE_NAME, table);
    };
    let answer = socket.get(&action, GETTABLE, body, |message| {
        let attributes = Attributes(message.body.get(FAMILY_HEADER_LEN..).unwrap_or_default());
        handle = attributes.find(NFTA_TABLE_HANDLE).and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?)));
    });
    match answer {
        Ok(()) if handle.is_none() => Err(NetlinkError::Malformed { action }),
        Ok(()) => Ok(handle),
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A netfilter socket.
pub(crate) fn socket() -> Result<Socket, NetlinkError> {
    Socket::open(Protocol::Netfilter)
}

fn batch_header() -> [u8; 4] {
    let [high, low] = SUBSYSTEM.to_be_bytes();
    [libc::AF_UNSPEC as u8, 0, high, low]
}

fn verdict(data: &mut Encoder, verdict: Verdict<'_>) {
    data.nest(NFTA_DATA_VERDICT, |nest| {
        nest.attr_be32(NFTA_VERDICT_CODE, verdict.code() as u32);
        if let Some(chain) = verdict.chain() {
            nest.attr_str(NFTA_VERDICT_CHAIN, chain);
        }
    });
}
