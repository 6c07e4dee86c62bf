//! The quick form of `cargo xtask incident`, and what becomes of requests and records while a database stands still: what
//! does not depend on how fast the machine is.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use xtask::{
    artefacts, fetch,
    harness::wait,
    incident::{
        self, Options, Part,
        convoy::Convoys,
        figures::Figures,
        form::{Form, ServiceTimes, Setup},
        lane::{Lane, Stand},
        load::{End, Load},
        postgres::Postgres,
        report::Report,
        stall::Stalls,
    },
    need::{self, Need},
    project::Project,
};

const REQUESTS: u64 = 300;
const USERS: u64 = 3;

fn of<'a>(figures: &'a [Figures], name: &str) -> &'a Figures {
    figures.iter().find(|figures| figures.name == name).unwrap()
}

/// All are answered, each form that stores has every record once, and nothing was dropped on the way.
fn every_record_is_there(report: &Report) {
    for figures in report.closed.iter().chain(&report.open) {
        let requests = figures.ends.requests;
        assert_eq!(figures.ends.answered_200, requests, "{}", figures.name);
        assert_eq!(figures.application.worked, requests, "{}", figures.name);
        let records = figures.records;
        assert_eq!(records.stored, if figures.form.stores() { requests } else { 0 }, "{}", figures.name);
        assert_eq!(records.dropped, 0, "{}", figures.name);
        if figures.form == Form::Edge {
            assert_eq!(records.twice, 0, "{}", figures.name);
        }
    }
}

#[test]
fn every_form_that_promises_a_record_of_each_request_keeps_it() {
    let out = tempfile::tempdir().unwrap();
    let options = Options::quick(&[Part::Closed, Part::Open], out.path().to_owned());
    let report = incident::run(&Project::locate().unwrap(), &options).unwrap();

    assert_eq!((report.closed.len(), report.open.len()), (10, 5));
    assert!(report.closed.iter().all(|figures| figures.ends.requests == REQUESTS));
    assert!(report.open.iter().all(|figures| figures.ends.requests == 200));
    every_record_is_there(&report);
    assert_eq!(report.broken_promises(), [""; 0]);

    // The same calls of the database stall in each run.
    let in_request = of(&report.closed, "in-request");
    assert!(in_request.stalls > 0);
    assert_eq!(of(&report.closed, "in-request, shorter service times").stalls, in_request.stalls);
    assert!(of(&report.closed, "edge (offpath), stalls per row").stalls > 0);
    let offers = of(&report.closed, "application queue").application.offers;
    assert_eq!(offers.accepted + offers.fallbacks(), REQUESTS);

    for part in ["closed", "open"] {
        for picture in ["percentiles", "histograms"] {
            let picture = out.path().join(format!("{part}-{picture}.svg"));
            assert!(picture.metadata().unwrap().len() > 1000, "{}", picture.display());
        }
    }
    let written = std::fs::read_to_string(out.path().join("report.md")).unwrap();
    assert_eq!(written, report.markdown());
    assert!(out.path().join("report.json").is_file());
}

fn lane_setup(form: Form) -> Setup {
    Setup::of(form, ServiceTimes { median_ms: 10.0, mean_ms: 14.0, seed: 1 })
}

/// A lane whose database stands still only when it is held.
async fn lane(project: &Project, postgres: &Postgres, form: Form) -> Lane {
    let stalls = Stalls { duration: Duration::ZERO, probability: 0.0, seed: 1 };
    let settle = Duration::from_secs(90);
    let stand = Stand { project, postgres, stalls, settle, begin: Instant::now() };
    Lane::start(stand, lane_setup(form)).await.unwrap()
}

fn with_postgres(test: impl AsyncFnOnce(&Project, &Postgres)) {
    need::tools(&[Need::Pip, Need::CCompiler, Need::Setpriv, Need::PostgreSql]).unwrap();
    let project = Project::locate().unwrap();
    fetch::envoy(&project, fetch::ENVOY_1_40).unwrap();
    artefacts::build(&project).unwrap();
    artefacts::build_incident(&project).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let postgres = Postgres::start(&project).await.unwrap();
        test(&project, &postgres).await;
        postgres.stop().await.unwrap();
    });
}

#[test]
fn at_the_edge_all_are_answered_while_the_database_stands_still_and_all_are_stored_afterwards() {
    with_postgres(async |project, postgres| {
        let mut lane = lane(project, postgres, Form::Edge).await;
        lane.hold_database().await.unwrap();
        let load = Load::Closed { users: USERS, requests_per_user: REQUESTS / USERS };
        let samples = lane.load(load).unwrap().samples().await.unwrap();

        assert_eq!(samples.len() as u64, REQUESTS);
        assert!(samples.iter().all(|sample| sample.end == End::Answered(200)));
        assert_eq!(lane.application_stats().await.unwrap().worked, REQUESTS);
        assert!(lane.stored_requests().await.unwrap().is_empty());

        lane.release_database().await.unwrap();
        let records = lane.finish(samples).await.unwrap().records;
        assert_eq!((records.stored, records.missing, records.twice), (REQUESTS, 0, 0));
        assert_eq!(records.dropped, 0);
    });
}

#[test]
fn in_the_request_nobody_is_answered_while_the_database_stands_still_and_all_users_are_one_convoy() {
    with_postgres(async |project, postgres| {
        let mut lane = lane(project, postgres, Form::InRequest).await;
        lane.hold_database().await.unwrap();
        let load = lane.load(Load::Closed { users: USERS, requests_per_user: 1 }).unwrap();

        // One log is being written, those of all others wait behind it; nobody was answered, for all are stored first.
        wait::until("all users wait", async || {
            let stats = lane.application_stats().await?;
            Ok((stats.worked == USERS && stats.waiting == USERS - 1).then_some(()))
        })
        .await
        .unwrap();
        assert!(lane.stored_requests().await.unwrap().is_empty());

        lane.release_database().await.unwrap();
        let samples = load.samples().await.unwrap();
        assert!(samples.iter().all(|sample| sample.end == End::Answered(200)));
        // All were there at the same time, so that without any threshold they are one convoy.
        let usual_us: BTreeMap<u64, u64> = (0..USERS).map(|number| (number, 0)).collect();
        let convoy = Convoys { held_up: USERS, waited_for_another: USERS - 1, convoys: 1, largest: USERS };
        assert_eq!(Convoys::of(&samples, &usual_us, 0), convoy);
        let records = lane.finish(samples).await.unwrap().records;
        assert_eq!((records.stored, records.missing, records.twice), (USERS, 0, 0));
    });
}
