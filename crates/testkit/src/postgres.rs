//! A real PostgreSQL for tests: a cluster in a temporary folder, reached through a Unix socket,
//! with fsync on. It is stopped when it is dropped, and when the test process dies.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long the cluster may take for anything.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Who the servers log in as: nobody special, unlike whoever migrates.
const LOGIN: &str = "tally_login";

/// Waits for the end of the test process, then stops the cluster and removes its folder.
const SUPERVISE: &str = r#"
cat > /dev/null
if pid=$(head -n 1 "$0/data/postmaster.pid" 2> /dev/null); then
  kill -QUIT "$pid"
  for _ in $(seq 100); do kill -0 "$pid" 2> /dev/null || break; sleep 0.1; done
  kill -KILL "$pid"
fi
rm -rf "$0"
"#;

/// A running PostgreSQL.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    programs: PathBuf,
    /// The user that it runs as where we are root, which it refuses to be.
    user: Option<(u32, u32)>,
    databases: AtomicU32,
    supervisor: Child,
}

impl Cluster {
    /// The cluster of this test process, started at its first use.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Starts a cluster of its own.
    pub fn start() -> Self {
        let programs = programs();
        let folder = tempfile::Builder::new().prefix("tally-pg-").tempdir().unwrap().keep();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let user = fs::metadata("/proc/self").map(|own| root_runs_as(&own)).unwrap();
        if let Some((uid, gid)) = user {
            chown(&folder, Some(uid), Some(gid)).unwrap();
        }
        let supervisor = Command::new("sh")
            .args(["-c", SUPERVISE])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let databases = AtomicU32::new(0);
        let cluster = Self { folder, programs, user, databases, supervisor };
        let data = cluster.data();
        let init = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync", "-D"];
        cluster.run(cluster.command("initdb").args(init).arg(&data));
        cluster.restart();
        cluster.sql("postgres", &format!("CREATE ROLE {LOGIN} LOGIN"));
        cluster
    }

    /// Starts the processes, after [`Self::crash`] too, and waits until they take connections.
    pub fn restart(&self) {
        let options = format!(
            "-k {} -c listen_addresses= -c max_connections=300 -c shared_buffers=32MB",
            self.folder.display()
        );
        let mut start = self.command("pg_ctl");
        start.arg("start").arg("-D").arg(self.data()).arg("-l").arg(self.folder.join("log"));
        start.args(["-w", "-t", "120", "-o", &options]);
        self.run(&mut start);
    }

    /// Ends every process of it as a crash of the machine does: kill -9. What was not synced may
    /// still reach the disk, as only the processes die.
    pub fn crash(&self) {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        let first: i32 = text.lines().next().unwrap().parse().unwrap();
        // Frozen, so that it starts nothing in place of what dies.
        send(first, Signal::STOP);
        let mut all = children(first);
        all.push(first);
        all.iter().for_each(|pid| send(*pid, Signal::KILL));
        let until = Instant::now() + PATIENCE;
        while all.iter().any(|pid| alive(*pid)) {
            assert!(Instant::now() < until, "PostgreSQL survives kill -9");
            sleep(LOOK_EVERY);
        }
        // They name a process that nobody may ever reap: where it is a zombie still, a start would
        // take it for alive.
        for lock in ["data/postmaster.pid", ".s.PGSQL.5432.lock"] {
            fs::remove_file(self.folder.join(lock)).unwrap();
        }
    }

    /// A new empty database.
    pub fn database(&self) -> Database {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("t{number}");
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        Database { folder: self.folder.clone(), programs: self.programs.clone(), name }
    }

    fn sql(&self, database: &str, sql: &str) -> String {
        psql(&self.programs, &self.folder, database, sql).unwrap_or_else(|error| panic!("{error}"))
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(&self.folder).stdin(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn run(&self, command: &mut Command) {
        // What the servers inherit must be no pipe: whoever reads it would wait for them to end.
        let said = self.folder.join("said");
        let out = fs::File::create(&said).unwrap();
        command.stdout(out.try_clone().unwrap()).stderr(out);
        let ended = command.status().unwrap();
        assert!(ended.success(), "{command:?}: {}", fs::read_to_string(said).unwrap());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        let _ended = self.supervisor.wait();
    }
}

/// A database of a cluster.
#[derive(Clone, Debug)]
pub struct Database {
    folder: PathBuf,
    programs: PathBuf,
    name: String,
}

impl Database {
    /// The URL of whoever owns it.
    pub fn owner_url(&self) -> String {
        self.url("postgres")
    }

    /// The URL of the login that servers use.
    pub fn server_url(&self) -> String {
        self.url(LOGIN)
    }

    fn url(&self, user: &str) -> String {
        let host = self.folder.to_str().unwrap().replace('/', "%2F");
        format!("postgres://{user}@{host}/{}", self.name)
    }

    /// Lets the servers' login act as the roles that migrating has made.
    pub fn grant(&self) {
        // Roles are the cluster's, and two grants of the same at once trip over one another.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        self.sql(&format!("GRANT tally_writer, tally_reader TO {LOGIN}"));
    }

    /// Runs SQL as a superuser; the answer's rows are lines.
    pub fn sql(&self, sql: &str) -> String {
        self.try_sql(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The same, where the database may refuse.
    pub fn try_sql(&self, sql: &str) -> Result<String, String> {
        psql(&self.programs, &self.folder, &self.name, sql)
    }

    /// Another database with the same content. Whoever is connected to this one is cut off.
    pub fn copy(&self) -> Self {
        let name = format!("{}_copy", self.name);
        let (from, to) = (&self.name, &name);
        let cut = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{from}'"
        );
        let copy = format!("CREATE DATABASE {to} TEMPLATE {from}");
        let until = Instant::now() + PATIENCE;
        let system = Self { name: "postgres".to_owned(), ..self.clone() };
        while let Err(error) = system.try_sql(&cut).and_then(|_| system.try_sql(&copy)) {
            assert!(Instant::now() < until, "{error}");
            sleep(LOOK_EVERY);
        }
        Self { name, ..self.clone() }
    }

    /// The files of its tables, after everything has been written to them.
    pub fn files(&self) -> Vec<PathBuf> {
        self.sql("CHECKPOINT");
        let oid = self.sql("SELECT oid FROM pg_database WHERE datname = current_database()");
        let folder = self.folder.join("data/base").join(oid.trim());
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

fn psql(programs: &Path, folder: &Path, database: &str, sql: &str) -> Result<String, String> {
    let output = Command::new(programs.join("psql"))
        .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-c", sql])
        .arg("-h")
        .arg(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Where the programs of PostgreSQL are: Debian's folders, the newest first, or as `pg_config`
/// says.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort();
    let debian = versions.into_iter().rev().map(|(_, path)| path);
    let said = Command::new("pg_config").arg("--bindir").output().ok();
    let said = said.and_then(|output| String::from_utf8(output.stdout).ok());
    let said = said.map(|path| PathBuf::from(path.trim()));
    debian.chain(said).find(|path| path.join("initdb").is_file()).unwrap_or_else(|| {
        panic!("these tests need PostgreSQL 15 or later: apt-get install postgresql")
    })
}

/// The user and group of `postgres`, else of `nobody`, where this process is root's.
fn root_runs_as(own: &fs::Metadata) -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt as _;
    if own.uid() != 0 {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let find = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    Some(find("postgres").or_else(|| find("nobody")).unwrap())
}

fn send(pid: i32, signal: Signal) {
    // It may have ended already.
    let _gone = Pid::from_raw(pid).map(|pid| kill_process(pid, signal));
}

/// Whether the process is there and no zombie.
fn alive(pid: i32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != "Z")
}

/// The state and the parent of a process.
fn stat(pid: i32) -> Option<(String, i32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

fn children(parent: i32) -> Vec<i32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| stat(*pid).is_some_and(|(_, of)| of == parent))
        .collect()
}
