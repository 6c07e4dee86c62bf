//! Loss shows at both ends: in the proxy's counters and in the gaps that the collector finds; and what the alert rules read
//! is what both really say.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tempfile::TempDir;
use xtask::{
    harness::{
        bootstrap::{Mode, read_yaml},
        collector::Collector,
        load, wait,
    },
    project::Project,
};

use crate::proxy::{ENVOY_1_40, EVERYWHERE, Proxy, bootstrap, collector, folder, project};

const REQUESTS: u64 = 200;

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_the_proxy_drops_are_gaps_in_the_collector() {
    let folder = folder().await;
    let (proxy, collector) = overflowing(&folder, ("metrics.enabled", json!(false))).await;
    // Each worker delivers what it still holds, and a batch of its own after that, by which the gap is seen.
    let settled = async || {
        let accounting = proxy.accounting().await?;
        Ok((accounting.pending == 0).then_some(accounting))
    };
    wait::until("all that is left is delivered", settled).await.unwrap();
    send(&proxy).await;
    let accounting = wait::until("what came after it is delivered", settled).await.unwrap();
    assert!(accounting.balances(), "{accounting:?}");
    let stored = async || Ok(collector.accounting().await?.stored);
    wait::until_equal("the records that are stored", &accounting.delivered, stored).await.unwrap();

    let senders: Value = collector.api().json("/api/senders").await.unwrap();
    let missing: u64 =
        senders.as_array().unwrap().iter().map(|sender| sender["missing"].as_u64().unwrap()).sum();
    assert!(missing > 0, "{senders}");
    assert!(missing <= accounting.dropped_total(), "no batch is empty: {missing} of {accounting:?}");
    let line = format!("offpath_collector_missing_batches {missing}");
    wait::until(&line, async || {
        let metrics = collector.api().text("/metrics").await?;
        Ok(metrics.lines().any(|found| found == line).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_proxy_has_dropped_the_collector_tells_of_its_senders() {
    let folder = folder().await;
    let (proxy, collector) = overflowing(&folder, ("metrics.interval", json!("1s"))).await;
    wait::until("what the senders tell is what the proxy's counters say", async || {
        let (told, counted) = (told(&collector).await?, counted(&proxy).await?);
        Ok((counted.contains_key("records queue_full") && told == counted).then_some(()))
    })
    .await
    .unwrap();
}

/// By metric and reason, what the proxy's counters say that was dropped.
async fn counted(proxy: &Proxy) -> anyhow::Result<BTreeMap<String, u64>> {
    let stats = proxy.stats("wasmcustom.offpath_.*_dropped_total").await?;
    let short =
        |name: &str| name.trim_start_matches("wasmcustom.offpath_").replace("_dropped_total.reason.", " ");
    Ok(stats.into_iter().filter(|(_, count)| *count > 0).map(|(name, count)| (short(&name), count)).collect())
}

/// The same, as all senders say it in `/api/senders`.
async fn told(collector: &Collector) -> anyhow::Result<BTreeMap<String, u64>> {
    let senders: Vec<Value> = collector.api().json("/api/senders").await?;
    let mut told = BTreeMap::new();
    for sender in senders {
        for (metric, reasons) in sender["dropped"].as_object().unwrap() {
            let metric = metric.trim_start_matches("offpath.").trim_end_matches(".dropped");
            for (reason, count) in reasons.as_object().unwrap() {
                *told.entry(format!("{metric} {reason}")).or_insert(0) += count.as_u64().unwrap();
            }
        }
    }
    Ok(told)
}

/// A proxy with the least that a queue can hold, which has dropped records because its collector was down, and the
/// collector, which is there again; with one more key of the plugin's.
async fn overflowing(folder: &TempDir, key: (&str, Value)) -> (Proxy, Collector) {
    let keys = [
        ("logs.max_record_bytes", json!(1024)),
        // A batch for each few records.
        ("batch.max_bytes", json!(2048)),
        ("queue.max_bytes", json!(4096)),
        ("batch.max_delay", json!("50ms")),
        ("retry.initial_backoff", json!("50ms")),
        ("retry.max_backoff", json!("500ms")),
        key,
    ];
    let down = collector(folder).await;
    let (otlp, http) = (down.otlp(), down.api().address());
    down.stop().await.unwrap();

    let bootstrap = bootstrap(ENVOY_1_40, Mode::AccessLogger, &keys).await;
    let proxy = Proxy::start(ENVOY_1_40, bootstrap, otlp).await;
    send(&proxy).await;
    let dropped = proxy.accounting().await.unwrap().dropped;
    assert!(dropped.get("queue_full").is_some_and(|records| *records > 0), "{dropped:?}");

    let binary = project().await.collector();
    let collector = Collector::start_on(&binary, folder.path(), otlp.port(), http.port()).await.unwrap();
    (proxy, collector)
}

async fn send(proxy: &Proxy) {
    let statuses =
        load::keep_alive(proxy.address(), 8, REQUESTS, |n| load::get(&format!("/orders/{n}?n={n}")))
            .await
            .unwrap();
    assert_eq!(statuses, BTreeMap::from([(200, REQUESTS)]), "no request may notice");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_that_an_alert_reads_is_in_a_real_scrape_with_its_labels() {
    let folder = folder().await;
    let collector = collector(&folder).await;
    // Counters by reason begin with the first of each.
    refuse_a_request_and_a_point(&collector).await;
    let selectors = selectors(project().await);
    assert!(selectors.len() > 20, "{selectors:?}");
    for (release, mode) in EVERYWHERE {
        let proxy = Proxy::start(release, bootstrap(release, mode, &[]).await, collector.otlp()).await;
        send(&proxy).await;
        let scrape = wait::until("the collector has a record", async || {
            let ours = collector.api().text("/metrics").await?;
            let stored = ours.contains("offpath_collector_stored_records_total{signal=\"logs\"}");
            Ok(stored.then_some(ours))
        })
        .await
        .unwrap();
        let scrape = scrape + &proxy.admin().text("/stats/prometheus").await.unwrap();
        let losses = losses(&scrape);
        assert!(losses.contains("offpath_collector_rejected_spans"), "{losses:?}");
        for name in losses {
            let is_read = selectors.iter().any(|selector| selector.name.trim_end_matches("_total") == name);
            assert!(is_read, "no alert reads {name}");
        }
        // Of virtual machines, which a dynamic module has none of.
        let of_machines = |name: &str| name.starts_with("offpath_vm_") || name.starts_with("envoy_wasm_");
        let selectors =
            selectors.iter().filter(|selector| mode != Mode::DynamicModule || !of_machines(&selector.name));
        for selector in selectors {
            // A filter is not reloaded, and Envoy counts that for loggers alike: the counter is there in both modes.
            assert!(selector.is_in(&scrape), "{release:?} {mode:?}: no {selector:?} in {scrape}");
        }
    }
}

/// The counters in a scrape by which something was dropped or refused, without their `_total`.
fn losses(scrape: &str) -> BTreeSet<&str> {
    let counters = scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"));
    let ours = counters.filter(|name| name.starts_with("offpath_"));
    ours.filter(|name| name.contains("_dropped") || name.contains("_rejected"))
        .map(|name| name.trim_end_matches("_total"))
        .collect()
}

/// A body that is not OTLP, and a point of a kind that is not stored.
async fn refuse_a_request_and_a_point(collector: &Collector) {
    use opentelemetry_proto::tonic::{
        collector::metrics::v1::ExportMetricsServiceRequest,
        metrics::v1::{Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric},
    };
    use prost::Message as _;
    let gauge = Gauge { data_points: vec![NumberDataPoint::default()] };
    let metric = Metric { data: Some(metric::Data::Gauge(gauge)), ..Metric::default() };
    let scope = ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() };
    let resource = ResourceMetrics { scope_metrics: vec![scope], ..ResourceMetrics::default() };
    let points = ExportMetricsServiceRequest { resource_metrics: vec![resource] }.encode_to_vec();
    for (signal, body) in [("logs", b"not OTLP".to_vec()), ("metrics", points)] {
        let head = format!(
            "POST /v1/{signal} HTTP/1.1\r\nhost: collector\r\ncontent-type: application/x-protobuf\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        load::raw(collector.otlp(), &[head.into_bytes(), body].concat()).await.unwrap();
    }
}

/// What an alert's expression reads: `name{label="value"}`.
#[derive(Debug)]
struct Selector {
    name: String,
    /// Label and operator, and the value for `=`.
    matchers: Vec<(String, String)>,
}

impl Selector {
    /// Whether a line of Prometheus' text format has the name and all labels, and the values that are asked for.
    fn is_in(&self, scrape: &str) -> bool {
        scrape.lines().any(|line| {
            let labels = line.strip_prefix(&self.name);
            labels.is_some_and(|labels| {
                labels.starts_with(['{', ' '])
                    && self
                        .matchers
                        .iter()
                        .all(|(label, value)| labels.contains(&format!("{label}=\"{value}")))
            })
        })
    }
}

/// All selectors in the shipped rules: whatever is named `offpath_…` or `envoy_…`.
fn selectors(project: &Project) -> Vec<Selector> {
    let file = read_yaml(&project.envoy_folder().join("prometheus-alerts.yaml")).unwrap();
    let rules =
        file["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    rules.flat_map(|rule| selectors_in(rule["expr"].as_str().unwrap())).collect()
}

fn selectors_in(mut expression: &str) -> Vec<Selector> {
    let mut selectors = Vec::new();
    while let Some(begin) = ["offpath_", "envoy_"].iter().filter_map(|prefix| expression.find(prefix)).min() {
        let rest = &expression[begin..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let (matchers, rest) = match rest.strip_prefix('{') {
            Some(braces) => braces.split_once('}').unwrap(),
            None => ("", rest),
        };
        let matchers = matchers.split(',').filter(|matcher| !matcher.is_empty()).map(|matcher| {
            let (label, value) = matcher.split_once(['=', '!']).unwrap();
            // Of a pattern only the label's name is looked for.
            let value = value.strip_prefix('"').map_or("", |value| value.trim_end_matches('"'));
            (label.to_owned(), value.to_owned())
        });
        selectors.push(Selector { name: name.to_owned(), matchers: matchers.collect() });
        expression = rest;
    }
    selectors
}
