//! Percent-encoding and JSON's `\u0074`, of whatever depth: a URL within a URL is encoded twice, and one within that three times.

use memchr::memchr2;

/// How often an escape is decoded again: `%2574` is `%74`, which is `t`.
pub(super) const MAX_DEPTH: u8 = 3;

/// One byte of a text as its last reader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) byte: u8,
    /// How many bytes of the text stand for it.
    pub(super) len: usize,
    /// How often it is encoded.
    pub(super) depth: u8,
}

/// What `text` begins with; `None` when it is empty. A `%` or `\` that begins no escape is one.
#[inline]
pub(super) fn unit(text: &[u8]) -> Option<Unit> {
    match *text.first()? {
        b'%' | b'\\' => decoded(text, MAX_DEPTH),
        byte => Some(Unit { byte, len: 1, depth: 0 }),
    }
}

/// What `text` begins with for a reader who decodes it so many times; an escape's digits may be escapes themselves.
fn decoded(text: &[u8], times: u8) -> Option<Unit> {
    let &byte = text.first()?;
    if times == 0 || !matches!(byte, b'%' | b'\\') {
        return Some(Unit { byte, len: 1, depth: 0 });
    }
    let first = decoded(text, times - 1)?;
    let before_digits: &[u8] = match first.byte {
        b'%' => b"",
        b'\\' => b"u00",
        _ => return Some(first),
    };
    let escape = || {
        let mut len = first.len;
        let mut next = || {
            let unit = decoded(text.get(len..)?, times - 1)?;
            len += unit.len;
            Some(unit.byte)
        };
        for expected in before_digits {
            if next()? != *expected {
                return None;
            }
        }
        let byte = hex_digit(next()?)? << 4 | hex_digit(next()?)?;
        Some(Unit { byte, len, depth: times })
    };
    Some(escape().unwrap_or(first))
}

/// `text` decoded once; `None` where there is no escape in it.
pub(super) fn decoded_once(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(unit) = text.get(at..).and_then(|rest| decoded(rest, 1)) {
        out.push(unit.byte);
        at += unit.len;
    }
    (out.len() < text.len()).then_some(out)
}

/// Whether there may be an escape in `text`.
pub(super) fn may_have_escapes(text: &[u8]) -> bool {
    memchr2(b'%', b'\\', text).is_some()
}

/// All of `text`, each unit with where it begins.
pub(super) fn units(text: &[u8]) -> impl Iterator<Item = (usize, Unit)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let unit = unit(text.get(at..)?)?;
        at += unit.len;
        Some((at - unit.len, unit))
    })
}

fn hex_digit(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escape_is_decoded_three_times_at_most() {
        for (text, byte, len, depth) in [
            ("t", b't', 1, 0),
            ("%74", b't', 3, 1),
            ("%2574", b't', 5, 2),
            ("%25%32%35", b'%', 9, 2),
            ("%25%37%34", b't', 9, 2),
            ("%252574", b't', 7, 3),
            ("%25252574", b'%', 7, 3),
            ("%25zz", b'%', 3, 1),
            ("%", b'%', 1, 0),
            ("%7", b'%', 1, 0),
            ("%7g", b'%', 1, 0),
            ("%c3%A4", 0xc3, 3, 1),
            (r"\u0074", b't', 6, 1),
            (r"\u003D", b'=', 6, 1),
            ("%5Cu0074", b't', 8, 2),
            (r"\u002574", b't', 8, 2),
            (r"\u0174", b'\\', 1, 0),
            (r"\/", b'\\', 1, 0),
        ] {
            assert_eq!(unit(text.as_bytes()), Some(Unit { byte, len, depth }), "{text}");
        }
        assert_eq!(unit(b""), None);
        let whole: Vec<_> = units(b"a%3Db%").map(|(at, unit)| (at, unit.byte)).collect();
        assert_eq!(whole, [(0, b'a'), (1, b'='), (4, b'b'), (5, b'%')]);
        assert_eq!(decoded_once(br"a%253D\u0062%").as_deref(), Some(&b"a%3Db%"[..]));
        assert_eq!(decoded_once(br"a%b\/"), None);
    }
}
