//! Values of secret parameters, wherever `name=value` stands: in a query, a path segment, a header, a URL within any of
//! these, encoded or not.

use std::ops::Range;

use super::Place;
use super::escape::{unit, units};
use super::names::ParamNames;

/// Where in `text` the values of secret parameters are, in their order.
///
/// Servers differ in what separates parameters, so `;` may begin one but ends none: in a path a value ends at the next `/`,
/// elsewhere at the next `&`, or where a fragment begins.
/// What is encoded more often than the `=` before it belongs to the value: `token=a%26b` is one value, and so is
/// `token%3Da%2526b`, but in `token%3Da%26b` there is another parameter behind it.
pub(super) fn find(names: &ParamNames, text: &[u8], place: Place) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut name_at = 0;
    let mut at = 0;
    let mut before = 0;
    while let Some(rest) = text.get(at..) {
        // Most bytes are a name's or a value's.
        let plain = rest.iter().position(|byte| !byte.is_ascii_alphanumeric());
        let Some((at_sign, unit)) = plain.and_then(|plain| Some((plain, unit(rest.get(plain..)?)?))) else {
            break;
        };
        if at_sign > 0 {
            (at, before) = (at + at_sign, 0);
        }
        let next = at + unit.len;
        match unit.byte {
            b'&' | b'?' | b'#' | b';' | b'/' | b',' | b'<' | b'>' | b'(' | b')' | b'{' | b'}' | b'\\' => {
                name_at = next;
            }
            // `"token":` is JSON's way of it.
            b'=' | b':' if unit.byte == b'=' || before == b'"' => {
                let is_secret = names.are_secret(text.get(name_at..at).unwrap_or_default());
                name_at = next;
                if is_secret {
                    let value = text.get(next..).unwrap_or_default();
                    let end = next + value_len(value, unit.depth, place);
                    found.push(next..end);
                    (at, name_at, before) = (end, end, 0);
                    continue;
                }
            }
            _ => {}
        }
        (at, before) = (next, unit.byte);
    }
    found
}

/// How much of `rest` a value takes that began behind a `=` of that depth. A quoted one ends no sooner than its quotes.
fn value_len(rest: &[u8], depth: u8, place: Place) -> usize {
    let is_quoted = unit(rest).is_some_and(|unit| unit.byte == b'"');
    let mut is_within_quotes = false;
    let end = units(rest).find(|(_, unit)| {
        is_within_quotes ^= is_quoted && unit.byte == b'"';
        let is_end = match place {
            Place::Text => matches!(unit.byte, b'&' | b'#'),
            Place::Path => unit.byte == b'/',
        };
        is_end && unit.depth <= depth && !is_within_quotes
    });
    end.map_or(rest.len(), |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::super::replaced;
    use super::*;

    fn redacted(text: &str, place: Place) -> String {
        let found = find(&ParamNames::new(&[]), text.as_bytes(), place);
        String::from_utf8(replaced(text.as_bytes(), &found)).unwrap()
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
            ("token=\"a&b\"&c", "token=REDACTED&c"),
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
        ] {
            assert_eq!(redacted(text, Place::Text), expected);
        }
        assert_eq!(
            redacted(r#"{"user":"me","password":"a","b":1}"#, Place::Text),
            r#"{"user":"me","password":REDACTED"#
        );
    }

    #[test]
    fn a_parameter_of_a_path_ends_with_its_segment() {
        for (text, expected) in [
            ("/orders/7", "/orders/7"),
            ("/a;token=x;v=1/b", "/a;token=REDACTED/b"),
            ("/a;jsessionid=x%2Fy&z", "/a;jsessionid=REDACTED"),
            ("/token=x/a=1", "/token=REDACTED/a=1"),
        ] {
            assert_eq!(redacted(text, Place::Path), expected);
        }
    }
}
