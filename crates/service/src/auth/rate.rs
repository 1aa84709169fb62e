//! How often callers may call. Counted in this process; nothing that must be right depends on it.

use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use kkartifact_model::Code;
use kkartifact_store::PrincipalId;
use moka::sync::Cache;

use crate::config::Rate;
use crate::error::{ApiError, ApiResult};

/// How many addresses and principals are counted at the same time; the one not seen for longest goes first.
const COUNTED: u64 = 100_000;
/// Who was not seen for so long begins anew.
const FORGET: Duration = Duration::from_mins(10);

/// The limits of a process.
pub struct Rates {
    guesses: Limit<IpAddr>,
    requests: Limit<PrincipalId>,
}

struct Limit<K> {
    quota: Quota,
    counted: Cache<K, Arc<DefaultDirectRateLimiter>>,
}

impl Rates {
    /// Nobody has called yet.
    pub fn new(config: &Rate) -> Self {
        let at_least_one = |count: u32| NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
        let requests = at_least_one(config.requests_per_second);
        let burst = requests.saturating_mul(at_least_one(4));
        Self {
            guesses: Limit::new(Quota::per_minute(at_least_one(config.guesses_per_minute))),
            requests: Limit::new(Quota::per_second(requests).allow_burst(burst)),
        }
    }

    /// Counts a login or a request without a valid credential. Where the address is unknown, all share one count.
    pub fn guess(&self, address: Option<IpAddr>) -> ApiResult<()> {
        self.guesses.count(network(address.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED))))
    }

    /// Counts a request of a principal.
    pub fn request(&self, principal: PrincipalId) -> ApiResult<()> {
        self.requests.count(principal)
    }
}

impl<K: Hash + Eq + Send + Sync + 'static> Limit<K> {
    fn new(quota: Quota) -> Self {
        Self { quota, counted: Cache::builder().max_capacity(COUNTED).time_to_idle(FORGET).build() }
    }

    fn count(&self, key: K) -> ApiResult<()> {
        let limiter = self.counted.get_with(key, || Arc::new(RateLimiter::direct(self.quota)));
        limiter.check().map_err(|until| {
            let wait = until.wait_time_from(DefaultClock::default().now());
            metrics::counter!("kkartifact_rate_limited_total").increment(1);
            ApiError {
                retry_after: Some(u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1)),
                ..ApiError::new(Code::TooManyRequests, "too many requests; wait as Retry-After says")
            }
        })
    }
}

/// An IPv6 address stands for its /64: whoever has one has them all.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(std::net::Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_count_and_learns_when_to_come_back() {
        let rates = Rates::new(&Rate { guesses_per_minute: 3, requests_per_second: 1 });
        let address = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        for _ in 0..3 {
            rates.guess(address("10.0.0.1")).unwrap();
        }
        let error = rates.guess(address("10.0.0.1")).unwrap_err();
        assert_eq!(error.code, Code::TooManyRequests);
        assert!((1..=21).contains(&error.retry_after.unwrap()), "{error:?}");
        rates.guess(address("10.0.0.2")).unwrap();
        // All of a /64 are one; IPv4 in IPv6 is IPv4.
        for host in ["2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:2::3"] {
            rates.guess(address(host)).unwrap();
        }
        rates.guess(address("2001:db8:1:2::4")).unwrap_err();
        rates.guess(address("2001:db8:1:3::1")).unwrap();
        rates.guess(address("::ffff:10.0.0.1")).unwrap_err();
    }

    #[test]
    fn a_principal_may_burst_and_is_then_held() {
        let rates = Rates::new(&Rate { guesses_per_minute: 1, requests_per_second: 1 });
        let allowed = (0..100).filter(|_| rates.request(PrincipalId(1)).is_ok()).count();
        assert!((4..=6).contains(&allowed), "{allowed}");
        rates.request(PrincipalId(2)).unwrap();
    }
}
