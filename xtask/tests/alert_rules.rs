//! The alert rules that `envoy/` ships, judged by promtool: they are rules, and fire when they should and not otherwise.
//! That the metrics which they read exist is shown in real Envoy, in the end-to-end tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails by panicking"
)]

use std::{collections::BTreeSet, path::PathBuf, process::Command};

use offpath_filter::ledger::Reason;
use serde_json::Value;
use xtask::{
    harness::bootstrap::read_yaml,
    need::{self, Need},
};

const RULES: &str = "prometheus-alerts.yaml";
const TESTS: &str = "prometheus-alerts.test.yaml";

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../envoy")
}

fn promtool(arguments: &[&str]) {
    need::tools(&[Need::Promtool]).unwrap();
    let output = Command::new("promtool").args(arguments).current_dir(folder()).output().unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{arguments:?}: {}{}", said(&output.stdout), said(&output.stderr));
}

fn rules() -> Vec<Value> {
    let file = read_yaml(&folder().join(RULES)).unwrap();
    let groups = file["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

fn alerts() -> BTreeSet<String> {
    rules().iter().map(|rule| rule["alert"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn promtool_takes_the_rules() {
    promtool(&["check", "rules", RULES]);
}

#[test]
fn alerts_fire_when_they_should_and_at_no_other_time() {
    promtool(&["test", "rules", TESTS]);
}

#[test]
fn every_alert_fires_in_a_test_and_in_another_one_it_does_not() {
    let file = read_yaml(&folder().join(TESTS)).unwrap();
    let checks: Vec<BTreeSet<String>> = file["tests"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|test| test.get("promql_expr_test")?.as_array())
        .flatten()
        .map(|check| {
            let samples = check["exp_samples"].as_array().unwrap();
            samples.iter().map(|sample| sample["labels"].as_str().unwrap().to_owned()).collect()
        })
        .collect();
    for alert in alerts() {
        let labels = format!("{{alertname=\"{alert}\"}}");
        assert!(checks.iter().any(|firing| firing.contains(&labels)), "{alert} fires in no test");
        assert!(checks.iter().any(|firing| !firing.contains(&labels)), "{alert} fires in each test");
    }
}

#[test]
fn every_reason_for_which_the_plugin_drops_records_has_an_alert_of_its_own() {
    for reason in Reason::ALL {
        let series = format!("offpath_records_dropped_total{{reason=\"{}\"}}", reason.as_str());
        let alerts = rules().iter().filter(|rule| rule["expr"].as_str().unwrap().contains(&series)).count();
        assert_eq!(alerts, 1, "{series}");
    }
}

#[test]
fn alerts_have_names_of_their_own_and_tell_people_what_is_lost_and_where_to_look() {
    assert_eq!(alerts().len(), rules().len());
    for rule in rules() {
        assert!(["critical", "warning"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{rule}");
        for annotation in ["summary", "description"] {
            assert!(rule["annotations"][annotation].as_str().is_some_and(|text| !text.is_empty()), "{rule}");
        }
    }
}
