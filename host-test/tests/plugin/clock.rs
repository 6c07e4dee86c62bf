//! A clock that is set back, which every machine sees at once: nothing is lost for it, nothing stands still, and nobody
//! is taken for lost.

use std::time::Duration;

use offpath_host_test::{Proxy, get};
use serde_json::json;

use crate::support::{assert_accounted_for, builder, dropped, millis, paths, points, proxy, secs};

/// What a clock is set back by: less than any of the plugin's periods, more than all of them.
const STEPS: [Duration; 3] = [Duration::from_millis(70), Duration::from_secs(3), Duration::from_secs(3600)];

/// A quarter of `batch.max_delay`.
const TICK: Duration = Duration::from_millis(50);

fn start() -> Proxy {
    proxy(json!({
        "batch": {"max_delay": "200ms"},
        "metrics": {"enabled": false},
        "retry": {"initial_backoff": "100ms", "max_backoff": "400ms"},
    }))
}

#[test]
fn an_open_batch_goes_out_in_time() {
    for step in STEPS {
        let mut proxy = start();
        proxy.advance(millis(120)).unwrap();
        proxy.request(get("/1")).respond(200).unwrap();
        proxy.set_clock_back(step);
        proxy.request(get("/2")).respond(200).unwrap();
        proxy.advance(millis(200) + TICK).unwrap();
        let calls = proxy.cluster("otlp").answer_all(200).unwrap();
        assert_eq!(paths(&calls), ["/1", "/2"], "{step:?}");
        assert_accounted_for(&proxy);
    }
}

#[test]
fn retries_go_on_with_pauses_in_between_until_the_batch_is_taken() {
    for step in STEPS {
        let mut proxy = start();
        proxy.request(get("/1")).respond(200).unwrap();
        proxy.advance(millis(200)).unwrap();
        for tries in 0..20 {
            proxy.cluster("otlp").answer(503).unwrap();
            // Full jitter may draw next to nothing, but never nothing.
            assert!(proxy.cluster("otlp").pending().is_empty(), "{step:?}: no pause after {tries} tries");
            if tries % 5 == 1 {
                proxy.set_clock_back(step);
            }
            proxy.advance(millis(400) + 2 * TICK).unwrap();
            assert_eq!(proxy.cluster("otlp").pending().len(), 1, "{step:?}: no call after {tries} tries");
            assert_accounted_for(&proxy);
        }
        proxy.cluster("otlp").answer(200).unwrap();
        assert_eq!(proxy.counter("offpath_records_delivered_total"), 1);
    }
}

#[test]
fn calls_that_the_proxy_refuses_are_not_made_over_and_over() {
    for step in STEPS {
        let mut proxy = start();
        proxy.cluster("otlp").remove_endpoints();
        proxy.request(get("/1")).respond(200).unwrap();
        proxy.advance(millis(300)).unwrap();
        proxy.set_clock_back(step);
        let before = proxy.host_calls()["proxy_http_call"];
        proxy.advance(secs(10)).unwrap();
        let tries = proxy.host_calls()["proxy_http_call"] - before;
        assert!((10..200).contains(&tries), "{step:?}: {tries} tries in 10 s of pauses below 400 ms");
        proxy.cluster("otlp").restore_endpoints();
        proxy.cluster("otlp").serve(200, millis(1));
        proxy.advance(secs(1)).unwrap();
        assert_accounted_for(&proxy);
        assert_eq!(proxy.counter("offpath_records_delivered_total"), 1, "{step:?}");
    }
}

#[test]
fn exports_of_metrics_go_on_and_none_ends_before_it_began() {
    for step in STEPS {
        let mut proxy = proxy(json!({"logs": {"enabled": false}, "metrics": {"interval": "1s"}}));
        proxy.request(get("/")).respond(200).unwrap();
        proxy.advance(millis(1200)).unwrap();
        proxy.cluster("otlp").answer_all(200).unwrap();
        proxy.set_clock_back(step);
        proxy.request(get("/")).respond(200).unwrap();
        proxy.advance(millis(1300)).unwrap();
        let calls = proxy.cluster("otlp").answer_all(200).unwrap();
        let points = points(&calls, "http.server.request.duration");
        assert!(!points.is_empty(), "{step:?}");
        for point in points {
            assert!(point.start_time_unix_nano <= point.time_unix_nano, "{step:?}");
            assert_eq!(point.count, 2);
        }
    }
}

/// A root context that is new counts looks from the new time on, and the others must go on beating by it.
#[test]
fn nobody_is_taken_for_lost() {
    for step in STEPS {
        let config = json!({"metrics": {"enabled": false}, "retry": {"max_elapsed": "1h"}});
        let mut proxy = builder(config.clone()).workers(2).start().unwrap();
        for worker in 0..2 {
            proxy.request(get("/")).on_worker(worker).respond(200).unwrap();
        }
        proxy.advance(secs(5)).unwrap();
        proxy.set_clock_back(step);
        proxy.reconfigure(crate::support::config(config)).unwrap();
        for worker in 0..2 {
            proxy.request(get("/")).on_worker(worker).respond(200).unwrap();
        }
        proxy.advance(secs(60)).unwrap();
        assert_eq!(dropped(&proxy, "vm_lost"), 0, "{step:?}");
        proxy.cluster("otlp").serve(200, millis(1));
        proxy.advance(secs(100)).unwrap();
        assert_accounted_for(&proxy);
        assert_eq!(proxy.counter("offpath_records_delivered_total"), 4, "{step:?}");
    }
}
