//! A worker's access logger: what its requests leave, into its own pipeline.
//!
//! A pipeline is shared with the main thread, which ticks it and sends what it has sealed. So it is behind a lock, which nobody
//! holds for longer than the work of some requests, an export, or an answer; calls are made, and Envoy's log written, without it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use offpath_filter::capture::Captured;
use offpath_filter::config::{Config, ConfigError};
use offpath_filter::ledger::{Reason, Stat};
use offpath_filter::pipeline::{Definition, Node, Pipeline};

use crate::abi::{Level, Stream, write_log};
use crate::exporter::Exporter;
use crate::fetch::{Sources, Space, unavailable};

/// A logger's configuration, which is one for all workers.
pub(crate) struct Configuration {
    definition: Definition,
    first: Sources,
    rest: Sources,
    exporter: Arc<Exporter>,
}

impl Configuration {
    /// Reads it, and finds whatever is wrong with it.
    ///
    /// # Errors
    /// What the wasm plugin says too; and where there is no exporter, or something is wanted that no dynamic module gets.
    pub(crate) fn read(text: &[u8], exporter: Option<Arc<Exporter>>) -> Result<Self, ConfigError> {
        let config = Config::parse(text)?;
        if let Some((key, reason)) = unavailable(&config) {
            return Err(ConfigError::new(format!("configuration: `{key}`: {reason}")));
        }
        let exporter = exporter.ok_or_else(|| {
            ConfigError::new("offpath has not begun as a bootstrap extension of this Envoy: `bootstrap_extensions` must have one of the same module, which sends what loggers write")
        })?;
        let definition = Definition::new(config, &Node::default())?;
        let plan = definition.plan();
        let (first, rest) = (Sources::of(plan.first())?, Sources::of(plan.rest())?);
        Ok(Self { definition, first, rest, exporter })
    }

    fn pipeline(&self) -> Pipeline {
        let mut random = [0; 16];
        if let Err(reason) = getrandom::fill(&mut random) {
            // Only uniqueness suffers, and the time is nearly as good.
            write_log(
                Level::Error,
                &format!("offpath: no randomness ({reason}): the instance is named by the time"),
            );
            random[..8].copy_from_slice(&now_unix_nano().to_le_bytes());
        }
        self.definition.pipeline(random, now_unix_nano())
    }
}

/// One worker's pipeline.
pub(crate) struct Worker {
    configuration: Arc<Configuration>,
    shared: Mutex<Shared>,
    /// Whether its logger is gone: when all is sent, nobody needs it.
    is_gone: AtomicBool,
}

/// What is behind the lock.
pub(crate) struct Shared {
    pub(crate) pipeline: Pipeline,
    /// Counts how often the pipeline was replaced: what was taken from another one is none of its business.
    pub(crate) generation: u64,
    is_draining: bool,
}

impl Worker {
    fn new(configuration: Arc<Configuration>) -> Self {
        let shared =
            Mutex::new(Shared { pipeline: configuration.pipeline(), generation: 0, is_draining: false });
        Self { configuration, shared, is_gone: AtomicBool::new(false) }
    }

    /// The pipeline, when nobody else has it. After a panic of somebody who had it, nothing that it holds can be trusted: then it is
    /// replaced before anybody else gets it, on whichever thread.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(|poisoned| {
            let mut shared = poisoned.into_inner();
            self.replace_pipeline(&mut shared);
            self.shared.clear_poison();
            shared
        })
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Acquire)
    }

    /// There will be no more requests, or not for long: everything is to be sent as soon as it can.
    pub(crate) fn drain(&self) {
        let mut shared = self.lock();
        shared.is_draining = true;
        shared.pipeline.drain(now_unix_nano());
        self.configuration.exporter.release(shared);
    }

    /// Another pipeline goes on; what had no end yet in the old one is lost and counted.
    fn replace_pipeline(&self, shared: &mut Shared) {
        let pending = u64::try_from(shared.pipeline.ledger().get(Stat::RecordsPending)).unwrap_or(0);
        write_log(
            Level::Error,
            &format!("offpath: after a panic {pending} records are lost, and logging goes on"),
        );
        let ledger = shared.pipeline.ledger();
        ledger.dropped(Reason::VmLost, pending);
        ledger.set(Stat::QueueBytes, 0);
        self.configuration.exporter.count(shared);
        shared.pipeline = self.configuration.pipeline();
        shared.generation += 1;
        if shared.is_draining {
            shared.pipeline.drain(now_unix_nano());
        }
    }
}

/// What Envoy calls on one thread.
pub(crate) struct Logger {
    worker: Arc<Worker>,
    captured: Captured,
    space: Space,
}

impl Logger {
    /// For the thread that it is made on.
    pub(crate) fn new(configuration: &Arc<Configuration>) -> Self {
        let worker = Arc::new(Worker::new(Arc::clone(configuration)));
        configuration.exporter.add(Arc::clone(&worker));
        Self { worker, captured: Captured::default(), space: Space::default() }
    }

    /// A request has finished.
    pub(crate) fn log(&mut self, stream: &Stream<'_>) {
        let Configuration { definition, first, rest, exporter } = &*self.worker.configuration;
        let plan = definition.plan();
        first.fetch(plan.first(), stream, &mut self.space, &mut self.captured);
        let now = now_unix_nano();
        if cfg!(feature = "capture-only") {
            std::hint::black_box(now);
            self.captured.clear();
            return;
        }
        let mut shared = self.worker.lock();
        #[cfg(feature = "trap")]
        #[allow(clippy::panic, reason = "what the feature is for")]
        if stream.header(crate::abi::HeaderMap::Request, b"x-offpath-trap", 0).is_some() {
            panic!("a test asked for it");
        }
        let pipeline = &mut shared.pipeline;
        let kept = pipeline.judge(&self.captured, now);
        if kept.is_some() && !plan.rest().is_empty() {
            rest.fetch(plan.rest(), stream, &mut self.space, &mut self.captured);
        }
        let last_before = pipeline.last_sequence();
        self.captured = pipeline.observe(std::mem::take(&mut self.captured), kept, now);
        let has_sealed = pipeline.last_sequence() != last_before;
        exporter.release(shared);
        if has_sealed {
            exporter.wake();
        }
    }

    /// After a panic in [`Logger::log`]: what was captured until then is not the next request's.
    pub(crate) fn recover(&mut self) {
        self.captured = Captured::default();
        drop(self.worker.lock());
    }
}

impl Drop for Logger {
    /// The listener goes, or all of Envoy: what is here is sent all the same, if there is somebody to do it.
    fn drop(&mut self) {
        self.worker.drain();
        self.worker.is_gone.store(true, Ordering::Release);
        self.worker.configuration.exporter.wake();
    }
}

/// The wall clock.
pub(crate) fn now_unix_nano() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}
