//! The offpath collector's program: `serve`, and commands for the data folder.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use offpath_collector::clock::rfc3339;
use offpath_collector::config::Settings;
use offpath_collector::serve::serve;
use offpath_collector::store::{self, dead_letters};

/// OTLP in, each record once in the database, and a query API.
#[derive(Debug, Parser)]
#[command(name = "offpath-collector", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Receive, store and answer, until SIGTERM or SIGINT
    Serve {
        /// TOML file with the same names as the flags (`otlp_http = "127.0.0.1:4318"`); flags win
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        settings: Box<Settings>,
    },
    /// Check the whole database for damage
    Check {
        /// Folder of the database
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
    },
    /// Records that the store refused, set aside with their bytes
    #[command(subcommand)]
    DeadLetters(DeadLetters),
}

#[derive(Debug, Subcommand)]
enum DeadLetters {
    /// List them, oldest first, one per line: id, time, signal, records, bytes, batch, reason
    List {
        /// Folder of the database
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// At most so many
        #[arg(long, default_value_t = 1000)]
        limit: u32,
    },
    /// Put them back into the inbox, also beside a running collector
    Replay {
        /// Folder of the database
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// Those to replay
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        ids: Vec<i64>,
        /// All of them
        #[arg(long)]
        all: bool,
    },
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("offpath-collector: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), String> {
    match command {
        Command::Serve { config, settings } => {
            let file = config.as_deref().map(Settings::read).transpose()?.unwrap_or_default();
            serve(settings.or(file).resolve()?).map_err(|error| error.to_string())
        }
        Command::Check { data } => {
            store::check_folder(&data).map_err(|error| error.to_string())?;
            println!("ok");
            Ok(())
        }
        Command::DeadLetters(DeadLetters::List { data, limit }) => list(&data, limit),
        Command::DeadLetters(DeadLetters::Replay { data, ids, all }) => replay(&data, ids, all),
    }
}

fn list(data: &Path, limit: u32) -> Result<(), String> {
    let connection = store::open_existing(data).map_err(|error| error.to_string())?;
    for letter in dead_letters::list(&connection, limit).map_err(|error| error.to_string())? {
        let batch_id = letter.batch_id.as_deref().unwrap_or("-");
        let time = rfc3339(letter.dead_unix_nano);
        // Reasons quote what clients sent: no control character of theirs reaches the terminal.
        let reason = letter.reason.escape_debug();
        let (id, signal, records, bytes) = (letter.id, letter.signal, letter.records, letter.bytes);
        println!("{id}\t{time}\t{signal}\t{records}\t{bytes}\t{batch_id}\t{reason}");
    }
    Ok(())
}

fn replay(data: &Path, ids: Vec<i64>, all: bool) -> Result<(), String> {
    let mut connection = store::open_existing(data).map_err(|error| error.to_string())?;
    let ids = if all {
        let letters = dead_letters::list(&connection, u32::MAX).map_err(|error| error.to_string())?;
        letters.into_iter().map(|letter| letter.id).collect()
    } else {
        ids
    };
    for id in ids {
        match dead_letters::replay(&mut connection, id).map_err(|error| error.to_string())? {
            Some(records) => println!("{id}: {records} records are queued again"),
            None => return Err(format!("there is no dead letter `{id}`")),
        }
    }
    Ok(())
}
