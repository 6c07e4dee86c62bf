//! The web application of `cargo xtask incident`, and the batch job of its second form.
//!
//! `serve` answers `GET /work/<id>` after that request's service time, and gives its log to whatever the form says;
//! `consume` drains the queue of the form *application queue* into the database. Both end when they are killed.

mod application;
mod consumer;
mod convoy;
mod database;
mod in_request;
mod queue;
mod service_time;

use std::process::ExitCode;

use clap::Parser;

/// The application of the incident, and its batch job.
#[derive(Parser)]
enum Command {
    /// Answer requests, on loopback
    Serve(application::Options),
    /// Write what is in the queue to the database, batch by batch
    Consume(consumer::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    let ended = match Command::parse() {
        Command::Serve(options) => application::serve(options).await,
        Command::Consume(options) => consumer::consume(options).await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
