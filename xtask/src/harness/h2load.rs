//! `h2load`, nghttp2's load generator: a fixed number of requests at a fixed rate. Above a hundred a second and client it sends
//! what is due every 10 ms, one after the other: that is for counting what requests cost, not for how long they take.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use tokio::process::Command;

/// What requests look like, and how many clients send them.
#[derive(Clone, Debug)]
pub struct H2load {
    targets: PathBuf,
    headers: Vec<String>,
    clients: u32,
}

impl H2load {
    /// Requests for `targets` of `host`, one after the other and again from the first, with `headers` (`name: value`), from so many
    /// clients with a connection each. Its files are in `folder`.
    ///
    /// # Errors
    /// When the targets cannot be written.
    pub fn new(
        host: &str,
        targets: &[String],
        headers: &[&str],
        clients: u32,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let file = folder.join("h2load-targets");
        let lines: String = targets.iter().map(|target| format!("http://{host}{target}\n")).collect();
        fs::write(&file, lines).with_context(|| format!("cannot write `{}`", file.display()))?;
        Ok(Self { targets: file, headers: headers.iter().map(ToString::to_string).collect(), clients })
    }

    /// Sends for so long, over HTTP/1.1. How many requests were answered: all of them.
    ///
    /// # Errors
    /// When h2load fails, or a request has no answer.
    pub async fn turn(
        &self,
        address: SocketAddr,
        per_second: u32,
        duration: Duration,
    ) -> anyhow::Result<u64> {
        let requests = (f64::from(per_second) * duration.as_secs_f64()).round() as u64;
        let mut command = Command::new("h2load");
        command.args(["--h1", "--threads", "1", "--input-file"]).arg(&self.targets);
        command.arg(format!("--connect-to={address}"));
        command.args(["--requests", &requests.to_string(), "--clients", &self.clients.to_string()]);
        command.args(["--rps", &(f64::from(per_second) / f64::from(self.clients)).to_string()]);
        for header in &self.headers {
            command.args(["--header", header]);
        }
        let output = command
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context("cannot run h2load: on Debian get it with `apt-get install nghttp2-client`")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "h2load: {}\n{text}", String::from_utf8_lossy(&output.stderr));
        let answered = answered(&text)?;
        ensure!(answered == requests, "of {requests} requests only {answered} were answered:\n{text}");
        Ok(requests)
    }
}

/// From `status codes: 98 2xx, 0 3xx, 0 4xx, 2 5xx`: h2load itself calls a 5xx a failure, and it is an answer.
fn answered(output: &str) -> anyhow::Result<u64> {
    let Some(codes) = output.lines().find_map(|line| line.strip_prefix("status codes: ")) else {
        bail!("h2load does not tell status codes:\n{output}");
    };
    codes
        .split(", ")
        .map(|part| part.split(' ').next().and_then(|count| count.parse::<u64>().ok()))
        .sum::<Option<u64>>()
        .with_context(|| format!("not status codes: `{codes}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_every_class_are_answers() {
        let output =
            "finished in 1.00s, 100.00 req/s, 30.00KB/s\nstatus codes: 98 2xx, 0 3xx, 0 4xx, 2 5xx\n";
        assert_eq!(answered(output).unwrap(), 100);
        assert!(answered("finished in 1.00s").is_err());
    }
}
