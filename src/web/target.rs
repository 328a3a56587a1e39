//! Addresses to which the server may send webhooks: public addresses, and those that the operator
//! allows.
//!
//! A caller who sets a URL must not reach internal services through this server (server-side request
//! forgery). The text of a URL is checked when it is set. The addresses of its host are checked each
//! time that a connection is made, because a name can resolve to another address by then. An address
//! that is not known to be public is refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use thiserror::Error;
use url::{Host, Url};

/// Allows public addresses and the given networks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Targets {
    allowed: Vec<IpNet>,
}

/// Why a URL or address is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TargetError {
    /// The text is not a URL, or has characters that parsers drop in silence.
    #[error("it is no URL")]
    NoUrl,
    /// The scheme is neither http nor https.
    #[error("it is no https URL")]
    Scheme,
    /// It has a user name or a password.
    #[error("it names a user")]
    User,
    /// It has a fragment.
    #[error("it has a fragment")]
    Fragment,
    /// Plain text to an address that the operator does not allow.
    #[error("only https is sent to addresses that are not allowed by --webhook-allow")]
    PlainText,
    /// The address is not public.
    #[error("{0} is no public address, and not allowed by --webhook-allow")]
    NotPublic(IpAddr),
    /// The name resolves to this machine.
    #[error("`{0}` is this machine, which is not allowed by --webhook-allow")]
    ThisMachine(String),
}

impl Targets {
    /// Allows these networks in addition to public addresses.
    #[must_use]
    pub fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed }
    }

    /// Checks the text of a URL.
    ///
    /// # Errors
    /// See [`TargetError`].
    pub fn check_url(&self, text: &str) -> Result<Url, TargetError> {
        // Parsers drop or change these characters, so the host would not be the one that people read.
        let is_odd = |c: char| c.is_whitespace() || c.is_control() || c == '\\';
        if text.contains(is_odd) {
            return Err(TargetError::NoUrl);
        }
        let url = Url::parse(text).map_err(|_| TargetError::NoUrl)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(TargetError::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() || authority(text).contains('@') {
            return Err(TargetError::User);
        }
        if url.fragment().is_some() {
            return Err(TargetError::Fragment);
        }
        let is_plain = url.scheme() == "http";
        match url.host().ok_or(TargetError::NoUrl)? {
            Host::Ipv4(address) => self.check_address(address.into(), is_plain)?,
            Host::Ipv6(address) => self.check_address(address.into(), is_plain)?,
            Host::Domain(name) => self.check_name(name, is_plain)?,
        }
        Ok(url)
    }

    /// Checks an address before a connection. In plain text, the operator must allow it.
    ///
    /// # Errors
    /// [`TargetError::PlainText`] or [`TargetError::NotPublic`].
    pub fn check_address(&self, address: IpAddr, is_plain: bool) -> Result<(), TargetError> {
        if self.allows(address) {
            return Ok(());
        }
        match (is_public(address), is_plain) {
            (false, _) => Err(TargetError::NotPublic(address)),
            (true, true) => Err(TargetError::PlainText),
            (true, false) => Ok(()),
        }
    }

    /// The addresses of a name are checked later. This refuses names that can not pass then.
    fn check_name(&self, name: &str, is_plain: bool) -> Result<(), TargetError> {
        if is_plain && self.allowed.is_empty() {
            return Err(TargetError::PlainText);
        }
        let bare = name.strip_suffix('.').unwrap_or(name);
        let is_local = bare == "localhost" || bare.ends_with(".localhost");
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        if is_local && !loopback.into_iter().any(|address| self.allows(address)) {
            return Err(TargetError::ThisMachine(name.to_owned()));
        }
        Ok(())
    }

    /// Whether the operator allows an address, also if it is IPv4 written as IPv6.
    fn allows(&self, address: IpAddr) -> bool {
        let canonical = address.to_canonical();
        self.allowed.iter().any(|net| net.contains(&address) || net.contains(&canonical))
    }
}

/// The text between the scheme and the path. (The parser drops an empty user name.)
fn authority(text: &str) -> &str {
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// IPv4 blocks without public addresses: the special-purpose registry of IANA (RFC 6890), multicast and
/// reserved blocks.
const NOT_PUBLIC_V4: [Ipv4Net; 15] = [
    v4([0, 0, 0, 0], 8),       // this network, and unspecified
    v4([10, 0, 0, 0], 8),      // private
    v4([100, 64, 0, 0], 10),   // shared by carriers
    v4([127, 0, 0, 0], 8),     // loopback
    v4([169, 254, 0, 0], 16),  // link-local; the metadata of clouds
    v4([172, 16, 0, 0], 12),   // private
    v4([192, 0, 0, 0], 24),    // protocol assignments
    v4([192, 0, 2, 0], 24),    // documentation
    v4([192, 88, 99, 0], 24),  // 6to4 relays
    v4([192, 168, 0, 0], 16),  // private
    v4([198, 18, 0, 0], 15),   // benchmarks
    v4([198, 51, 100, 0], 24), // documentation
    v4([203, 0, 113, 0], 24),  // documentation
    v4([224, 0, 0, 0], 4),     // multicast
    v4([240, 0, 0, 0], 4),     // reserved, and broadcast
];

/// The IPv6 block of public addresses. Outside of it are, among others, the unspecified and
/// the loopback address, IPv4 written as IPv6 (`::ffff:0:0/96`, `::/96`), NAT64 (`64:ff9b::/96`),
/// discard (`100::/64`), unique local (`fc00::/7`), link-local (`fe80::/10`) and multicast (`ff00::/8`).
const PUBLIC_V6: Ipv6Net = v6([0x2000, 0, 0], 3);
/// Blocks within it that are not public or embed an IPv4 address.
const NOT_PUBLIC_V6: [Ipv6Net; 4] = [
    v6([0x2001, 0, 0], 23),     // protocol assignments, with Teredo and benchmarks
    v6([0x2001, 0xdb8, 0], 32), // documentation
    v6([0x2002, 0, 0], 16),     // 6to4
    v6([0x3fff, 0, 0], 20),     // documentation
];

const fn v4([a, b, c, d]: [u8; 4], bits: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits)
}

const fn v6([a, b, c]: [u16; 3], bits: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), bits)
}

/// Whether an address is public. IPv4 written as IPv6 is not.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !NOT_PUBLIC_V4.iter().any(|net| net.contains(&address)),
        IpAddr::V6(address) => {
            PUBLIC_V6.contains(&address) && !NOT_PUBLIC_V6.iter().any(|net| net.contains(&address))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowing(nets: &[&str]) -> Targets {
        Targets::new(nets.iter().map(|net| net.parse().unwrap()).collect())
    }

    #[test]
    fn addresses_that_are_not_public_are_refused_in_every_spelling() {
        let targets = Targets::default();
        let address = |text: &str| TargetError::NotPublic(text.parse().unwrap());
        for (url, why) in [
            ("https://127.0.0.1/", address("127.0.0.1")),
            ("https://127.0.0.1./", address("127.0.0.1")),
            ("https://127.1/", address("127.0.0.1")),
            ("https://0x7f.1/", address("127.0.0.1")),
            ("https://0x7f000001/", address("127.0.0.1")),
            ("https://2130706433/", address("127.0.0.1")),
            ("https://017700000001/", address("127.0.0.1")),
            ("https://0177.0.0.01/", address("127.0.0.1")),
            ("https://%31%32%37.0.0.1/", address("127.0.0.1")),
            ("https://１２７.0.0.1/", address("127.0.0.1")),
            ("https://127。0。0。1/", address("127.0.0.1")),
            ("https:127.0.0.1", address("127.0.0.1")),
            ("https:///127.0.0.1", address("127.0.0.1")),
            ("https://0/", address("0.0.0.0")),
            ("https://10.1.2.3:8443/", address("10.1.2.3")),
            ("https://100.64.0.1/", address("100.64.0.1")),
            ("https://169.254.169.254/latest/meta-data/", address("169.254.169.254")),
            ("https://172.31.255.255/", address("172.31.255.255")),
            ("https://192.168.0.1/", address("192.168.0.1")),
            ("https://192.0.0.1/", address("192.0.0.1")),
            ("https://192.0.2.1/", address("192.0.2.1")),
            ("https://198.19.0.1/", address("198.19.0.1")),
            ("https://198.51.100.7/", address("198.51.100.7")),
            ("https://203.0.113.9/", address("203.0.113.9")),
            ("https://224.0.0.1/", address("224.0.0.1")),
            ("https://240.0.0.1/", address("240.0.0.1")),
            ("https://255.255.255.255/", address("255.255.255.255")),
            ("https://[::]/", address("::")),
            ("https://[::1]/", address("::1")),
            ("https://[::ffff:127.0.0.1]/", address("::ffff:127.0.0.1")),
            ("https://[::ffff:8.8.8.8]/", address("::ffff:8.8.8.8")),
            ("https://[::127.0.0.1]/", address("::127.0.0.1")),
            ("https://[64:ff9b::7f00:1]/", address("64:ff9b::7f00:1")),
            ("https://[64:ff9b:1::1]/", address("64:ff9b:1::1")),
            ("https://[100::1]/", address("100::1")),
            ("https://[2001::1]/", address("2001::1")),
            ("https://[2001:db8::1]/", address("2001:db8::1")),
            ("https://[2002:7f00:1::]/", address("2002:7f00:1::")),
            ("https://[3fff::1]/", address("3fff::1")),
            ("https://[fc00::1]/", address("fc00::1")),
            ("https://[fd12:3456::1]/", address("fd12:3456::1")),
            ("https://[fe80::1]/", address("fe80::1")),
            ("https://[fec0::1]/", address("fec0::1")),
            ("https://[ff02::1]/", address("ff02::1")),
            ("https://localhost/", TargetError::ThisMachine("localhost".into())),
            ("https://LOCALHOST:8443/", TargetError::ThisMachine("localhost".into())),
            ("https://localhost./", TargetError::ThisMachine("localhost.".into())),
            ("https://a.localhost/", TargetError::ThisMachine("a.localhost".into())),
            ("http://hooks.example.org/", TargetError::PlainText),
            ("http://8.8.8.8/", TargetError::PlainText),
            ("ftp://hooks.example.org/", TargetError::Scheme),
            ("file:///etc/passwd", TargetError::Scheme),
            ("gopher://hooks.example.org/", TargetError::Scheme),
            ("https://user@hooks.example.org/", TargetError::User),
            ("https://user:secret@hooks.example.org/", TargetError::User),
            ("https://@hooks.example.org/", TargetError::User),
            ("https://hooks.example.org/#part", TargetError::Fragment),
            ("https://hooks.example.org/#", TargetError::Fragment),
            ("https://", TargetError::NoUrl),
            ("hooks.example.org/consent", TargetError::NoUrl),
            ("/consent", TargetError::NoUrl),
            ("", TargetError::NoUrl),
            ("https:\\\\127.0.0.1/", TargetError::NoUrl),
            ("https://hooks.example.org\\@127.0.0.1/", TargetError::NoUrl),
            (" https://hooks.example.org/", TargetError::NoUrl),
            ("ht\ttps://hooks.example.org/", TargetError::NoUrl),
            ("https://hooks.example.org/\r\nhost: other", TargetError::NoUrl),
            ("https://[fe80::1%25eth0]/", TargetError::NoUrl),
            ("https://1.2.3.4.5/", TargetError::NoUrl),
            ("https://256.0.0.1/", TargetError::NoUrl),
            ("https://hooks.example.org:99999/", TargetError::NoUrl),
        ] {
            assert_eq!(targets.check_url(url), Err(why), "{url}");
        }
    }

    #[test]
    fn public_addresses_are_accepted_over_https() {
        for url in [
            "https://hooks.example.org",
            "https://hooks.example.org:8443/consent?tenant=7",
            "https://hooks.example.org./consent",
            "https://8.8.8.8/",
            "https://100.128.0.1/",
            "https://172.32.0.1/",
            "https://[2606:4700::1111]/",
            "https://localhost.example.org/",
            "HTTPS://Hooks.Example.org/",
        ] {
            assert_eq!(Targets::default().check_url(url).err(), None, "{url}");
        }
    }

    #[test]
    fn an_operator_may_allow_more() {
        let targets = allowing(&["127.0.0.0/8", "fd00::/8"]);
        for url in [
            "http://127.0.0.1:8080/hook",
            "https://127.9.9.9/",
            "http://[::ffff:127.0.0.1]/",
            "http://[fd00::7]/",
            "http://localhost:8080/",
            "http://hooks.internal/",
        ] {
            assert_eq!(targets.check_url(url).err(), None, "{url}");
        }
        for url in ["http://10.0.0.1/", "https://10.0.0.1/", "https://[::1]/", "http://8.8.8.8/"] {
            assert!(targets.check_url(url).is_err(), "{url}");
        }
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(targets.check_address(address("127.0.0.1"), true), Ok(()));
        assert_eq!(targets.check_address(address("8.8.8.8"), false), Ok(()));
        let plain = targets.check_address(address("8.8.8.8"), true);
        assert_eq!(plain, Err(TargetError::PlainText));
        assert!(targets.check_address(address("10.0.0.1"), false).is_err());
    }
}
