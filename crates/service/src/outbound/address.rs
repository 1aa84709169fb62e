//! Which addresses may be called, and which URLs lead there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::OutboundError;

/// What is allowed though it is not public.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    /// A network.
    Net(IpNet),
    /// A host by name, wherever it is.
    Host(String),
}

impl FromStr for Allowed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(Self::Net(net));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Net(address.into()));
        }
        let host = !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b));
        if host {
            Ok(Self::Host(text.to_owned()))
        } else {
            Err(format!("{text:?} is neither a network nor a host"))
        }
    }
}

/// Lets requests through to public addresses and to allowed ones.
#[derive(Debug)]
pub(crate) struct Guard(Vec<Allowed>);

impl Guard {
    /// Allows these beside public addresses. What can't be read was refused with the configuration.
    pub(crate) fn new(allow: &[String]) -> Self {
        Self(allow.iter().filter_map(|entry| entry.parse().ok()).collect())
    }

    /// A URL, if it may be called as far as can be told before its name is resolved.
    pub(crate) fn check(&self, url: &str) -> Result<Url, OutboundError> {
        let forbidden = || OutboundError::Forbidden(url.chars().take(200).collect());
        let parsed = Url::parse(url).map_err(|_| forbidden())?;
        let host = parsed.host_str().ok_or_else(forbidden)?.trim_start_matches('[').trim_end_matches(']');
        let literal = host.parse::<IpAddr>().ok();
        let named = self.allows_host(host);
        let address_ok = literal.is_none_or(|ip| is_public(ip) || self.allows(ip));
        let scheme_ok = match parsed.scheme() {
            "https" => true,
            // Inside, where somebody has said that it may be.
            "http" => named || literal.is_some_and(|ip| self.allows(ip)),
            _ => false,
        };
        let clean = parsed.username().is_empty() && parsed.password().is_none();
        if scheme_ok && clean && (named || address_ok) { Ok(parsed) } else { Err(forbidden()) }
    }

    fn allows(&self, address: IpAddr) -> bool {
        let plain = address.to_canonical();
        self.0.iter().any(|allowed| matches!(allowed, Allowed::Net(net) if net.contains(&plain)))
    }

    fn allows_host(&self, host: &str) -> bool {
        self.0.iter().any(|allowed| matches!(allowed, Allowed::Host(name) if name == host))
    }
}

/// Resolves names, and refuses those that lead to an address that is not let through.
#[derive(Debug)]
pub(super) struct GuardedResolver(pub(super) Arc<Guard>);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.0.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let named = guard.allows_host(&host);
            let good = |address: &SocketAddr| named || is_public(address.ip()) || guard.allows(address.ip());
            // All of them: one that is inside is a sign that the name is not what it seems.
            if found.is_empty() || !found.iter().all(good) {
                return Err(
                    Box::new(OutboundError::Forbidden(host)) as Box<dyn std::error::Error + Send + Sync>
                );
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Whether an address is one of the public internet. By the IANA special-purpose address registries (RFC 6890); forms
/// of IPv6 that carry an IPv4 address are judged by that.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(a == 0
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || (a == 100 && (64..128).contains(&b))
        || (a, b, c) == (192, 0, 0)
        || (a, b, c) == (192, 88, 99)
        || (a == 198 && (b == 18 || b == 19))
        // Multicast, reserved, broadcast.
        || a >= 224)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let parts = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match parts {
        // IPv4-mapped, NAT64, 6to4.
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => embedded(high, low),
        // Teredo and other protocol assignments, documentation.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
        [0x3fff, ..] => false,
        [first, ..] => (0x2000..0x4000).contains(&first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_not_public_in_every_form() {
        for bad in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "192.168.1.1",
            "192.0.0.1",
            "192.0.2.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "3fff::1",
        ] {
            assert!(!is_public(bad.parse().unwrap()), "{bad}");
        }
        for good in [
            "1.1.1.1",
            "93.184.216.34",
            "2606:4700::1111",
            "2a00:1450::1",
            "::ffff:1.1.1.1",
            "2002:101:101::",
        ] {
            assert!(is_public(good.parse().unwrap()), "{good}");
        }
    }
}
