//! User info: what stands before the `@` of a URL's authority (RFC 3986, section 3.2.1).

use std::ops::Range;

use memchr::memchr2;

use super::Place;
use super::escape::units;

/// What an `@` would mean here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    /// An authority, behind `//`: what is before the `@` is user info. The depth is that of the slashes.
    Authority { depth: u8 },
    /// Something that may be `user:password@host` without a scheme; `me@example.org` stays.
    Bare { has_colon: bool },
    /// A path, or where only a URL has user info.
    Other,
}

/// Where in `text` the user info of URLs is, in their order, encoded ones too. Elsewhere than in a path, `user:password@host` at
/// the beginning of the text or of an element needs no `//` before it.
pub(super) fn find(text: &[u8], place: Place) -> Vec<Range<usize>> {
    if memchr2(b'@', b'%', text).is_none() {
        return Vec::new();
    }
    let fresh = match place {
        Place::Path => Token::Other,
        Place::Text => Token::Bare { has_colon: false },
    };
    let (mut token, mut token_at) = (fresh, 0);
    let (mut slash, mut before): (Option<u8>, u8) = (None, b' ');
    let mut found: Vec<Range<usize>> = Vec::new();
    for (at, unit) in units(text) {
        let next = at + unit.len;
        // What is encoded within a password belongs to it, but not the slashes of a scheme.
        let is_deeper = match token {
            Token::Authority { depth } => unit.depth > depth,
            Token::Bare { has_colon } => has_colon && unit.depth > 0 && (before != b':' || unit.byte != b'/'),
            Token::Other => false,
        };
        before = unit.byte;
        match unit.byte {
            b'/' | b'\\' if is_deeper => {}
            b'/' | b'\\' => {
                // Two begin an authority, and so do more.
                (token, token_at) = match slash {
                    Some(depth) => (Token::Authority { depth: depth.max(unit.depth) }, next),
                    None => (Token::Other, next),
                };
                slash = Some(unit.depth);
                continue;
            }
            b'@' => {
                let is_user_info = matches!(token, Token::Authority { .. } | Token::Bare { has_colon: true });
                match found.last_mut() {
                    _ if !is_user_info => {}
                    Some(last) if last.start == token_at => last.end = at,
                    _ => found.push(token_at..at),
                }
            }
            b':' => {
                if let Token::Bare { has_colon } = &mut token {
                    *has_colon = true;
                }
            }
            b'?' | b'#' | b'"' | b'<' | b'>' | ..=b' ' if !is_deeper => (token, token_at) = (fresh, next),
            // All of these may be in a password.
            b',' | b';' | b'=' | b'&' | b'('
                if matches!(token, Token::Bare { has_colon: false } | Token::Other) =>
            {
                (token, token_at) = (fresh, next);
            }
            _ => {}
        }
        slash = None;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::replaced;
    use super::*;

    fn redact(text: &[u8], place: Place) -> Vec<u8> {
        replaced(text, &find(text, place))
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
        ] {
            assert_eq!(String::from_utf8_lossy(&redact(text.as_bytes(), Place::Text)), expected);
        }
        assert_eq!(redact(b"/npm/pkg:1@2", Place::Path), &b"/npm/pkg:1@2"[..]);
        assert_eq!(redact(b"/get/http://me:x@b/", Place::Path), &b"/get/http://REDACTED@b/"[..]);
    }
}
