//! The quick form of `cargo xtask incident`: what does not depend on how fast the machine is.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use xtask::{
    incident::{self, Options, Part, figures::Figures, form::Form, report::Report},
    project::Project,
};

const REQUESTS: u64 = 300;

fn of<'a>(report: &'a Report, name: &str) -> &'a Figures {
    report.closed.iter().find(|figures| figures.name == name).unwrap()
}

#[test]
fn every_form_that_promises_a_record_of_each_request_keeps_it_and_at_the_edge_none_waits() {
    let out = tempfile::tempdir().unwrap();
    let options = Options::quick(&[Part::Closed], out.path().to_owned());
    let report = incident::run(&Project::locate().unwrap(), &options).unwrap();

    for figures in &report.closed {
        assert_eq!(figures.ends.requests, REQUESTS, "{}", figures.name);
        assert_eq!(figures.ends.answered_200, REQUESTS, "{}", figures.name);
        assert_eq!(figures.application.worked, REQUESTS, "{}", figures.name);
        assert_eq!((figures.missing, figures.dropped), (0, 0), "{}", figures.name);
        let is_bound = figures.name.starts_with(Form::NoLogging.name());
        assert_eq!(figures.stored, (!is_bound).then_some(REQUESTS), "{}", figures.name);
        if is_bound || figures.name.starts_with(Form::Edge.name()) {
            assert_eq!(figures.application.convoys, Default::default(), "{}", figures.name);
            assert_eq!(figures.application.offers, Default::default(), "{}", figures.name);
        }
    }
    // The same calls of the database stall in each run.
    let stalls = of(&report, "in-request").stalls;
    assert!(stalls > 0);
    assert_eq!(of(&report, "in-request, shorter service times").stalls, stalls);
    let offers = of(&report, "application queue").application.offers;
    assert_eq!(offers.accepted + offers.fallbacks(), REQUESTS);

    for file in ["report.md", "report.json", "closed-percentiles.svg", "closed-histograms.svg"] {
        assert!(out.path().join(file).metadata().unwrap().len() > 1000, "{file}");
    }
}
