//! The faults of `cargo xtask faults`, each for a few seconds: every request is answered, and every record accounted for.

use std::time::Duration;

use tokio::sync::OnceCell;
use xtask::faults::{
    self, Timing,
    fault::{self, Treatment},
    row::Row,
};

use crate::proxy::project;

const SHORT: Timing = Timing {
    before: Duration::from_millis(500),
    during: Duration::from_secs(2),
    after: Duration::from_secs(1),
    rate: 150,
};

/// Shows the chosen ones, one after the other.
async fn are_accounted_for(chosen: impl Fn(Treatment) -> bool) -> Vec<Row> {
    static PREPARED: OnceCell<()> = OnceCell::const_new();
    let project = project().await;
    PREPARED.get_or_init(async || faults::prepare(project).unwrap()).await;
    let mut rows = Vec::new();
    for fault in fault::all().into_iter().filter(|fault| chosen(fault.treatment)) {
        let row = faults::show(project, &fault, SHORT, false).await.unwrap();
        assert_eq!(row.breaches, [] as [String; 0], "{row:#?}");
        assert!(row.requests > 300, "{row:#?}");
        rows.push(row);
    }
    assert!(!rows.is_empty());
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_receiver_is_down_or_given_up() {
    let rows = are_accounted_for(|treatment| treatment == Treatment::Down).await;
    assert_eq!(rows[0].delivered, rows[0].requests);
    assert!(rows[1].dropped["expired"] > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_any_receiver_answers_or_does_not_answer_is_accounted_for() {
    let rows = are_accounted_for(|treatment| matches!(treatment, Treatment::Receiver(_))).await;
    for (fault, reason) in [
        ("400", "rejected"),
        ("500", "rejected"),
        ("partial success", "rejected"),
        ("too slow, drop_oldest", "queue_full"),
        ("too slow, drop_newest", "queue_full"),
        ("too slow, spill", "spilled"),
    ] {
        let row = rows.iter().find(|row| row.fault == fault).unwrap();
        assert!(row.dropped[reason] > 0, "{row:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_is_replaced_under_load_loses_nothing() {
    let rows = are_accounted_for(|treatment| matches!(treatment, Treatment::UpdateListener(_))).await;
    for row in rows {
        assert_eq!(row.delivered, row.requests, "{row:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_machine_that_traps_held_is_counted_as_lost_and_nothing_else_is() {
    let rows = are_accounted_for(|treatment| treatment == Treatment::Trap).await;
    assert!(rows.iter().all(|row| row.dropped["vm_lost"] > 0), "{rows:#?}");
}
