//! Answers of a host, and values one by one, as slots.

use super::*;
use crate::testing::list;
use proptest::prelude::*;

#[test]
fn a_list_fills_the_slots_that_single_values_would_fill() {
    let values: [&[u8]; 4] = [b"GET", b"", &200u64.to_le_bytes(), b"\xff\x00\xfe"];
    let (mut by_list, mut by_value) = (Captured::default(), Captured::default());
    by_list.take_list(list(&values), 4).unwrap();
    values.iter().for_each(|value| by_value.push(Some(value)));
    for (slot, value) in values.iter().enumerate() {
        assert_eq!(by_list.slot(slot), *value);
        assert_eq!(by_value.slot(slot), *value);
    }
    assert_eq!(by_list.slot(4), b"");
}

#[test]
fn the_rest_follows_the_first_however_either_was_asked_for() {
    let (first, rest): ([&[u8]; 2], [&[u8]; 2]) = ([b"GET", b"/"], [b"", b"curl"]);
    for (first_listed, rest_listed) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut captured = Captured::default();
        captured.take_list(list(&[b"another", b"request"]), 2).unwrap();
        captured.take_list(list(&[b"altogether"]), 1).unwrap();
        captured.clear();
        if first_listed {
            captured.take_list(list(&first), 2).unwrap();
        } else {
            first.iter().for_each(|value| captured.push(Some(value)));
        }
        if rest_listed {
            captured.take_list(list(&rest), 2).unwrap();
        } else {
            assert_eq!(captured.take_list(list(&rest), 3), Err(Malformed));
            rest.iter().for_each(|value| captured.push(Some(value)));
        }
        let slots: Vec<_> = (0..5).map(|slot| captured.slot(slot)).collect();
        assert_eq!(slots, [b"GET", &b"/"[..], b"", b"curl", b""]);
    }
}

#[test]
fn a_list_of_another_length_or_with_bytes_left_over_is_malformed() {
    let answer = list(&[b"GET", b"/"]);
    let mut captured = Captured::default();
    assert_eq!(captured.take_list(answer.clone(), 2), Ok(()));
    assert_eq!(captured.take_list(answer.clone(), 3), Err(Malformed));
    assert_eq!(captured.take_list([answer.as_slice(), b"x"].concat(), 2), Err(Malformed));
    for cut in 0..answer.len() {
        assert_eq!(captured.take_list(answer[..cut].to_vec(), 2), Err(Malformed), "cut at {cut}");
    }
}

#[test]
fn answers_are_freed_with_the_request_and_malformed_ones_at_once() {
    let mut captured = Captured::default();
    let held = |captured: &Captured| captured.parts.iter().map(|part| part.bytes.capacity()).sum::<usize>();
    captured.take_list(list(&[b"GET", b"/"]), 2).unwrap();
    let first = held(&captured);
    assert_eq!((captured.bytes_len(), first > 0), (list(&[b"GET", b"/"]).len(), true));
    assert_eq!(captured.take_list(vec![0xff; 1000], 2), Err(Malformed));
    assert_eq!(held(&captured), first);
    captured.clear();
    assert_eq!((captured.bytes_len(), held(&captured)), (0, 0));
}

/// Pairs as a header map is answered.
fn headers(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut answer = (pairs.len() as u32).to_le_bytes().to_vec();
    for (name, value) in pairs {
        answer.extend((name.len() as u32).to_le_bytes());
        answer.extend((value.len() as u32).to_le_bytes());
    }
    pairs.iter().for_each(|(name, value)| answer.extend([name, &b"\0"[..], value, b"\0"].concat()));
    answer
}

fn wanted(name: &str, is_joined: bool) -> WantedHeader {
    WantedHeader { name: name.into(), is_joined }
}

#[test]
fn wanted_headers_are_found_in_the_map_and_a_list_may_follow() {
    let map = headers(&[
        (b":path", b"/"),
        (b"x-a", b"1"),
        (b"user-agent", b"\xff"),
        (b"x-a", b""),
        (b"user-agent", b"second"),
        (b"x-a", b"3"),
    ]);
    let names = WantedHeaders::new(vec![
        wanted("x-a", true),
        wanted("user-agent", false),
        wanted("x-b", true),
        wanted("x-a", false),
    ]);
    let mut captured = Captured::default();
    captured.take_headers(map.clone(), &names).unwrap();
    captured.take_list(list(&[b"200"]), 1).unwrap();
    let slots: Vec<_> = (0..6).map(|slot| captured.slot(slot)).collect();
    assert_eq!(slots, [&b"1,,3"[..], b"\xff", b"", b"1", b"200", b""]);
    captured.clear();
    captured.take_headers(Vec::new(), &names).unwrap();
    captured.push(Some(b"404"));
    assert_eq!((captured.slot(0), captured.slot(3), captured.slot(4)), (&b""[..], &b""[..], &b"404"[..]));
    for cut in 1..map.len() {
        captured.clear();
        assert_eq!(captured.take_headers(map[..cut].to_vec(), &names), Err(Malformed), "cut at {cut}");
        assert_eq!(captured.slot(0), b"");
    }
}

#[test]
fn repeated_headers_take_no_more_room_than_the_map() {
    let value = [b'v'; 300];
    let pairs: Vec<(&[u8], &[u8])> =
        (0..100).map(|n| (if n % 2 == 0 { &b"x-a"[..] } else { b"x-b" }, &value[..])).collect();
    let map = headers(&pairs);
    let mut captured = Captured::default();
    let names = WantedHeaders::new(vec![wanted("x-a", true), wanted("x-b", true)]);
    captured.take_headers(map.clone(), &names).unwrap();
    assert_eq!((captured.slot(0).len(), captured.slot(1).len()), (50 * 301 - 1, 50 * 301 - 1));
    assert!(captured.parts[0].bytes.len() <= 2 * map.len());
}

proptest! {
    #[test]
    fn headers_one_by_one_are_what_a_map_of_them_is(
        pairs in proptest::collection::vec(
            (prop::sample::select(vec!["x-a", "x-b", "user-agent", "x-other"]), proptest::collection::vec(any::<u8>(), 0..4)),
            0..12,
        ),
    ) {
        let names = WantedHeaders::new(vec![
            wanted("x-a", true),
            wanted("user-agent", false),
            wanted("x-b", true),
            wanted("x-a", false),
        ]);
        let pairs: Vec<(&[u8], &[u8])> =
            pairs.iter().map(|(name, value)| (name.as_bytes(), value.as_slice())).collect();
        let (mut as_map, mut one_by_one) = (Captured::default(), Captured::default());
        as_map.take_headers(headers(&pairs), &names).unwrap();
        one_by_one.push_headers(pairs.iter().copied(), &names);
        for captured in [&mut as_map, &mut one_by_one] {
            captured.push(Some(b"404"));
        }
        for slot in 0..6 {
            prop_assert_eq!(as_map.slot(slot), one_by_one.slot(slot));
        }
    }

    #[test]
    fn any_bytes_are_a_header_map_or_malformed(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        let mut captured = Captured::default();
        let names = WantedHeaders::new(vec![wanted("", true), wanted("a", false)]);
        if captured.take_headers(bytes, &names).is_ok() {
            (0..2).for_each(|slot| { captured.slot(slot); });
        }
    }

    #[test]
    fn any_bytes_are_a_list_or_malformed(bytes in proptest::collection::vec(any::<u8>(), 0..120), slots in 0usize..6) {
        let mut captured = Captured::default();
        if captured.take_list(bytes, slots).is_ok() {
            (0..slots).for_each(|slot| { captured.slot(slot); });
        }
    }
}
