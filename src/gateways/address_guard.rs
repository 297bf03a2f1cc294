//! Which addresses a provider may stand at.
//!
//! An admin names hosts, and a provider's answer names more (links to files): none of them may lead into
//! the network the service itself stands in. A name is judged by the addresses it resolves to, at the
//! moment they are used: the guard is the client's resolver, so a name that changes its mind between the
//! check and the connection gains nothing.

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::{
    error::Error,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};
use url::{Host, Url};

/// How long a name may take to resolve when a configuration is checked.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Why an address is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressRefused {
    /// It is private, loopback, link-local or otherwise not for the public.
    #[error("the address is private, loopback or link-local")]
    Private,
    /// It is no http or https address with a host.
    #[error("the address must be http or https")]
    Scheme,
    /// It carries a user name or password, which would end in logs.
    #[error("the address must not carry a user name or password")]
    Credentials,
}

/// The rule of this installation.
#[derive(Clone, Copy, Debug)]
pub struct AddressGuard {
    allow_private: bool,
}

impl AddressGuard {
    /// A guard; with `allow_private` (`providers.allow_private_networks`) every address is good.
    #[must_use]
    pub fn new(allow_private: bool) -> Self {
        Self { allow_private }
    }

    /// Judges an address as far as it can be judged without resolving a name.
    ///
    /// # Errors
    /// [`AddressRefused`].
    pub fn check(self, url: &Url) -> Result<(), AddressRefused> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(AddressRefused::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(AddressRefused::Credentials);
        }
        match url.host() {
            Some(Host::Ipv4(address)) => self.check_ip(address.into()),
            Some(Host::Ipv6(address)) => self.check_ip(address.into()),
            // a name that means this machine on every machine, also where no resolver is asked
            Some(Host::Domain(name)) if is_local_name(name) && !self.allow_private => {
                Err(AddressRefused::Private)
            }
            Some(Host::Domain(_)) => Ok(()),
            None => Err(AddressRefused::Scheme),
        }
    }

    /// As [`Self::check`], and resolves a name too. A name that does not resolve now is left to the
    /// connection.
    ///
    /// # Errors
    /// [`AddressRefused`].
    pub async fn check_resolved(self, url: &Url) -> Result<(), AddressRefused> {
        self.check(url)?;
        let Some(Host::Domain(name)) = url.host() else { return Ok(()) };
        let resolved = tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((name, 0))).await;
        let Ok(Ok(mut addresses)) = resolved else { return Ok(()) };
        addresses.try_for_each(|address| self.check_ip(address.ip()))
    }

    fn check_ip(self, address: IpAddr) -> Result<(), AddressRefused> {
        if self.allow_private || is_public(address) { Ok(()) } else { Err(AddressRefused::Private) }
    }
}

/// Resolves names for the client and keeps only addresses the guard lets through.
impl Resolve for AddressGuard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = *self;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> =
                found.filter(|address| guard.check_ip(address.ip()).is_ok()).collect();
            if allowed.is_empty() {
                return Err(Box::new(AddressRefused::Private) as Box<dyn Error + Send + Sync>);
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// Whether the guard is the reason of an error, however deep.
pub(super) fn is_refusal(error: &(dyn Error + 'static)) -> bool {
    error.is::<AddressRefused>() || error.source().is_some_and(is_refusal)
}

fn is_local_name(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name == "localhost" || name.ends_with(".localhost")
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let shared_by_carriers = a == 100 && (64..128).contains(&b);
    let protocol_assignments = (a, b, c) == (192, 0, 0);
    let benchmarks = a == 198 && (18..20).contains(&b);
    let this_network = a == 0;
    let reserved = a >= 240;
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local() // also where clouds answer with credentials: 169.254.169.254
        || address.is_multicast()
        || shared_by_carriers
        || protocol_assignments
        || benchmarks
        || this_network
        || reserved)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    // addresses that only wrap an IPv4 address: what is inside counts
    let wrapped = match segments {
        [0, 0, 0, 0, 0, 0xFFFF, high, low]
        | [0, 0, 0, 0, 0, 0, high, low]
        | [0x64, 0xFF9B, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => Some((high, low)),
        _ => None,
    };
    if let Some((high, low)) = wrapped {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        return is_public_v4(Ipv4Addr::new(a, b, c, d));
    }
    let teredo = segments[0] == 0x2001 && segments[1] == 0;
    // global unicast is 2000::/3; unique local, link-local, site-local, multicast and the rest are outside
    segments[0] & 0xE000 == 0x2000 && !teredo
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(url: &str, allow_private: bool) -> Result<(), AddressRefused> {
        AddressGuard::new(allow_private).check(&Url::parse(url).unwrap())
    }

    #[test]
    fn addresses_inside_are_refused_in_every_spelling() {
        for host in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.100.100.200",
            "192.0.0.192",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "[::]",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:10.0.0.1]",
            "[::127.0.0.1]",
            "[64:ff9b::a00:1]",
            "[64:ff9b:1::1]",
            "[2002:a00:1::]",
            "[2001::1]",
            "[fc00::1]",
            "[fd00:ec2::254]",
            "[fe80::1]",
            "[fec0::1]",
            "[ff02::1]",
            "localhost",
            "LOCALHOST.",
            "db.localhost",
        ] {
            let url = format!("http://{host}/v1");
            assert_eq!(judged(&url, false), Err(AddressRefused::Private), "{host}");
            assert_eq!(judged(&url, true), Ok(()), "{host}");
        }
    }

    #[test]
    fn addresses_outside_are_good() {
        for host in [
            "ai.example",
            "8.8.8.8",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "169.253.1.1",
            "[2606:4700::1111]",
            "[::ffff:8.8.8.8]",
            "[64:ff9b::808:808]",
            "[2002:808:808::]",
        ] {
            assert_eq!(judged(&format!("https://{host}/v1"), false), Ok(()), "{host}");
        }
    }

    #[test]
    fn only_http_without_credentials() {
        for (url, refused) in [
            ("ftp://ai.example/", AddressRefused::Scheme),
            ("file:///etc/passwd", AddressRefused::Scheme),
            ("https://user@ai.example/", AddressRefused::Credentials),
            ("https://:word@ai.example/", AddressRefused::Credentials),
        ] {
            assert_eq!(judged(url, true), Err(refused), "{url}");
        }
    }

    #[tokio::test]
    async fn a_name_is_judged_by_what_it_resolves_to() {
        let guard = AddressGuard::new(false);
        let resolved = guard.resolve("localhost".parse().unwrap()).await;
        let refusal = resolved.err().expect("localhost resolves to this machine");
        assert!(is_refusal(refusal.as_ref()));
        assert!(AddressGuard::new(true).resolve("localhost".parse().unwrap()).await.is_ok());
        let unknown = Url::parse("https://does-not-exist.invalid/").unwrap();
        assert_eq!(guard.check_resolved(&unknown).await, Ok(()));
    }
}
