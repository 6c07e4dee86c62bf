//! Client addresses: as much of them as the user wants told, wherever they hide.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::REDACTED;
use super::escape::units;
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
    if matches!(name, "forwarded" | "x-forwarded") {
        return anywhere(value, how).into_owned();
    }
    let elements = value.split(|&byte| byte == b',').map(|element| match parse(element.trim_ascii()) {
        Some(ip) => Cow::Owned(network(ip).to_string()),
        None => told(element.trim_ascii(), how).unwrap_or(Cow::Borrowed(REDACTED)),
    });
    elements.collect::<Vec<_>>().join(", ").into_bytes()
}

/// `text` with every IP address in it told as `how` says, percent-encoded ones too.
pub(super) fn anywhere(text: &[u8], how: ClientAddress) -> Cow<'_, [u8]> {
    if how == ClientAddress::Full {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::new();
    let mut told_to = 0;
    let mut run = Vec::new();
    let mut run_at = 0;
    // One more unit, so that a run at the end ends too.
    for (at, byte) in units(text).map(|(at, unit)| (at, unit.byte)).chain([(text.len(), b' ')]) {
        if byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':' | b'[' | b']') {
            if run.is_empty() {
                run_at = at;
            }
            run.push(byte);
            continue;
        }
        if let Some(address) = in_run(&run) {
            out.extend_from_slice(text.get(told_to..run_at).unwrap_or_default());
            match how {
                ClientAddress::None => out.extend_from_slice(REDACTED.as_bytes()),
                _ => out.extend_from_slice(network(address).to_string().as_bytes()),
            }
            told_to = at;
        }
        run.clear();
    }
    if told_to == 0 {
        return Cow::Borrowed(text);
    }
    out.extend_from_slice(text.get(told_to..).unwrap_or_default());
    Cow::Owned(out)
}

/// The address in a run of the characters that addresses consist of: all of it, but for a port and for letters and
/// punctuation that stand next to it; what is in the run besides goes with it.
fn in_run(run: &[u8]) -> Option<IpAddr> {
    // The shortest are `::1` and `1.2.3.4`; most runs are single letters of words.
    if run.len() < 3 || !run.iter().any(|byte| b".:".contains(byte)) {
        return None;
    }
    let run = run.get(..MAX_ADDRESS_BYTES).unwrap_or(run);
    let trimmed = run.strip_suffix(b":").unwrap_or(run);
    let whole = [run, trimmed, trimmed.strip_prefix(b":").unwrap_or(trimmed)];
    let mut bracketed = run.split(|byte| b"[]".contains(byte));
    let mut pieces = run.split(|byte| b":[]".contains(byte)).filter(|piece| piece.contains(&b'.'));
    whole
        .into_iter()
        .find_map(|candidate| parse(candidate).or_else(|| parse(without_port(candidate))))
        .or_else(|| bracketed.find_map(parse))
        .or_else(|| pieces.find_map(|piece| parse(without_letters(piece))))
}

/// `10.1.2.3` of `ed10.1.2.3`: some letters are hexadecimal digits.
fn without_letters(piece: &[u8]) -> &[u8] {
    let begin = piece.iter().position(u8::is_ascii_digit).unwrap_or(0);
    let end = piece.iter().rposition(u8::is_ascii_digit).map_or(0, |at| at + 1);
    piece.get(begin..end).unwrap_or_default()
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

/// /24 of IPv4, mapped or not, and /48 of IPv6.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & 0xffff_ff00)),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !0u128 << 80)),
    }
}

#[cfg(test)]
mod tests {
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
            ("unknown, _hidden, 010.001.002.003", "REDACTED, REDACTED, 10.1.2.0"),
            ("10.1.2.3.4", "REDACTED"),
            ("fe80::1%eth0", "REDACTED"),
        ] {
            assert_eq!(truncated("x-forwarded-for", value), expected);
        }
        assert_eq!(
            truncated("forwarded", r#"for=10.1.2.3;by="[2001:db8:1:2::3]:99";proto=https, for=_hidden"#),
            r#"for=10.1.2.0;by="2001:db8:1::";proto=https, for=_hidden"#
        );
        assert_eq!(header("forwarded", b"for=10.1.2.3", Nothing), b"REDACTED");
        assert_eq!(header("x-real-ip", b"10.1.2.3", Nothing), b"REDACTED");
    }

    #[test]
    fn addresses_are_found_wherever_they_stand() {
        for (text, expected) in [
            ("from 10.1.2.3.", "from 10.1.2.0"),
            ("ip:10.1.2.3:80 dead:2001:db8", "ip10.1.2.0 dead:2001:db8"),
            ("a=10.1.2.3&b=2001%3Adb8%3A1%3A2%3A%3A3&c", "a=10.1.2.0&b=2001:db8:1::&c"),
            ("a=%31%30%2e1.2.3", "a=10.1.2.0"),
            ("https://[2001:db8:1:2::3]:8080/", "https://2001:db8:1::/"),
            ("client/10.1.2.3", "client/10.1.2.0"),
            ("id10.1.2.3ab", "i10.1.2.0"),
            ("12:34:56 1.2.3 v1 :: words:of:a bed", "12:34:56 1.2.3 v1 :: words:of:a bed"),
            ("1.2.3.4, 5.6.7.8", "1.2.3.0, 5.6.7.0"),
        ] {
            assert_eq!(String::from_utf8_lossy(&anywhere(text.as_bytes(), Truncated)), expected);
        }
        assert_eq!(anywhere(b"10.1.2.3", Full), &b"10.1.2.3"[..]);
        assert_eq!(anywhere(b"x=10.1.2.3;", Nothing), &b"x=REDACTED;"[..]);
    }
}
