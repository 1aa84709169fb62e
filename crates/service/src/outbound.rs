//! The address guard: requests to addresses that somebody else has chosen go to public ones, or to allowed ones.
//!
//! The address is checked where the connection is made, so a name can't resolve to one thing for the check and to
//! another for the connection. Redirects are not followed, and proxies of the environment are not used.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{RequestBuilder, Response, Url};

/// How long a request may take in all.
const PATIENCE: Duration = Duration::from_secs(10);

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

/// Why a request was not made, or came to nothing. Says nothing of what is inside.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutboundError {
    /// The URL or what it resolves to is not allowed.
    #[error("{0} is not an address that this server may call; 'outbound.allow' can allow it")]
    Forbidden(String),
    /// There was no answer, or none that can be used.
    #[error("{0} did not answer as it should: {1}")]
    Failed(String, String),
}

/// Makes guarded requests.
#[derive(Debug, Clone)]
pub struct Outbound {
    client: reqwest::Client,
    guard: Arc<Guard>,
}

#[derive(Debug)]
struct Guard(Vec<Allowed>);

impl Outbound {
    /// A client that allows these beside public addresses.
    pub fn new(allow: &[String]) -> Result<Self, reqwest::Error> {
        let allowed = allow.iter().filter_map(|entry| entry.parse().ok()).collect();
        let guard = Arc::new(Guard(allowed));
        let client = reqwest::Client::builder()
            .dns_resolver(GuardedResolver(guard.clone()))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(PATIENCE)
            .connect_timeout(PATIENCE / 2)
            .pool_max_idle_per_host(1)
            .user_agent(concat!("kkartifact/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client, guard })
    }

    /// A URL, if it may be called as far as can be told before its name is resolved.
    pub fn check(&self, url: &str) -> Result<Url, OutboundError> {
        let forbidden = || OutboundError::Forbidden(url.chars().take(200).collect());
        let parsed = Url::parse(url).map_err(|_| forbidden())?;
        let host = parsed.host_str().ok_or_else(forbidden)?.trim_start_matches('[').trim_end_matches(']');
        let literal = host.parse::<IpAddr>().ok();
        let named = self.guard.allows_host(host);
        let address_ok = literal.is_none_or(|ip| is_public(ip) || self.guard.allows(ip));
        let scheme_ok = match parsed.scheme() {
            "https" => true,
            // Inside, where somebody has said that it may be.
            "http" => named || literal.is_some_and(|ip| self.guard.allows(ip)),
            _ => false,
        };
        let clean = parsed.username().is_empty() && parsed.password().is_none();
        if scheme_ok && clean && (named || address_ok) { Ok(parsed) } else { Err(forbidden()) }
    }

    /// A `GET` request, not yet sent.
    pub fn get(&self, url: &str) -> Result<RequestBuilder, OutboundError> {
        Ok(self.client.get(self.check(url)?))
    }

    /// A `POST` request, not yet sent.
    pub fn post(&self, url: &str) -> Result<RequestBuilder, OutboundError> {
        Ok(self.client.post(self.check(url)?))
    }
}

/// Sends a request and reads a successful JSON answer of at most so many bytes.
pub async fn json(request: RequestBuilder, most: usize) -> Result<serde_json::Value, OutboundError> {
    let (client, request) = request.build_split();
    let request = request.map_err(|error| failed("the request", &error))?;
    let place = request.url().host_str().unwrap_or_default().to_owned();
    let response = client.execute(request).await.map_err(|error| failed(&place, &error))?;
    if !response.status().is_success() {
        return Err(OutboundError::Failed(place, format!("status {}", response.status().as_u16())));
    }
    let bytes = read(response, most).await.map_err(|why| OutboundError::Failed(place.clone(), why))?;
    serde_json::from_slice(&bytes).map_err(|_| OutboundError::Failed(place, "not JSON".into()))
}

async fn read(response: Response, most: usize) -> Result<Vec<u8>, String> {
    let (mut pieces, mut bytes) = (response.bytes_stream(), Vec::new());
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| "the answer broke off".to_owned())?;
        if bytes.len() + piece.len() > most {
            return Err(format!("the answer has more than {most} bytes"));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

fn failed(place: &str, error: &reqwest::Error) -> OutboundError {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = source {
        if let Some(refusal) = error.downcast_ref::<OutboundError>() {
            return refusal.clone();
        }
        source = error.source();
    }
    let why = if error.is_timeout() { "it took too long" } else { "there was no connection" };
    OutboundError::Failed(place.to_owned(), why.to_owned())
}

impl Guard {
    fn allows(&self, address: IpAddr) -> bool {
        let plain = address.to_canonical();
        self.0.iter().any(|allowed| matches!(allowed, Allowed::Net(net) if net.contains(&plain)))
    }

    fn allows_host(&self, host: &str) -> bool {
        self.0.iter().any(|allowed| matches!(allowed, Allowed::Host(name) if name == host))
    }
}

#[derive(Debug)]
struct GuardedResolver(Arc<Guard>);

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

    #[test]
    fn urls_that_must_not_be_called() {
        let outbound = Outbound::new(&[]).unwrap();
        for bad in [
            "",
            "x",
            "https://",
            "file:///etc/passwd",
            "ftp://example.com/",
            "http://example.com/",
            "https://user@example.com/",
            "https://127.0.0.1/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://0177.0.0.1/",
            "https://127.1/",
            "https://[::1]/",
            "https://[::ffff:7f00:1]/",
            "https://169.254.169.254/latest",
            "https://10.0.0.1:8443/x",
            "https://0/",
            "https://①②⑦.0.0.1/",
        ] {
            assert!(outbound.check(bad).is_err(), "{bad}");
        }
        assert!(outbound.check("https://example.com/x").is_ok());
        assert!(outbound.check("https://1.1.1.1/").is_ok());
        let allow = ["127.0.0.0/8", "id.internal", "::1"].map(str::to_owned);
        let inside = Outbound::new(&allow).unwrap();
        for good in ["http://127.0.0.1:1/", "https://[::1]/", "http://id.internal/x", "https://127.1/"] {
            assert!(inside.check(good).is_ok(), "{good}");
        }
        for bad in [
            "http://example.com/",
            "http://10.0.0.1/",
            "http://other.internal/",
            "https://[::ffff:10.0.0.1]/",
        ] {
            assert!(inside.check(bad).is_err(), "{bad}");
        }
        assert!("Not a host".parse::<Allowed>().is_err());
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_this_machine_is_not_called() {
        let outbound = Outbound::new(&[]).unwrap();
        let error = json(outbound.get("https://localhost:1/").unwrap(), 100).await.unwrap_err();
        assert_eq!(error, OutboundError::Forbidden("localhost".into()));
    }
}
