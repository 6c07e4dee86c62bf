//! Client addresses: as much of them as the user wants told, wherever they hide.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::REDACTED;
use super::escape::Text;
use super::finding::{Finding, Kind};
use crate::config::ClientAddress;

/// Headers that proxies write the client's address into, in lower case, sorted. What is no address in them may be one that was
/// made unrecognizable, or a host's name.
const ADDRESS_HEADERS: [&str; 22] = [
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-pseudo-ipv4",
    "client-ip",
    "fastly-client-ip",
    "forwarded",
    "forwarded-for",
    "true-client-ip",
    "x-appengine-user-ip",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-downstream-remote-address",
    "x-envoy-external-address",
    "x-forwarded",
    "x-forwarded-for",
    "x-original-forwarded-for",
    "x-originating-ip",
    "x-real-ip",
    "x-remote-addr",
    "x-remote-ip",
];

/// No address is longer, with its port.
const MAX_ADDRESS_BYTES: usize = 64;

/// The part of a client's address that may be told: `address` is Envoy's, `ip:port` or `[ip6]:port`; the port goes.
/// What is no IP address (a Unix socket's path) is told only in full.
pub(super) fn told(address: &[u8], how: ClientAddress) -> Option<Cow<'_, str>> {
    let ip = str::from_utf8(without_port(address)).ok()?;
    match how {
        _ if ip.is_empty() => None,
        ClientAddress::None => None,
        ClientAddress::Full => Some(Cow::Borrowed(ip)),
        ClientAddress::Truncated => Some(Cow::Owned(network(parse(ip.as_bytes())?).to_string())),
    }
}

/// Whether the header tells of nothing but clients.
pub(super) fn is_address_header(name: &str) -> bool {
    ADDRESS_HEADERS.binary_search(&name).is_ok()
}

/// The value of an address header as far as it may be told: without what is no address.
pub(super) fn header(name: &str, value: &[u8], how: ClientAddress) -> Vec<u8> {
    if how == ClientAddress::None {
        return REDACTED.into();
    }
    // Not a list of addresses but of parameters: RFC 7239.
    let has_pairs = matches!(name, "forwarded" | "x-forwarded");
    let told = |element: &[u8]| match has_pairs {
        true => element.split(|&byte| byte == b';').map(forwarded_pair).collect::<Vec<_>>().join(";"),
        false => network_of(element).unwrap_or_else(|| REDACTED.to_owned()),
    };
    value.split(|&byte| byte == b',').map(told).collect::<Vec<_>>().join(", ").into_bytes()
}

/// A parameter of `forwarded`. Beside networks it tells identifiers that were made unrecognizable (RFC 7239, section 6.3), with
/// their ports, and the protocol and the host that the client asked for.
fn forwarded_pair(pair: &[u8]) -> String {
    let redacted = || REDACTED.to_owned();
    let pair = String::from_utf8_lossy(pair);
    let Some((name, value)) = pair.split_once('=').map(|(name, value)| (name.trim(), value.trim())) else {
        return redacted();
    };
    let node = value.trim_matches('"');
    let is_node = ["for", "by"].iter().any(|known| name.eq_ignore_ascii_case(known));
    if let Some(network) = network_of(node.as_bytes()).filter(|_| is_node) {
        let quote = if value == node { "" } else { "\"" };
        return format!("{name}={quote}{network}{quote}");
    }
    let is_told = match name.to_ascii_lowercase().as_str() {
        "for" | "by" => node.starts_with('_') || node.to_ascii_lowercase().starts_with("unknown"),
        "proto" | "host" => true,
        _ => false,
    };
    let has_address = !find(&Text::new(value.as_bytes()), ClientAddress::None).is_empty();
    if is_told && !has_address { format!("{name}={value}") } else { redacted() }
}

/// The network of an address, with or without a port, as text; `None` when it is no address.
fn network_of(address: &[u8]) -> Option<String> {
    let address = address.trim_ascii();
    let ip = parse(address).or_else(|| parse(without_port(address)))?;
    Some(network(ip).to_string())
}

/// Where in `text` there are IP addresses, percent-encoded ones too, and how each is told. What is no address but may have one in
/// it, with other digits or letters beside it, is a secret as a whole.
pub(super) fn find(text: &Text<'_>, how: ClientAddress) -> Vec<Finding> {
    let mut found = Vec::new();
    if how == ClientAddress::Full {
        return found;
    }
    let mut run = Vec::new();
    let mut run_at = 0;
    // One more unit, so that a run at the end ends too.
    for (at, byte) in text.units(0..).map(|(at, unit)| (at, unit.byte)).chain([(text.bytes.len(), b' ')]) {
        if byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':' | b'[' | b']') {
            if run.is_empty() {
                run_at = at;
            }
            run.push(byte);
            continue;
        }
        found.extend(in_run(&run, how).map(|kind| Finding { place: run_at..at, kind }));
        run.clear();
    }
    found
}

/// What a run of the characters that addresses consist of is: an address, but for a port and for punctuation that stands next to
/// it, or something with an address in it.
fn in_run(run: &[u8], how: ClientAddress) -> Option<Kind> {
    // Most runs are single letters of words, and most others a few numbers.
    let count = |sign: u8| run.iter().filter(|&&byte| byte == sign).count();
    if run.len() < 3 || count(b'.') < 3 && count(b':') < 2 {
        return None;
    }
    let trimmed = run.strip_suffix(b":").unwrap_or(run);
    let candidates = [run, trimmed, trimmed.strip_prefix(b":").unwrap_or(trimmed)];
    let is_short = run.len() <= MAX_ADDRESS_BYTES;
    match candidates.into_iter().filter(|_| is_short).find_map(network_of) {
        Some(network) if how == ClientAddress::Truncated => Some(Kind::Network(network)),
        Some(_) => Some(Kind::Secret),
        None => (has_ipv4(run) || has_ipv6(run)).then_some(Kind::Secret),
    }
}

/// Whether four numbers with dots between them are in a run; before the first and behind the last one there may be anything.
fn has_ipv4(run: &[u8]) -> bool {
    let mut numbers = 0;
    for piece in run.split(|&byte| byte == b'.') {
        if numbers == 3 && piece.first().is_some_and(u8::is_ascii_digit) {
            return true;
        }
        let is_number = str::from_utf8(piece).is_ok_and(|piece| piece.parse::<u8>().is_ok());
        let may_be_first = piece.last().is_some_and(u8::is_ascii_digit);
        numbers = if is_number && numbers > 0 { numbers + 1 } else { u8::from(may_be_first) };
    }
    false
}

/// Whether two colons beside a digit are in a run, or as many as in an address that is written in full.
fn has_ipv6(run: &[u8]) -> bool {
    let is_shortened = |window: &[u8]| match window {
        [b':', b':', digit] | [digit, b':', b':'] => digit.is_ascii_hexdigit(),
        _ => false,
    };
    run.iter().filter(|&&byte| byte == b':').count() >= 7 || run.windows(3).any(is_shortened)
}

/// `ip` of `ip:port`, `[ip6]:port`, `[ip6]` or `ip`.
fn without_port(address: &[u8]) -> &[u8] {
    let port_at = address.iter().rposition(|&byte| byte == b':');
    let ip = match port_at.and_then(|at| address.split_at_checked(at)) {
        Some((ip, [_, port @ ..])) if port.iter().all(u8::is_ascii_digit) => ip,
        _ => address,
    };
    ip.strip_prefix(b"[").and_then(|ip| ip.strip_suffix(b"]")).unwrap_or(ip)
}

/// An address as anybody writes it; zeros before a number count for nothing.
fn parse(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?.trim_end_matches('.');
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    let mut numbers = text.split('.').map(|number| number.parse().ok());
    let ip = [numbers.next()??, numbers.next()??, numbers.next()??, numbers.next()??];
    numbers.next().is_none().then(|| Ipv4Addr::from(ip).into())
}

/// /24 of IPv4, mapped or not, and /48 of IPv6; /40 of 6to4 (RFC 3056), which is an IPv4 address's /24.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & 0xffff_ff00)),
        IpAddr::V6(ip) => {
            let hidden_bits = if ip.to_bits() >> 112 == 0x2002 { 88 } else { 80 };
            IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !0u128 << hidden_bits))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding;
    use super::*;
    use ClientAddress::{Full, None as Nothing, Truncated};

    #[test]
    fn client_addresses_are_told_as_configured() {
        for (address, how, expected) in [
            ("10.1.2.3:80", Full, Some("10.1.2.3")),
            ("10.1.2.3:80", Truncated, Some("10.1.2.0")),
            ("10.1.2.3:80", Nothing, None),
            ("[2001:db8:1:2::3]:80", Full, Some("2001:db8:1:2::3")),
            ("[2001:db8:1:2::3]:80", Truncated, Some("2001:db8:1::")),
            ("[::ffff:10.1.2.3]:80", Truncated, Some("10.1.2.0")),
            ("[2002:cb00:71b1::1]:80", Truncated, Some("2002:cb00:7100::")),
            ("/run/socket", Full, Some("/run/socket")),
            ("/run/socket", Truncated, None),
            ("", Full, None),
        ] {
            assert_eq!(told(address.as_bytes(), how).as_deref(), expected, "{address}");
        }
        assert_eq!(told(b"\xff:1", Full), None);
    }

    #[test]
    fn address_headers_tell_networks_and_nothing_else() {
        assert!(ADDRESS_HEADERS.is_sorted());
        let truncated =
            |name, value: &str| String::from_utf8(header(name, value.as_bytes(), Truncated)).unwrap();
        for (value, expected) in [
            ("10.1.2.3", "10.1.2.0"),
            ("10.1.2.3:99,2001:db8:1:2::3 , [2001:db8::1]:5", "10.1.2.0, 2001:db8:1::, 2001:db8::"),
            ("10.1.2.3, ::ffff:10.1.2.3", "10.1.2.0, 10.1.2.0"),
            ("unknown, _hidden, 010.001.002.003", "REDACTED, REDACTED, 10.1.2.0"),
            ("10.1.2.3.4", "REDACTED"),
            ("fe80::1%eth0", "REDACTED"),
        ] {
            assert_eq!(truncated("x-forwarded-for", value), expected);
        }
        for (value, expected) in [
            (
                r#"for=10.1.2.3;by="[2001:db8:1:2::3]:99";proto=https, for=_hidden"#,
                r#"for=10.1.2.0;by="2001:db8:1::";proto=https, for=_hidden"#,
            ),
            ("For=\"_hidden:4711\"; for=unknown", "For=\"_hidden:4711\";for=unknown"),
            ("host=shop.example:80;proto=http", "host=shop.example:80;proto=http"),
            // What is neither may be the client's name.
            ("for=dsl-7.isp.example, for=_10.1.2.3, for=a10.1.2.3", "REDACTED, REDACTED, REDACTED"),
            ("host=10.1.2.3;secret=x;10.1.2.3", "REDACTED;REDACTED;REDACTED"),
            ("for=\"a;b,c\"", "REDACTED;REDACTED, REDACTED"),
        ] {
            assert_eq!(truncated("forwarded", value), expected);
        }
        assert_eq!(header("forwarded", b"for=10.1.2.3", Nothing), b"REDACTED");
        assert_eq!(header("x-real-ip", b"10.1.2.3", Nothing), b"REDACTED");
    }

    #[test]
    fn addresses_are_found_wherever_they_stand() {
        let anywhere = |text: &str, how| {
            String::from_utf8(finding::told(text.as_bytes(), find(&Text::new(text.as_bytes()), how))).unwrap()
        };
        let full = "1:2:3:4:5:6:7:8";
        for (text, expected) in [
            ("from 10.1.2.3.", "from 10.1.2.0"),
            ("ip:10.1.2.3:80 dead:2001:db8", "ip10.1.2.0 dead:2001:db8"),
            ("a=10.1.2.3&b=2001%3Adb8%3A1%3A2%3A%3A3&c", "a=10.1.2.0&b=2001:db8:1::&c"),
            (r"a=%31%30%2e1.2.3&b=\u00310.1.2.3", "a=10.1.2.0&b=10.1.2.0"),
            ("https://[2001:db8:1:2::3]:8080/", "https://2001:db8:1::/"),
            ("client/10.1.2.3", "client/10.1.2.0"),
            ("12:34:56 1.2.3 v1 :: words:of:a bed", "12:34:56 1.2.3 v1 :: words:of:a bed"),
            ("00:1a:2b:3c:4d:5e 120.0.6099.109", "00:1a:2b:3c:4d:5e 120.0.6099.109"),
            ("1.2.3.4, 5.6.7.8", "1.2.3.0, 5.6.7.0"),
            // Glued to what may be of an address, too.
            ("id10.1.2.3ab", "iREDACTED"),
            ("a1b10.1.2.3 10.1.2.3c4 910.1.2.39", "REDACTED REDACTED REDACTED"),
            ("10.1.2.3.4 300.10.1.2.3 ..10.1.2.3", "REDACTED REDACTED REDACTED"),
            ("beeffe80::1 ...fe80::1abc dead:::beef", "REDACTED REDACTED REDACTED"),
            ("10.1.2.3:10.1.2.4 [::1][10.1.2.3]", "REDACTED REDACTED"),
            (&format!("{full} x{full} abcde{full}"), "1:2:3:: x1:2:3:: REDACTED"),
            (&format!("{}10.1.2.3 {}::1", "a".repeat(99), "a".repeat(99)), "REDACTED REDACTED"),
        ] {
            assert_eq!(anywhere(text, Truncated), expected);
        }
        assert_eq!(anywhere("10.1.2.3", Full), "10.1.2.3");
        assert_eq!(anywhere("x=10.1.2.3;", Nothing), "x=REDACTED;");
    }
}
