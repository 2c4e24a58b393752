//! Links, addresses and routes of one network namespace, over rtnetlink.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use crate::netlink::{
    ACK, Attributes, CREATE, EXCL, Encoder, Message, NetlinkError, Protocol, REPLACE, REQUEST, Socket, tolerate, u32_at,
};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FR_ACT_TO_TBL: u8 = 1;

const IFF_UP: u32 = 1;
const IFINFO_LEN: usize = 16;
const RTMSG_LEN: usize = 12;
const RT_TABLE_MAIN: u8 = 254;
const RT_TABLE_LOCAL: u8 = 255;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RT_SCOPE_HOST: u8 = 254;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// A network link as far as this crate looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    /// The kernel's number.
    pub(crate) index: u32,
    /// The name.
    pub(crate) name: String,
    /// The largest packet.
    pub(crate) mtu: u32,
}

/// An IPv4 route of any table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    /// The destination and its prefix length.
    pub(crate) destination: (Ipv4Addr, u8),
    /// The link it leads over.
    pub(crate) link: Option<u32>,
}

/// A veth pair whose peer lies in another network namespace.
#[derive(Debug)]
pub(crate) struct VethPair<'a> {
    /// Name of the end in this namespace.
    pub(crate) name: &'a str,
    /// A remark shown by tools.
    pub(crate) alias: &'a str,
    /// The bridge of this end.
    pub(crate) bridge: u32,
    /// The largest packet.
    pub(crate) mtu: u32,
    /// The namespace of the other end.
    pub(crate) peer_netns: &'a File,
    /// Name of the other end.
    pub(crate) peer_name: &'a str,
    /// Hardware address of the other end.
    pub(crate) peer_mac: Mac,
}

/// The links, addresses and routes of the namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Links {
    socket: Socket,
}

impl Links {
    /// Opens the view of this thread's namespace.
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        Ok(Self { socket: Socket::open(Protocol::Route)? })
    }

    /// All links.
    pub(crate) fn list(&self) -> Result<Vec<Link>, NetlinkError> {
        let mut links = Vec::new();
        let request = |message: &mut Encoder| message.raw(&[0; IFINFO_LEN]);
        self.socket.dump("list links", RTM_GETLINK, request, |message| links.extend(link(&message)))?;
        Ok(links)
    }

    /// A link by name, if it is there.
    pub(crate) fn find(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut found = None;
        let request = |message: &mut Encoder| {
            message.raw(&[0; IFINFO_LEN]);
            message.attr_str(IFLA_IFNAME, name);
        };
        let result =
            self.socket.get(&format!("find link {name}"), RTM_GETLINK, request, |message| found = link(&message));
        tolerate(result, &[libc::ENODEV])?;
        Ok(found)
    }

    /// All IPv4 routes, those of local addresses among them.
    pub(crate) fn routes(&self) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = Vec::new();
        let family = libc::AF_INET as u8;
        self.socket.dump(
            "list routes",
            RTM_GETROUTE,
            |message| message.raw(&[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            |message| {
                let attributes = message.attributes(RTMSG_LEN);
                let prefix = message.body.get(1).copied().unwrap_or_default();
                routes.push(Route {
                    destination: (ipv4(attributes, RTA_DST).unwrap_or(Ipv4Addr::UNSPECIFIED), prefix),
                    link: attributes.find(RTA_OIF).and_then(|index| u32_at(index, 0)),
                });
            },
        )?;
        Ok(routes)
    }

    /// Creates a bridge and brings it up; an existing one is kept.
    pub(crate) fn ensure_bridge(&self, name: &str, mac: Mac, mtu: u32) -> Result<(), NetlinkError> {
        let mut create = Encoder::default();
        create.message(RTM_NEWLINK, REQUEST | ACK | CREATE | EXCL, |message| {
            message.raw(&ifinfo(0, 0));
            message.attr_str(IFLA_IFNAME, name);
            message.nest(IFLA_LINKINFO, |info| info.attr(IFLA_INFO_KIND, b"bridge"));
        });
        tolerate(self.socket.request(&format!("create bridge {name}"), &create), &[libc::EEXIST])?;
        let mut set = Encoder::default();
        set.message(RTM_NEWLINK, REQUEST | ACK, |message| {
            message.raw(&ifinfo(0, IFF_UP));
            message.attr_str(IFLA_IFNAME, name);
            message.attr(IFLA_ADDRESS, &mac);
            message.attr_u32(IFLA_MTU, mtu);
        });
        self.socket.request(&format!("bring bridge {name} up"), &set)
    }

    /// Creates a veth pair: this end up and on its bridge, as a port in hairpin mode.
    ///
    /// Where bridge netfilter is on, a translated packet is bridged to its endpoint's port rather than routed, and a pod
    /// that reaches itself through a Service gets its packet back through the port that it came in by.
    pub(crate) fn create_veth(&self, pair: &VethPair<'_>) -> Result<(), NetlinkError> {
        let mut messages = Encoder::default();
        messages.message(RTM_NEWLINK, REQUEST | ACK | CREATE | EXCL, |message| {
            message.raw(&ifinfo(0, IFF_UP));
            message.attr_str(IFLA_IFNAME, pair.name);
            message.attr_u32(IFLA_MTU, pair.mtu);
            message.attr_u32(IFLA_MASTER, pair.bridge);
            message.nest(IFLA_LINKINFO, |info| {
                info.attr(IFLA_INFO_KIND, b"veth");
                info.nest(IFLA_INFO_DATA, |data| {
                    data.nest(VETH_INFO_PEER, |peer| {
                        peer.raw(&ifinfo(0, 0));
                        peer.attr_str(IFLA_IFNAME, pair.peer_name);
                        peer.attr_u32(IFLA_MTU, pair.mtu);
                        peer.attr(IFLA_ADDRESS, &pair.peer_mac);
                        peer.attr_u32(IFLA_NET_NS_FD, pair.peer_netns.as_raw_fd() as u32);
                    });
                });
            });
        });
        messages.message(RTM_NEWLINK, REQUEST | ACK, |message| {
            message.raw(&ifinfo(0, 0));
            message.attr_str(IFLA_IFNAME, pair.name);
            message.attr_str(IFLA_IFALIAS, pair.alias);
            message.nest(IFLA_LINKINFO, |info| {
                info.attr(IFLA_INFO_SLAVE_KIND, b"bridge");
                info.nest(IFLA_INFO_SLAVE_DATA, |data| data.attr(IFLA_BRPORT_MODE, &[1]));
            });
        });
        self.socket.request(&format!("create veth pair {}", pair.name), &messages)
    }

    /// Brings a link up.
    pub(crate) fn up(&self, name: &str) -> Result<(), NetlinkError> {
        let mut messages = Encoder::default();
        messages.message(RTM_NEWLINK, REQUEST | ACK, |message| {
            message.raw(&ifinfo(0, IFF_UP));
            message.attr_str(IFLA_IFNAME, name);
        });
        self.socket.request(&format!("bring link {name} up"), &messages)
    }

    /// Deletes links by number in one go; those already gone are passed over.
    pub(crate) fn delete(&self, links: &[Link]) -> Result<(), NetlinkError> {
        for link in links {
            let mut messages = Encoder::default();
            messages.message(RTM_DELLINK, REQUEST | ACK, |message| message.raw(&ifinfo(link.index, 0)));
            tolerate(self.socket.request(&format!("delete link {}", link.name), &messages), &[libc::ENODEV])?;
        }
        Ok(())
    }

    /// Deletes a link by name, if there is one.
    pub(crate) fn delete_named(&self, name: &str) -> Result<(), NetlinkError> {
        let mut messages = Encoder::default();
        messages.message(RTM_DELLINK, REQUEST | ACK, |message| {
            message.raw(&ifinfo(0, 0));
            message.attr_str(IFLA_IFNAME, name);
        });
        tolerate(self.socket.request(&format!("delete link {name}"), &messages), &[libc::ENODEV])
    }

    /// Gives a link an address, or keeps it.
    pub(crate) fn add_address(&self, link: u32, address: Ipv4Addr, prefix: u8) -> Result<(), NetlinkError> {
        let mut messages = Encoder::default();
        messages.message(RTM_NEWADDR, REQUEST | ACK | CREATE | REPLACE, |message| {
            let mut header = [libc::AF_INET as u8, prefix, 0, RT_SCOPE_UNIVERSE, 0, 0, 0, 0];
            header[4..].copy_from_slice(&link.to_ne_bytes());
            message.raw(&header);
            message.attr(IFA_LOCAL, &address.octets());
            message.attr(IFA_ADDRESS, &address.octets());
        });
        self.socket.request(&format!("add address {address}/{prefix}"), &messages)
    }

    /// Makes all addresses of a range this machine's, as long as the link is there.
    pub(crate) fn add_local_range(&self, link: u32, network: Ipv4Addr, prefix: u8) -> Result<(), NetlinkError> {
        let mut messages = Encoder::default();
        messages.message(RTM_NEWROUTE, REQUEST | ACK | CREATE | REPLACE, |message| {
            let mut header = rtmsg(prefix, RT_SCOPE_HOST);
            (header[4], header[7]) = (RT_TABLE_LOCAL, RTN_LOCAL);
            message.raw(&header);
            message.attr(RTA_DST, &network.octets());
            message.attr_u32(RTA_OIF, link);
        });
        self.socket.request(&format!("add the local range {network}/{prefix}"), &messages)
    }

    /// Sets a pod's routes: its gateway lies on the link, everything else behind the gateway.
    pub(crate) fn set_default_route(&self, link: u32, gateway: Ipv4Addr, source: Ipv4Addr) -> Result<(), NetlinkError> {
        let mut messages = Encoder::default();
        let flags = REQUEST | ACK | CREATE | REPLACE;
        messages.message(RTM_NEWROUTE, flags, |message| {
            message.raw(&rtmsg(32, RT_SCOPE_LINK));
            message.attr(RTA_DST, &gateway.octets());
            message.attr_u32(RTA_OIF, link);
            message.attr(RTA_PREFSRC, &source.octets());
        });
        messages.message(RTM_NEWROUTE, flags, |message| {
            message.raw(&rtmsg(0, RT_SCOPE_UNIVERSE));
            message.attr(RTA_GATEWAY, &gateway.octets());
            message.attr_u32(RTA_OIF, link);
            message.attr(RTA_PREFSRC, &source.octets());
        });
        self.socket.request(&format!("set default route via {gateway}"), &messages)
    }
}

/// Packets with a mark that are taken for the machine's own, whatever their destination.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MarkedLocal {
    /// The mark.
    pub(crate) mark: u32,
    /// The routing table that says so; nobody else uses it.
    pub(crate) table: u8,
    /// The order of the rule that leads there.
    pub(crate) priority: u32,
}

impl Links {
    /// Takes marked packets for the machine's own, or keeps doing so.
    pub(crate) fn take_marked(&self, marked: MarkedLocal) -> Result<(), NetlinkError> {
        let loopback = index_of("lo").unwrap_or(1);
        let mut route = Encoder::default();
        route.message(RTM_NEWROUTE, REQUEST | ACK | CREATE | REPLACE, |message| {
            let mut header = rtmsg(0, RT_SCOPE_HOST);
            (header[4], header[7]) = (marked.table, RTN_LOCAL);
            message.raw(&header);
            message.attr_u32(RTA_OIF, loopback);
        });
        self.socket.request("add the route of marked packets", &route)?;
        let rule = marked.message(RTM_NEWRULE, REQUEST | ACK | CREATE | EXCL);
        tolerate(self.socket.request("add the rule of marked packets", &rule), &[libc::EEXIST])
    }

    /// Routes marked packets as all others. The table's route stays, to which nothing leads.
    pub(crate) fn leave_marked(&self, marked: MarkedLocal) -> Result<(), NetlinkError> {
        let rule = marked.message(RTM_DELRULE, REQUEST | ACK);
        tolerate(self.socket.request("delete the rule of marked packets", &rule), &[libc::ENOENT])
    }
}

impl MarkedLocal {
    fn message(self, kind: u16, flags: u16) -> Encoder {
        let mut encoder = Encoder::default();
        encoder.message(kind, flags, |message| {
            message.raw(&[libc::AF_INET as u8, 0, 0, 0, self.table, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0]);
            message.attr_u32(FRA_PRIORITY, self.priority);
            message.attr_u32(FRA_FWMARK, self.mark);
        });
        encoder
    }
}

/// The link that a message describes.
fn link(message: &Message<'_>) -> Option<Link> {
    let attributes = message.attributes(IFINFO_LEN);
    let name = attributes.find(IFLA_IFNAME)?;
    let name = String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned();
    let mtu = attributes.find(IFLA_MTU).and_then(|mtu| u32_at(mtu, 0)).unwrap_or_default();
    Some(Link { index: u32_at(message.body, 4)?, name, mtu })
}

/// The number of a link of this thread's namespace, if it is there.
pub(crate) fn index_of(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

fn ifinfo(index: u32, flags_up: u32) -> [u8; IFINFO_LEN] {
    let mut header = [0; IFINFO_LEN];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags_up.to_ne_bytes());
    header[12..16].copy_from_slice(&flags_up.to_ne_bytes());
    header
}

fn rtmsg(prefix: u8, scope: u8) -> [u8; RTMSG_LEN] {
    [libc::AF_INET as u8, prefix, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, scope, RTN_UNICAST, 0, 0, 0, 0]
}

fn ipv4(attributes: Attributes<'_>, kind: u16) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(attributes.find(kind)?).ok()?))
}
