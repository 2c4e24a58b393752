//! IP addresses and networks: `ip`, `cidr` and what they can be asked.

use std::any::Any;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use crate::cost::{CallEstimate, CostEstimate, STRING_TRAVERSAL_FACTOR as TRAVERSAL, SizeEstimate, scale};
use crate::error::EvalError;
use crate::library::{Library, Overload};
use crate::types::Type;
use crate::value::{Opaque, Value};

static IP: LazyLock<Type> = LazyLock::new(|| Type::opaque("net.IP"));
static CIDR: LazyLock<Type> = LazyLock::new(|| Type::opaque("net.CIDR"));

/// An address.
#[derive(Debug, PartialEq)]
struct Ip(IpAddr);

/// A network: an address and the number of bits that it shares with the others.
#[derive(Debug, PartialEq)]
struct Cidr {
    address: IpAddr,
    bits: u8,
}

impl Opaque for Ip {
    fn ty(&self) -> &Type {
        &IP
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref() == Some(self)
    }

    fn size(&self) -> Option<u64> {
        Some(if self.0.is_ipv4() { 4 } else { 16 })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Opaque for Cidr {
    fn ty(&self) -> &Type {
        &CIDR
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref() == Some(self)
    }

    fn size(&self) -> Option<u64> {
        Some(u64::from(self.bits).div_ceil(8))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn parse_ip(text: &str) -> Result<IpAddr, EvalError> {
    let failed = |why: &str| EvalError::other(format!("IP Address {text:?} {why}"));
    if text.contains('%') {
        return Err(EvalError::other(format!("IP address {text:?} with zone value is not allowed")));
    }
    let address: IpAddr = text.parse().map_err(|_| {
        failed(&format!("parse error during conversion from string: ParseAddr({text:?}): unable to parse IP"))
    })?;
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(EvalError::other(format!("IPv4-mapped IPv6 address {text:?} is not allowed")))
        }
        address => Ok(address),
    }
}

fn parse_cidr(text: &str) -> Result<Cidr, EvalError> {
    let failed = || {
        let why = format!("netip.ParsePrefix({text:?}): unable to parse prefix");
        EvalError::other(format!("network address parse error during conversion from string: {why}"))
    };
    let (address, bits) = text.rsplit_once('/').ok_or_else(failed)?;
    let canonical = bits == "0" || (!bits.starts_with('0') && bits.bytes().all(|byte| byte.is_ascii_digit()));
    let bits: u8 = bits.parse().ok().filter(|_| canonical).ok_or_else(failed)?;
    let address: IpAddr = address.parse().map_err(|_| failed())?;
    if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        return Err(EvalError::other(format!("IPv4-mapped IPv6 address {text:?} is not allowed")));
    }
    let most = if address.is_ipv4() { 32 } else { 128 };
    if bits > most { Err(failed()) } else { Ok(Cidr { address, bits }) }
}

/// The address with all bits but the first `bits` cleared.
fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

impl Cidr {
    fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && masked(self.address, self.bits) == masked(address, self.bits)
    }

    fn contains_network(&self, other: &Self) -> bool {
        self.contains(other.address) && self.bits <= other.bits
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

fn is_link_local_multicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

fn is_link_local_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn is_global_unicast(address: IpAddr) -> bool {
    address != IpAddr::V4(Ipv4Addr::BROADCAST)
        && !address.is_unspecified()
        && !address.is_loopback()
        && !address.is_multicast()
        && !is_link_local_unicast(address)
}

/// A walk through the text that is read.
fn parses(overload: Overload) -> Overload {
    overload
        .cost(|args, _| scale(args[0].size().unwrap_or(1), TRAVERSAL))
        .estimate(|call| CallEstimate::cost(call.size(0).cost(TRAVERSAL)))
}

/// A look at a field.
fn nominal(overload: Overload) -> Overload {
    overload.cost(|_, _| 1).estimate(|_| CallEstimate::fixed(1))
}

/// Comparing the bytes of two addresses.
fn compared(bytes: u64) -> u64 {
    scale(bytes.saturating_mul(2), TRAVERSAL)
}

/// The bytes of an address.
const ADDRESS: SizeEstimate = SizeEstimate { min: 4, max: 16 };

/// As Kubernetes has them since 1.30.
pub(super) fn library() -> Library {
    addresses().with(networks())
}

fn addresses() -> Library {
    let test = |id, holds: fn(IpAddr) -> bool| {
        nominal(Overload::member(id, vec![IP.clone()], Type::Bool, move |_, args| {
            Ok(Value::Bool(holds(args[0].opaque::<Ip>()?.0)))
        }))
    };
    Library::new()
        .type_name("net.IP", IP.clone())
        .function(
            "ip",
            vec![parses(Overload::global("string_to_ip", vec![Type::String], IP.clone(), |_, args| {
                Ok(Value::from_opaque(Ip(parse_ip(args[0].str()?)?)))
            }))],
        )
        .function(
            "isIP",
            vec![parses(Overload::global("is_ip", vec![Type::String], Type::Bool, |_, args| {
                Ok(Value::Bool(parse_ip(args[0].str()?).is_ok()))
            }))],
        )
        .function(
            "ip.isCanonical",
            vec![
                Overload::global("ip_is_canonical", vec![Type::String], Type::Bool, |_, args| {
                    let text = args[0].str()?;
                    Ok(Value::Bool(parse_ip(text)?.to_string() == text))
                })
                .cost(|args, _| scale(args[0].size().unwrap_or(1), 2.0 * TRAVERSAL))
                .estimate(|call| CallEstimate::cost(call.size(0).cost(2.0 * TRAVERSAL))),
            ],
        )
        .function(
            "string",
            vec![Overload::global("ip_to_string", vec![IP.clone()], Type::String, |_, args| {
                Ok(Value::string(args[0].opaque::<Ip>()?.0.to_string()))
            })],
        )
        .function(
            "family",
            vec![nominal(Overload::member("ip_family", vec![IP.clone()], Type::Int, |_, args| {
                Ok(Value::Int(if args[0].opaque::<Ip>()?.0.is_ipv4() { 4 } else { 6 }))
            }))],
        )
        .function("isUnspecified", vec![test("ip_is_unspecified", |ip| ip.is_unspecified())])
        .function("isLoopback", vec![test("ip_is_loopback", |ip| ip.is_loopback())])
        .function("isLinkLocalMulticast", vec![test("ip_is_link_local_multicast", is_link_local_multicast)])
        .function("isLinkLocalUnicast", vec![test("ip_is_link_local_unicast", is_link_local_unicast)])
        .function("isGlobalUnicast", vec![test("ip_is_global_unicast", is_global_unicast)])
}

fn networks() -> Library {
    Library::new()
        .type_name("net.CIDR", CIDR.clone())
        .function(
            "cidr",
            vec![parses(Overload::global("string_to_cidr", vec![Type::String], CIDR.clone(), |_, args| {
                Ok(Value::from_opaque(parse_cidr(args[0].str()?)?))
            }))],
        )
        .function(
            "isCIDR",
            vec![parses(Overload::global("is_cidr", vec![Type::String], Type::Bool, |_, args| {
                Ok(Value::Bool(parse_cidr(args[0].str()?).is_ok()))
            }))],
        )
        .function(
            "string",
            vec![Overload::global("cidr_to_string", vec![CIDR.clone()], Type::String, |_, args| {
                Ok(Value::string(args[0].opaque::<Cidr>()?.to_string()))
            })],
        )
        .function(
            "ip",
            vec![nominal(Overload::member("cidr_ip", vec![CIDR.clone()], IP.clone(), |_, args| {
                Ok(Value::from_opaque(Ip(args[0].opaque::<Cidr>()?.address)))
            }))],
        )
        .function(
            "masked",
            vec![nominal(Overload::member("cidr_masked", vec![CIDR.clone()], CIDR.clone(), |_, args| {
                let cidr = args[0].opaque::<Cidr>()?;
                Ok(Value::from_opaque(Cidr { address: masked(cidr.address, cidr.bits), bits: cidr.bits }))
            }))],
        )
        .function(
            "prefixLength",
            vec![nominal(Overload::member("cidr_prefix_length", vec![CIDR.clone()], Type::Int, |_, args| {
                Ok(Value::Int(i64::from(args[0].opaque::<Cidr>()?.bits)))
            }))],
        )
        .function("containsIP", contains_ip())
        .function("containsCIDR", contains_cidr())
}

fn contains_ip() -> Vec<Overload> {
    let of = || vec![CIDR.clone(), IP.clone()];
    vec![
        Overload::member("cidr_contains_ip_string", vec![CIDR.clone(), Type::String], Type::Bool, |_, args| {
            Ok(Value::Bool(args[0].opaque::<Cidr>()?.contains(parse_ip(args[1].str()?)?)))
        })
        .cost(|args, _| {
            let text = scale(args[1].size().unwrap_or(1), TRAVERSAL);
            compared(args[0].size().unwrap_or(1)).saturating_add(text)
        })
        .estimate(|call| CallEstimate::cost(ADDRESS.plus(ADDRESS).cost(TRAVERSAL).plus(call.size(1).cost(TRAVERSAL)))),
        Overload::member("cidr_contains_ip_ip", of(), Type::Bool, |_, args| {
            Ok(Value::Bool(args[0].opaque::<Cidr>()?.contains(args[1].opaque::<Ip>()?.0)))
        })
        .cost(|args, _| compared(args[0].size().unwrap_or(1)))
        .estimate(|_| CallEstimate::cost(ADDRESS.plus(ADDRESS).cost(TRAVERSAL))),
    ]
}

fn contains_cidr() -> Vec<Overload> {
    fn runtime(args: &[Value<'_>]) -> u64 {
        let size = args[0].size().unwrap_or(1);
        compared(size).saturating_add(scale(size, TRAVERSAL)).saturating_add(1)
    }
    fn estimate() -> CostEstimate {
        ADDRESS.plus(ADDRESS).cost(TRAVERSAL).plus(ADDRESS.cost(TRAVERSAL)).plus(CostEstimate::fixed(1))
    }
    vec![
        Overload::member("cidr_contains_cidr_string", vec![CIDR.clone(), Type::String], Type::Bool, |_, args| {
            let other = parse_cidr(args[1].str()?)?;
            Ok(Value::Bool(args[0].opaque::<Cidr>()?.contains_network(&other)))
        })
        .cost(|args, _| runtime(args).saturating_add(scale(args[1].size().unwrap_or(1), TRAVERSAL)))
        .estimate(|call| CallEstimate::cost(estimate().plus(call.size(1).cost(TRAVERSAL)))),
        Overload::member("cidr_contains_cidr", vec![CIDR.clone(), CIDR.clone()], Type::Bool, |_, args| {
            Ok(Value::Bool(args[0].opaque::<Cidr>()?.contains_network(args[1].opaque::<Cidr>()?)))
        })
        .cost(|args, _| runtime(args))
        .estimate(|_| CallEstimate::cost(estimate())),
    ]
}
