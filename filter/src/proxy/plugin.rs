//! One configured root context: the pipeline, and the host calls that feed it and that carry out what it says.

use std::sync::Arc;
use std::time::Duration;

use log::{error, warn};

use super::fetch::Lists;
use super::host::{self, Statistics};
use super::lease::Lease;
use crate::capture::Captured;
use crate::config::{Config, ConfigError};
use crate::otlp::answer::Answer;
use crate::pipeline::{Node, Pipeline};

/// The most of an answer's body that is read: a partial success is far smaller.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// A configured root context.
pub(super) struct Plugin {
    pipeline: Pipeline,
    /// For the stages of the plan.
    first: Lists,
    rest: Lists,
    statistics: Statistics,
    lease: Lease,
    captured: Captured,
}

impl Plugin {
    /// Defines everything and does nothing else: this also runs where there will never be a request.
    pub(super) fn configure(configuration: &[u8]) -> Result<Self, ConfigError> {
        let config = Config::parse(configuration)?;
        let mut random = [0; 16];
        if let Err(reason) = getrandom::fill(&mut random) {
            // Only uniqueness suffers, and the time is nearly as good.
            error!("no randomness from the host ({reason}): the instance is named by the time");
            random[..8].copy_from_slice(&host::now_unix_nano().to_le_bytes());
        }
        let node = Node {
            id: host::text_property(b"xds\0node\0id"),
            cluster: host::text_property(b"xds\0node\0cluster"),
        };
        let pipeline = Pipeline::new(config, &node, random, host::now_unix_nano())?;
        let plan = pipeline.plan();
        let (first, rest) = (Lists::compile(plan.first())?, Lists::compile(plan.rest())?);
        if first.is_none() || rest.is_none() {
            warn!("the host does not evaluate expressions: values are fetched one by one, which costs more");
        }
        host::set_tick_period(pipeline.tick_period());
        Ok(Self {
            lease: Lease::new(pipeline.instance_id()),
            pipeline,
            first,
            rest,
            statistics: Statistics::define(),
            captured: Captured::default(),
        })
    }

    /// The current stream has finished. Asks for it at once, or in two steps where not all requests become records: what
    /// decides, then the rest of those that are kept.
    pub(super) fn log(&mut self) {
        #[cfg(feature = "trap")]
        if host::property(b"request\0headers\0x-offpath-trap").is_some() {
            std::process::abort();
        }
        let plan = Arc::clone(self.pipeline.plan());
        let mut is_listed = self.first.fetch(plan.first(), &mut self.captured);
        // Behind the longest of the host calls: should the machine stall, then there.
        let now = self.enter();
        let kept = self.pipeline.judge(&self.captured, now);
        if kept.is_some() && !plan.rest().is_empty() {
            is_listed &= self.rest.fetch(plan.rest(), &mut self.captured);
        }
        let captured = std::mem::take(&mut self.captured);
        self.captured = self.pipeline.observe(captured, kept, now);
        if !is_listed {
            self.pipeline.capture_fell_back();
        }
        self.tell();
    }

    pub(super) fn tick(&mut self) {
        let now = self.enter();
        self.pipeline.tick(now);
        self.tell();
    }

    /// Makes all calls that may be made now. Only in a hook of the root context.
    pub(super) fn send(&mut self) {
        if !self.pipeline.has_waiting() {
            return;
        }
        while let Some(batch) = self.pipeline.take_next(host::now_unix_nano()) {
            let headers = self.pipeline.call_headers(&batch);
            match host::dispatch(self.pipeline.cluster(), &headers, &batch.body, self.pipeline.call_timeout())
            {
                Some(token) => self.pipeline.dispatched(batch, token, host::now_unix_nano()),
                None => self.pipeline.refused(batch, host::now_unix_nano()),
            }
        }
        // Calls take a while to make, and the machine may have stalled.
        self.enter();
        self.tell();
    }

    pub(super) fn answered(&mut self, token: u32, headers: usize, body_size: usize) {
        let now = self.enter();
        // A reset or a time-out has no headers at all, and asking for one would be an error.
        let (status, retry_after) = if headers == 0 {
            (None, Vec::new())
        } else {
            (host::answer_status(), host::answer_header(b"retry-after").unwrap_or_default())
        };
        let body = host::answer_body(body_size.min(MAX_ANSWER_BYTES));
        let answer = Answer { status, retry_after: &retry_after, body: &body };
        if let Some(took_ms) = self.pipeline.answered(token, answer, now) {
            self.statistics.record_export(Duration::from_millis(took_ms));
        }
        self.tell();
    }

    pub(super) fn drain(&mut self) {
        let now = self.enter();
        self.lease.leave();
        self.pipeline.drain(now);
        self.tell();
    }

    pub(super) fn is_drained(&self) -> bool {
        self.pipeline.is_drained()
    }

    /// This root context will do nothing any more.
    pub(super) fn end(&mut self) {
        self.enter();
        self.pipeline.abandon();
        self.tell();
        self.lease.release();
        self.first.delete();
        self.rest.delete();
    }

    /// The time, and whether what is held is still ours to tell of. Every hook begins with it; a longer one asks again,
    /// for others may have taken its machine for lost meanwhile.
    fn enter(&mut self) -> u64 {
        let now = host::now_unix_nano();
        let pipeline = &mut self.pipeline;
        let is_ours = self.lease.round(now, &self.statistics, |reason, records| {
            pipeline.counted_for_another(reason, records);
        });
        if !is_ours {
            warn!("taken for lost by another worker: what was held is counted as lost");
            self.lease.forget();
            self.pipeline.forget();
        }
        now
    }

    /// Tells the proxy what has changed: its log the records that found no room, then its statistics.
    fn tell(&mut self) {
        for line in self.pipeline.take_spilled() {
            warn!("{line}");
        }
        let ledger = self.pipeline.ledger();
        ledger.take_changes(|stat, change| self.statistics.add(stat, change));
        self.lease.hold(ledger);
    }
}
