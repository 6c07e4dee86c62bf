//! The bootstrap extension: everything that needs the main thread.
//!
//! It knows all workers' pipelines, ticks them, makes the calls that they want made, and hands each answer to whom it belongs.
//! Before Envoy ends it sends what they hold, and Envoy waits for the answers, but no longer than [`MAX_SHUTDOWN`]. What is left
//! then, and what listeners that are still open have brought meanwhile, is counted as lost to the shutdown.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use offpath_filter::ledger::Stat;
use offpath_filter::otlp::answer::Answer;

use crate::abi::{Level, Proxy, write_log};
use crate::logger::{Shared, Worker, now_unix_nano};
use crate::panic::caught;
use crate::statistics::Statistics;

/// How long Envoy's end waits for the collector.
const MAX_SHUTDOWN: Duration = Duration::from_secs(5);

/// When calls that begin after Envoy was told to end are given up, counted from then. A module cannot take a call back, and Envoy aborts
/// if it ends while one waits for a connection: a pool that is destroyed closes its connections, and makes new ones for what waits, in
/// a destructor that cannot.
const LAST_ANSWER: Duration = Duration::from_millis(4500);

/// How often the main thread looks after workers that do not say otherwise.
const TICK: Duration = Duration::from_millis(250);

/// The most of an answer's body that is read: a partial success is far smaller.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// The one that loggers find. A bootstrap extension and an access logger share nothing but the library, so there is no other
/// place for it.
static CURRENT: Mutex<Option<Arc<Exporter>>> = Mutex::new(None);

/// What makes the calls of all workers.
pub(crate) struct Exporter {
    proxy: Proxy,
    statistics: Statistics,
    workers: Mutex<Vec<Arc<Worker>>>,
    /// The calls under way, by Envoy's tokens, and whose they are.
    calls: Mutex<HashMap<u64, Arc<Worker>>>,
    /// Whether the main thread has been told that there is something to do.
    is_awake: AtomicBool,
    /// Whether a worker has come for which the timer may be set too late.
    has_new_worker: AtomicBool,
    shutdown: Mutex<Option<Shutdown>>,
    /// Whether Envoy was told that it may end: it ends its clusters then, and still answers their calls, but a call that is made in
    /// such an answer would find no clusters, and be the end of the process.
    is_over: AtomicBool,
}

/// Envoy waits for this.
struct Shutdown {
    since: Instant,
    /// Workers that have not had all answers to what they held when it began, each with the number of the last batch of that.
    waiting: Vec<(Arc<Worker>, u64)>,
    /// Envoy may say several times that it is about to end, and waits for an answer each time.
    completions: Vec<Box<dyn FnOnce() + Send>>,
}

impl Shutdown {
    fn begin() -> Self {
        Self { since: Instant::now(), waiting: Vec::new(), completions: Vec::new() }
    }
}

/// What came back of a call.
pub(crate) struct Response<'r> {
    pub(crate) headers: Vec<(&'r [u8], &'r [u8])>,
    pub(crate) body: Vec<&'r [u8]>,
}

impl Exporter {
    /// Begins, and lets Envoy take traffic. From now on loggers find it. `None` when there is one already: loggers could not tell
    /// which is theirs.
    pub(crate) fn start(proxy: Proxy) -> Option<Arc<Self>> {
        let mut current = lock(&CURRENT);
        if current.is_some() {
            proxy.forget();
            return None;
        }
        let exporter = Arc::new(Self {
            statistics: Statistics::define(&proxy),
            proxy,
            workers: Mutex::default(),
            calls: Mutex::default(),
            is_awake: AtomicBool::new(false),
            has_new_worker: AtomicBool::new(false),
            shutdown: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        exporter.proxy.set_timer(TICK);
        exporter.proxy.init_complete();
        *current = Some(Arc::clone(&exporter));
        Some(exporter)
    }

    /// The one that has begun in this process, if it has not ended.
    pub(crate) fn current() -> Option<Arc<Self>> {
        lock(&CURRENT).clone()
    }

    /// Looks after another worker.
    pub(crate) fn add(&self, worker: Arc<Worker>) {
        lock(&self.workers).push(worker);
        self.has_new_worker.store(true, Ordering::Release);
        self.wake();
    }

    /// Tells Envoy's statistics what has changed. On any thread.
    pub(crate) fn count(&self, shared: &mut Shared) {
        self.statistics.tell(&self.proxy, shared.pipeline.ledger());
    }

    /// Lets go of a worker, and tells Envoy what has changed: its statistics, then its log, which may be slow, the records that
    /// found no room. On any thread.
    pub(crate) fn release(&self, mut shared: MutexGuard<'_, Shared>) {
        self.count(&mut shared);
        let spilled = shared.pipeline.take_spilled();
        drop(shared);
        for line in spilled {
            write_log(Level::Warn, &line);
        }
    }

    /// There is something to send. On any thread; many that say so at once wake the main thread once.
    pub(crate) fn wake(&self) {
        if !self.is_awake.swap(true, Ordering::AcqRel) {
            self.proxy.wake_main_thread();
        }
    }

    /// The main thread is awake. Its timer stays as it is set, but for new workers: under load it is woken more often than that
    /// wants to go off.
    pub(crate) fn awoken(&self) {
        self.is_awake.store(false, Ordering::Release);
        if self.has_new_worker.swap(false, Ordering::AcqRel) {
            self.set_timer();
        }
        self.for_each(|worker| self.send(worker));
        self.end_what_is_done();
    }

    /// Time has passed.
    pub(crate) fn tick(&self) {
        // At once, whatever becomes of the rest: nothing else sets it again.
        self.proxy.set_timer(TICK);
        self.set_timer();
        // In the end only what was held when it began is waited for.
        let is_ending = lock(&self.shutdown).is_some();
        self.for_each(|worker| {
            if !is_ending {
                let mut shared = worker.lock();
                shared.pipeline.tick(now_unix_nano());
                self.release(shared);
            }
            self.send(worker);
        });
        self.end_what_is_done();
    }

    /// The answer to a call, or that there is none.
    pub(crate) fn answered(&self, token: u64, response: Option<Response<'_>>) {
        if self.is_over.load(Ordering::Acquire) {
            // Envoy ends its clusters, and the call with them: what it held is counted as lost.
            return;
        }
        let header = |name: &[u8]| {
            let headers = response.iter().flat_map(|response| &response.headers);
            headers.clone().find(|(other, _)| *other == name).map(|(_, value)| *value)
        };
        let status = header(b":status").and_then(|status| str::from_utf8(status).ok()?.parse().ok());
        let retry_after = header(b"retry-after").unwrap_or_default();
        let body = response.iter().flat_map(|response| response.body.iter().copied().flatten());
        let body: Vec<u8> = body.copied().take(MAX_ANSWER_BYTES).collect();
        // A call that is answered before it is refused was never one under way.
        let Some(worker) = lock(&self.calls).remove(&token) else { return };
        caught(|| {
            let answer = Answer { status, retry_after, body: &body };
            let mut shared = worker.lock();
            // A pipeline that has taken the place of the one whose call it was does not know the token.
            if let Some(took_ms) = shared.pipeline.answered(short(token), answer, now_unix_nano()) {
                self.statistics.record_export(&self.proxy, Duration::from_millis(took_ms));
            }
            self.release(shared);
            self.send(&worker);
        });
        self.end_what_is_done();
    }

    /// Envoy is about to end, and does when `complete` is called.
    pub(crate) fn shut_down(&self, complete: Box<dyn FnOnce() + Send>) {
        if self.is_over.load(Ordering::Acquire) {
            complete();
            return;
        }
        // Before anything else: Envoy waits for it, whatever becomes of the rest.
        let is_first = {
            let mut shutdown = lock(&self.shutdown);
            let is_first = shutdown.is_none();
            shutdown.get_or_insert_with(Shutdown::begin).completions.push(complete);
            is_first
        };
        if is_first {
            self.set_timer();
            let mut waiting = Vec::new();
            self.for_each(|worker| {
                worker.drain();
                waiting.push((Arc::clone(worker), worker.lock().pipeline.last_sequence()));
            });
            if let Some(shutdown) = &mut *lock(&self.shutdown) {
                shutdown.waiting = waiting;
            }
            self.for_each(|worker| self.send(worker));
        }
        self.end_what_is_done();
    }

    /// Envoy's side is gone.
    pub(crate) fn end(&self) {
        self.abandon();
        self.is_over.store(true, Ordering::Release);
        self.proxy.forget();
        lock(&self.calls).clear();
        lock(&self.workers).clear();
        lock(&CURRENT).take_if(|current| std::ptr::eq(Arc::as_ptr(current), self));
    }

    /// Makes all calls of a worker that may be made now. The lock is not held meanwhile: a call that cannot be made may be
    /// answered before it is refused.
    fn send(&self, worker: &Arc<Worker>) {
        while let Some(time_left) = self.time_for_a_call(worker) {
            let mut shared = worker.lock();
            let Some(batch) = shared.pipeline.take_next(now_unix_nano()) else {
                self.release(shared);
                return;
            };
            let (generation, headers) = (shared.generation, shared.pipeline.call_headers(&batch));
            let cluster = shared.pipeline.cluster().to_owned();
            let timeout = shared.pipeline.call_timeout().min(time_left);
            drop(shared);
            let token = self.proxy.call(&cluster, &headers, &batch.body, timeout);
            if let Some(token) = token {
                lock(&self.calls).insert(token, Arc::clone(worker));
            }
            let mut shared = worker.lock();
            if shared.generation != generation {
                continue;
            }
            match token {
                Some(token) => shared.pipeline.dispatched(batch, short(token), now_unix_nano()),
                None => shared.pipeline.refused(batch, now_unix_nano()),
            }
        }
    }

    /// How long a call of that worker may take at most; `None` when none may be made. In the end only workers send of whose batches
    /// from before it some are left: what comes later would keep calls under way for ever.
    fn time_for_a_call(&self, worker: &Arc<Worker>) -> Option<Duration> {
        if self.is_over.load(Ordering::Acquire) {
            return None;
        }
        let shutdown = lock(&self.shutdown);
        let Some(Shutdown { since, waiting, .. }) = &*shutdown else { return Some(Duration::MAX) };
        let left = LAST_ANSWER.saturating_sub(since.elapsed());
        let is_waited_for = waiting.iter().any(|(other, _)| Arc::ptr_eq(other, worker));
        (is_waited_for && !left.is_zero()).then_some(left)
    }

    /// Forgets workers that are gone and have sent everything, and lets Envoy end once all have their answers, or have had
    /// their time.
    fn end_what_is_done(&self) {
        if self.is_over.load(Ordering::Acquire) {
            return;
        }
        let mut shutdown = lock(&self.shutdown);
        let Some(Shutdown { since, waiting, completions }) = &mut *shutdown else {
            lock(&self.workers).retain(|worker| !(worker.is_gone() && worker.lock().pipeline.is_drained()));
            return;
        };
        let elapsed = since.elapsed();
        if elapsed < MAX_SHUTDOWN {
            waiting.retain(|(worker, last)| !worker.lock().pipeline.is_sent_up_to(*last));
            let may_send = !waiting.is_empty() && elapsed < LAST_ANSWER;
            if may_send || !lock(&self.calls).is_empty() {
                return;
            }
        }
        let completions = std::mem::take(completions);
        drop(shutdown);
        self.is_over.store(true, Ordering::Release);
        // Now, for Envoy flushes its statistics when it ends.
        caught(|| self.abandon());
        completions.into_iter().for_each(|complete| complete());
    }

    /// Counts what is left as lost, and says so in Envoy's log, for nobody reads statistics any more.
    fn abandon(&self) {
        let mut lost = 0;
        self.for_each(|worker| {
            let mut shared = worker.lock();
            let pending = shared.pipeline.ledger().get(Stat::RecordsPending);
            shared.pipeline.abandon();
            self.release(shared);
            lost += pending;
        });
        if lost > 0 {
            write_log(
                Level::Warn,
                &format!("offpath: Envoy ends before the collector has taken {lost} records, which are lost"),
            );
        }
    }

    /// As often as the one wants it that wants it most; in the end at least as often as [`TICK`], for Envoy waits.
    fn set_timer(&self) {
        let mut ticks = Vec::new();
        self.for_each(|worker| ticks.push(worker.lock().pipeline.tick_period()));
        ticks.extend(lock(&self.shutdown).as_ref().map(|_| TICK));
        self.proxy.set_timer(ticks.into_iter().min().unwrap_or(TICK));
    }

    /// The list may change meanwhile: a call may end what is on it. A panic about one worker is not the others'.
    fn for_each(&self, mut act: impl FnMut(&Arc<Worker>)) {
        let workers = lock(&self.workers).clone();
        for worker in &workers {
            caught(|| act(worker));
        }
    }
}

/// The pipeline's tokens are 32 bits, as those of proxy-wasm: no two calls under way are four thousand million calls apart.
fn short(token: u64) -> u32 {
    (token & u64::from(u32::MAX)) as u32
}

/// Nothing that is behind such a lock can be left half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
