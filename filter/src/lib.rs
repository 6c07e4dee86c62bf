//! The offpath plugin: what a proxy does with each request that it has finished.
//!
//! The modules, read from top to bottom, are the way of a record:
//!
//! 1. [`config`] says what is wanted;
//! 2. [`capture`] turns what the host tells about a request into bytes by field;
//! 3. [`request`] reads them as one finished request, and says how it ended;
//! 4. [`route`] finds the path template that it matches;
//! 5. [`policy`] decides whether it becomes a record, and how many requests that stands for;
//! 6. [`measure`] counts the request into the histograms of its series;
//! 7. [`redact`] takes out what must never be told;
//! 8. [`record`] encodes it as an OTLP log record;
//! 9. [`otlp`] is the wire format: protobuf fields, envelopes, answers;
//! 10. [`batch`] gathers encoded records until a batch is full or old enough;
//! 11. [`delivery`] holds sealed batches, says which to send next, and what each answer means;
//! 12. [`ledger`] counts every record into exactly one end;
//! 13. [`pipeline`] is all of this as one value, owned by one root context, in which requests wait behind 5. to be worked on
//!     together;
//! 14. [`lease`] says who holds records, so that those of a lost virtual machine are counted too;
//! 15. `proxy` (wasm only) is the shell: proxy-wasm's hooks in, host calls out.
//!
//! Everything but the shell takes plain data, with time and randomness as arguments.

pub mod config;

pub mod capture;

pub mod request;

pub mod route;

pub mod policy;

pub mod measure;

pub mod redact;

pub mod record;

pub mod otlp;

pub mod batch;

pub mod delivery;

pub mod ledger;

pub mod pipeline;

pub mod lease;

#[cfg(target_family = "wasm")]
mod proxy;

#[cfg(test)]
mod testing;
