//! Percent-encoding and JSON's `\u0074`, of whatever depth: a URL within a URL is encoded twice, and one within that three times.
//! How often a byte is encoded in the one way says nothing of the other: what ends a value in JSON may be a part of it in a URL.

use std::ops::RangeFrom;

use memchr::memchr2;

/// How often an escape is decoded again: `%2574` is `%74`, which is `t`.
pub(super) const MAX_DEPTH: u8 = 3;

/// One byte of a text as its last reader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) byte: u8,
    /// How many bytes of the text stand for it: 216 at most.
    len: u8,
    pub(super) depth: Depth,
}

/// How often a byte is encoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Depth {
    pub(super) percent: u8,
    pub(super) json: u8,
}

impl Depth {
    /// Of a byte that stands for itself.
    pub(super) const PLAIN: Self = Self { percent: 0, json: 0 };

    /// Whether it is encoded more often in one of the ways: what is so belongs to what the `other` began.
    pub(super) fn is_within(self, other: Self) -> bool {
        self.percent > other.percent || self.json > other.json
    }

    fn map(self, other: Self, choose: fn(u8, u8) -> u8) -> Self {
        Self { percent: choose(self.percent, other.percent), json: choose(self.json, other.json) }
    }

    pub(super) fn min(self, other: Self) -> Self {
        self.map(other, u8::min)
    }
}

impl Unit {
    fn plain(byte: u8) -> Self {
        Self { byte, len: 1, depth: Depth::PLAIN }
    }

    /// How many bytes of the text stand for it.
    pub(super) fn len(self) -> usize {
        usize::from(self.len)
    }
}

/// A text with its escapes, which are decoded once for all that look at it.
#[derive(Debug)]
pub(super) struct Text<'t> {
    pub(super) bytes: &'t [u8],
    /// What stands at each byte, where a unit begins; empty where nothing is escaped.
    units: Vec<Unit>,
}

impl<'t> Text<'t> {
    #[inline]
    pub(super) fn new(bytes: &'t [u8]) -> Self {
        let may_have_escapes = memchr2(b'%', b'\\', bytes).is_some();
        Self { bytes, units: if may_have_escapes { decoded(bytes) } else { Vec::new() } }
    }

    /// Whether a byte is not what it stands for.
    pub(super) fn has_escapes(&self) -> bool {
        !self.units.is_empty()
    }

    /// What begins at that byte, which another unit ends before. A `%` or `\` that begins no escape is one.
    #[inline]
    pub(super) fn unit(&self, at: usize) -> Option<Unit> {
        if self.units.is_empty() {
            return self.bytes.get(at).copied().map(Unit::plain);
        }
        self.units.get(at).copied()
    }

    /// All that follows, each unit with where it begins.
    pub(super) fn units(&self, from: RangeFrom<usize>) -> impl Iterator<Item = (usize, Unit)> {
        let mut next = from.start;
        std::iter::from_fn(move || {
            let unit = self.unit(next)?;
            let at = next;
            next += unit.len();
            Some((at, unit))
        })
    }
}

/// What stands at each byte of `text`, where a unit begins; nothing when none is escaped.
fn decoded(text: &[u8]) -> Vec<Unit> {
    let mut units: Vec<Unit> = text.iter().copied().map(Unit::plain).collect();
    let mut depth = 1;
    while depth <= MAX_DEPTH && decode(&mut units) {
        depth += 1;
    }
    if depth == 1 {
        return Vec::new();
    }
    spread(&mut units, text.len());
    units
}

/// Decodes `units` once more; whether there was an escape.
fn decode(units: &mut Vec<Unit>) -> bool {
    let (mut from, mut to) = (0, 0);
    while let Some(rest) = units.get(from..)
        && let Some(first) = rest.first().copied()
    {
        let (unit, taken) = escape(rest).unwrap_or((first, 1));
        if let Some(place) = units.get_mut(to) {
            *place = unit;
        }
        from += taken;
        to += 1;
    }
    let has_escapes = to < units.len();
    units.truncate(to);
    has_escapes
}

/// The escape that `units` begin with, and of how many units it is.
fn escape(units: &[Unit]) -> Option<(Unit, usize)> {
    let (digits_at, more) = match (units.first()?.byte, units.get(1..4)) {
        (b'%', _) => (1, Depth { percent: 1, json: 0 }),
        (b'\\', Some([u, zero, other])) if [u.byte, zero.byte, other.byte] == *b"u00" => {
            (4, Depth { percent: 0, json: 1 })
        }
        _ => return None,
    };
    let digit = |at: usize| (units.get(digits_at + at)?.byte as char).to_digit(16);
    let byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    let taken = digits_at + 2;
    let units = units.get(..taken)?;
    let len = units.iter().map(|unit| unit.len).sum();
    let depth = units
        .iter()
        .fold(Depth::PLAIN, |depth, unit| depth.map(unit.depth, u8::max))
        .map(more, u8::saturating_add);
    Some((Unit { byte, len, depth }, taken))
}

/// Whether the two bytes may be JSON's short escape of a blank: a backslash is also what some take for a slash, with a letter behind
/// it, so they are no unit.
pub(super) fn is_short_escape(before: u8, byte: u8) -> bool {
    before == b'\\' && matches!(byte, b'b' | b'f' | b'n' | b'r' | b't')
}

/// Puts each unit where it begins in a text of `len` bytes.
fn spread(units: &mut Vec<Unit>, len: usize) {
    let mut from = units.len();
    units.resize(len, Unit::plain(0));
    let mut end = len;
    while let Some(unit) = from.checked_sub(1).and_then(|last| units.get(last).copied()) {
        from -= 1;
        // Units that have not been moved yet are before all those that have.
        end = end.saturating_sub(unit.len());
        if let Some(place) = units.get_mut(end) {
            *place = unit;
        }
    }
}

/// `text` decoded once; `None` where there is no escape in it.
pub(super) fn decoded_once(text: &[u8]) -> Option<Vec<u8>> {
    memchr2(b'%', b'\\', text)?;
    let mut units: Vec<Unit> = text.iter().copied().map(Unit::plain).collect();
    decode(&mut units).then(|| units.into_iter().map(|unit| unit.byte).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escape_is_decoded_three_times_at_most() {
        for (text, byte, len, (percent, json)) in [
            ("t", b't', 1, (0, 0)),
            ("%74", b't', 3, (1, 0)),
            ("%2574", b't', 5, (2, 0)),
            ("%25%32%35", b'%', 9, (2, 0)),
            ("%25%37%34", b't', 9, (2, 0)),
            ("%252574", b't', 7, (3, 0)),
            ("%25252574", b'%', 7, (3, 0)),
            ("%25zz", b'%', 3, (1, 0)),
            ("%", b'%', 1, (0, 0)),
            ("%7", b'%', 1, (0, 0)),
            ("%7g", b'%', 1, (0, 0)),
            ("%c3%A4", 0xc3, 3, (1, 0)),
            (r"\u0074", b't', 6, (0, 1)),
            (r"\u003D", b'=', 6, (0, 1)),
            ("%5Cu0074", b't', 8, (1, 1)),
            (r"\u002574", b't', 8, (1, 1)),
            (r"\u0174", b'\\', 1, (0, 0)),
            (r"\/", b'\\', 1, (0, 0)),
        ] {
            let depth = Depth { percent, json };
            assert_eq!(Text::new(text.as_bytes()).unit(0), Some(Unit { byte, len, depth }), "{text}");
        }
        assert_eq!(Text::new(b"").unit(0), None);
        let whole =
            |text: &[u8]| Text::new(text).units(0..).map(|(at, unit)| (at, unit.byte)).collect::<Vec<_>>();
        assert_eq!(whole(b"a%3Db%"), [(0, b'a'), (1, b'='), (4, b'b'), (5, b'%')]);
        assert_eq!(whole(b"%25%33%44%%33%44"), [(0, b'='), (9, b'=')]);
        let longest: String = br"\u0074".map(|byte| format!("\\u00{byte:02x}")).concat();
        let longest: String = longest.bytes().map(|byte| format!("\\u00{byte:02x}")).collect();
        assert_eq!(whole(longest.as_bytes()), [(0, b't')]);
        assert_eq!(decoded_once(br"a%253D\u0062%").as_deref(), Some(&b"a%3Db%"[..]));
        assert_eq!(decoded_once(br"a%b\/"), None);
    }
}
