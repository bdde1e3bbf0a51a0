//! Addresses: how a host name becomes some, and which of them are nobody's business.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;

use url::Host;

use crate::limits;

/// The addresses of a host, some time later.
pub type Resolving<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;

/// Turns a host name into addresses. What it answers is checked; it need not be trusted.
pub trait Resolver: Send + Sync + Debug {
    /// The addresses of `host`, a DNS name.
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a>;
}

/// The resolver of the operating system.
#[derive(Clone, Copy, Debug)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a> {
        Box::pin(async move {
            // The port plays no part in the look-up.
            let found = tokio::net::lookup_host((host, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// Who is reached at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// A host of the public internet.
    Public,
    /// This machine or its network: needs a grant with `private: true`.
    Private,
    /// The link, which is where clouds serve credentials: needs a private grant that names this
    /// very address, so that no host name can be made to point here.
    Link,
    /// No single host, or no address to connect to at all.
    Never,
}

/// Why a host has no address to connect to.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The look-up failed.
    LookUp(String),
    /// One of its addresses is not allowed. Which one is for nobody to learn.
    Address,
}

/// The addresses of `host`, every one of them allowed; `private` allows those of this machine and
/// its network, and one of the link where it is `host` itself. The connection is to be made to one
/// of these: the name is not looked up again.
pub(crate) async fn allowed(
    resolver: &dyn Resolver,
    host: &Host,
    port: u16,
    private: bool,
) -> Result<Vec<SocketAddr>, Refused> {
    let literal = !matches!(host, Host::Domain(_));
    let allowed = |ip: IpAddr| match reach(ip) {
        Reach::Public => true,
        Reach::Private => private,
        Reach::Link => private && literal,
        Reach::Never => false,
    };
    allowed_by(resolver, host, port, allowed).await
}

/// The addresses of `host`, where `allowed` says of every one of them that it is.
pub(crate) async fn allowed_by(
    resolver: &dyn Resolver,
    host: &Host,
    port: u16,
    allowed: impl Fn(IpAddr) -> bool,
) -> Result<Vec<SocketAddr>, Refused> {
    let found = match host {
        Host::Ipv4(ip) => vec![IpAddr::V4(*ip)],
        Host::Ipv6(ip) => vec![IpAddr::V6(*ip)],
        Host::Domain(name) => {
            let found = resolver.resolve(name).await;
            found.map_err(|e| Refused::LookUp(e.to_string()))?
        }
    };
    if found.is_empty() {
        return Err(Refused::LookUp("the answer is empty".to_owned()));
    }
    if !found.iter().all(|ip| allowed(*ip)) {
        return Err(Refused::Address);
    }
    let first = found.into_iter().take(limits::ADDRESSES_MAX);
    Ok(first.map(|ip| SocketAddr::new(ip, port)).collect())
}

/// Who is reached at `ip`.
pub fn reach(ip: IpAddr) -> Reach {
    match ip {
        IpAddr::V4(ip) => reach_v4(ip),
        IpAddr::V6(ip) => reach_v6(ip),
    }
}

/// By the IANA special-purpose registry, and the clouds' own addresses.
fn reach_v4(ip: Ipv4Addr) -> Reach {
    match ip.octets() {
        // Metadata: Alibaba, Azure, Oracle; then link-local with everyone else's.
        [100, 100, 100, 200] | [168, 63, 129, 16] | [192, 0, 0, 192] | [169, 254, ..] => {
            Reach::Link
        }
        // "This network", protocol assignments, documentation, 6to4 relays, multicast, reserved.
        [0, ..]
        | [192, 0, 0 | 2, _]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [192, 88, 99, _]
        | [224..=255, ..] => Reach::Never,
        // Private, loopback, carrier-grade NAT, benchmarking.
        [10 | 127, ..]
        | [172, 16..=31, ..]
        | [192, 168, ..]
        | [100, 64..=127, ..]
        | [198, 18 | 19, ..] => Reach::Private,
        _ => Reach::Public,
    }
}

fn reach_v6(ip: Ipv6Addr) -> Reach {
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Reach::Private,
        // An IPv4 address in disguise: mapped, or behind NAT64.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            reach_v4(Ipv4Addr::new(a, b, c, d))
        }
        // Metadata: Amazon, Google; then link-local.
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254] => Reach::Link,
        [0xfe80..=0xfebf, ..] => Reach::Link,
        // Unique local, and the site-local that came before it.
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Reach::Private,
        // Teredo and other protocol assignments, documentation, 6to4: each can carry an IPv4
        // address, and none is a host that anyone serves from.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x2002, ..] | [0x3fff, 0..=0xfff, ..] => {
            Reach::Never
        }
        [0x2000..=0x3fff, ..] => Reach::Public,
        // Unspecified, IPv4-compatible, local NAT64, discard, multicast and all that is unassigned.
        _ => Reach::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::{Reach, reach};

    #[test]
    fn classes() {
        let table = [
            (Reach::Public, "8.8.8.8 172.15.0.1 172.32.0.1 100.63.0.1 100.128.0.1 2606:4700::1"),
            (Reach::Public, "::ffff:8.8.8.8 64:ff9b::8.8.8.8 192.0.1.1 223.255.255.255"),
            (Reach::Private, "10.0.0.1 127.0.0.1 127.255.0.1 172.16.0.1 192.168.1.1 100.64.0.1"),
            (Reach::Private, "198.18.0.1 ::1 fc00::1 fd12::1 fec0::1 ::ffff:127.0.0.1"),
            (Reach::Private, "64:ff9b::10.0.0.1 ::ffff:192.168.0.1"),
            (Reach::Link, "169.254.169.254 169.254.0.1 fe80::1 fd00:ec2::254 168.63.129.16"),
            (Reach::Link, "::ffff:169.254.169.254 64:ff9b::169.254.169.254 100.100.100.200"),
            (Reach::Never, "0.0.0.0 0.1.2.3 224.0.0.1 240.0.0.1 255.255.255.255 192.0.2.1"),
            (Reach::Never, "198.51.100.1 203.0.113.1 :: ::127.0.0.1 ff02::1 2001:db8::1 100::1"),
            (Reach::Never, "2002:7f00:1::1 2001:0:1::1 64:ff9b:1::1 5f00::1 3fff::1"),
        ];
        for (expect, addresses) in table {
            for address in addresses.split(' ') {
                assert_eq!(reach(address.parse().unwrap()), expect, "{address}");
            }
        }
    }
}
