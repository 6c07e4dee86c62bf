//! The requests: each as bytes for Envoy, and as what Envoy knows of it in the end, for the host.

use offpath_host_test::{Headers, Request};
use xtask::harness::bootstrap::Mode;

/// One request: the bytes for Envoy, and what Envoy knows of it in the end, for the host.
pub(crate) struct Exchange {
    pub(crate) bytes: Vec<u8>,
    pub(crate) in_host: Request,
    /// The response's status; without one, the client goes away.
    pub(crate) status: Option<u16>,
}

/// What Envoy sets in a request on its way upstream.
const REQUEST_ID: &str = "01234567-89ab-cdef-0123-456789abcdef";

/// A `GET` over a connection of its own, with these headers, that reaches the application.
fn get(target: &str, headers: &[(&str, &[u8])], status: u16) -> Exchange {
    request("GET", target, headers, "", status)
}

fn request(method: &str, target: &str, headers: &[(&str, &[u8])], body: &str, status: u16) -> Exchange {
    let mut bytes =
        format!("{method} {target} HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    let route = if target.starts_with("/orders") { "orders" } else { "reports" };
    let mut in_host = Request::new(method, target);
    for (name, value) in headers {
        in_host = in_host.header(name, value);
    }
    if !body.is_empty() {
        bytes.extend(format!("content-length: {}\r\n", body.len()).into_bytes());
        in_host = in_host.header("content-length", body.len().to_string());
    }
    let reply = b"{\"ok\":true}\n".len() as u64;
    let in_host = in_host
        .bytes(body.len() as u64, reply)
        .header("x-forwarded-for", "127.0.0.1")
        .header("x-forwarded-proto", "http")
        .header("x-envoy-external-address", "127.0.0.1")
        .header("x-request-id", REQUEST_ID)
        .with(|info| info.route_name = Some(route.into()))
        .with(|info| {
            info.response_headers =
                Some(answer(&[("content-type", "application/json"), ("content-length", "12")]))
        });
    bytes.extend([b"\r\n", body.as_bytes()].concat());
    Exchange { bytes, in_host: loopback(in_host), status: Some(status) }
}

/// A response's headers, with those that Envoy adds.
fn answer(headers: &[(&str, &str)]) -> Headers {
    let added = [("date", "Sun, 01 Jun 2025 12:00:00 GMT"), ("server", "envoy"), ("connection", "close")];
    headers.iter().chain(&added).collect::<Vec<_>>().into_iter().copied().collect()
}

/// Everybody is on this machine; ports are not compared.
fn loopback(request: Request) -> Request {
    request.with(|info| {
        info.source_address = b"127.0.0.1:40312".to_vec();
        info.cluster_name = info.cluster_name.is_some().then(|| b"app".to_vec());
        info.virtual_host_name = info.virtual_host_name.is_some().then(|| b"app".to_vec());
        if let Some(upstream) = &mut info.upstream {
            upstream.address = Some(b"127.0.0.1:9000".to_vec());
        }
    })
}

pub(crate) fn exchanges(mode: Mode) -> Vec<Exchange> {
    let trace: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut all = vec![
        get(
            "/orders/7?token=hunter2&n=1",
            &[("traceparent", trace), ("authorization", b"Bearer hunter2")],
            200,
        ),
        get("/orders/8?status=404", &[("user-agent", b"differential/1"), ("x-listed", b"seen")], 404),
        get("/reports/daily?status=503", &[("user-agent", b""), ("x-listed", b"\xff\xc3\x28")], 503),
        get("/orders/%00%ff%c3%28?a=%00&&=&code", &[("traceparent", b"00-zz-zz-zz")], 200),
        get(&format!("/orders/{}", "long".repeat(700)), &[], 200),
        get("/orders/1", &[("x-listed", b"one"), ("x-listed", b"two")], 200),
        get("/orders/1", &[("content-type", b"application/grpc"), ("te", b"trailers")], 200),
        request("POST", "/orders?status=201", &[("x-listed", b"")], "ten bytes!", 201),
        request("OPTIONS", "/reports", &[], "", 200),
        request("DELETE", "/orders/7?status=500", &[], "", 500),
        reset_by_the_application(),
        answered_by_envoy(),
        without_a_route(),
        malformed(),
    ];
    // A filter never hears of it.
    if mode == Mode::AccessLogger {
        all.push(Exchange {
            bytes: b"GET /orders".to_vec(),
            in_host: loopback(Request::abandoned()),
            status: None,
        });
    }
    all
}

fn reset_by_the_application() -> Exchange {
    const UPSTREAM_CONNECTION_TERMINATION: u64 = 1 << 6;
    let mut exchange = get("/orders/1?end=reset", &[], 503);
    exchange.in_host = exchange
        .in_host
        .flags(UPSTREAM_CONNECTION_TERMINATION)
        .bytes(0, 95)
        .with(|info| info.backend_latency = None)
        .with(|info| {
            info.response_code_details =
                Some(b"upstream_reset_before_response_started{connection_termination}".to_vec())
        })
        .with(|info| {
            info.response_headers = Some(answer(&[("content-type", "text/plain"), ("content-length", "95")]))
        });
    exchange
}

fn answered_by_envoy() -> Exchange {
    let mut exchange = get("/teapot", &[], 418);
    exchange.in_host = exchange.in_host.without_upstream("direct_response").bytes(0, 0).with(|info| {
        info.cluster_name = None;
        info.route_name = Some(Vec::new());
        info.response_headers = Some(answer(&[]));
    });
    exchange
}

fn without_a_route() -> Exchange {
    const NO_ROUTE_FOUND: u64 = 1 << 8;
    let mut exchange = get("/nowhere", &[], 404);
    exchange.in_host =
        exchange.in_host.without_upstream("route_not_found").flags(NO_ROUTE_FOUND).bytes(0, 0).with(|info| {
            info.cluster_name = None;
            info.route_name = None;
            info.virtual_host_name = None;
            info.response_headers = Some(answer(&[]));
        });
    exchange
}

fn malformed() -> Exchange {
    let bytes = b"BREW /orders HTTP/1.1\r\nhost: shop.example\r\n\r\n".to_vec();
    Exchange { bytes, in_host: loopback(Request::malformed()), status: Some(400) }
}
