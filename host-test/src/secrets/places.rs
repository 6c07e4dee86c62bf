//! The places: where secrets are planted, and how each is written there.
//!
//! What is planted here is searched for by the module above; its forms must cover the encodings.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{MARKER, Planted, REQUEST_HEADERS, hex, json_escapes, percent};

mod delimiters;

pub(super) fn all() -> Vec<Planted> {
    let mut all = Vec::new();
    for name in ["token", "password", "pin", "accessToken", "session_id"] {
        for name in names(name) {
            plant(&mut all, &format!("query, `{name}`"), Where::Value, |v| {
                to(format!("/orders/7?a=1&{name}={v}&b=2"))
            });
        }
    }
    queries(&mut all);
    paths(&mut all);
    urls(&mut all);
    headers(&mut all);
    addresses(&mut all);
    delimiters::plant(&mut all);
    all
}

/// Which characters a secret may have as they are, without ending where it stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    /// The value of a parameter of a query.
    Value,
    /// A segment of a path.
    Segment,
    /// User info.
    UserInfo,
}

/// The ways to write a secret, each with its name.
fn encodings(place: Where) -> Vec<(&'static str, String)> {
    let reserved = match place {
        Where::Value => ";:@/?!$'()*,=+",
        Where::Segment => ";:@!$'()*,=+",
        Where::UserInfo => ";:@!$&'()*,=+",
    };
    vec![
        ("as it is", MARKER.to_owned()),
        ("percent-encoded", percent(MARKER)),
        ("percent-encoded, lower case", percent(MARKER).to_lowercase()),
        ("percent-encoded twice", percent(&percent(MARKER))),
        ("around reserved characters", format!("{MARKER}{reserved}{MARKER}")),
        ("around encoded delimiters", format!("{MARKER}%26%23%3D%3B%3F%2F%40%20{MARKER}")),
        ("around plus", format!("{MARKER}+{MARKER}")),
        ("hexadecimal", hex(MARKER.as_bytes())),
        ("base64", STANDARD.encode(format!("me:{MARKER}")).trim_end_matches('=').to_owned()),
        ("JSON escapes", percent(&json_escapes())),
        ("reversed", MARKER.chars().rev().collect()),
    ]
}

/// Names that a server reads as `name`.
fn names(name: &str) -> Vec<String> {
    let (first, rest) = name.split_at(1);
    vec![
        name.to_owned(),
        name.to_uppercase(),
        format!("{}{rest}", first.to_uppercase()),
        format!("{}{rest}", percent(first)),
        percent(name),
        percent(name).to_lowercase(),
        percent(&percent(name)),
        percent(&percent(&percent(first))) + rest,
        format!("{name}[]"),
        format!("user[{name}]"),
        format!("user%5B{name}%5D"),
        format!("user.{name}"),
        format!("+{name}"),
        format!("{name}%20"),
    ]
}

/// As a URL is written into a value.
fn component(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn plant(all: &mut Vec<Planted>, place: &str, kind: Where, request: impl Fn(&str) -> Planted) {
    all.extend(encodings(kind).into_iter().map(|(encoding, value)| Planted {
        place: place.to_owned(),
        encoding,
        ..request(&value)
    }));
}

fn to(target: String) -> Planted {
    Planted {
        place: String::new(),
        encoding: "",
        target,
        headers: Vec::new(),
        response_headers: Vec::new(),
        needs_path_params: false,
    }
}

/// A secret by its place in a path.
fn in_path(planted: Planted) -> Planted {
    Planted { needs_path_params: true, ..planted }
}

fn with(name: &'static str, value: String) -> Planted {
    Planted { headers: vec![(name, value)], ..to("/orders/7".to_owned()) }
}

fn answered_with(name: &'static str, value: String) -> Planted {
    Planted { response_headers: vec![(name, value)], ..to("/orders/7".to_owned()) }
}

/// Where else in a query there are parameters.
fn queries(all: &mut Vec<Planted>) {
    plant(all, "query, first", Where::Value, |v| to(format!("/orders/7?code={v}")));
    plant(all, "query, behind a semicolon", Where::Value, |v| to(format!("/orders/7?a=1;sig={v}")));
    plant(all, "query, a URL in it", Where::Value, |v| to(format!("/orders/7?next=https://h/?token={v}")));
    plant(all, "query, an encoded URL in it", Where::Value, |v| {
        to(format!("/orders/7?next={}&b=2", component(&format!("https://h/?token={v}&x=1"))))
    });
    plant(all, "query, a URL in a URL in it", Where::Value, |v| {
        let inner = component(&format!("https://h/?token={v}&x=1"));
        to(format!("/orders/7?a={}&b=2", component(&format!("https://g/?to={inner}&y=2"))))
    });
    plant(all, "query, JSON in it", Where::Value, |v| {
        to(format!("/orders/7?filter={}&b=2", component(&format!(r#"{{"user":1,"token":"{v}","x":2}}"#))))
    });
    plant(all, "query, a path in it", Where::Segment, |v| {
        in_path(to(format!("/orders/7?next={}&b=2", component(&format!("/reset/{v}")))))
    });
}

fn paths(all: &mut Vec<Planted>) {
    for template in ["/reset/@", "/reset/@/", "//reset//@", "/%72eset/@", "/a/7/@.pdf", "/files/@/@"] {
        plant(all, &format!("path, {template}"), Where::Segment, |v| in_path(to(template.replace('@', v))));
    }
    plant(all, "path, a parameter of a segment", Where::Segment, |v| {
        to(format!("/orders/7;jsessionid={v}/items"))
    });
    plant(all, "path, user info of a URL in it", Where::UserInfo, |v| to(format!("/get/https://me:{v}@h/")));
    plant(all, "path, user info of a URL that lost a slash", Where::UserInfo, |v| {
        to(format!("/get/https:/me:{v}@h/"))
    });
    plant(all, "path, user info without a scheme", Where::UserInfo, |v| to(format!("/get/me:{v}@h/")));
    for template in ["/x/../reset/@", "/./reset/@", "/reset;v=1/@"] {
        plant(all, &format!("path, {template}"), Where::Segment, |v| in_path(to(template.replace('@', v))));
    }
    plant(all, "path, JSON with a slash in it", Where::Segment, |v| {
        to(format!("/orders/%7B%22token%22%3A%20%22abc/{v}%22%7D"))
    });
    plant(all, "path, JSON in it", Where::Segment, |v| {
        to(format!("/orders/{}/items", component(&format!(r#"{{"token" : "{v}"}}"#))))
    });
}

/// Headers that are URLs.
fn urls(all: &mut Vec<Planted>) {
    for name in ["referer", "origin", "x-original-url", "x-note", "user-agent"] {
        plant(all, &format!("{name}, user info"), Where::UserInfo, |v| {
            with(name, format!("https://me:{v}@h/"))
        });
        plant(all, &format!("{name}, user"), Where::UserInfo, |v| with(name, format!("https://{v}@h/")));
        plant(all, &format!("{name}, query"), Where::Value, |v| {
            with(name, format!("https://h/cb?a=1&pin={v}&b"))
        });
        plant(all, &format!("{name}, fragment"), Where::Value, |v| {
            with(name, format!("/cb#access_token={v}"))
        });
        plant(all, &format!("{name}, path"), Where::Segment, |v| {
            in_path(with(name, format!("https://h/reset/{v}?a=1")))
        });
        plant(all, &format!("{name}, path behind a host"), Where::Segment, |v| {
            in_path(with(name, format!("h.example/reset/{v}?a=1")))
        });
        plant(all, &format!("{name}, the last of many paths"), Where::Segment, |v| {
            in_path(with(name, format!("{}https://h/reset/{v}", "/a ".repeat(40))))
        });
        plant(all, &format!("{name}, URL in a query"), Where::Value, |v| {
            with(name, format!("https://h/?to={}", component(&format!("https://me:{MARKER}@g/?key={v}"))))
        });
    }
    for name in ["x-forwarded-host", "host"] {
        plant(all, &format!("{name}, user info"), Where::UserInfo, |v| {
            with(name, format!("me:{v}@shop.example"))
        });
    }
    let elsewhere = |name, told: String, v: &str| {
        in_path(Planted { headers: vec![(name, told)], ..to(format!("/reset/{v}")) })
    };
    plant(all, "the path before it was rewritten", Where::Segment, |v| {
        elsewhere("x-envoy-original-path", format!("/api/v2/reset/{v}"), v)
    });
    plant(all, "the path's secret, encoded", Where::Segment, |v| elsewhere("x-note", percent(v), v));
    plant(all, "the path's secret, in upper case", Where::Segment, |v| {
        elsewhere("x-note", v.to_uppercase(), v)
    });
    for (encoding, written) in [
        ("as it is", MARKER.to_owned()),
        ("lower case", MARKER.to_lowercase()),
        ("percent-encoded", percent(MARKER)),
    ] {
        let planted = elsewhere("host", format!("{written}.shop.example"), MARKER);
        all.push(Planted { place: "host, the path's secret".to_owned(), encoding, ..planted });
    }
    json(all);
    plant(all, "location, query", Where::Value, |v| {
        answered_with("location", format!("https://h/cb?code={v}#id_token={v}"))
    });
    plant(all, "location, user info", Where::UserInfo, |v| {
        answered_with("location", format!("https://me:{v}@h/"))
    });
    plant(all, "location, path", Where::Segment, |v| {
        in_path(answered_with("location", format!("/reset/{v}")))
    });
    for written in ["reset/@", "../reset/@", "localhost/reset/@"] {
        plant(all, &format!("location, {written}"), Where::Segment, |v| {
            in_path(answered_with("location", written.replace('@', v)))
        });
        plant(all, &format!("query, {written}"), Where::Segment, |v| {
            in_path(to(format!("/orders/7?to={}", written.replace('@', v))))
        });
    }
    plant(all, "link, query", Where::Value, |v| {
        answered_with("link", format!("<https://h/?token={v}>; rel=next"))
    });
}

/// JSON, as it is spaced and escaped, in a header and in a query.
fn json(all: &mut Vec<Planted>) {
    type Written = fn(&str) -> String;
    let forms: [(&str, Written); 8] = [
        ("blanks", |v| format!(r#"{{"user" : 1, "token" : "{v}" , "x" : 2}}"#)),
        ("tabs", |v| format!("{{\"token\"\t:\t\"{v}\"}}")),
        ("delimiters", |v| format!(r#"{{"token": "a&b#{v}"}}"#)),
        ("an escaped quote", |v| format!(r#"{{"token":"a\"&{v}"}}"#)),
        ("JSON within JSON", |v| format!(r#"{{"body":"{{\"token\": \"a&{v}\"}}"}}"#)),
        ("an escaped name", |v| format!(r#"{{"\u0074oken":"{v}"}}"#)),
        ("a URL", |v| format!(r#"{{"to":"https:\/\/me:{v}@h\/"}}"#)),
        ("a list", |v| format!(r#"{{"tokens":{{"token":["a&b","{v}"]}}}}"#)),
    ];
    for (form, written) in forms {
        plant(all, &format!("x-note, JSON with {form}"), Where::UserInfo, |v| with("x-note", written(v)));
        plant(all, &format!("query, JSON with {form}"), Where::UserInfo, |v| {
            to(format!("/orders/7?filter={}&b=2", component(&written(v))))
        });
    }
    for blank in ["\\n", "\\t", "\\r", "\\f", "\\b"] {
        plant(all, &format!("x-note, JSON with {blank}"), Where::Value, |v| {
            with("x-note", format!(r#"{{"form":"a=1{blank}token={v}"}}"#))
        });
        plant(all, &format!("x-note, JSON with {blank} and a path"), Where::Segment, |v| {
            in_path(with("x-note", format!(r#"{{"m":"see{blank}/reset/{v}"}}"#)))
        });
    }
    plant(all, "x-note, JSON with a path", Where::Segment, |v| {
        in_path(with("x-note", format!(r#"{{"to":"https:\/\/h\/reset\/{v}\/"}}"#)))
    });
    plant(all, "query, JSON as browsers write it", Where::Value, |v| {
        to(format!("/orders/7?filter={{%22token%22:%20%22{v}%22}}"))
    });
}

/// Headers of which nothing is told, and such as are not listed.
fn headers(all: &mut Vec<Planted>) {
    for name in ["cookie", "x-api-key", "x-session", "x-unlisted", "traceparent", "tracestate", "baggage"] {
        plant(all, name, Where::Value, |v| with(name, format!("a={v}")));
    }
    plant(all, "authorization", Where::Value, |v| with("authorization", format!("Bearer {v}")));
    plant(all, "traceparent, of a later version", Where::Value, |v| {
        with("traceparent", format!("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-{v}"))
    });
    plant(all, "x-request-id", Where::Value, |v| with("x-request-id", format!("token={v}")));
    for name in ["set-cookie", "x-session", "x-unlisted"] {
        plant(all, &format!("{name} of the response"), Where::Value, |v| {
            answered_with(name, format!("a={v}; path=/"))
        });
    }
}

/// The client's address, as proxies and applications write it.
fn addresses(all: &mut Vec<Planted>) {
    let written = [
        ("IPv4", "203.0.113.177"),
        ("IPv4 with port", "203.0.113.177:4711"),
        ("IPv4 with zeros", "203.000.113.177"),
        ("IPv4 in IPv6", "::ffff:203.0.113.177"),
        ("IPv6", "2001:db8:1:2:3:4:f17e:7177"),
        ("IPv6, upper case", "2001:DB8:1:2:3:4:F17E:7177"),
        ("IPv6 with port", "[2001:db8:1:2:3:4:f17e:7177]:4711"),
        ("a list", "198.51.100.1, 203.0.113.177,2001:db8:1:2:3:4:f17e:7177"),
        ("behind letters", "abc203.0.113.177"),
        ("behind letters and digits", "a1b203.0.113.177"),
        ("between dots", "..203.0.113.177.5"),
        ("IPv6 behind letters", "beef2001:db8:1:2:3:4:f17e:7177"),
        ("IPv6 behind letters, shortened", "...cafebabe:2001::f17e:7177abc"),
        (
            "behind much else",
            concat!("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "203.0.113.177"),
        ),
        ("beside another one", "198.51.100.1:203.0.113.177"),
    ];
    let mut plant = |name, place: &str, value: &dyn Fn(&str) -> String| {
        all.extend(written.iter().map(|(encoding, address)| Planted {
            place: format!("{name}, {place}"),
            encoding,
            ..with(name, value(address))
        }));
    };
    for name in REQUEST_HEADERS.into_iter().skip(10).filter(|name| *name != "forwarded") {
        plant(name, "address", &|address| address.to_owned());
    }
    plant("forwarded", "address", &|address| format!("for=\"{address}\";proto=https"));
    plant("forwarded", "no address", &|address| format!("for=_{address};client={address}"));
    plant("x-note", "address", &|address| format!("seen {address}."));
    plant("x-note", "address in JSON", &|address| format!(r#"{{"ip":"{address}"}}"#));
    plant("referer", "address in a query", &|address| format!("https://h/?ip={}&a=1", component(address)));
}
