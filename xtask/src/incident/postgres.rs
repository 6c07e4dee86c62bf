//! A PostgreSQL server of its own, with the application's log table in a database for each run. Stalls are drawn in it, by
//! a trigger: whoever calls, and whatever with, it is the database that is slow.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_postgres::{Client, NoTls};

use crate::{
    harness::{process::Process, wait},
    incident::stall::{Draw, Stalls},
    need,
    project::Project,
};

/// Who runs the server where root would: PostgreSQL refuses to run as root. Debian's package brings this user.
const USER: &str = "postgres";

/// A running server.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    port: u16,
    password: String,
    databases: AtomicU64,
    _folder: TempDir,
}

impl Postgres {
    /// Makes a cluster in a folder of its own, and starts it on loopback.
    ///
    /// # Errors
    /// When PostgreSQL is missing, or does not start; the error holds its output.
    pub async fn start(project: &Project) -> anyhow::Result<Self> {
        let programs = need::postgresql_programs().context("PostgreSQL's initdb was not found")?;
        let folder = project.temporary_folder()?;
        let (data, password_file) = (folder.path().join("postgres"), folder.path().join("password"));
        let password = random_password()?;
        // Its user has to come through this folder, and to read the password once.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))?;
        fs::write(&password_file, &password).context("cannot write the password")?;
        make_folder(&data)?;
        give_away(&password_file)?;
        initialise(&programs, &data, &password_file)?;
        fs::remove_file(&password_file).context("cannot remove the password")?;

        let port = free_port().await?;
        let settings = [
            format!("port={port}"),
            "listen_addresses=127.0.0.1".to_owned(),
            "unix_socket_directories=".to_owned(),
            "max_connections=200".to_owned(),
            // A call whose client is gone is not carried on, or nothing would end while it stalls.
            "client_connection_check_interval=500".to_owned(),
        ];
        let mut command = as_user(&programs.join("postgres"));
        command.extend(["-D".into(), data.into_os_string()]);
        for setting in settings {
            command.extend(["-c".into(), setting.into()]);
        }
        let (program, arguments) = command.split_first().context("no command")?;
        let process = Process::start("postgres", Path::new(program), arguments, folder.path())?;
        let mut server = Self { process, port, password, databases: AtomicU64::new(0), _folder: folder };
        wait::until("PostgreSQL takes connections", async || {
            if let Some(status) = server.process.ended()? {
                bail!("PostgreSQL did not start ({status}):\n{}", server.process.last_lines());
            }
            Ok(connect(&server.url("postgres")).await.ok())
        })
        .await?;
        Ok(server)
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://{USER}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// A new database with an empty log table whose calls stall so. Its URL is written into `folder`.
    ///
    /// # Errors
    /// What the server says.
    pub async fn database(&self, stalls: Stalls, draw: Draw, folder: &Path) -> anyhow::Result<Database> {
        let name = format!("run_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        connect(&self.url("postgres")).await?.batch_execute(&format!("CREATE DATABASE {name}")).await?;
        let client = connect(&self.url(&name)).await?;
        client.batch_execute(&schema(stalls, draw)).await.context("the schema was refused")?;
        let url_file = folder.join("database-url");
        fs::write(&url_file, self.url(&name)).context("cannot write the database's URL")?;
        fs::set_permissions(&url_file, fs::Permissions::from_mode(0o600))?;
        Ok(Database { client, url_file })
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it fails at that.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.process.stop().await
    }
}

/// One database of a running server.
pub struct Database {
    client: Client,
    url_file: PathBuf,
}

impl Database {
    /// A file that only its owner can read.
    #[must_use]
    pub fn url_file(&self) -> &Path {
        &self.url_file
    }

    /// The numbers of the requests in the log, one for each row.
    ///
    /// # Errors
    /// What the server says.
    pub async fn requests(&self) -> anyhow::Result<Vec<u64>> {
        let rows = self.client.query("SELECT request FROM request_log", &[]).await?;
        rows.iter().map(|row| Ok(u64::try_from(row.try_get::<_, i64>(0)?)?)).collect()
    }

    /// How far the batch job has read the queue.
    ///
    /// # Errors
    /// What the server says.
    pub async fn position(&self) -> anyhow::Result<u64> {
        let row = self.client.query_one("SELECT position FROM consumer", &[]).await?;
        Ok(u64::try_from(row.try_get::<_, i64>(0)?)?)
    }

    /// Nothing can be written until [`Database::release`].
    ///
    /// # Errors
    /// What the server says.
    pub async fn hold(&self) -> anyhow::Result<()> {
        let lock = "BEGIN; LOCK TABLE request_log IN EXCLUSIVE MODE";
        self.client.batch_execute(lock).await.context("the database was not held")
    }

    /// As before.
    ///
    /// # Errors
    /// What the server says.
    pub async fn release(&self) -> anyhow::Result<()> {
        self.client.batch_execute("COMMIT").await.context("the database was not released")
    }

    /// How many calls have stalled so far.
    ///
    /// # Errors
    /// What the server says.
    pub async fn stalled(&self) -> anyhow::Result<u64> {
        let row = self.client.query_one("SELECT last_value FROM stalls", &[]).await?;
        Ok(u64::try_from(row.try_get::<_, i64>(0)?)?)
    }
}

/// A statement draws by the number that the database gives to each, so that the n-th call of every run stalls or does not.
fn schema(stalls: Stalls, draw: Draw) -> String {
    let Stalls { duration, probability, seed } = stalls;
    let each = match draw {
        Draw::Call => "STATEMENT",
        Draw::Row => "ROW",
    };
    format!(
        "CREATE TABLE request_log (
             request bigint NOT NULL, began_unix_nano bigint NOT NULL, path text NOT NULL,
             status int NOT NULL, duration_seconds float8 NOT NULL);
         CREATE TABLE consumer (position bigint NOT NULL);
         INSERT INTO consumer VALUES (0);
         CREATE SEQUENCE draws;
         CREATE SEQUENCE stalls MINVALUE 0 START 0;
         SELECT nextval('stalls');
         CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF (hashint8extended(nextval('draws'), {seed}) & 1048575) < {threshold} THEN
                 PERFORM nextval('stalls');
                 PERFORM pg_sleep({seconds});
             END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER stall BEFORE INSERT ON request_log FOR EACH {each} EXECUTE FUNCTION stall();",
        threshold = (probability * 1_048_576.0).round() as u64,
        seconds = duration.as_secs_f64(),
    )
}

async fn connect(url: &str) -> anyhow::Result<Client> {
    let (client, connection) =
        tokio::time::timeout(Duration::from_secs(10), tokio_postgres::connect(url, NoTls))
            .await
            .context("no answer from PostgreSQL in time")??;
    tokio::spawn(connection);
    Ok(client)
}

fn runs_as_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Another user's processes lose the signal that ends them with this program; so it is asked for once they are theirs.
fn as_user(program: &Path) -> Vec<std::ffi::OsString> {
    let mut command: Vec<std::ffi::OsString> = Vec::new();
    if runs_as_root() {
        command.extend(
            ["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups", "setpriv", "--pdeathsig", "KILL"]
                .map(Into::into),
        );
    }
    command.push(program.into());
    command
}

fn make_folder(data: &Path) -> anyhow::Result<()> {
    fs::create_dir(data).with_context(|| format!("cannot create `{}`", data.display()))?;
    fs::set_permissions(data, fs::Permissions::from_mode(0o700))?;
    give_away(data)
}

fn give_away(path: &Path) -> anyhow::Result<()> {
    if !runs_as_root() {
        return Ok(());
    }
    let status =
        Command::new("chown").arg(format!("{USER}:")).arg(path).status().context("cannot run chown")?;
    ensure!(status.success(), "`{}` cannot be given to the user `{USER}`", path.display());
    Ok(())
}

fn initialise(programs: &Path, data: &Path, password_file: &Path) -> anyhow::Result<()> {
    let command = as_user(&programs.join("initdb"));
    let (program, arguments) = command.split_first().context("no command")?;
    let output = Command::new(program)
        .args(arguments)
        .args(["--username", USER, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"])
        .arg("--pwfile")
        .arg(password_file)
        .arg("--pgdata")
        .arg(data)
        .current_dir("/")
        .output()
        .context("cannot run initdb")?;
    ensure!(
        output.status.success(),
        "initdb failed in `{}`, which the user that runs it has to be able to reach:\n{}",
        data.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// PostgreSQL does not choose a port by itself. Should somebody take this one first, it does not start, and says so.
async fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("cannot listen on loopback")?;
    Ok(listener.local_addr().context("cannot see where it listens")?.port())
}

fn random_password() -> anyhow::Result<String> {
    let mut bytes = [0_u8; 16];
    std::io::Read::read_exact(
        &mut fs::File::open("/dev/urandom").context("cannot open /dev/urandom")?,
        &mut bytes,
    )?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
