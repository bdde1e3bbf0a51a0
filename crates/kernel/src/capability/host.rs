//! Hosts and ranges of addresses, as grants name them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::limits;

/// The port where none is named.
const HTTPS: u16 = 443;
/// Bits of an address.
const V4_BITS: u8 = 32;
const V6_BITS: u8 = 128;
/// Bits of `::ffff:0:0/96` and of `64:ff9b::/96`, before the IPv4 address in them.
const EMBEDDED_BITS: u8 = 96;

/// An entry of an allowlist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    host: Host,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Name(String),
    /// The names below this one.
    Below(String),
    Address(IpAddr),
}

impl Entry {
    /// Reads `host`, `host:port`, `*.host`, `[::1]:port`; otherwise what to change.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or("close the bracket: `[::1]:443`")?;
                let port = match port.strip_prefix(':') {
                    None if !port.is_empty() => return Err("write the port as `[::1]:443`"),
                    port => port,
                };
                let ip = host.parse::<Ipv6Addr>();
                let ip = ip.map_err(|_| "write an IPv6 address in the brackets, without a zone")?;
                (Host::Address(IpAddr::V6(ip).to_canonical()), port)
            }
            None => {
                let (host, port) = match text.split_once(':') {
                    Some((_, port)) if port.contains(':') => {
                        return Err("write an IPv6 address in brackets: `[::1]:443`");
                    }
                    Some((host, port)) => (host, Some(port)),
                    None => (text, None),
                };
                (Host::parse(host)?, port)
            }
        };
        let port = port.map_or(Ok(HTTPS), read_port)?;
        Ok(Self { host, port })
    }

    /// Whether it names `host`, in lower case and without a dot at its end, at `port`.
    pub(super) fn names(&self, host: &str, port: u16) -> bool {
        self.port == port
            && match (&self.host, address(host)) {
                (Host::Address(ip), Some(asked)) => *ip == asked,
                (Host::Name(name), None) => name == host,
                (Host::Below(name), None) => is_below(host, name),
                _ => false,
            }
    }

    /// Whether it names this very address.
    pub(super) fn is_address(&self, ip: IpAddr, port: u16) -> bool {
        self.port == port && self.host == Host::Address(ip.to_canonical())
    }

    /// Whether it names whatever `asked` names.
    pub(super) fn covers(&self, asked: &Self) -> bool {
        self.port == asked.port
            && match (&self.host, &asked.host) {
                (Host::Below(name), Host::Name(asked)) => is_below(asked, name),
                (Host::Below(name), Host::Below(asked)) => asked == name || is_below(asked, name),
                (host, asked) => host == asked,
            }
    }
}

/// Whether `host` is a name below `name`, which is not below itself.
fn is_below(host: &str, name: &str) -> bool {
    let head = host.strip_suffix(name).and_then(|head| head.strip_suffix('.'));
    head.is_some_and(|head| !head.is_empty() && !head.starts_with('.'))
}

/// The address that `host` is, with or without brackets.
fn address(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    bare.unwrap_or(host).parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

impl Host {
    fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(name) = text.strip_prefix('*') {
            let name = name.strip_prefix('.').ok_or("write `*.` and the name that it is below")?;
            return check_name(name).map(|()| Self::Below(name.to_owned()));
        }
        if let Ok(ip) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Address(IpAddr::V4(ip)));
        }
        check_name(text).map(|()| Self::Name(text.to_owned()))
    }
}

/// Checks a DNS name in the one form that counts.
fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("name a host: `api.example.com`");
    }
    if name.len() > limits::HOST_BYTES_MAX {
        return Err("name a host of at most 253 characters");
    }
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("write the host in lower case");
    }
    if !name.is_ascii() {
        return Err("write the host in ASCII, as `xn--`");
    }
    if name.contains('*') {
        return Err("write a wildcard at the beginning alone: `*.example.com`");
    }
    if name.contains(['/', '@', '?', '#']) {
        return Err("write the host and port alone, without scheme, user or path");
    }
    for label in name.split('.') {
        let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        match label {
            "" => return Err("leave out the empty label: no `..`, and no dot at either end"),
            label if label.len() > limits::HOST_LABEL_BYTES_MAX => {
                return Err("write labels of at most 63 characters");
            }
            label if !label.bytes().all(known) => {
                return Err("write letters, digits, `-` and `_` in a host");
            }
            label if label.starts_with('-') || label.ends_with('-') => {
                return Err("begin and end labels with a letter or digit");
            }
            _ => {}
        }
    }
    let last = name.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
    if hex || last.bytes().all(|b| b.is_ascii_digit()) {
        return Err("write an address as four decimal numbers: `192.0.2.1`");
    }
    Ok(())
}

fn read_port(text: &str) -> Result<u16, &'static str> {
    let port = text.parse::<u16>().ok().filter(|port| *port > 0 && port.to_string() == text);
    port.ok_or("write a port from 1 to 65535")
}

/// A range of addresses. One of IPv4 addresses in IPv6 is one of IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cidr {
    base: IpAddr,
    bits: u8,
}

impl Cidr {
    /// Reads `169.254.0.0/16`, `fd00::/8`, or one address; otherwise what to change.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let (base, bits) = match text.split_once('/') {
            Some((base, bits)) => (base, Some(bits)),
            None => (text, None),
        };
        let base: IpAddr =
            base.parse().map_err(|_| "write a range of addresses: `169.254.0.0/16`, `fd00::/8`")?;
        let width = if base.is_ipv4() { V4_BITS } else { V6_BITS };
        let bits = match bits {
            None => width,
            Some(text) => {
                let read = text.parse::<u8>().ok().filter(|bits| bits.to_string() == text);
                read.filter(|bits| *bits <= width).ok_or("write as many bits as an address has")?
            }
        };
        let (base, bits) = match (base.to_canonical(), bits.checked_sub(EMBEDDED_BITS)) {
            (IpAddr::V4(ip), Some(bits)) if base.is_ipv6() => (IpAddr::V4(ip), bits),
            _ => (base, bits),
        };
        let cidr = Self { base, bits };
        match cidr.masked(base) == Some(base) {
            true => Ok(cidr),
            false => Err("write zeros after the bits of the range: `10.0.0.0/8`"),
        }
    }

    /// Whether `ip` is in it, or the IPv4 address that `ip` carries (mapped or behind NAT64).
    pub(super) fn has(&self, ip: IpAddr) -> bool {
        let carried = match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => carried(v6),
        };
        [Some(ip), carried.map(IpAddr::V4)]
            .into_iter()
            .flatten()
            .any(|ip| self.masked(ip) == Some(self.base))
    }

    /// `ip` with zeros after the bits of this range; none where it is of the other family.
    fn masked(&self, ip: IpAddr) -> Option<IpAddr> {
        match (ip, self.base) {
            (IpAddr::V4(ip), IpAddr::V4(_)) => {
                let mask = u32::MAX.checked_shl(u32::from(V4_BITS - self.bits)).unwrap_or(0);
                Some(IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & mask)))
            }
            (IpAddr::V6(ip), IpAddr::V6(_)) => {
                let mask = u128::MAX.checked_shl(u32::from(V6_BITS - self.bits)).unwrap_or(0);
                Some(IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & mask)))
            }
            _ => None,
        }
    }
}

fn carried(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let nat64 = || match ip.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low)))
        }
        _ => None,
    };
    ip.to_ipv4_mapped().or_else(nat64)
}
