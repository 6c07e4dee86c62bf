//! What has arrived at a receiver, each request once, and whether the sender has kept to its word: the same bytes under the
//! same name on every try, and no record under two names.
//!
//! Calls come in one by one and are not kept, so that an inventory of a long run stays small.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::Entry},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use anyhow::Context as _;
use opentelemetry_proto::tonic::logs::v1::LogRecord;

use crate::harness::{otlp, receiver::Call};

/// At most so many breaches are told; one is bad enough.
const MAX_BREACHES: usize = 20;

/// Counts what arrives. The requests carry their number in their query, `?n=7`.
#[derive(Debug, Default)]
pub struct Inventory {
    numbers: HashSet<u64>,
    /// By `x-offpath-batch`: a hash of the bytes, and whether they were taken.
    batches: HashMap<String, Batch>,
    /// By sender: the newest points, as their time and the sum of their counts.
    measured: BTreeMap<String, (u64, u64)>,
    breaches: Vec<String>,
}

#[derive(Debug)]
struct Batch {
    bytes: u64,
    is_taken: bool,
}

impl Inventory {
    /// A call has arrived.
    ///
    /// # Errors
    /// When it is not what OTLP says.
    pub fn add(&mut self, call: &Call) -> anyhow::Result<()> {
        let is_taken = call.answer.is_some_and(|status| status.is_success());
        if let Some(name) = call.header("x-offpath-batch")
            && !self.is_new(name, call, is_taken)?
        {
            return Ok(());
        }
        if !is_taken {
            return Ok(());
        }
        if call.path.ends_with("/v1/metrics") {
            return self.add_points(call);
        }
        for record in otlp::log_records(call)?.iter().skip(call.refused) {
            let number = number(record).with_context(|| format!("a record without a number: {record:?}"))?;
            if !self.numbers.insert(number) && call.header("x-offpath-batch").is_some() {
                self.breach(format!("request {number} is in two batches"));
            }
        }
        Ok(())
    }

    /// How many requests have arrived.
    #[must_use]
    pub fn distinct(&self) -> u64 {
        self.numbers.len() as u64
    }

    /// How many requests are in the newest histograms of all senders.
    #[must_use]
    pub fn measured(&self) -> u64 {
        self.measured.values().map(|(_, requests)| requests).sum()
    }

    /// What the sender has done that it must not do.
    #[must_use]
    pub fn breaches(&self) -> &[String] {
        &self.breaches
    }

    /// Whether what is in a named batch has not arrived before, as a receiver that deduplicates sees it.
    fn is_new(&mut self, name: &str, call: &Call, is_taken: bool) -> anyhow::Result<bool> {
        let mut hasher = DefaultHasher::new();
        otlp::body(call)?.hash(&mut hasher);
        let bytes = hasher.finish();
        let mut differs = false;
        let is_new = match self.batches.entry(name.to_owned()) {
            Entry::Vacant(entry) => {
                entry.insert(Batch { bytes, is_taken });
                true
            }
            Entry::Occupied(mut entry) => {
                let batch = entry.get_mut();
                differs = batch.bytes != bytes;
                let was_taken = batch.is_taken;
                batch.is_taken |= is_taken;
                !was_taken
            }
        };
        if differs {
            self.breach(format!("batch {name} was sent with other bytes than before"));
        }
        Ok(is_new)
    }

    /// Cumulative points: the newest of a sender hold all before.
    fn add_points(&mut self, call: &Call) -> anyhow::Result<()> {
        let mut of_call: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for (sender, point) in otlp::histogram_points(call, "http.server.request.duration")? {
            let entry = of_call.entry(sender).or_default();
            entry.0 = point.time_unix_nano;
            entry.1 += point.count;
        }
        for (sender, points) in of_call {
            let newest = self.measured.entry(sender).or_default();
            *newest = (*newest).max(points);
        }
        Ok(())
    }

    fn breach(&mut self, what: String) {
        if self.breaches.len() < MAX_BREACHES {
            self.breaches.push(what);
        }
    }
}

/// The request's number: the plugin's records have the query, those of Envoy's own logger its path with the query.
fn number(record: &LogRecord) -> Option<u64> {
    let query = otlp::text(&record.attributes, "url.query")
        .or_else(|| otlp::text(&record.attributes, "path")?.split_once('?').map(|(_, query)| query))?;
    form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "n")?.1.parse().ok()
}
