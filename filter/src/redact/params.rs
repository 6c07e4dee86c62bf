//! Values of secret parameters, wherever `name=value` stands: in a query, a path segment, a header, a URL within any of
//! these, encoded or not.

use std::ops::Range;

use super::Place;
use super::escape::{Depth, Text, Unit, is_short_escape};
use super::names::ParamNames;

/// Where in `text` the values of secret parameters are, in their order.
///
/// Servers differ in what separates parameters, so `;` may begin one but ends none: in a path a value ends at the next `/` that
/// nothing around it makes a part of it, elsewhere at the next `&`, or where a fragment begins.
/// What is encoded more often than the `=` before it belongs to the value: `token=a%26b` is one value, and so is
/// `token%3Da%2526b`, but in `token%3Da%26b` there is another parameter behind it.
/// `"token":` is JSON's way of it, and a colon that has a quote beside it, but for blanks, is taken for such a one.
pub(super) fn find(names: &ParamNames, text: &Text<'_>, place: Place) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut name_at = 0;
    let mut at = 0;
    // But for blanks.
    let mut before = 0;
    while let Some(rest) = text.bytes.get(at..) {
        // Most bytes are a name's or a value's.
        let plain = rest.iter().position(|byte| !byte.is_ascii_alphanumeric());
        let Some((at_sign, unit)) = plain.and_then(|plain| Some((plain, text.unit(at + plain)?))) else {
            break;
        };
        if at_sign > 0 {
            let is_blank = at_sign == 1 && rest.first().is_some_and(|&byte| is_short_escape(before, byte));
            // The backslash stands for it.
            before = if is_blank { before } else { 0 };
            at += at_sign;
        }
        let next = at + unit.len();
        match unit.byte {
            b'&' | b'?' | b'#' | b';' | b'/' | b',' | b'<' | b'>' | b'(' | b')' | b'{' | b'}' => {
                name_at = next;
            }
            b'=' | b':' if unit.byte == b'=' || is_quote(before) || begins_quoted(text, next) => {
                let is_secret = names.are_secret(text, name_at..at);
                name_at = next;
                if is_secret {
                    let end = value_end(text, next, unit, place);
                    found.push(next..end);
                    (at, name_at, before) = (end, end, 0);
                    continue;
                }
            }
            _ => {}
        }
        at = next;
        if !is_blank(unit.byte) {
            before = unit.byte;
        }
    }
    found
}

/// Where a value ends that begins at `at`, behind a `sign`. A quoted one, and one of JSON, may hold whatever is percent-encoded as
/// often as the sign is: it ends only where something around it does. In a path it does not, nor does one whose sign is encoded:
/// whoever encodes a URL or JSON into a path may leave a slash as it is.
fn value_end(text: &Text<'_>, at: usize, sign: Unit, place: Place) -> usize {
    let may_hold_delimiters = sign.byte == b':' || begins_quoted(text, at);
    let end = text.units(at..).find(|(_, Unit { byte, depth, .. })| match place {
        Place::Text => {
            matches!(byte, b'&' | b'#')
                && !depth.is_within(sign.depth)
                && (depth.percent < sign.depth.percent || !may_hold_delimiters)
        }
        Place::Path => {
            *byte == b'/' && !may_hold_delimiters && sign.depth == Depth::PLAIN && *depth == Depth::PLAIN
        }
    });
    end.map_or(text.bytes.len(), |(at, _)| at)
}

fn begins_quoted(text: &Text<'_>, at: usize) -> bool {
    text.units(at..).map(|(_, unit)| unit.byte).find(|&byte| !is_blank(byte)).is_some_and(is_quote)
}

/// A backslash stands before a quote within another one.
fn is_quote(byte: u8) -> bool {
    matches!(byte, b'"' | b'\'' | b'\\')
}

/// `+` is one in a query.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b'+' | ..=b' ')
}

#[cfg(test)]
mod tests {
    use super::super::finding::{Finding, told};
    use super::*;

    fn redacted(text: &str, place: Place) -> String {
        let found = find(&ParamNames::new(&[]), &Text::new(text.as_bytes()), place);
        let found = found.into_iter().map(Finding::secret).collect();
        String::from_utf8(told(text.as_bytes(), found)).unwrap()
    }

    #[test]
    fn secret_parameters_lose_their_values_and_nothing_else_changes() {
        for (text, expected) in [
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
            ("password=what?ever/you=like&b", "password=REDACTED&b"),
            ("%74oken=a=b&&", "%74oken=REDACTED&&"),
            ("token&token=", "token&token=REDACTED"),
            ("tokens=1&%zz=2&%=3&%4=5", "tokens=1&%zz=2&%=3&%4=5"),
            ("X-Amz-Signature=f00&sig=1", "X-Amz-Signature=REDACTED&sig=REDACTED"),
            ("+token=x&%20token=y&token+=z", "+token=REDACTED&%20token=REDACTED&token+=REDACTED"),
            ("filter=token=x", "filter=token=REDACTED"),
            // Quotes are nothing to one server and hold delimiters for another.
            ("token=\"a&b\"&c", "token=REDACTED"),
            ("token= 'a&b'&c", "token=REDACTED"),
            ("a=token:b&key=c", "a=token:b&key=REDACTED"),
        ] {
            assert_eq!(redacted(text, Place::Text), expected);
        }
    }

    #[test]
    fn parameters_of_a_url_within_a_value_are_found_at_any_depth() {
        for (text, expected) in [
            (
                "next=https%3A%2F%2Fh%2F%3Ftoken%3Dx%26a%3D1&b=2",
                "next=https%3A%2F%2Fh%2F%3Ftoken%3DREDACTED%26a%3D1&b=2",
            ),
            ("next=%3Ftoken%3Dx%2526y%26a", "next=%3Ftoken%3DREDACTED%26a"),
            ("n=%253Ftoken%253Dx%2526a", "n=%253Ftoken%253DREDACTED%2526a"),
            ("token=a%26b&c", "token=REDACTED&c"),
            ("v=%7B%22token%22%3A%22a%26b%22%7D&c", "v=%7B%22token%22%3AREDACTED&c"),
            // In JSON what is percent-encoded is so for the URL in it.
            (r"https://h/?token\u003da%26b", r"https://h/?token\u003dREDACTED"),
            (r"https://h/?token\u003da\u0026b", r"https://h/?token\u003dREDACTED\u0026b"),
            (r"https://h/?token%3Da\u0026b&c", r"https://h/?token%3DREDACTED&c"),
            ("n=%3Ftoken%5Cu003da%2526b%26c", "n=%3Ftoken%5Cu003dREDACTED%26c"),
            ("n=%5Cu0022token%5Cu0022%5Cu003aa%26b&c", "n=%5Cu0022token%5Cu0022%5Cu003aREDACTED&c"),
        ] {
            assert_eq!(redacted(text, Place::Text), expected);
        }
    }

    #[test]
    fn members_of_json_are_parameters_however_it_is_spaced_and_escaped() {
        for (text, expected) in [
            (r#"{"user":"me","password":"a","b":1}"#, r#"{"user":"me","password":REDACTED"#),
            (r#"{"token" : "x&y#z"}&b"#, r#"{"token" :REDACTED"#),
            ("{\"token\"\n\t:\r\n\"x&y\"}", "{\"token\"\n\t:REDACTED"),
            (r#"{"token":"a\"b&c"}"#, r#"{"token":REDACTED"#),
            (r#"{"token":{"v":["a&b"]}}"#, r#"{"token":REDACTED"#),
            (r#"{"token":7}"#, r#"{"token":REDACTED"#),
            (r#""{\"a\":1,\"token\": \"x&y\"}""#, r#""{\"a\":1,\"token\":REDACTED"#),
            (r#"{"\u0074oken":"x"}"#, r#"{"\u0074oken":REDACTED"#),
            (r#"{"a":"b?token=x\u0026y=1"}"#, r#"{"a":"b?token=REDACTED"#),
            ("{'token': 'x&y'}", "{'token':REDACTED"),
            (r#"{"form":"a=1\ttoken=x"}"#, r#"{"form":"a=1\ttoken=REDACTED"#),
            (r#"{"log":"a\ntoken=x"}"#, r#"{"log":"a\ntoken=REDACTED"#),
            (r#""{\"token\"\n\t:\n\"x&y\"}""#, r#""{\"token\"\n\t:REDACTED"#),
            ("{token: 'x&y'}", "{token:REDACTED"),
            ("f=%7B%22token%22%20%3A%20%22a%26b%22%7D&c", "f=%7B%22token%22%20%3AREDACTED&c"),
            ("f=%7B%22token%22+%3A+%22a%5C%22%26b%22%7D&c", "f=%7B%22token%22+%3AREDACTED&c"),
            ("http://auth:80/ at 12:30", "http://auth:80/ at 12:30"),
        ] {
            assert_eq!(redacted(text, Place::Text), expected);
        }
        assert_eq!(redacted(r#"/a/{"token" : "x/y"}/b"#, Place::Path), r#"/a/{"token" :REDACTED"#);
    }

    #[test]
    fn a_parameter_of_a_path_ends_with_its_segment() {
        for (text, expected) in [
            ("/orders/7", "/orders/7"),
            ("/a;token=x;v=1/b", "/a;token=REDACTED/b"),
            ("/a;jsessionid=x%2Fy&z", "/a;jsessionid=REDACTED"),
            ("/token=x/a=1", "/token=REDACTED/a=1"),
            ("/%7B%22token%22%3A%20%22a/b%22%7D/c", "/%7B%22token%22%3AREDACTED"),
            ("/https%3A%2F%2Fh%2F%3Ftoken%3Da%2Fb/c", "/https%3A%2F%2Fh%2F%3Ftoken%3DREDACTED"),
        ] {
            assert_eq!(redacted(text, Place::Path), expected);
        }
    }
}
