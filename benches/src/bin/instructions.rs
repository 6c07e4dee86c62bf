//! One piece of the plugin's hot path, so many times over: what `cargo xtask bench instructions` runs under callgrind.
//!
//! `instructions` lists the pieces, `instructions <piece> <times>` runs one. Two runs of different lengths tell what one
//! time costs, without what comes before and after it.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;

use offpath_benches::{
    Accepting, Durations, NOW_UNIX_NANO as NOW, config, host_answers, ordinary_request, take_answers,
};
use offpath_filter::batch::Batcher;
use offpath_filter::capture::{Captured, Plan};
use offpath_filter::config::Config;
use offpath_filter::measure::{Histogram, Layout, Measurements};
use offpath_filter::otlp::envelope::Envelope;
use offpath_filter::pipeline::{Node, Pipeline};
use offpath_filter::record::Encoder;
use offpath_filter::redact::Redactor;
use offpath_filter::request::FinishedRequest;
use offpath_filter::route::Routes;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// A name, and what runs the piece so many times.
type Piece = (&'static str, fn(u32) -> Outcome);

const PIECES: [Piece; 10] = [
    ("histogram_record", histogram_record),
    ("series_and_record", series_and_record),
    ("capture_decode", capture_decode),
    ("record_encode", record_encode),
    ("batch_push_and_seal", batch_push_and_seal),
    ("observe", observe),
    ("sampled_out_by_request_id", sampled_out_by_request_id),
    ("route_among_ten", |times| route_among(10, times)),
    ("route_among_ten_thousand", |times| route_among(10_000, times)),
    ("config_parse", config_parse),
];

const CONFIG: &str = r#"{"collector": {"cluster": "otlp"}}"#;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.as_slice() {
        [] => {
            PIECES.iter().for_each(|(name, _)| println!("{name}"));
            Ok(())
        }
        [name, times] => run(name, times),
        _ => Err("expected a piece's name and how many times to run it".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(name: &str, times: &str) -> Outcome {
    let (_, piece) = PIECES
        .iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| format!("unknown piece `{name}`: without arguments all are listed"))?;
    piece(times.parse()?)
}

fn histogram_record(times: u32) -> Outcome {
    let layout = Layout::new(160);
    let mut histogram = Histogram::default();
    let mut durations = Durations::default();
    for _ in 0..times {
        histogram.record(&layout, black_box(durations.next_nano()) as f64 / 1e9);
    }
    black_box(histogram);
    Ok(())
}

fn series_and_record(times: u32) -> Outcome {
    let config = config(CONFIG)?;
    let plan = Plan::new(&config);
    let captured = ordinary_request(&plan);
    let mut request = FinishedRequest::read(&plan, &captured, NOW);
    let mut measurements = Measurements::new(&config.metrics, NOW);
    let mut durations = Durations::default();
    for _ in 0..times {
        request.duration_nano = durations.next_nano();
        measurements.record(black_box(&request));
    }
    Ok(())
}

fn capture_decode(times: u32) -> Outcome {
    let plan = Plan::new(&config(CONFIG)?);
    let answers = host_answers(&plan, &ordinary_request(&plan));
    let mut captured = Captured::default();
    for _ in 0..times {
        take_answers(&plan, black_box(&answers).clone(), &mut captured).map_err(|_| "malformed answers")?;
        black_box(FinishedRequest::read(&plan, &captured, NOW));
    }
    Ok(())
}

fn record_encode(times: u32) -> Outcome {
    let config = config(CONFIG)?;
    let plan = Plan::new(&config);
    let captured = ordinary_request(&plan);
    let request = FinishedRequest::read(&plan, &captured, NOW);
    let redactor = Redactor::new(&config, &Arc::new(Routes::new(&config.routes)?));
    let mut encoder = Encoder::new(&config.logs, redactor, config.logs.max_record_bytes);
    let mut out = Vec::new();
    for _ in 0..times {
        out.clear();
        encoder.encode(black_box(&request), NOW, &mut out);
    }
    black_box(out);
    Ok(())
}

fn batch_push_and_seal(times: u32) -> Outcome {
    let config = config(CONFIG)?;
    let envelope = Envelope::new([("service.name", "shop")].into_iter(), "offpath", "0");
    let mut batcher = Batcher::new(&config.batch);
    let record = [7; 700];
    for _ in 0..times {
        black_box(batcher.push(&envelope, NOW, |out| out.extend_from_slice(&record)));
    }
    Ok(())
}

/// The whole of what an ordinary request takes, from the host's answers on; one in sixteen does the work of sixteen.
fn observe(times: u32) -> Outcome {
    let mut accepting = Accepting::new(config(CONFIG)?)?;
    for _ in 0..times {
        accepting.observe().map_err(|_| "malformed answers")?;
    }
    Ok(())
}

/// What a request takes that is measured, judged by its id and left out, from the host's answers on: so little is asked
/// for that it comes as a header map and single values.
fn sampled_out_by_request_id(times: u32) -> Outcome {
    let config = config(
        r#"{"collector": {"cluster": "otlp"}, "logs": {"sample_ratio": 0.05, "sample_by": "request", "keep_slower_than": "1s"}}"#,
    )?;
    let mut pipeline = Pipeline::new(config, &Node::default(), [0; 16], NOW)?;
    let plan = Arc::clone(pipeline.plan());
    let told = ordinary_request(&plan);
    let (headers, _) = host_answers(&plan, &told);
    let (wanted, slots) = (plan.first().headers(), plan.first().property_paths().len());
    let mut captured = Captured::default();
    for _ in 0..times {
        captured.take_headers(black_box(&headers).clone(), wanted).map_err(|_| "a malformed header map")?;
        (wanted.len()..slots).for_each(|slot| captured.push(Some(black_box(told.slot(slot)))));
        let kept = pipeline.judge(&captured, NOW);
        if kept.is_some() {
            return Err("the request was to be left out".into());
        }
        captured = pipeline.observe(captured, kept, NOW);
        pipeline.ledger().take_changes(|stat, change| {
            black_box((stat, change));
        });
    }
    Ok(())
}

fn route_among(templates: usize, times: u32) -> Outcome {
    let templates: Vec<String> = (0..templates).map(|n| format!("\"/service-{n}/orders/{{id}}\"")).collect();
    let config =
        config(&format!(r#"{{"collector": {{"cluster": "otlp"}}, "routes": [{}]}}"#, templates.join(",")))?;
    let routes = Routes::new(&config.routes)?;
    let path = format!("/service-{}/orders/8786c783", templates.len() / 2);
    for _ in 0..times {
        if routes.find(black_box(path.as_bytes())).is_none() {
            return Err("the path was to have a route".into());
        }
    }
    Ok(())
}

fn config_parse(times: u32) -> Outcome {
    for _ in 0..times {
        black_box(Config::parse(black_box(CONFIG.as_bytes()))?);
    }
    Ok(())
}
