//! The probes: what each makes the module do. The module's steps are in `benches/probes/src/script.rs`.

use super::fields::{FIELDS, LEAN_METRICS, LEAN_RECORD, guarded, is_in_headers, list, plain};

/// Which build of the module, and how Envoy loads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// Nothing is loaded.
    Nothing,
    /// As an access logger.
    Logger(Build),
    /// As an HTTP filter.
    Filter(Build),
    /// As an HTTP filter that Envoy is told to enter only where it has to.
    RestrictedFilter(Build),
}

/// A build of the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Build {
    /// With nothing but its own exports.
    Bare,
    /// With those of the SDK, and its dispatcher.
    Sdk,
}

/// One line of the table.
#[derive(Clone, Debug)]
pub(super) struct Variant {
    /// What it does, for people; no two are the same.
    pub(super) name: String,
    /// Where it does it.
    pub(super) load: Load,
    /// What the module is told.
    pub(super) script: String,
}

/// The two that no logger is in; all others are compared with them.
pub(super) const BASELINES: [&str; 2] = ["no logger", "no logger, again"];

/// Does nothing: what the calls of others take is what they take beyond this.
pub(super) const EMPTY: &str = "empty, own exports only";

/// All of them.
#[must_use]
pub(super) fn all() -> Vec<Variant> {
    let mut all = Vec::new();
    for name in BASELINES {
        all.push(Variant { name: name.to_owned(), load: Load::Nothing, script: String::new() });
    }
    for (load, name, script) in
        [entries(), numbers(), properties(), headers(), lists(), expressions(), mixtures(), few_values()]
            .concat()
    {
        all.push(Variant { name, load, script });
    }
    all
}

type Probe = (Load, String, String);

const BARE: Load = Load::Logger(Build::Bare);
const SDK: Load = Load::Logger(Build::Sdk);

fn probe(load: Load, name: &str, script: &str) -> Probe {
    (load, name.to_owned(), script.to_owned())
}

/// What it costs to be entered.
fn entries() -> Vec<Probe> {
    let one = format!("cel {}", list(FIELDS, plain));
    vec![
        probe(BARE, EMPTY, ""),
        probe(SDK, "empty, SDK", ""),
        probe(Load::Filter(Build::Sdk), "filter: empty, SDK", ""),
        probe(Load::RestrictedFilter(Build::Sdk), "filter: empty, SDK, headers and bodies kept out", ""),
        probe(Load::Filter(Build::Bare), "filter: empty, own exports only", ""),
        probe(Load::Filter(Build::Sdk), "filter: CEL, 24 fields, SDK", &one),
        probe(Load::Filter(Build::Bare), "filter: CEL, 24 fields, own exports only", &one),
    ]
}

/// Calls that return a number, for which the host needs no memory of the module's.
fn numbers() -> Vec<Probe> {
    vec![
        probe(BARE, "current time", "time"),
        probe(BARE, "1 counter", "counter"),
        probe(BARE, "4 counters", &"counter\n".repeat(4)),
    ]
}

fn properties() -> Vec<Probe> {
    let lines = |verb: &str, names: &[&str]| -> String {
        names.iter().map(|name| format!("{verb} {name}\n")).collect()
    };
    let strings = ["request.method", "request.path", "request.host", "request.scheme"];
    let numbers = ["response.code", "request.duration", "response.flags", "request.total_size"];
    let absent = ["request.headers.x-absent", "response.headers.x-absent"];
    vec![
        probe(BARE, "1 property, missing", &lines("absent", &absent[..1])),
        probe(BARE, "2 properties, missing", &lines("absent", &absent)),
        probe(BARE, "1 property, number", &lines("property", &numbers[..1])),
        probe(BARE, "2 properties, numbers", &lines("property", &numbers[..2])),
        probe(BARE, "4 properties, numbers", &lines("property", &numbers)),
        probe(BARE, "1 property, string", &lines("property", &strings[..1])),
        probe(BARE, "2 properties, strings", &lines("property", &strings[..2])),
        probe(BARE, "4 properties, strings", &lines("property", &strings)),
        probe(BARE, "4 properties, strings, arena", &format!("arena\n{}", lines("property", &strings))),
        probe(SDK, "1 property, string, SDK's getter", &lines("sdk-property", &strings[..1])),
        probe(SDK, "4 properties, strings, SDK's getter", &lines("sdk-property", &strings)),
        probe(BARE, "11 properties (metrics)", &lines("property", first(11))),
    ]
}

fn headers() -> Vec<Probe> {
    vec![
        probe(BARE, "1 request header", "header user-agent"),
        probe(BARE, "all request headers", "headers"),
        probe(BARE, "all request headers, arena", "arena\nheaders"),
        probe(BARE, "all response headers", "response-headers"),
        probe(BARE, "all request and response headers", "headers\nresponse-headers"),
        probe(BARE, "property request.headers", "property request.headers"),
    ]
}

fn cel(expression: &str) -> String {
    format!("cel {expression}")
}

fn first(count: usize) -> &'static [&'static str] {
    FIELDS.get(..count).unwrap_or_default()
}

/// CEL lists of more and more fields.
fn lists() -> Vec<Probe> {
    let mut probes = vec![
        probe(BARE, "CEL, fails", r#"cel-fails request.headers["x-absent"]"#),
        probe(BARE, "CEL, 1 value, no list", "cel response.code"),
    ];
    for count in [1, 5, 8, 11, 15, 20, 24] {
        probes.push(probe(BARE, &format!("CEL, {count} fields"), &cel(&list(first(count), plain))));
    }
    for count in [5, 11, 15, 24] {
        let expression = cel(&list(first(count), guarded));
        probes.push(probe(BARE, &format!("CEL, {count} fields, each with has()"), &expression));
    }
    let full = cel(&list(FIELDS, plain));
    probes.push(probe(BARE, "CEL, 24 fields, arena", &format!("arena\n{full}")));
    probes.push(probe(SDK, "CEL, 24 fields, SDK's dispatcher", &full));
    probes
}

/// CEL in other shapes.
fn expressions() -> Vec<Probe> {
    let (metrics, full) = (list(first(11), plain), list(FIELDS, plain));
    let slow_or_failed = r#"response.code>=500||request.duration>duration("1s")"#;
    let one_or_other = cel(&format!("{slow_or_failed}?{full}:{metrics}"));
    [
        ("CEL, 11 fields, or 24 when slow or failed", one_or_other.as_str()),
        ("CEL, 3 strings joined", r#"cel request.method+" "+request.path+" "+request.host"#),
        ("CEL, 3 strings", "cel [request.method,request.path,request.host]"),
        ("CEL, 4 fields of request", "cel [request.time,request.duration,request.method,request.scheme]"),
        (
            "CEL, 4 fields of request, bound once",
            "cel [request].map(r,[r.time,r.duration,r.method,r.scheme])",
        ),
        ("CEL, 2 fields of xds", "cel [xds.listener_direction,xds.route_name]"),
        ("CEL, 1 header by its name", r#"cel [request.headers["user-agent"]]"#),
        ("CEL, all request headers", "cel [request.headers]"),
    ]
    .map(|(name, script)| probe(BARE, name, script))
    .into()
}

/// More than one call, so that each kind gets what it is cheap at.
fn mixtures() -> Vec<Probe> {
    let without_headers = |names: &[&'static str]| {
        let rest: Vec<&str> = names.iter().copied().filter(|name| !is_in_headers(name)).collect();
        cel(&list(&rest, plain))
    };
    let (metrics, full) = (without_headers(first(11)), without_headers(FIELDS));
    let both = "headers\nresponse-headers";
    let status_in_headers = ["response.code", "response.grpc_status"];
    let without_status = |names: &[&'static str]| {
        let rest: Vec<&str> =
            names.iter().copied().filter(|name| !status_in_headers.contains(name)).collect();
        without_headers(&rest)
    };
    [
        (
            "CEL, 11 fields, then CEL, 24 fields",
            [list(first(11), plain), list(FIELDS, plain)].map(|l| cel(&l)).join("\n"),
        ),
        ("request headers, then CEL, the rest of the 11", format!("headers\n{metrics}")),
        ("request headers, then CEL, the rest of the 24", format!("headers\n{full}")),
        ("all headers, then CEL, the rest of the 11", format!("{both}\n{}", without_status(first(11)))),
        ("all headers, then CEL, the rest of the 24", format!("{both}\n{}", without_status(FIELDS))),
        ("all headers, then property request.duration", format!("{both}\nproperty request.duration")),
        (
            "all headers, then 2 properties",
            format!("{both}\nproperty request.duration\nproperty response.flags"),
        ),
        (
            "all headers, then 4 properties",
            format!(
                "{both}\nproperty request.duration\nproperty response.flags\nproperty request.protocol\n\
                 property request.url_path"
            ),
        ),
        (
            "request headers, then CEL, 5 that histograms cannot do without",
            format!("headers\n{}", cel(&list(LEAN_METRICS, plain))),
        ),
        (
            "request headers, then CEL, 12 that records cannot do without",
            format!("headers\n{}", cel(&list(LEAN_RECORD, plain))),
        ),
        (
            "CEL, method and 5 that histograms cannot do without",
            cel(&list(&[&["request.method"], LEAN_METRICS].concat(), plain)),
        ),
        (
            "all headers, then CEL, 4 fields",
            format!("{both}\ncel [request.duration,response.flags,request.protocol,xds.route_name]"),
        ),
    ]
    .map(|(name, script)| probe(BARE, name, &script))
    .into()
}

/// What histograms alone are captured by, each value by itself or all in a list, of fewer and more values: from how many on
/// is the list cheaper?
fn few_values() -> Vec<Probe> {
    let one_by_one =
        |names: &[&str]| -> String { names.iter().map(|name| format!("property {name}\n")).collect() };
    LEAN_RECORD
        .iter()
        .scan(Vec::new(), |names, name| {
            names.push(*name);
            Some(names.clone())
        })
        .filter(|names| (5..=8).contains(&names.len()))
        .flat_map(|names| {
            let (count, listed) = (names.len(), cel(&list(&names, plain)));
            [
                probe(
                    BARE,
                    &format!("request headers, then {count} properties"),
                    &format!("headers\n{}", one_by_one(&names)),
                ),
                probe(
                    BARE,
                    &format!("request headers, then CEL, the same {count}"),
                    &format!("headers\n{listed}"),
                ),
            ]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_variants_have_the_same_name() {
        let all = all();
        let names: HashSet<&str> = all.iter().map(|variant| variant.name.as_str()).collect();
        assert_eq!(names.len(), all.len());
        assert!(BASELINES.iter().all(|name| names.contains(name)));
    }
}
