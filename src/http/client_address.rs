//! Where a request comes from: the peer of the connection, or what a proxy that is trusted says of it.

use super::state::State;
use actix_web::{
    FromRequest, HttpMessage, HttpRequest,
    dev::Payload,
    http::header::{HeaderName, HeaderValue},
    web,
};
use std::{
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client's address, an IPv4 one always in its own form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// Which peers are proxies that are believed.
#[derive(Clone)]
pub struct TrustedProxies(Arc<dyn Fn(IpAddr) -> bool + Send + Sync>);

impl TrustedProxies {
    /// Those of which `trusts` says so.
    #[must_use]
    pub fn new(trusts: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(trusts))
    }
}

impl fmt::Debug for TrustedProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TrustedProxies")
    }
}

impl ClientAddress {
    /// Whoever sent `request`.
    #[must_use]
    pub fn of(request: &HttpRequest) -> Self {
        if let Some(known) = request.extensions().get::<Self>() {
            return *known;
        }
        // a connection over TCP has a peer
        let peer = request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
        let state = request.app_data::<web::Data<State>>();
        let trusts = |address| state.is_some_and(|state| (state.settings.trusted_proxies.0)(address));
        let client = Self(client_behind(peer, request.headers().get_all(X_FORWARDED_FOR), trusts));
        request.extensions_mut().insert(client);
        client
    }

    /// The key of whoever has the address. For IPv6 that is its /64: a household has as many addresses as it likes.
    #[must_use]
    pub fn subject(self) -> String {
        match self.0 {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => ipv6_network(address, 64),
        }
    }

    /// The key of the network around it: /24, for IPv6 /48.
    #[must_use]
    pub fn network(self) -> String {
        match self.0 {
            IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                format!("{a}.{b}.{c}.0/24")
            }
            IpAddr::V6(address) => ipv6_network(address, 48),
        }
    }
}

fn ipv6_network(address: Ipv6Addr, prefix: u32) -> String {
    let network = Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - prefix)));
    format!("{network}/{prefix}")
}

/// Walks back from the peer as long as whoever spoke last is trusted. What does not say an address ends the walk at
/// whoever passed it on.
fn client_behind<'a>(
    peer: IpAddr,
    forwarded: impl DoubleEndedIterator<Item = &'a HeaderValue>,
    trusts: impl Fn(IpAddr) -> bool,
) -> IpAddr {
    let mut client = peer.to_canonical();
    // each proxy appends, so several headers are one list; one that is no text is an entry that is no address
    let mut entries = forwarded.rev().flat_map(|value| value.to_str().unwrap_or_default().rsplit(','));
    while trusts(client) {
        let Some(address) = entries.next().and_then(address_of) else { break };
        client = address;
    }
    client
}

/// Some proxies add the port.
fn address_of(entry: &str) -> Option<IpAddr> {
    let entry = entry.trim();
    let with_port = || entry.parse::<SocketAddr>().ok().map(|address| address.ip());
    entry.parse().ok().or_else(with_port).map(|address: IpAddr| address.to_canonical())
}

impl FromRequest for ClientAddress {
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self::of(request)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Trusted: 10.0.0.0/8, 192.0.2.1, fd00::1.
    fn trusts(address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address.octets()[0] == 10 || address.octets() == [192, 0, 2, 1],
            IpAddr::V6(address) => address.to_string() == "fd00::1",
        }
    }

    fn client(peer: &str, forwarded: &[&[u8]]) -> String {
        let headers: Vec<_> = forwarded.iter().map(|value| HeaderValue::from_bytes(value).unwrap()).collect();
        client_behind(peer.parse().unwrap(), headers.iter(), trusts).to_string()
    }

    #[test]
    fn the_client_is_the_last_who_is_not_trusted() {
        for (peer, forwarded, expected) in [
            // nobody is believed unless trusted
            ("203.0.113.9", &[][..], "203.0.113.9"),
            ("203.0.113.9", &["198.51.100.7"], "203.0.113.9"),
            ("203.0.113.9", &["10.0.0.1"], "203.0.113.9"),
            // a trusted peer
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            ("192.0.2.1", &[" 198.51.100.7\t"], "198.51.100.7"),
            ("192.0.2.2", &["198.51.100.7"], "192.0.2.2"),
            // what the client itself sent stands to the left
            ("10.0.0.1", &["1.1.1.1, 198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["1.1.1.1", "198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["1.1.1.1, 198.51.100.7", "10.0.0.2"], "198.51.100.7"),
            ("10.0.0.1", &["1.1.1.1,198.51.100.7,10.0.0.3 , 10.0.0.2"], "198.51.100.7"),
            // all are trusted
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            // what is no address ends the walk
            ("10.0.0.1", &["unknown"], "10.0.0.1"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.7, "], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.7, nonsense, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["198.51.100.7", "999.1.1.1"], "10.0.0.1"),
            ("10.0.0.1", &["_hidden, 198.51.100.7"], "198.51.100.7"),
            // ports
            ("10.0.0.1", &["198.51.100.7:4711"], "198.51.100.7"),
            ("10.0.0.1", &["[2001:db8::7]:4711"], "2001:db8::7"),
            ("10.0.0.1", &["198.51.100.7:99999"], "10.0.0.1"),
            // IPv6, and IPv4 in it
            ("fd00::1", &["2001:db8::7"], "2001:db8::7"),
            ("fd00::2", &["2001:db8::7"], "fd00::2"),
            ("::ffff:10.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            ("::ffff:203.0.113.9", &["198.51.100.7"], "203.0.113.9"),
            ("10.0.0.1", &["::ffff:198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["198.51.100.7, ::ffff:10.0.0.2"], "198.51.100.7"),
        ] {
            let bytes: Vec<&[u8]> = forwarded.iter().map(|value| value.as_bytes()).collect();
            assert_eq!(client(peer, &bytes), expected, "{peer} says {forwarded:?}");
        }
        assert_eq!(client("10.0.0.1", &[b"198.51.100.7", b"\xff"]), "10.0.0.1", "no text is no address");
    }

    #[test]
    fn neighbours_share_a_network() {
        for (address, subject, network) in [
            ("198.51.100.7", "198.51.100.7", "198.51.100.0/24"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1::/48"),
            ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64", "2001:db8:1::/48"),
            ("::1", "::/64", "::/48"),
        ] {
            let client = ClientAddress(address.parse().unwrap());
            assert_eq!((client.subject(), client.network()), (subject.to_owned(), network.to_owned()));
        }
    }
}
