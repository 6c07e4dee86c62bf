//! Gaps in sequences, whatever the order in which batches come.

use std::collections::BTreeSet;

use super::*;
use crate::otlp::drops::Dropped;
use crate::otlp::metrics::Temporality;
use crate::store::drops;
use crate::store::points::Outcome;

fn after(sequences: impl IntoIterator<Item = i64>) -> Connection {
    let connection = crate::store::in_memory();
    for sequence in sequences {
        note(&connection, "s", sequence, 0).unwrap();
    }
    connection
}

fn last_and_gaps(connection: &Connection) -> (i64, Vec<(i64, i64)>) {
    let last = connection.query_row("SELECT last_sequence FROM senders", [], |row| row.get(0)).unwrap();
    let mut gaps = connection.prepare("SELECT first, last FROM sender_gaps ORDER BY first").unwrap();
    let gaps = gaps.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    (last, gaps.map(Result::unwrap).collect())
}

fn gaps_after(sequences: &[i64]) -> (i64, Vec<(i64, i64)>) {
    last_and_gaps(&after(sequences.iter().copied()))
}

fn count(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn gaps_are_exactly_what_did_not_come() {
    assert_eq!(gaps_after(&[1, 2, 3]), (3, vec![]));
    assert_eq!(gaps_after(&[3]), (3, vec![(1, 2)]));
    assert_eq!(gaps_after(&[1, 5, 9]), (9, vec![(2, 4), (6, 8)]));
    assert_eq!(gaps_after(&[1, i64::MAX]), (i64::MAX, vec![(2, i64::MAX - 1)]));
    assert_eq!(gaps_after(&[i64::MAX, i64::MAX]), (i64::MAX, vec![(1, i64::MAX - 1)]));
}

#[test]
fn a_late_batch_closes_or_splits_its_gap() {
    assert_eq!(gaps_after(&[1, 5, 2]), (5, vec![(3, 4)]));
    assert_eq!(gaps_after(&[1, 5, 4]), (5, vec![(2, 3)]));
    assert_eq!(gaps_after(&[1, 5, 3]), (5, vec![(2, 2), (4, 4)]));
    assert_eq!(gaps_after(&[1, 3, 2]), (3, vec![]));
    assert_eq!(gaps_after(&[2, 1]), (2, vec![]));
    assert_eq!(gaps_after(&[1, 5, 1, 5]), (5, vec![(2, 4)]));
}

#[test]
fn totals_follow_gaps_and_what_fills_them() {
    let connection = crate::store::in_memory();
    let expect = |senders, with_gaps, missing_batches, missing_since_unix_nano: Option<i64>| {
        let expected = Totals { senders, with_gaps, missing_batches, missing_since_unix_nano };
        assert_eq!(totals(&connection).unwrap(), expected);
    };
    expect(0, 0, 0, None);
    let steps = [
        ("a", 1, [1, 0, 0], None),
        ("a", 4, [1, 1, 2], Some(11)),
        ("b", 3, [2, 2, 4], Some(11)),
        // Since when there are gaps: a second one, or a part of the first one that comes, changes nothing.
        ("a", 6, [2, 2, 5], Some(11)),
        ("a", 2, [2, 2, 4], Some(11)),
        ("a", 5, [2, 2, 3], Some(11)),
        ("a", 3, [2, 1, 2], Some(12)),
        // It has some anew.
        ("a", 9, [2, 2, 4], Some(12)),
    ];
    for ((sender, sequence, [senders, with_gaps, missing], since), now) in steps.into_iter().zip(10..) {
        note(&connection, sender, sequence, now).unwrap();
        expect(senders, with_gaps, missing, since);
    }
}

/// Any order, with repeats: what is missing at the end is what never came.
#[test]
fn whatever_the_order_missing_is_what_never_came() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..200 {
        let mut sequences: Vec<i64> = (1..=60).filter(|_| random.u8(..10) < 7).collect();
        let repeats: Vec<i64> = sequences.iter().copied().filter(|_| random.bool()).collect();
        sequences.extend(repeats);
        random.shuffle(&mut sequences);
        let connection = after(sequences.iter().copied());
        let came: BTreeSet<i64> = sequences.into_iter().collect();
        let last = came.last().copied().unwrap_or(0);
        let never_came: BTreeSet<i64> = (1..=last).filter(|sequence| !came.contains(sequence)).collect();
        let (_, gaps) = last_and_gaps(&connection);
        assert_eq!(
            gaps.into_iter().flat_map(|(first, last)| first..=last).collect::<BTreeSet<_>>(),
            never_came
        );
        let missing = never_came.len() as i64;
        assert_eq!(totals(&connection).unwrap().missing_batches, missing);
        assert_eq!(count(&connection, "SELECT missing_batches FROM senders"), missing);
    }
}

#[test]
fn the_ranges_of_one_sender_are_bounded_and_its_count_goes_on() {
    for gaps in [MAX_GAPS - 1, MAX_GAPS, MAX_GAPS + 1, 3 * MAX_GAPS] {
        let connection = after((1..=gaps).map(|gap| 2 * gap));
        let kept = gaps.min(MAX_GAPS);
        assert_eq!(count(&connection, "SELECT count(*) FROM sender_gaps"), kept);
        assert_eq!(count(&connection, "SELECT gaps FROM senders"), kept);
        // The latest ones.
        let first_kept = 2 * (gaps - kept) + 1;
        assert_eq!(count(&connection, "SELECT min(first) FROM sender_gaps"), first_kept);
        assert_eq!(totals(&connection).unwrap().missing_batches, gaps);
        // What fills a range that is not kept cannot be told from a repeat.
        note(&connection, "s", 1, 0).unwrap();
        let filled = i64::from(gaps <= MAX_GAPS);
        assert_eq!(totals(&connection).unwrap().missing_batches, gaps - filled);
    }
}

#[test]
fn splitting_a_gap_keeps_the_bound_too() {
    // One gap more than half of them, each then split in the middle.
    let gaps = MAX_GAPS / 2 + 1;
    let connection = after((1..=gaps).map(|gap| 4 * gap));
    for gap in (1..=gaps).rev() {
        note(&connection, "s", 4 * gap - 2, 0).unwrap();
        assert!(count(&connection, "SELECT count(*) FROM sender_gaps") <= MAX_GAPS);
    }
    assert_eq!(count(&connection, "SELECT gaps FROM senders"), MAX_GAPS);
    // The first gap had given way before its middle came.
    assert_eq!(totals(&connection).unwrap().missing_batches, 2 * gaps + 1);
}

#[test]
fn a_sender_with_nonsensical_numbers_does_not_hide_what_others_lose() {
    let connection = crate::store::in_memory();
    for number in 0..20 {
        note(&connection, &format!("hostile {number}"), i64::MAX, 0).unwrap();
    }
    let before = totals(&connection).unwrap().missing_batches;
    assert_eq!(before, 20 * MAX_COUNTED);
    note(&connection, "honest", 3, 0).unwrap();
    assert_eq!(totals(&connection).unwrap().missing_batches, before + 2);
    // Its own batches may go on coming, late ones too.
    for sequence in [1, i64::MAX - 1, 2] {
        note(&connection, "hostile 0", sequence, 0).unwrap();
    }
    assert_eq!(totals(&connection).unwrap().missing_batches, before + 2);
    for sequence in [1, 2] {
        note(&connection, "honest", sequence, 0).unwrap();
    }
    assert_eq!(totals(&connection).unwrap().missing_batches, before);
}

#[test]
fn silent_senders_are_forgotten_and_what_they_lost_is_not() {
    let connection = crate::store::in_memory();
    for (sender, sequence, now) in [("old", 5, 10), ("whole", 1, 11), ("new", 3, 20)] {
        note(&connection, sender, sequence, now).unwrap();
    }
    forget_silent(&connection, 20).unwrap();
    let expected = Totals { senders: 1, with_gaps: 1, missing_batches: 6, missing_since_unix_nano: Some(20) };
    assert_eq!(totals(&connection).unwrap(), expected);
    assert_eq!(last_and_gaps(&connection), (3, vec![(1, 2)]));
}

#[test]
fn what_a_forgotten_sender_has_dropped_is_forgotten_with_it() {
    let connection = crate::store::in_memory();
    for (sender, now) in [("old", 10), ("new", 20)] {
        note(&connection, sender, 1, now).unwrap();
        let dropped = Dropped {
            metric: "offpath.records.dropped".to_owned(),
            reason: "expired".to_owned(),
            temporality: Temporality::Cumulative,
            time_unix_nano: now,
            count: 7,
        };
        assert_eq!(drops::note(&connection, sender, &dropped).unwrap(), Outcome::Stored);
    }
    forget_silent(&connection, 20).unwrap();
    assert_eq!(count(&connection, "SELECT count(*) FROM sender_drops"), 1);
    assert_eq!(drops::of_sender(&connection, "old").unwrap(), []);
    assert_eq!(drops::of_sender(&connection, "new").unwrap().len(), 1);
}

#[test]
fn beyond_the_bound_a_new_sender_takes_the_place_of_the_most_silent_one() {
    let connection = crate::store::in_memory();
    for (sender, now) in [("a", 1), ("b", 2), ("c", 3)] {
        note(&connection, sender, 2, now).unwrap();
    }
    // As if the others were there: counting to the bound would take long.
    connection.execute("UPDATE sender_totals SET senders = ?1", [MAX_SENDERS - 1]).unwrap();
    note(&connection, "d", 1, 4).unwrap();
    note(&connection, "e", 1, 5).unwrap();
    assert_eq!(count(&connection, "SELECT count(*) FROM senders WHERE sender IN ('b', 'c', 'd', 'e')"), 4);
    assert_eq!(count(&connection, "SELECT count(*) FROM senders"), 4);
    let totals = totals(&connection).unwrap();
    assert_eq!((totals.senders, totals.with_gaps, totals.missing_batches), (MAX_SENDERS, 2, 3));
}
