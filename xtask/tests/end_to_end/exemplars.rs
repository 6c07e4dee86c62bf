//! Exemplars in what real Envoy exports: one of each part of the range in which there were requests with a trace, the slowest
//! of all among them; none without a trace, and none where they are off.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use xtask::harness::{load, receiver::Receiver, wait};

use crate::{
    otlp_decoder::{attributes, list, metrics},
    proxy::{EVERYWHERE, Proxy, bootstrap},
};

/// What the application is asked to take, each several times.
const DELAYS_MS: [u64; 4] = [0, 20, 80, 300];
const EACH: u64 = 4;

/// Requests with a trace that take long, and as many without one.
async fn send(proxy: &Proxy) {
    for (path, is_traced) in [("/traced", true), ("/untraced", false)] {
        load::keep_alive(proxy.address(), 2, EACH * DELAYS_MS.len() as u64, move |n| {
            let delay = DELAYS_MS[(n / EACH) as usize];
            let mut request = load::get(&format!("{path}?delay_ms={delay}"))?;
            if is_traced {
                let traceparent = format!("00-{:032x}-{:016x}-01", n + 1, n + 1);
                request.headers_mut().insert("traceparent", traceparent.parse()?);
            }
            Ok(request)
        })
        .await
        .unwrap();
    }
}

/// What one sender tells of a route.
#[derive(Debug, Default)]
struct Series {
    /// The newest data point, which is cumulative.
    point: Value,
    /// Those of all exports.
    exemplars: Vec<Value>,
}

/// By sender and route.
fn series(metrics: &[Value]) -> BTreeMap<(String, String), Series> {
    let mut series: BTreeMap<_, Series> = BTreeMap::new();
    for metric in metrics.iter().filter(|metric| metric["metric"]["name"] == "http.server.request.duration") {
        let sender = attributes(&metric["resource"])["service.instance.id"].to_string();
        for point in list(&metric["metric"]["exponentialHistogram"], "dataPoints") {
            let exemplars = list(point, "exemplars");
            let parts: BTreeSet<i64> = exemplars.iter().map(|exemplar| part(seconds(exemplar))).collect();
            assert_eq!(parts.len(), exemplars.len(), "one of each part: {point}");
            let route = attributes(point)["http.route"]["stringValue"].as_str().unwrap().to_owned();
            let of_route = series.entry((sender.clone(), route)).or_default();
            of_route.exemplars.extend(exemplars.iter().cloned());
            of_route.point = point.clone();
        }
    }
    series
}

fn seconds(exemplar: &Value) -> f64 {
    exemplar["asDouble"].as_f64().unwrap()
}

/// The part of the range that a duration belongs to: up to 1 ms, and then two octaves each, up to the last one.
fn part(seconds: f64) -> i64 {
    part_of_octave(seconds.log2().floor() as i64)
}

fn part_of_octave(octave: i64) -> i64 {
    ((octave + 12) >> 1).clamp(0, 7)
}

/// The parts in which a data point counts requests, by its buckets: octaves end where some of them do.
fn counted_parts(point: &Value) -> BTreeSet<i64> {
    let (positive, scale) = (&point["positive"], point["scale"].as_i64().unwrap());
    let offset = positive["offset"].as_i64().unwrap_or(0);
    let counts = positive["bucketCounts"].as_array().unwrap();
    let buckets = (offset..).zip(counts).filter(|(_, count)| *count != "0");
    buckets.map(|(index, _)| part_of_octave(index >> scale)).collect()
}

fn count(point: &Value) -> u64 {
    point["count"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_part_of_the_range_has_its_slowest_and_there_are_none_without_a_trace_or_where_they_are_off() {
    for (release, mode) in EVERYWHERE {
        for is_on in [true, false] {
            let receiver = Receiver::start().await.unwrap();
            let keys = [
                ("metrics.interval", json!("1s")),
                ("metrics.exemplars", json!(is_on)),
                ("routes", json!(["/traced", "/untraced"])),
            ];
            let proxy =
                Proxy::start(release, bootstrap(release, mode, &keys).await, receiver.address()).await;
            send(&proxy).await;
            let series = wait::until("all requests are counted", async || {
                let series = series(&metrics(&receiver.calls(), proxy.folder()).await);
                let counted: u64 = series.values().map(|series| count(&series.point)).sum();
                Ok((counted == 2 * EACH * DELAYS_MS.len() as u64).then_some(series))
            })
            .await
            .unwrap();
            for ((_, route), Series { point, exemplars }) in &series {
                if !is_on || route == "/untraced" {
                    assert_eq!(*exemplars, Vec::<Value>::new(), "{route} ({mode:?})");
                    continue;
                }
                let parts: BTreeSet<i64> = exemplars.iter().map(|exemplar| part(seconds(exemplar))).collect();
                assert_eq!(parts, counted_parts(point), "{mode:?}: {exemplars:?} of {point}");
                let slowest = exemplars.iter().map(seconds).fold(0.0, f64::max);
                assert_eq!(slowest, point["max"].as_f64().unwrap(), "{mode:?}");
            }
        }
    }
}
