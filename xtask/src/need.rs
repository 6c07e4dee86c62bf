//! What the machine must have, beyond cargo: each thing is looked for before it is needed, installed where that is safe,
//! and otherwise named together with the way to get it.

use std::{
    cmp::Reverse,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail, ensure};

/// The target that the plugin is compiled for.
pub const WASM_TARGET: &str = "wasm32-wasip1";

/// Something outside the repository that a command relies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The Python interpreter with pip: it fetches Envoy and runs the independent OTLP decoder.
    Pip,
    /// Shows, in the collector's tests, that an acknowledgement is preceded by a sync.
    Strace,
    /// Compiles the bundled SQLite.
    CCompiler,
    /// Ends Envoy and the collector when the process that started them is killed.
    Setpriv,
    /// Counts the instructions of the plugin's hot path.
    Valgrind,
    /// Keeps what is measured on a processor of its own.
    Taskset,
    /// Sends requests at a fixed rate to what is measured.
    H2load,
    /// Checks the alert rules.
    Promtool,
    /// The database of the application that logs by itself.
    PostgreSql,
    /// Makes a certificate for a test, and is the client that shows it.
    Openssl,
}

impl Need {
    /// What `cargo xtask test` looks for before it starts.
    pub const OF_TESTS: [Self; 8] = [
        Self::Pip,
        Self::Strace,
        Self::CCompiler,
        Self::Setpriv,
        Self::Valgrind,
        Self::Promtool,
        Self::PostgreSql,
        Self::Openssl,
    ];

    fn probe(self) -> &'static [&'static str] {
        match self {
            Self::Pip => &["python3", "-m", "pip", "--version"],
            Self::Strace => &["strace", "--version"],
            Self::CCompiler => &["cc", "--version"],
            Self::Setpriv => &["setpriv", "--version"],
            Self::Valgrind => &["valgrind", "--version"],
            Self::Taskset => &["taskset", "--version"],
            Self::H2load => &["h2load", "--version"],
            Self::Promtool => &["promtool", "--version"],
            // Asked for in `is_there`, for Debian keeps its programs off the path.
            Self::PostgreSql => &[],
            Self::Openssl => &["openssl", "version"],
        }
    }

    fn debian_packages(self) -> &'static [&'static str] {
        match self {
            Self::Pip => &["python3", "python3-pip"],
            Self::Strace => &["strace"],
            Self::CCompiler => &["gcc", "libc6-dev"],
            Self::Setpriv | Self::Taskset => &["util-linux"],
            Self::Valgrind => &["valgrind"],
            Self::H2load => &["nghttp2-client"],
            Self::Promtool => &["prometheus"],
            Self::PostgreSql => &["postgresql"],
            Self::Openssl => &["openssl"],
        }
    }

    fn purpose(self) -> &'static str {
        match self {
            Self::Pip => "python3 with pip (fetches Envoy from PyPI, runs the OTLP decoder of the tests)",
            Self::Strace => "strace (the collector's tests watch its system calls)",
            Self::CCompiler => "a C compiler named cc (compiles SQLite, which the collector holds)",
            Self::Setpriv => "setpriv (makes sure that no Envoy or collector outlives the command)",
            Self::Valgrind => "valgrind (counts the instructions of the plugin's hot path)",
            Self::Taskset => "taskset (keeps what is measured on a processor of its own)",
            Self::Openssl => "openssl (the tests' client with a certificate)",
            Self::H2load => "h2load (sends requests at a fixed rate)",
            Self::Promtool => "promtool (checks the alert rules)",
            Self::PostgreSql => "PostgreSQL (the database of the application that logs by itself)",
        }
    }

    fn is_there(self) -> bool {
        if self == Self::PostgreSql {
            return postgresql_programs().is_some();
        }
        self.probe().split_first().is_some_and(|(program, arguments)| {
            quietly(Command::new(program).args(arguments)).is_ok_and(|status| status.success())
        })
    }
}

/// The folder of `initdb` and `postgres`: on the path, or the newest of Debian's, which are not.
#[must_use]
pub fn postgresql_programs() -> Option<PathBuf> {
    let on_path = std::env::var_os("PATH")?;
    let mut debian: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin"))
        .collect();
    debian.sort_by_key(|folder| {
        let version = folder.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        Reverse(version.and_then(|version| version.parse::<u32>().ok()))
    });
    std::env::split_paths(&on_path)
        .chain(debian)
        .find(|folder| ["initdb", "postgres"].iter().all(|program| folder.join(program).is_file()))
}

/// Makes sure that all of `needs` are there. On a Debian machine, as root, missing ones are installed with `apt-get`.
///
/// # Errors
/// Names all that is missing, and how to get it.
pub fn tools(needs: &[Need]) -> anyhow::Result<()> {
    let missing = absent(needs);
    if missing.is_empty() {
        return Ok(());
    }
    if rustix::process::geteuid().is_root() && Path::new("/etc/debian_version").exists() {
        apt_get_install(&missing);
    }
    let missing = absent(&missing);
    if missing.is_empty() {
        return Ok(());
    }
    let purposes: Vec<&str> = missing.iter().map(|need| need.purpose()).collect();
    bail!(
        "missing on this machine: {}; on Debian or Ubuntu get it with `apt-get install {}`",
        purposes.join(", "),
        packages(&missing).join(" "),
    )
}

fn absent(needs: &[Need]) -> Vec<Need> {
    needs.iter().copied().filter(|need| !need.is_there()).collect()
}

fn packages(needs: &[Need]) -> Vec<&'static str> {
    needs.iter().flat_map(|need| need.debian_packages()).copied().collect()
}

/// Debian's package creates a server's data and starts it when it is installed, which nobody asked for here; this file of
/// its configuration says not to, while it is there.
const NO_MAIN_CLUSTER: &str = "/etc/postgresql-common/createcluster.d/offpath.conf";

/// Tries only: what is still missing afterwards is the caller's to report.
fn apt_get_install(needs: &[Need]) {
    let packages = packages(needs);
    eprintln!("installing with apt-get: {}", packages.join(" "));
    let apt_get = |arguments: &[&str]| {
        Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").status()
    };
    let no_main_cluster = Path::new(NO_MAIN_CLUSTER);
    if needs.contains(&Need::PostgreSql)
        && let Err(error) = write_new(no_main_cluster, "create_main_cluster = false\n")
    {
        eprintln!(
            "cannot write `{NO_MAIN_CLUSTER}`, so a server is started when PostgreSQL is installed: {error}"
        );
    }
    for arguments in [vec!["update", "-qq"], [vec!["install", "-y", "-qq"], packages].concat()] {
        match apt_get(&arguments) {
            Ok(status) if status.success() => {}
            Ok(status) => eprintln!("apt-get {} failed: {status}", arguments.join(" ")),
            Err(error) => eprintln!("cannot run apt-get: {error}"),
        }
    }
    if no_main_cluster.exists()
        && let Err(error) = fs::remove_file(no_main_cluster)
    {
        eprintln!("cannot remove `{NO_MAIN_CLUSTER}`: {error}");
    }
}

fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(path, text)
}

/// Makes sure that rustc can compile for [`WASM_TARGET`], adding the target with rustup when it is missing.
///
/// # Errors
/// Says that the target is missing, why it could not be added, and how to get it.
pub fn wasm_target() -> anyhow::Result<()> {
    if has_wasm_target()? {
        return Ok(());
    }
    eprintln!("the target {WASM_TARGET} is not installed: rustup target add {WASM_TARGET}");
    let added = Command::new("rustup").args(["target", "add", WASM_TARGET]).status();
    let outcome = match added {
        Ok(status) if status.success() && has_wasm_target()? => return Ok(()),
        Ok(status) => format!("`rustup target add {WASM_TARGET}` ended with {status}"),
        Err(error) => format!("rustup cannot be run: {error}"),
    };
    bail!(
        "missing on this machine: the Rust target {WASM_TARGET}, which the plugin is compiled for ({outcome}); with rustup \
         get it by `rustup target add {WASM_TARGET}`, which needs the network; without rustup install your \
         distribution's package of that target (Debian: libstd-rust-dev-wasm32)"
    )
}

fn has_wasm_target() -> anyhow::Result<bool> {
    let output = Command::new("rustc")
        .args(["--print", "sysroot"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run rustc, which comes with Rust: https://rustup.rs")?;
    ensure!(output.status.success(), "`rustc --print sysroot` ended with {}", output.status);
    let sysroot = String::from_utf8(output.stdout).context("rustc's sysroot is not UTF-8")?;
    Ok(Path::new(sysroot.trim()).join("lib/rustlib").join(WASM_TARGET).join("lib").is_dir())
}

fn quietly(command: &mut Command) -> std::io::Result<std::process::ExitStatus> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()
}
