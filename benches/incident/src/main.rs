//! The web application of `cargo xtask incident`, the batch job of its second form, and the users.
//!
//! `serve` answers `GET /task/<id>` after that request's service time, and gives its log to whatever the form says;
//! `consume` drains the queue of the form *application queue* into the database. Both end when they are killed. `load`
//! sends requests and writes what became of each; it is here, not in `xtask`, so that it is compiled with optimisation.

mod application;
mod consumer;
mod database;
mod in_request;
mod load;
mod queue;
mod service_time;

use std::process::ExitCode;

use clap::Parser;

/// The application of the incident, its batch job and its users.
#[derive(Parser)]
enum Command {
    /// Answer requests, on loopback
    Serve(application::Options),
    /// Write what is in the queue to the database, batch by batch
    Consume(consumer::Options),
    /// Send requests, and write what became of each
    Load(load::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    let ended = match Command::parse() {
        Command::Serve(options) => application::serve(options).await,
        Command::Consume(options) => consumer::consume(options).await,
        Command::Load(options) => load::generate(options).await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
