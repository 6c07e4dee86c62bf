//! The encoding of header maps and CEL lists: a count, the lengths, then NUL-terminated keys and values.

/// What Envoy decodes at most; a larger or malformed buffer counts as empty.
const MAX_BYTES: usize = 1024 * 1024;
const MAX_PAIRS: u32 = 1024;

/// Byte strings in pairs, in the guest's order.
pub(crate) type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Encodes `pairs`: u32 LE count, then a u32 LE length of key and value each, then each with a NUL after it.
pub(crate) fn encode<'a>(pairs: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + Clone) -> Vec<u8> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
    let mut out = u32::try_from(pairs.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    for (key, value) in pairs.clone() {
        out.extend(length(key));
        out.extend(length(value));
    }
    for (key, value) in pairs {
        out.extend(key);
        out.push(0);
        out.extend(value);
        out.push(0);
    }
    out
}

/// Decodes what a guest passed. Envoy takes anything malformed for no pairs at all, and so does this.
pub(crate) fn decode(bytes: &[u8]) -> Pairs {
    if bytes.len() > MAX_BYTES {
        return Pairs::new();
    }
    try_decode(bytes).unwrap_or_default()
}

fn try_decode(bytes: &[u8]) -> Option<Pairs> {
    let mut rest = bytes;
    let count = take_u32(&mut rest)?;
    if count > MAX_PAIRS {
        return None;
    }
    let lengths: Vec<_> =
        (0..count).map(|_| Some((take_u32(&mut rest)?, take_u32(&mut rest)?))).collect::<Option<_>>()?;
    let pairs = lengths
        .into_iter()
        .map(|(key, value)| Some((take_string(&mut rest, key)?, take_string(&mut rest, value)?)))
        .collect::<Option<_>>()?;
    rest.is_empty().then_some(pairs)
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(u32::from_le_bytes(*head))
}

fn take_string(rest: &mut &[u8], length: u32) -> Option<Vec<u8>> {
    let (string, tail) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    let (terminator, tail) = tail.split_first()?;
    *rest = tail;
    (*terminator == 0).then(|| string.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_pairs_with_empty_second_slots() {
        let encoded = encode([(&b"ab"[..], &b""[..]), (b"", b"")].into_iter());
        assert_eq!(encoded, b"\x02\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0ab\0\0\0\0");
    }

    #[test]
    fn decoding_returns_what_was_encoded() {
        let pairs = vec![(b":path".to_vec(), b"/\xff".to_vec()), (b"x".to_vec(), Vec::new())];
        let encoded = encode(pairs.iter().map(|(key, value)| (key.as_slice(), value.as_slice())));
        assert_eq!(decode(&encoded), pairs);
    }

    #[test]
    fn malformed_pairs_are_no_pairs() {
        let good = encode([(&b"ab"[..], &b"cd"[..])].into_iter());
        for end in 0..good.len() {
            assert_eq!(decode(&good[..end]), Pairs::new(), "cut at {end}");
        }
        let mut trailing = good.clone();
        trailing.push(0);
        assert_eq!(decode(&trailing), Pairs::new());
        assert_eq!(decode(&u32::MAX.to_le_bytes()), Pairs::new());
    }
}
