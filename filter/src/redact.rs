//! What must never be told, and is taken out before anything is encoded: values of query parameters that carry
//! secrets, values of headers that carry credentials, and as much of the client's address as the user wants hidden.
//!
//! Bytes from outside come in, bytes that may be told go to [`crate::record`].

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::ClientAddress;

/// What stands in place of a value.
pub const REDACTED: &str = "REDACTED";

/// Query parameters whose values are secrets, in lower case: those that OpenTelemetry's `url.query` names, and those
/// that clients use for tokens and passwords.
const SECRET_QUERY_PARAMS: [&str; 28] = [
    "access_token",
    "api_key",
    "apikey",
    "auth",
    "auth_token",
    "awsaccesskeyid",
    "client_secret",
    "code",
    "id_token",
    "jwt",
    "key",
    "passwd",
    "password",
    "private_token",
    "pwd",
    "refresh_token",
    "secret",
    "session",
    "sessionid",
    "sig",
    "signature",
    "token",
    "x-amz-credential",
    "x-amz-security-token",
    "x-amz-signature",
    "x-goog-credential",
    "x-goog-signature",
    "x-ms-signature",
];

/// How long the [`SECRET_QUERY_PARAMS`] are that begin with a letter, the `n`th of the alphabet, whatever its case: bit `l` of
/// number `n` is for those of `l` bytes. Nearly every other name is told from them by this alone.
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which refuses what is out of bounds")]
const LENGTHS_BY_INITIAL: [u32; 32] = {
    let mut lengths = [0; 32];
    let mut at = 0;
    while at < SECRET_QUERY_PARAMS.len() {
        let name = SECRET_QUERY_PARAMS[at].as_bytes();
        lengths[(name[0] & 0x1f) as usize] |= 1 << name.len();
        at += 1;
    }
    lengths
};

/// Headers whose values are credentials, in lower case.
const CREDENTIAL_HEADERS: [&str; 8] = [
    "authorization",
    "cookie",
    "proxy-authorization",
    "set-cookie",
    "x-amz-security-token",
    "x-api-key",
    "x-auth-token",
    "x-forwarded-client-cert",
];

/// Whether a header's value is only ever told as [`REDACTED`]. `name` is in lower case.
pub fn is_credential_header(name: &str) -> bool {
    CREDENTIAL_HEADERS.contains(&name)
}

/// `query` with the values of secret parameters replaced; keys and order stay.
///
/// Servers differ in what separates parameters: `&` always, `;` for some. So a `;` may begin a parameter, but the value of
/// a secret one ends at the next `&` only, or where a URL within the value has its own query or fragment.
pub fn query(query: &[u8]) -> Cow<'_, [u8]> {
    let mut redacted = Vec::new();
    // What is before it is in `redacted`, or nothing was to be redacted so far.
    let mut told_to = 0;
    let mut name_at = Some(0);
    let mut at = 0;
    while let Some(byte) = query.get(at) {
        match (byte, name_at) {
            (b'&' | b'?' | b'#' | b';', _) => name_at = Some(at + 1),
            (b'=', Some(begin)) => {
                name_at = None;
                if is_secret_param(query.get(begin..at).unwrap_or_default()) {
                    redacted.extend_from_slice(query.get(told_to..=at).unwrap_or_default());
                    redacted.extend_from_slice(REDACTED.as_bytes());
                    let value = query.get(at + 1..).unwrap_or_default();
                    at += value.iter().position(|byte| b"&?#".contains(byte)).unwrap_or(value.len());
                    told_to = at + 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    if told_to == 0 {
        return Cow::Borrowed(query);
    }
    redacted.extend_from_slice(query.get(told_to..).unwrap_or_default());
    Cow::Owned(redacted)
}

/// Appends a header's value to `out`. Where it looks like a URL, which `referer`, `location` and many others are, its
/// query and its fragment are told as [`query`] tells them, and its user info not at all.
pub fn header_value(value: &[u8], out: &mut Vec<u8>) {
    let query_at = value.iter().position(|byte| b"?#".contains(byte)).map_or(value.len(), |at| at + 1);
    let (location, rest) = value.split_at_checked(query_at).unwrap_or((value, &[]));
    let authority_at = location.windows(3).position(|window| window == b"://").map_or(0, |at| at + 3);
    let (scheme, after) = location.split_at_checked(authority_at).unwrap_or((&[], location));
    let authority_len = after.iter().position(|byte| b"/?# ,".contains(byte)).unwrap_or(after.len());
    out.extend_from_slice(scheme);
    match after.get(..authority_len).and_then(|authority| authority.iter().rposition(|&byte| byte == b'@')) {
        Some(at) if authority_at > 0 => {
            out.extend_from_slice(REDACTED.as_bytes());
            out.extend_from_slice(after.get(at..).unwrap_or_default());
        }
        _ => out.extend_from_slice(after),
    }
    out.extend_from_slice(&query(rest));
}

/// Compares a parameter's name as a server would read it: percent-decoded, whatever its case.
fn is_secret_param(name: &[u8]) -> bool {
    // No listed name is longer, and an encoded one takes at most three bytes a byte.
    const MAX_ENCODED_LEN: usize = 3 * 32;
    if name.len() > MAX_ENCODED_LEN {
        return false;
    }
    let is_listed = |name: &[u8]| {
        let initial = name.first().map_or(0, |byte| usize::from(byte & 0x1f));
        LENGTHS_BY_INITIAL.get(initial).is_some_and(|lengths| lengths >> name.len().min(31) & 1 == 1)
            && SECRET_QUERY_PARAMS.iter().any(|secret| secret.as_bytes().eq_ignore_ascii_case(name))
    };
    // Most names are told as they are.
    if !name.iter().any(|byte| matches!(byte, b'%' | b'+' | b'[' | b']' | ..=b' ')) {
        return is_listed(name);
    }
    let mut decoded = [0u8; MAX_ENCODED_LEN];
    let mut len = 0;
    let mut bytes = name.iter();
    while let Some(&byte) = bytes.next() {
        let byte = match (byte, bytes.as_slice()) {
            (b'+', _) => b' ',
            (b'%', &[high, low, ..]) => match (hex_digit(high), hex_digit(low)) {
                (Some(high), Some(low)) => {
                    bytes.nth(1);
                    high << 4 | low
                }
                _ => byte,
            },
            _ => byte,
        };
        if let Some(place) = decoded.get_mut(len) {
            *place = byte;
            len += 1;
        }
    }
    let decoded = decoded.get(..len).unwrap_or_default();
    // `user[token]` and `token[]` are a token too; blanks around a name are nothing.
    decoded.split(|byte| b"[]".contains(byte)).any(|part| is_listed(part.trim_ascii()))
}

fn hex_digit(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// The part of a client's address that may be told: `address` is Envoy's, `ip:port` or `[ip6]:port`; the port goes.
/// What is no IP address (a Unix socket's path) is told only in full.
pub fn client_address(address: &[u8], how: ClientAddress) -> Option<Cow<'_, str>> {
    let port_at = address.iter().rposition(|&byte| byte == b':');
    let ip = match port_at.and_then(|at| address.split_at_checked(at)) {
        Some((ip, [_, port @ ..])) if port.iter().all(u8::is_ascii_digit) => {
            ip.strip_prefix(b"[").and_then(|ip| ip.strip_suffix(b"]")).unwrap_or(ip)
        }
        _ => address,
    };
    let ip = str::from_utf8(ip).ok()?;
    match how {
        _ if ip.is_empty() => None,
        ClientAddress::None => None,
        ClientAddress::Full => Some(Cow::Borrowed(ip)),
        ClientAddress::Truncated => Some(Cow::Owned(network(ip.parse().ok()?).to_string())),
    }
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

    fn redacted(text: &str) -> String {
        String::from_utf8(query(text.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn secret_parameters_lose_their_values_and_nothing_else_changes() {
        for (query, expected) in [
            ("", ""),
            ("a=1&b=2", "a=1&b=2"),
            ("token=abc", "token=REDACTED"),
            ("a=1&ToKeN=abc&b", "a=1&ToKeN=REDACTED&b"),
            ("access%5Ftoken=abc;x=1&y=2", "access%5Ftoken=REDACTED&y=2"),
            ("a=1;password=hun;ter2&b", "a=1;password=REDACTED&b"),
            (
                "user[password]=x&token[]=y&a%5Bcode%5D=z",
                "user[password]=REDACTED&token[]=REDACTED&a%5Bcode%5D=REDACTED",
            ),
            ("next=http://h/?token=x#id_token=y", "next=http://h/?token=REDACTED#id_token=REDACTED"),
            ("%74oken=a=b&&", "%74oken=REDACTED&&"),
            ("token&token=", "token&token=REDACTED"),
            ("tokens=1&%zz=2&%=3&%4=5", "tokens=1&%zz=2&%=3&%4=5"),
            ("X-Amz-Signature=f00&sig=1", "X-Amz-Signature=REDACTED&sig=REDACTED"),
            ("+token=x&%20token=y", "+token=REDACTED&%20token=REDACTED"),
        ] {
            assert_eq!(redacted(query), expected);
        }
    }

    #[test]
    fn headers_that_are_urls_are_told_without_their_secrets() {
        for (value, expected) in [
            ("", ""),
            ("text/html; q=0.8, */*", "text/html; q=0.8, */*"),
            ("https://shop/cb?code=s3cret&state=1", "https://shop/cb?code=REDACTED&state=1"),
            ("/cb#access_token=s3cret&x", "/cb#access_token=REDACTED&x"),
            ("https://me:s3cret@shop/a@b", "https://REDACTED@shop/a@b"),
            ("https://me:s3@cret@shop", "https://REDACTED@shop"),
            ("me@shop.example", "me@shop.example"),
            ("https://shop/?x=a@b", "https://shop/?x=a@b"),
        ] {
            let mut out = Vec::new();
            header_value(value.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{value}");
        }
    }

    #[test]
    fn the_lists_are_in_lower_case() {
        for name in SECRET_QUERY_PARAMS.iter().chain(&CREDENTIAL_HEADERS) {
            assert_eq!(*name, name.to_lowercase());
            assert!(name.len() <= 32, "longer than a decoded name may be: {name}");
        }
    }

    #[test]
    fn client_addresses_are_told_as_configured() {
        use ClientAddress::{Full, None as Nothing, Truncated};
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
            assert_eq!(client_address(address.as_bytes(), how).as_deref(), expected, "{address}");
        }
        assert_eq!(client_address(b"\xff:1", Full), None);
    }
}
