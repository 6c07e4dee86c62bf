//! What is asked for under which configuration, and where each answer is found.

use super::*;
use crate::testing::Told;

fn plan(json: &str) -> Plan {
    Plan::new(&Config::parse(json.as_bytes()).unwrap())
}

#[test]
fn fields_are_listed_in_the_order_of_their_enum() {
    for (index, (field, ..)) in FIELDS.iter().enumerate() {
        assert_eq!(*field as usize, index);
    }
}

#[test]
fn request_headers_are_looked_for_together_and_response_headers_by_name() {
    let plan = plan(
        r#"{"collector":{"cluster":"c"},"logs":{"request_headers":["X-A"],"response_headers":["y'b"]}}"#,
    );
    let names: Vec<_> =
        plan.first().headers().iter().map(|header| String::from_utf8_lossy(&header.name)).collect();
    assert_eq!(
        names,
        [
            ":method",
            ":path",
            ":scheme",
            ":authority",
            "user-agent",
            "x-request-id",
            "traceparent",
            "content-type",
            "x-a"
        ]
    );
    assert!(plan.first().expression().ends_with(r#","y'b" in response.headers?response.headers["y'b"]:""]"#));
    let paths: Vec<_> = plan.property_paths().collect();
    assert_eq!(paths[paths.len() - 2..], [&b"response\0headers\0y'b"[..], b"response\0grpc_status"]);
    assert_eq!(plan.first().guarded_expression().matches("?").count(), plan.first().list_slots());
}

#[test]
fn headers_are_asked_for_in_the_first_stage_where_that_has_a_use_for_them() {
    for (sections, first, rest) in [
        (r#""logs":{"enabled":false}"#, 4, 0),
        (r#""logs":{"enabled":false},"metrics":{"exemplars":false}"#, 3, 0),
        (r#""logs":{"enabled":false},"routes":["/a"]"#, 5, 0),
        (r#""logs":{"sample_ratio":0.5}"#, 9, 0),
        (r#""logs":{"sample_ratio":0.5,"sample_by":"random"}"#, 8, 0),
        (r#""logs":{"sample_ratio":0.5,"sample_by":"random"},"metrics":{"enabled":false}"#, 0, 7),
    ] {
        let plan = plan(&format!(r#"{{"collector":{{"cluster":"c"}},{sections}}}"#));
        let headers = |stage: &Stage| stage.headers().len();
        assert_eq!((headers(plan.first()), headers(plan.rest())), (first, rest), "{sections}");
    }
}

#[test]
fn attributes_that_users_name_are_asked_for_with_the_record() {
    let attributes = r#""attributes":{"a":"response.size","b":"request.headers['x-b']","c":"connection.tls_version","d":"1"}"#;
    for (sections, named) in
        [("", [2, 0]), (r#""sample_ratio":0.5,"#, [0, 2]), (r#""enabled":false,"#, [0, 0])]
    {
        let json = format!(r#"{{"collector":{{"cluster":"c"}},"logs":{{{sections}{attributes}}}}}"#);
        let plan = plan(&json);
        assert_eq!([plan.first().named().len(), plan.rest().named().len()], named, "{sections}");
        let told = Told::default()
            .text("request.headers.x-b", "b")
            .text("connection.tls_version", "TLSv1.3")
            .bytes("d", b"not a typed value");
        let captured = told.captured(&plan);
        let values: Vec<_> = (0..plan.attributes()).map(|index| plan.attribute(&captured, index)).collect();
        let text = |text: &'static str| Ok(Some(AttributeValue::Text(text.as_bytes())));
        let expected = match named {
            [0, 0] => vec![Ok(None); 4],
            _ => vec![Ok(None), text("b"), text("TLSv1.3"), Err(NotAnAttribute)],
        };
        assert_eq!(values, expected, "{sections}");
    }
}

/// The attributes of either stage.
fn asked(sections: &str) -> [Vec<String>; 2] {
    let plan = plan(&format!(r#"{{"collector":{{"cluster":"c"}},{sections}}}"#));
    [plan.first(), plan.rest()].map(|stage| {
        let names =
            stage.property_paths().iter().map(|path| String::from_utf8_lossy(path).replace('\0', "."));
        names.collect()
    })
}

const NONE: [&str; 0] = [];

#[test]
fn histograms_alone_ask_for_what_they_need() {
    let [first, rest] = asked(r#""logs":{"enabled":false,"sample_ratio":0.5},"metrics":{"attributes":[]}"#);
    assert_eq!(
        first,
        [
            "request.method",
            "request.scheme",
            "request.headers.traceparent",
            "request.headers.content-type",
            "request.duration",
            "request.protocol",
            "response.code",
            "response.flags",
            "xds.listener_direction",
            "response.grpc_status",
        ]
    );
    assert_eq!(rest, NONE);
    let [first, _] = asked(r#""logs":{"enabled":false},"metrics":{"exemplars":false}"#);
    assert!(!first.contains(&"request.headers.traceparent".to_owned()));
    let [first, _] = asked(r#""logs":{"enabled":false},"routes":["/a"]"#);
    assert!(first.contains(&"request.path".to_owned()));
    for nothing in [r#""metrics":{"enabled":false}"#, r#""metrics":{"histograms":[]}"#] {
        assert_eq!(asked(&format!(r#""logs":{{"enabled":false}},{nothing}"#)), [NONE, NONE]);
    }
}

#[test]
fn where_every_request_becomes_a_record_all_is_asked_for_at_once() {
    for sections in [
        r#""logs":{}"#,
        r#""logs":{"keep_slower_than":"1s","sample_by":"random"},"routes":["/a",{"template":"/b","sample_ratio":1}]"#,
    ] {
        let [first, rest] = asked(sections);
        assert_eq!((first.len(), rest), (23, Vec::new()), "{first:?}");
    }
}

#[test]
fn a_decision_asks_for_what_it_follows_and_a_record_for_the_rest() {
    let off = r#""metrics":{"enabled":false},"#;
    let errors = ["request.headers.content-type", "response.code", "response.flags", "response.grpc_status"];
    let cases: [(&str, Vec<&str>); 5] = [
        (r#""logs":{"sample_ratio":0.5,"sample_by":"random","keep_errors":false}"#, vec![]),
        (r#""logs":{"sample_ratio":0.5,"sample_by":"request","keep_errors":false}"#, vec!["request.id"]),
        (r#""logs":{"max_records_per_second":9,"sample_by":"random"}"#, errors.to_vec()),
        (
            r#""logs":{"sample_ratio":0.5,"sample_by":"random","keep_errors":false,"keep_slower_than":"1s"},"routes":["/a"]"#,
            vec!["request.duration"],
        ),
        (
            r#""logs":{"sample_by":"random","keep_errors":false},"routes":[{"template":"/a","sample_ratio":0.5}]"#,
            vec!["request.path"],
        ),
    ];
    for (sections, expected) in cases {
        let [first, rest] = asked(&format!("{off}{sections}"));
        assert_eq!(first, expected, "{sections}");
        assert_eq!(first.len() + rest.len(), 23, "{sections}");
        assert!(rest.iter().all(|name| !first.contains(name)), "{sections}");
    }
    // The trace is in the headers, and so is more.
    let [first, rest] = asked(&format!(r#"{off}"logs":{{"sample_ratio":0.5,"keep_errors":false}}"#));
    assert_eq!((first.len(), rest.len()), (9, 15), "{first:?}");
    assert!(first.contains(&"request.headers.tracestate".to_owned()));
    assert!(!rest.iter().any(|name| name.starts_with("request.headers") || name == "request.path"));
}

#[test]
fn a_field_is_found_in_whichever_stage_it_was_asked_for() {
    let plan = plan(
        r#"{"collector":{"cluster":"c"},"logs":{"sample_ratio":0.5,"request_headers":["x-a"],"response_headers":["x-b"]}}"#,
    );
    let mut captured = Captured::default();
    for path in plan.property_paths() {
        captured.push(Some(path));
    }
    for (field, name, ..) in FIELDS.iter().filter(|(field, ..)| *field != Field::VirtualHostName) {
        let path = name.replace('.', "\0");
        assert_eq!(plan.bytes(&captured, *field), path.as_bytes());
    }
    assert_eq!(plan.request_header(&captured, 0), b"request\0headers\0x-a");
    assert_eq!(plan.response_header(&captured, 0), b"response\0headers\0x-b");
}
