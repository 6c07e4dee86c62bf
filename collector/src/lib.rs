//! The offpath collector: OTLP in, each record once in the database, and a query API.
//!
//! The modules, read from top to bottom, are the way of a record:
//! [`receive`] checks a request and hands it to the [`writer`], which makes it durable in the inbox, and only then is
//! it acknowledged; the writer then makes rows of it in the [`store`], once; [`query`] reads them and [`api`] answers.
//! What every acknowledged record has become is in [`store::accounting`], which changes in the same transactions.

pub mod config;
pub mod serve;

pub mod auth;
pub mod batch_id;
pub mod encoding;
pub mod receive;

pub mod otlp;
pub mod writer;

pub mod distribution;
pub mod store;

pub mod api;
pub mod query;

pub mod clock;
pub mod self_metrics;
