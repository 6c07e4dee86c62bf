//! Secrets in random places of random requests, written in random ways: none is in anything that leaves the pipeline, and what
//! stands beside them still is.

use proptest::prelude::*;
use proptest::sample::select;

use crate::capture::Captured;
use crate::otlp::answer::Answer;
use crate::pipeline::{Node, Pipeline};
use crate::testing::{Told, config};

/// Is in every secret.
const MARKER: &str = "Xq7Zw";

const NOW: u64 = 1_700_000_000_000_000_000;

fn escaped(byte: u8, times: usize) -> String {
    (1..times).fold(format!("%{byte:02X}"), |text, _| text.replace('%', "%25"))
}

/// All of it escaped, as a URL is within another one's query.
fn component(text: &str) -> String {
    let escape =
        |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { escaped(byte, 1) };
    text.bytes().map(escape).collect()
}

/// A name that a server reads as `name`: each letter in either case, or escaped up to three times, less what is around it.
fn spelled(name: &'static str, depth: usize) -> impl Strategy<Value = String> {
    let letters = proptest::collection::vec(0..6usize, name.len());
    let around = select(&[("", ""), ("user[", "]"), ("", "[]"), ("user.", ""), ("+", ""), ("", "%20")][..]);
    (letters, around).prop_map(move |(how, (before, behind))| {
        let letter = |(byte, how): (u8, usize)| match how {
            0..=1 => char::from(byte).to_string(),
            2 => char::from(byte).to_ascii_uppercase().to_string(),
            _ => escaped(byte, (how - 2).min(3 - depth)),
        };
        format!("{before}{}{behind}", name.bytes().zip(how).map(letter).collect::<String>())
    })
}

/// A secret with what a client may write within it in a place that ends at none of `allowed`.
fn secret(allowed: &'static str) -> impl Strategy<Value = String> {
    proptest::string::string_regex(&format!("[a-z{allowed}]{{0,8}}(%[2-7][0-9A-F]){{0,2}}"))
        .unwrap()
        .prop_map(|middle| format!("{MARKER}{middle}{MARKER}"))
}

/// A query with one secret, in a URL in it as deep as `depth` says, beside two other parameters.
fn query() -> impl Strategy<Value = String> {
    let name = |depth| {
        select(&["token", "password", "X-Amz-Signature", "pin"][..])
            .prop_flat_map(move |name| spelled(name, depth))
    };
    (0..3usize).prop_flat_map(move |depth| {
        (name(depth), secret("?/:@=;,!$'()*+_.~-")).prop_map(move |(name, secret)| {
            let innermost = format!("{name}={secret}&x=1");
            let nested = (0..depth)
                .fold(innermost, |inner, _| format!("to={}&y=2", component(&format!("https://h/?{inner}"))));
            format!("a=before&{nested}&b=behind")
        })
    })
}

/// What leaves the pipeline of one request: the bodies of its calls, and the lines of the proxy's log.
fn outputs(told: &Told, when_full: &str) -> Vec<Vec<u8>> {
    let config = config(&format!(
        r#""logs":{{"request_headers":["referer","x-session","x-forwarded-for"],"client_address":"truncated"}},
           "routes":["/reset/{{token}}","/orders/{{id}}"],
           "redact":{{"query_params":["pin"],"header_values":["x-session"],"path_params":["token"]}},
           "batch":{{"max_records":1}},"queue":{{"max_bytes":524288,"when_full":"{when_full}"}}"#
    ));
    let mut pipeline = Pipeline::new(config, &Node::default(), [7; 16], NOW).unwrap();
    let captured: Captured = told.captured(pipeline.plan());
    let mut outputs = Vec::new();
    let times = if when_full == "spill" { 600 } else { 1 };
    for _ in 0..times {
        let kept = pipeline.judge(&captured, NOW);
        pipeline.observe(captured.clone(), kept, NOW);
    }
    outputs.extend(pipeline.take_spilled().into_iter().map(String::into_bytes));
    pipeline.drain(NOW);
    while let Some(batch) = pipeline.take_next(NOW) {
        outputs.push(batch.body.clone());
        pipeline.dispatched(batch, 1, NOW);
        pipeline.answered(1, Answer { status: Some(200), ..Answer::default() }, NOW);
    }
    outputs
}

fn contains(outputs: &[Vec<u8>], text: &str) -> bool {
    outputs.iter().any(|output| memchr::memmem::find(output, text.as_bytes()).is_some())
}

proptest! {
    #[test]
    fn what_is_planted_in_a_query_is_told_nowhere_and_what_is_beside_it_is(query in query(), is_referer in any::<bool>()) {
        let told = if is_referer {
            Told::ordinary().text("request.headers.referer", &format!("https://shop/cb?{query}"))
        } else {
            Told::ordinary().text("request.path", &format!("/orders/7?{query}"))
        };
        let outputs = outputs(&told, "drop_newest");
        prop_assert!(!contains(&outputs, MARKER), "{query}");
        prop_assert!(contains(&outputs, "a=before&") && contains(&outputs, "&b=behind"), "{query}");
    }

    #[test]
    fn what_is_planted_in_a_path_or_a_header_is_told_nowhere(
        segment in secret(":@=;,!$'()*+_.~-"),
        user_info in secret(":=;,!$&'()*+_.~-"),
        client in 1..255u8,
    ) {
        let told = Told::ordinary()
            .text("request.path", &format!("/reset/{segment}"))
            .text("request.headers.referer", &format!("https://me:{user_info}@shop/reset/{segment}"))
            .text("request.headers.x-session", &user_info)
            .text("request.host", &format!("me:{user_info}@shop.example"))
            .text("request.useragent", &format!("bot (+https://{user_info}@bots.example/{segment})"))
            .text("request.headers.x-forwarded-for", &format!("198.18.{client}.{client}"))
            .text("source.address", &format!("198.18.{client}.{client}:4711"));
        let outputs = outputs(&told, "drop_newest");
        let address = format!("198.18.{client}.{client}");
        prop_assert!(!contains(&outputs, MARKER), "{segment} {user_info}");
        prop_assert!(!contains(&outputs, &address), "{address}");
        prop_assert!(contains(&outputs, "/reset/REDACTED"));
    }
}

#[test]
fn spilled_records_are_told_without_secrets() {
    let told = Told::ordinary()
        .text("request.path", &format!("/reset/{MARKER}?pin={MARKER}"))
        .text("request.headers.x-session", MARKER);
    let outputs = outputs(&told, "spill");
    assert!(contains(&outputs, r#""url.path":"/reset/REDACTED""#), "records were spilled");
    assert!(!contains(&outputs, MARKER));
}
