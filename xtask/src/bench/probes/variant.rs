//! The probes: what each makes the module do. The module's steps are in `benches/probes/src/script.rs`.

use super::fields::{FIELDS, guarded, list, plain};

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

/// All of them.
#[must_use]
pub(super) fn all() -> Vec<Variant> {
    let mut all = Vec::new();
    for name in BASELINES {
        all.push(Variant { name: name.to_owned(), load: Load::Nothing, script: String::new() });
    }
    for (load, name, script) in
        entries().into_iter().chain(numbers()).chain(properties()).chain(headers()).chain(expressions())
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
        probe(BARE, "empty, own exports only", ""),
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
    let eleven = FIELDS.get(..11).unwrap_or_default();
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
        probe(BARE, "11 properties (metrics)", &lines("property", eleven)),
    ]
}

fn headers() -> Vec<Probe> {
    vec![
        probe(BARE, "1 request header", "header user-agent"),
        probe(BARE, "all request headers", "headers"),
        probe(BARE, "all request headers, arena", "arena\nheaders"),
        probe(BARE, "property request.headers", "property request.headers"),
    ]
}

fn expressions() -> Vec<Probe> {
    let cel = |expression: &str| format!("cel {expression}");
    let first = |count: usize| FIELDS.get(..count).unwrap_or_default();
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
    let (metrics, full) = (list(first(11), plain), list(FIELDS, plain));
    let slow_or_failed = r#"response.code>=500||request.duration>duration("1s")"#;
    let usual =
        "[request.time,request.duration,request.method,request.scheme,request.protocol,response.code]";
    let three_times = |name: &str| format!("{}+\" \"+{}+\" \"+{}", name, "request.path", "request.host");
    let bound = format!("[request].map(r,{})", list(first(8), plain).replace("request.", "r."));
    let not_in_headers: Vec<&str> =
        FIELDS.iter().copied().filter(|name| !super::fields::is_in_headers(name)).collect();
    let with_map = list(&not_in_headers, plain).replacen('[', "[request.headers,", 1);
    probes.extend([
        probe(BARE, "CEL, 24 fields, arena", &format!("arena\n{}", cel(&full))),
        probe(SDK, "CEL, 24 fields, SDK's dispatcher", &cel(&full)),
        probe(
            BARE,
            "CEL, 11 fields, or 24 when slow or failed",
            &cel(&format!("{slow_or_failed}?{full}:{metrics}")),
        ),
        probe(BARE, "CEL, 11 fields, then CEL, 24 fields", &format!("{}\n{}", cel(&metrics), cel(&full))),
        probe(BARE, "CEL, 6 fields that always are", &cel(usual)),
        probe(BARE, "CEL, 3 strings joined", &cel(&three_times("request.method"))),
        probe(BARE, "CEL, 3 strings, list", &cel("[request.method,request.path,request.host]")),
        probe(
            BARE,
            "CEL, 4 fields of request",
            &cel("[request.time,request.duration,request.method,request.scheme]"),
        ),
        probe(
            BARE,
            "CEL, 4 fields of request, bound once",
            &cel("[request].map(r,[r.time,r.duration,r.method,r.scheme])"),
        ),
        probe(BARE, "CEL, 8 fields, request bound once", &cel(&bound)),
        probe(BARE, "CEL, 1 header by its name", &cel(r#"[request.headers["user-agent"]]"#)),
        probe(BARE, "CEL, all request headers", &cel("[request.headers]")),
        probe(BARE, "CEL, all request headers and the other fields", &cel(&with_map)),
        probe(
            BARE,
            "all request headers, then CEL with the other fields",
            &format!("headers\n{}", cel(&list(&not_in_headers, plain))),
        ),
    ]);
    probes
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
