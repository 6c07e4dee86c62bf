//! A program that runs beside this one, with its output in a file. It ends when its handle is dropped, and also when this
//! program is killed: `setpriv` asks the kernel for that, which a program can otherwise only do in unsafe code.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

/// How long a program may take to end when it is asked to.
const GRACE: Duration = Duration::from_secs(20);

/// A running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: PathBuf,
    /// How many bytes were in it before.
    before: usize,
}

impl Process {
    /// Starts `program`; its standard output and error go to `<folder>/<name>.log`, after what is in it already.
    ///
    /// # Errors
    /// When the program or `setpriv` cannot be run, or the file not be written.
    pub fn start<A: AsRef<OsStr>>(
        name: &str,
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let output = folder.join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&output)
            .with_context(|| format!("cannot write `{}`", output.display()))?;
        let before = file.metadata().context("cannot measure the output")?.len().try_into()?;
        let copy = file.try_clone().context("cannot open the output a second time")?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .args(arguments)
            // Ctrl-C on a terminal goes to the whole foreground group; this program ends the others in its own order.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(copy)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start `{}`", program.display()))?;
        Ok(Self { name: name.to_owned(), child, output, before })
    }

    /// The process id, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// What it occupies of the machine's memory, in bytes.
    ///
    /// # Errors
    /// When it does not run any more.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let id = self.id().with_context(|| format!("{} has ended", self.name))?;
        let path = format!("/proc/{id}/status");
        let status = fs::read_to_string(&path).with_context(|| format!("cannot read `{path}`"))?;
        let kibibytes = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
            .with_context(|| format!("no VmRSS in `{path}`: {} has ended", self.name))?;
        Ok(kibibytes * 1024)
    }

    /// Everything it has written so far, as far as it is UTF-8.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn output(&self) -> anyhow::Result<String> {
        let bytes =
            fs::read(&self.output).with_context(|| format!("cannot read `{}`", self.output.display()))?;
        Ok(String::from_utf8_lossy(bytes.get(self.before..).unwrap_or_default()).into_owned())
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot ask after {}", self.name))
    }

    /// Asks it to end (SIGTERM) and waits until it has; kills it when that takes too long.
    ///
    /// # Errors
    /// When it fails, had to be killed, or has ended before it was asked to; the error holds the last lines of its output.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.signal(rustix::process::Signal::TERM)?;
        let status = match timeout(GRACE, self.child.wait()).await {
            Ok(ended) => ended.with_context(|| format!("cannot wait for {}", self.name))?,
            Err(_) => self.kill().await?,
        };
        ensure!(
            status.success(),
            "{} failed when it was asked to end ({status}); the last lines of its output:\n{}",
            self.name,
            self.last_lines()
        );
        Ok(())
    }

    /// The end of its output, for an error or a person.
    #[must_use]
    pub fn last_lines(&self) -> String {
        let output = self.output().unwrap_or_default();
        let lines: Vec<&str> = output.lines().collect();
        lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn kill(&mut self) -> anyhow::Result<ExitStatus> {
        self.signal(rustix::process::Signal::KILL)?;
        self.child.wait().await.with_context(|| format!("cannot wait for {}", self.name))
    }

    fn signal(&self, signal: rustix::process::Signal) -> anyhow::Result<()> {
        let Some(id) =
            self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw)
        else {
            return Ok(());
        };
        rustix::process::kill_process(id, signal).with_context(|| format!("cannot signal {}", self.name))
    }
}
