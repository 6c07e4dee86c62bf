//! Requests at random moments, as from many clients that know nothing of each other (a Poisson process), and how long each took
//! from the moment at which it was due: one that waits behind another waits, whether it is sent already or not.
//!
//! Each connection has a thread of its own, which sleeps until its next request is due: asynchronous timers are exact to a
//! millisecond only, and would let requests go in bunches.

use std::{
    io::{Read, Write as _},
    net::{SocketAddr, TcpStream},
    num::NonZeroU64,
    str,
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail};

/// How late the kernel may wake a thread, so that it can wake several at once; the default is 50 µs.
const TIMER_SLACK_NS: NonZeroU64 = NonZeroU64::MIN;

/// From the beginning to the first request that may be due: until then the other side has accepted all connections.
const BEFORE_THE_FIRST: Duration = Duration::from_millis(100);

/// How long one answer may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// More headers than any answer here has.
const MAX_HEADERS: usize = 64;

/// A request that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// When it was due, since the turn began.
    pub due: Duration,
    /// How long it took from then on.
    pub took: Duration,
}

/// What requests look like, and over how many connections they are sent.
#[derive(Clone, Debug)]
pub struct Paced {
    requests: Vec<Vec<u8>>,
    connections: u32,
}

impl Paced {
    /// Requests for `targets` of `host`, with `headers` (`name: value`).
    #[must_use]
    pub fn new(host: &str, targets: &[String], headers: &[&str], connections: u32) -> Self {
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let request = |target| format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n{headers}\r\n").into_bytes();
        Self { requests: targets.iter().map(request).collect(), connections }
    }

    /// Sends for so long, `per_second` on the average; blocks. All that were sent, in no order. `seed` chooses the moments.
    ///
    /// # Errors
    /// When a request has no whole answer.
    pub fn turn(
        &self,
        address: SocketAddr,
        per_second: u32,
        duration: Duration,
        seed: u64,
    ) -> anyhow::Result<Vec<Answered>> {
        let begin = Instant::now() + BEFORE_THE_FIRST;
        let mean_pause = Duration::from_secs(1) * self.connections / per_second.max(1);
        let mut seeds = fastrand::Rng::with_seed(seed);
        thread::scope(|scope| {
            let clients: Vec<ScopedJoinHandle<'_, anyhow::Result<Vec<Answered>>>> = (0..self.connections)
                .map(|_| seeds.fork())
                .map(|chance| scope.spawn(move || self.client(address, mean_pause, begin, duration, chance)))
                .collect();
            let mut answered = Vec::new();
            for client in clients {
                answered.extend(client.join().map_err(|_| anyhow!("a client has panicked"))??);
            }
            Ok(answered)
        })
    }

    fn client(
        &self,
        address: SocketAddr,
        mean_pause: Duration,
        begin: Instant,
        duration: Duration,
        mut chance: fastrand::Rng,
    ) -> anyhow::Result<Vec<Answered>> {
        rustix::thread::set_current_timer_slack(Some(TIMER_SLACK_NS))
            .context("cannot set the timer's slack")?;
        let mut stream =
            TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
        stream.set_read_timeout(Some(DEADLINE)).context("cannot set a deadline")?;
        let mut answered = Vec::new();
        let mut answer = Vec::new();
        let mut due = begin + pause(mean_pause, &mut chance);
        while due < begin + duration {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let request = chance.choice(&self.requests).context("there are no targets")?;
            stream.write_all(request).context("cannot send")?;
            read_answer(&mut stream, &mut answer)?;
            answered.push(Answered { due: due - begin, took: due.elapsed() });
            due += pause(mean_pause, &mut chance);
        }
        Ok(answered)
    }
}

/// Until a client's next request: exponentially distributed.
fn pause(mean: Duration, chance: &mut fastrand::Rng) -> Duration {
    mean.mul_f64(-(1.0 - chance.f64()).ln())
}

/// Reads one answer to its end; `buffer` is space for it.
fn read_answer(stream: &mut impl Read, buffer: &mut Vec<u8>) -> anyhow::Result<()> {
    buffer.clear();
    let mut part = [0; 4096];
    loop {
        match stream.read(&mut part).context("there is no whole answer")? {
            0 => bail!("the connection was closed within an answer"),
            count => buffer.extend_from_slice(part.get(..count).unwrap_or_default()),
        }
        if answer_len(buffer)?.is_some_and(|length| buffer.len() >= length) {
            return Ok(());
        }
    }
}

/// How long an answer is that begins so; `None` as long as its head is not whole.
fn answer_len(begin: &[u8]) -> anyhow::Result<Option<usize>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_len) = head.parse(begin).context("not an answer")? else {
        return Ok(None);
    };
    let length = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.context("an answer without a `content-length`")?;
    let body_len: usize = str::from_utf8(length.value)?.parse().context("not a `content-length`")?;
    Ok(Some(head_len + body_len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_to_its_end() {
        let head = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(answer_len(&head[..20]).unwrap(), None);
        assert_eq!(answer_len(head).unwrap(), Some(head.len() + 3));
        let mut buffer = Vec::new();
        read_answer(&mut [head.as_slice(), b"abc"].concat().as_slice(), &mut buffer).unwrap();
        assert!(buffer.ends_with(b"abc"));
        assert!(read_answer(&mut head.as_slice(), &mut buffer).is_err());
        assert!(answer_len(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    #[test]
    fn as_many_are_sent_as_asked_for_on_the_average_and_all_are_told() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            thread::scope(|scope| {
                for _ in 0..4 {
                    let (mut stream, _) = listener.accept().unwrap();
                    scope.spawn(move || {
                        let mut request = [0; 1024];
                        while stream.read(&mut request).unwrap() > 0 {
                            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
                        }
                    });
                }
            });
        });
        let paced = Paced::new("shop.example", &["/".to_owned()], &["accept: */*"], 4);
        let answered = paced.turn(address, 4000, Duration::from_millis(250), 7).unwrap();
        server.join().unwrap();
        // A thousand by chance: 200 are more than six standard deviations.
        assert!((800..1200).contains(&answered.len()), "{}", answered.len());
        let (due, took): (Vec<_>, Vec<_>) =
            answered.iter().map(|request| (request.due, request.took)).unzip();
        assert!(due.iter().all(|due| *due < Duration::from_millis(250)));
        assert!(took.iter().all(|took| !took.is_zero()));
    }
}
