//! User info: what stands before the `@` of a URL's authority (RFC 3986, section 3.2.1).

use std::ops::Range;

use memchr::memchr;

use super::escape::{Depth, Text};

/// What an `@` would mean here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    /// An authority, behind `//`: what is before the `@` is user info. The depth is that of the slashes, the lesser one.
    Authority { depth: Depth },
    /// Something that may be `user:password@host` without a scheme; `me@example.org` stays.
    Bare { colons: u8 },
}

const FRESH: Token = Token::Bare { colons: 0 };

/// Where in `text` the user info of URLs is, in their order, encoded ones too. `user:password@host` needs no `//` before it: it
/// may be an element of a list, or a segment of a path.
pub(super) fn find(text: &Text<'_>) -> Vec<Range<usize>> {
    if !text.has_escapes() && memchr(b'@', text.bytes).is_none() {
        return Vec::new();
    }
    let (mut token, mut token_at) = (FRESH, 0);
    let (mut slash, mut before): (Option<Depth>, u8) = (None, b' ');
    let mut found: Vec<Range<usize>> = Vec::new();
    for (at, unit) in text.units(0..) {
        let next = at + unit.len();
        // Slashes follow a scheme, and one of them may have got lost, or a slash.
        let may_begin_authority = slash.is_some() || before == b':';
        // What is encoded within a password belongs to it, but not the slashes of a scheme. Some take a backslash for a slash.
        let is_within = match token {
            Token::Authority { depth } => {
                unit.depth.is_within(depth) || unit.byte == b'\\' && !may_begin_authority
            }
            Token::Bare { colons: 0 } => false,
            Token::Bare { colons } => {
                let follows_scheme = colons == 1 && before == b':' && is_slash(unit.byte);
                (unit.depth != Depth::PLAIN || unit.byte == b'\\') && !follows_scheme
            }
        };
        match unit.byte {
            b'/' | b'\\' if is_within => {}
            b'/' | b'\\' => {
                // Two begin an authority, and so do more.
                let depth = slash.unwrap_or(unit.depth).min(unit.depth);
                token = if may_begin_authority { Token::Authority { depth } } else { FRESH };
                token_at = next;
                (slash, before) = (Some(unit.depth), unit.byte);
                continue;
            }
            b'@' if token != FRESH => match found.last_mut() {
                Some(last) if last.start == token_at => last.end = at,
                _ => found.push(token_at..at),
            },
            b':' => {
                if let Token::Bare { colons } = &mut token {
                    *colons = colons.saturating_add(1);
                }
            }
            b'?' | b'#' | b'"' | b'<' | b'>' | ..=b' ' if !is_within => (token, token_at) = (FRESH, next),
            // All of these may be in a password.
            b',' | b';' | b'=' | b'&' | b'(' if token == FRESH => token_at = next,
            _ => {}
        }
        (slash, before) = (None, unit.byte);
    }
    found
}

fn is_slash(byte: u8) -> bool {
    matches!(byte, b'/' | b'\\')
}

#[cfg(test)]
mod tests {
    use super::super::finding::{Finding, told};
    use super::*;

    fn redact(text: &str) -> String {
        let found = find(&Text::new(text.as_bytes())).into_iter().map(Finding::secret).collect();
        String::from_utf8(told(text.as_bytes(), found)).unwrap()
    }

    #[test]
    fn what_is_before_the_at_of_an_authority_is_replaced() {
        for (text, expected) in [
            ("", ""),
            ("https://shop/a@b", "https://shop/a@b"),
            ("https://me:s3cret@shop/a@b", "https://REDACTED@shop/a@b"),
            ("https://s3cret@shop", "https://REDACTED@shop"),
            ("https://me:s3@cret@shop", "https://REDACTED@shop"),
            ("https:///me:s3cret@shop/", "https:///REDACTED@shop/"),
            ("https://me:s%2F%2F3;c=r,e&t@shop/", "https://REDACTED@shop/"),
            ("//me:s3cret@shop/", "//REDACTED@shop/"),
            (r"https:\\me:s3cret@shop\a", r"https:\\REDACTED@shop\a"),
            ("https://a, https://me:s3cret@b", "https://a, https://REDACTED@b"),
            ("https://a,https://me:s3cret@b", "https://a,https://REDACTED@b"),
            ("<https://me:s3cret@a>; rel=\"next\"", "<https://REDACTED@a>; rel=\"next\""),
            ("/next?to=https%3A%2F%2Fme%3As3%252Fcret%40b%2F", "/next?to=https%3A%2F%2FREDACTED%40b%2F"),
            ("https://shop/?x=a@b", "https://shop/?x=a@b"),
            ("https://shop?me:s3cret@b", "https://shop?REDACTED@b"),
            ("me@shop.example", "me@shop.example"),
            ("me:s3cret@shop, a@b", "REDACTED@shop, a@b"),
            ("me:s3cret%40shop", "REDACTED%40shop"),
            ("me:s;=&3@,cret@shop", "REDACTED@shop"),
            ("me:s%26%2F%20%5C3cret@shop", "REDACTED@shop"),
            ("to=me:s3cret@shop", "to=REDACTED@shop"),
            // In a path, where a slash may have got lost.
            ("/get/https://me:s3cret@b/", "/get/https://REDACTED@b/"),
            ("/get/https:/me:s3cret@b/", "/get/https:/REDACTED@b/"),
            ("/get/https:/s3cret@b/", "/get/https:/REDACTED@b/"),
            ("/get/me:s3cret@b/c@d", "/get/REDACTED@b/c@d"),
            ("https://shop/get/me:s3cret@b/", "https://shop/get/REDACTED@b/"),
            // As JSON has it.
            (r"https:\/\/me:s3cret@b\/a@c", r"https:\/\/REDACTED@b\/a@c"),
            (r"https:\u002f\u002fme:s3%25cret\u0040b", r"https:\u002f\u002fREDACTED\u0040b"),
            (r"https://me:s3\cret@b, me:s3\cret@b", "https://REDACTED@b, REDACTED@b"),
            (r"https:\u002f\u002fme:s3%2Fcret@b", r"https:\u002f\u002fREDACTED@b"),
            ("https:%5Cu002f%5Cu002fme:s3%252Fcret@b", "https:%5Cu002f%5Cu002fREDACTED@b"),
            ("me:s3:%2Fcret@shop", "REDACTED@shop"),
        ] {
            assert_eq!(redact(text), expected);
        }
    }
}
