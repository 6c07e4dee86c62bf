//! A request's record and its span, from Envoy's own tracer: one trace, wherever it began.

use std::collections::BTreeMap;

use hyper::StatusCode;
use serde_json::{Value, json};
use xtask::harness::{
    bootstrap::{HTTP_CONNECTION_MANAGER, Mode},
    collector::{Collector, LogRecord, Span},
    load,
    receiver::{Call, Receiver},
    wait,
};

use crate::otlp_decoder::{list, log_records, metrics, spans};
use crate::proxy::{ENVOY_1_40, EVERYWHERE, Proxy, collector, folder, tracing_bootstrap};

const CLIENT_SPAN: &str = "b7ad6b7169203331";

/// How a request comes and is answered; each kind has a path of its own.
struct Kind {
    path: &'static str,
    /// The `traceparent` that the client sends, by its trace id and flags.
    sent: Option<(&'static str, &'static str)>,
    status: u16,
    /// Whether Envoy's tracer exports its span.
    is_exported: bool,
}

const KINDS: [Kind; 5] = [
    Kind {
        path: "/orders/begun-at-the-client",
        sent: Some(("0af7651916cd43dd8448eb211c80319c", "01")),
        status: 200,
        is_exported: true,
    },
    Kind { path: "/orders/begun-here", sent: None, status: 200, is_exported: true },
    Kind {
        path: "/orders/not-sampled",
        sent: Some(("1af7651916cd43dd8448eb211c80319c", "00")),
        status: 200,
        is_exported: false,
    },
    Kind {
        path: "/orders/failed",
        sent: Some(("2af7651916cd43dd8448eb211c80319c", "01")),
        status: 503,
        is_exported: true,
    },
    Kind { path: "/orders/failed-and-begun-here", sent: None, status: 503, is_exported: true },
];

/// Sends one request of each kind with a secret in its query, and waits until its record and all spans are stored.
async fn records(
    proxy: &Proxy,
    collector: &Collector,
    kinds: &'static [Kind],
) -> BTreeMap<String, LogRecord> {
    load::keep_alive(proxy.address(), 1, kinds.len() as u64, |n| {
        let kind = &kinds[n as usize];
        let mut request = load::get(&format!("{}?status={}&token=hunter2", kind.path, kind.status))?;
        if let Some((trace_id, flags)) = kind.sent {
            let traceparent = format!("00-{trace_id}-{CLIENT_SPAN}-{flags}");
            request.headers_mut().insert("traceparent", traceparent.parse()?);
        }
        Ok(request)
    })
    .await
    .unwrap();
    let exported = kinds.iter().filter(|kind| kind.is_exported).count() as u64;
    wait::until_equal("the records and spans stored", &(kinds.len() as u64, exported), async || {
        Ok((collector.accounting().await?.stored, collector.span_accounting().await?.stored))
    })
    .await
    .unwrap();
    let records = collector.logs("").await.unwrap();
    records.into_iter().map(|record| (text(&record.attributes["url.path"]).to_owned(), record)).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// The one span of a record's trace.
async fn span(collector: &Collector, record: &LogRecord) -> Span {
    let [span] = collector.spans(record.trace_id.as_ref().unwrap()).await.unwrap().try_into().unwrap();
    span
}

async fn is_unknown(collector: &Collector, trace_id: &str) -> bool {
    let path = format!("/api/traces/{trace_id}");
    collector.api().send(hyper::Method::GET, &path).await.unwrap().0 == StatusCode::NOT_FOUND
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requests_record_and_span_share_ids_whether_the_trace_began_at_the_client_or_here() {
    for (release, mode) in EVERYWHERE {
        let folder = folder().await;
        let collector = collector(&folder).await;
        let bootstrap = tracing_bootstrap(release, mode, &[]).await;
        let proxy = Proxy::start(release, bootstrap, collector.otlp()).await;
        let records = records(&proxy, &collector, &KINDS).await;
        for kind in &KINDS {
            let (path, record) = (kind.path, &records[kind.path]);
            let trace_id = record.trace_id.as_deref().unwrap();
            assert_eq!(trace_id.len(), 32, "{path}");
            // What the record names is the proxy's span, not the client's: that is what Envoy passes on.
            assert_ne!(record.span_id.as_deref(), Some(CLIENT_SPAN), "{path}");
            if let Some((sent, _)) = kind.sent {
                assert_eq!(trace_id, sent, "{path}");
            }
            if !kind.is_exported {
                assert!(is_unknown(&collector, trace_id).await, "{path}");
                continue;
            }
            let span = span(&collector, record).await;
            assert_eq!(Some(span.span_id.as_str()), record.span_id.as_deref(), "{path}");
            assert_eq!(span.parent_span_id, if kind.sent.is_some() { CLIENT_SPAN } else { "" }, "{path}");
            assert_eq!(span.kind, "SERVER", "{path}");
            assert_eq!(span.status["code"], if kind.status >= 500 { "ERROR" } else { "UNSET" }, "{path}");
            assert_eq!(span.resource["service.name"], record.resource["service.name"]);
            assert_eq!(span.attributes["guid:x-request-id"], record.attributes["envoy.request.id"]);
            assert_eq!(span.attributes["http.status_code"], kind.status.to_string());
            // The record has them, redacted.
            assert_eq!(span.attributes["http.url"], "http://shop.example");
            let of_the_trace = collector.logs(&format!("trace_id={trace_id}")).await.unwrap();
            assert_eq!(of_the_trace, std::slice::from_ref(record), "{path}");
        }
        let database = std::fs::read_dir(folder.path().join("data")).unwrap();
        for file in database.map(|file| file.unwrap().path()) {
            let bytes = std::fs::read(&file).unwrap();
            assert!(
                !bytes.windows(7).any(|window| window == b"hunter2"),
                "a secret is in {}",
                file.display()
            );
        }
    }
}

const UNFORWARDED: [Kind; 2] = [
    Kind {
        path: "/forbidden",
        sent: Some(("3af7651916cd43dd8448eb211c80319c", "01")),
        status: 403,
        is_exported: true,
    },
    Kind { path: "/forbidden-and-begun-here", sent: None, status: 403, is_exported: true },
];

#[tokio::test(flavor = "multi_thread")]
async fn what_envoy_answers_without_an_upstream_has_the_ids_that_came_with_the_request() {
    let folder = folder().await;
    let collector = collector(&folder).await;
    let mut bootstrap = tracing_bootstrap(ENVOY_1_40, Mode::AccessLogger, &[]).await;
    let routes = format!("{HTTP_CONNECTION_MANAGER}/route_config/virtual_hosts/0/routes");
    *bootstrap.at(&routes).unwrap() =
        json!([{"match": {"prefix": "/forbidden"}, "direct_response": {"status": 403}}]);
    let proxy = Proxy::start(ENVOY_1_40, bootstrap, collector.otlp()).await;
    let records = records(&proxy, &collector, &UNFORWARDED).await;

    let begun_at_the_client = &records["/forbidden"];
    assert_eq!(begun_at_the_client.span_id.as_deref(), Some(CLIENT_SPAN));
    assert_eq!(span(&collector, begun_at_the_client).await.parent_span_id, CLIENT_SPAN);
    assert_eq!(records["/forbidden-and-begun-here"].trace_id.as_deref(), Some(""));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_envoy_makes_a_span_of_the_call_to_the_upstream_the_record_names_that_one() {
    let folder = folder().await;
    let collector = collector(&folder).await;
    let mut bootstrap = tracing_bootstrap(ENVOY_1_40, Mode::AccessLogger, &[]).await;
    let tracing = bootstrap.at(&format!("{HTTP_CONNECTION_MANAGER}/tracing")).unwrap();
    tracing["spawn_upstream_span"] = json!(true);
    let proxy = Proxy::start(ENVOY_1_40, bootstrap, collector.otlp()).await;
    load::keep_alive(proxy.address(), 1, 1, |_| load::get("/orders/7")).await.unwrap();
    let stored =
        async || Ok((collector.accounting().await?.stored, collector.span_accounting().await?.stored));
    wait::until_equal("the record and both spans stored", &(1, 2), stored).await.unwrap();
    let [record] = collector.logs("").await.unwrap().try_into().unwrap();
    let spans = collector.spans(record.trace_id.as_ref().unwrap()).await.unwrap();
    let of_kind = |kind: &str| spans.iter().find(|span| span.kind == kind).unwrap();
    assert_eq!(record.span_id.as_deref(), Some(of_kind("CLIENT").span_id.as_str()));
    assert_eq!(of_kind("CLIENT").parent_span_id, of_kind("SERVER").span_id);
}

/// The trace and span ids of a record, an exemplar or a span.
fn ids(of: &Value) -> (String, String) {
    (text(&of["traceId"]).to_owned(), text(&of["spanId"]).to_owned())
}

/// Of all that was sent: the ids of the records, of the exemplars, and of the spans.
async fn sent_ids(calls: &[Call], proxy: &Proxy) -> [Vec<(String, String)>; 3] {
    let folder = proxy.folder();
    let records = log_records(calls, folder).await.iter().map(|record| ids(&record["record"])).collect();
    let metrics = metrics(calls, folder).await;
    let points =
        metrics.iter().flat_map(|metric| list(&metric["metric"]["exponentialHistogram"], "dataPoints"));
    let exemplars = points.flat_map(|point| list(point, "exemplars")).map(ids).collect();
    [records, exemplars, spans(calls, folder).await.iter().map(ids).collect()]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requests_record_exemplar_and_span_share_ids() {
    for (release, mode) in EVERYWHERE {
        for traceparent in [None, Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")] {
            let receiver = Receiver::start().await.unwrap();
            let quick = [("metrics.interval", json!("1s")), ("batch.max_delay", json!("100ms"))];
            let bootstrap = tracing_bootstrap(release, mode, &quick).await;
            let proxy = Proxy::start(release, bootstrap, receiver.address()).await;
            load::keep_alive(proxy.address(), 1, 1, move |_| {
                let mut request = load::get("/orders/7")?;
                if let Some(traceparent) = traceparent {
                    request.headers_mut().insert("traceparent", traceparent.parse()?);
                }
                Ok(request)
            })
            .await
            .unwrap();
            let [records, exemplars, spans] = wait::until("all three have been sent", async || {
                let sent = sent_ids(&receiver.calls(), &proxy).await;
                Ok(sent.iter().all(|ids| !ids.is_empty()).then_some(sent))
            })
            .await
            .unwrap();
            assert_eq!(records.len(), 1);
            assert_eq!(records, exemplars, "{release:?} {mode:?}");
            assert_eq!(records, spans, "{release:?} {mode:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_slowest_request_of_a_route_one_finds_its_trace_and_its_record() {
    for (release, mode) in EVERYWHERE {
        let folder = folder().await;
        let collector = collector(&folder).await;
        let quick = [
            ("metrics.interval", json!("1s")),
            ("batch.max_delay", json!("100ms")),
            ("routes", json!(["/orders/{id}", "/reports/{id}"])),
        ];
        let bootstrap = tracing_bootstrap(release, mode, &quick).await;
        let proxy = Proxy::start(release, bootstrap, collector.otlp()).await;
        load::keep_alive(proxy.address(), 1, 20, |n| {
            let target = match n {
                7 => "/orders/slow?delay_ms=300".to_owned(),
                n if n % 2 == 0 => format!("/reports/{n}"),
                n => format!("/orders/{n}"),
            };
            load::get(&target)
        })
        .await
        .unwrap();
        let slowest = wait::until("the slowest order is shown, its record and its span stored", async || {
            let series = collector.latency("by=route&step=31536000&q=0.5").await?;
            let stored = (collector.accounting().await?.stored, collector.span_accounting().await?.stored);
            let orders = series.into_iter().find(|series| series.key == "/orders/{id}");
            let point = orders.and_then(|series| series.points.into_iter().next());
            Ok(point.filter(|point| point.count == 10 && stored == (20, 20)))
        })
        .await
        .unwrap()
        .exemplars
        .swap_remove(0);
        assert!((0.3..30.0).contains(&slowest.value), "{slowest:?}");

        let [record] =
            collector.logs(&format!("trace_id={}", slowest.trace_id)).await.unwrap().try_into().unwrap();
        assert_eq!(record.attributes["url.path"], "/orders/slow", "{mode:?}");
        assert_eq!(record.span_id.as_deref(), Some(slowest.span_id.as_str()));
        assert_eq!(record.attributes["http.server.request.duration"], slowest.value);
        assert_eq!(span(&collector, &record).await.span_id, slowest.span_id);
    }
}
