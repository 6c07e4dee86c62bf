//! User info: what stands before the `@` of a URL's authority (RFC 3986, section 3.2.1).

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr2;

use super::escape::units;
use super::{Place, REDACTED};

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

/// `text` with the user info of all URLs in it replaced, encoded ones too. Elsewhere than in a path, `user:password@host` at
/// the beginning of the text or of an element needs no `//` before it.
pub(super) fn redact(text: &[u8], place: Place) -> Cow<'_, [u8]> {
    if memchr2(b'@', b'%', text).is_none() {
        return Cow::Borrowed(text);
    }
    let fresh = match place {
        Place::Path => Token::Other,
        Place::Text => Token::Bare { has_colon: false },
    };
    let (mut token, mut token_at) = (fresh, 0);
    let mut slash: Option<u8> = None;
    let mut found: Vec<Range<usize>> = Vec::new();
    for (at, unit) in units(text) {
        let next = at + unit.len;
        let is_deeper = matches!(token, Token::Authority { depth } if unit.depth > depth);
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
            b',' | b';' | b'=' | b'&' | b'(' if !matches!(token, Token::Authority { .. }) => {
                (token, token_at) = (fresh, next);
            }
            _ => {}
        }
        slash = None;
    }
    if found.is_empty() {
        return Cow::Borrowed(text);
    }
    Cow::Owned(replaced(text, &found))
}

/// `text` with [`REDACTED`] in each of these places, which are in order.
pub(super) fn replaced(text: &[u8], places: &[Range<usize>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut told_to = 0;
    for place in places {
        out.extend_from_slice(text.get(told_to..place.start).unwrap_or_default());
        out.extend_from_slice(REDACTED.as_bytes());
        told_to = place.end;
    }
    out.extend_from_slice(text.get(told_to..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("to=me:s3cret@shop", "to=REDACTED@shop"),
        ] {
            assert_eq!(String::from_utf8_lossy(&redact(text.as_bytes(), Place::Text)), expected);
        }
        assert_eq!(redact(b"/npm/pkg:1@2", Place::Path), &b"/npm/pkg:1@2"[..]);
        assert_eq!(redact(b"/get/http://me:x@b/", Place::Path), &b"/get/http://REDACTED@b/"[..]);
    }
}
