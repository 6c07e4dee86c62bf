//! The listeners' bounds: how many connections, and for how long without a request.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;

use tempfile::tempdir;

use crate::support::*;

/// A connection that is kept open.
struct Kept(BufReader<TcpStream>);

impl Kept {
    fn open(url: &str) -> Self {
        Self(BufReader::new(connect(url)))
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    /// Asks for the health check.
    fn ask(&mut self) {
        self.send(b"GET /healthz HTTP/1.1\r\nhost: collector\r\n\r\n");
    }

    /// Reads one answer to [`Kept::ask`].
    fn is_answered(&mut self) {
        let mut lines = String::new();
        while !lines.ends_with("\r\n\r\n") {
            assert_ne!(self.0.read_line(&mut lines).unwrap(), 0, "closed after {lines:?}");
        }
        assert!(lines.starts_with("HTTP/1.1 200 OK\r\n"), "{lines}");
        let mut body = [0; 3];
        self.0.read_exact(&mut body).unwrap();
        assert_eq!(&body, b"ok\n");
    }

    /// Whether something has come without waiting for it.
    fn has_an_answer(&mut self) -> bool {
        let stream = self.0.get_ref();
        stream.set_nonblocking(true).unwrap();
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false).unwrap();
        match peeked {
            Ok(bytes) => bytes > 0,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits until the collector closes the connection without an answer.
    fn ends_unanswered(mut self, what: &str) {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{what}"),
        }
        assert!(!rest.starts_with(b"HTTP/1.1 "), "{what}: {}", String::from_utf8_lossy(&rest));
    }
}

#[test]
fn connections_over_the_bound_wait_until_one_has_ended() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &["--max-connections", "2"]);
    let (mut first, mut second) = (Kept::open(&collector.http), Kept::open(&collector.http));
    for kept in [&mut first, &mut second] {
        kept.ask();
        kept.is_answered();
    }
    let mut third = Kept::open(&collector.http);
    third.ask();
    for _ in 0..100 {
        first.ask();
        first.is_answered();
    }
    assert!(!third.has_an_answer(), "three connections were served");
    // The other listener has places of its own.
    assert_eq!(collector.logs(&numbered("a", 1), None).status, 200);
    drop(second);
    third.is_answered();
    drop(first);
    let metrics = collector.get("/metrics").text();
    let open = metrics.lines().find(|line| line.contains("connections{listener=\"http\"}")).unwrap();
    assert!(["1", "2"].contains(&open.rsplit(' ').next().unwrap()), "{open}");
}

/// The start of a connection of HTTP/2: the preface and empty settings.
const HTTP_2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[test]
fn a_connection_without_a_request_under_way_is_closed_whatever_it_sends() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &["--idle-timeout-ms", "500"]);
    let half_a_head = b"GET /healthz HTTP/1.1\r\nhost: c";
    // A frame of headers that says that another one follows.
    let endless = [HTTP_2, b"\0\0\x01\x01\0\0\0\0\x01\x82"].concat();
    let cases: [(&str, &[u8]); 5] = [
        ("nothing", b""),
        ("half a preface", b"PRI * HTTP/2.0\r\n"),
        ("half a head", half_a_head),
        ("settings", HTTP_2),
        ("half a head in HTTP/2", &endless),
    ];
    let mut connections = Vec::new();
    for url in [&collector.otlp, &collector.http] {
        for (what, bytes) in cases {
            let mut kept = Kept::open(url);
            kept.send(bytes);
            connections.push((kept, what));
        }
    }
    let mut kept = Kept::open(&collector.http);
    kept.ask();
    kept.send(half_a_head);
    kept.is_answered();
    connections.push((kept, "half a second head"));
    for (kept, what) in connections {
        kept.ends_unanswered(what);
    }
}

#[test]
fn a_request_under_way_is_not_idle() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &["--idle-timeout-ms", "50", "--body-timeout-ms", "200"]);
    // A slow machine may need more than one try to send the head in time.
    eventually("an answer to a request that takes longer than the idle timeout", || {
        let mut kept = Kept::open(&collector.otlp);
        kept.send(
            b"POST /v1/logs HTTP/1.1\r\nhost: c\r\ncontent-type: application/x-protobuf\r\ncontent-length: 9\r\n\r\n",
        );
        let mut line = String::new();
        let _ = kept.0.read_line(&mut line);
        (line == "HTTP/1.1 503 Service Unavailable\r\n").then_some(())
    });
}

#[test]
fn an_answer_that_nobody_takes_does_not_hold_its_connection() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &["--idle-timeout-ms", "500", "--max-connections", "1"]);
    let large = "x".repeat(1_000_000);
    assert_eq!(collector.logs(&logs_of(vec![record(&large); 15]), None).status, 200);
    collector.settled();
    let mut kept = Kept::open(&collector.http);
    kept.send(b"GET /api/logs HTTP/1.1\r\nhost: c\r\n\r\n");
    // There is one place.
    assert_eq!(collector.get("/healthz").status, 200);
    let mut taken = Vec::new();
    let _ = kept.0.read_to_end(&mut taken);
    assert!(taken.len() < 15_000_000, "the whole answer was sent: {} bytes", taken.len());
}

#[test]
fn an_idle_connection_does_not_delay_the_end() {
    let data = tempdir().unwrap();
    let mut collector = Collector::start(data.path(), &["--shutdown-timeout-ms", "3600000"]);
    let (mut silent, mut idle) = (Kept::open(&collector.otlp), Kept::open(&collector.http));
    silent.send(b"PRI");
    idle.ask();
    idle.is_answered();
    collector.terminate();
    assert!(collector.wait().success());
}

#[test]
fn http_2_is_served_without_an_upgrade() {
    let data = tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    let mut kept = Kept::open(&collector.http);
    kept.send(HTTP_2);
    // Headers that end the stream, in HPACK: GET, http, `/` and an authority `c`.
    kept.send(b"\0\0\x06\x01\x05\0\0\0\x01\x82\x86\x84\x41\x01c");
    loop {
        let mut head = [0; 9];
        kept.0.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        kept.0.read_exact(&mut payload).unwrap();
        if head[3] == 1 {
            // `:status: 200`.
            assert_eq!(payload[0], 0x88);
            break;
        }
    }
}
