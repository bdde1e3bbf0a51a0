//! Connections: opened on demand, kept, thrown away at the first sign of trouble. And the one
//! place where a synchronous caller waits for them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Handle, Runtime, RuntimeFlavor};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row, Socket, Statement};

use super::database::Database;
use super::limits;
use crate::Error;

/// Parameters of a statement.
pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Why work on a connection did not come to its end.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The answer is an error; the database is well.
    Answer(Error),
    /// The database refused, or was lost. Nothing was committed.
    Database(tokio_postgres::Error),
    /// The database was lost while it committed: nobody knows whether it has.
    Unknown(tokio_postgres::Error),
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Answer(error)
    }
}

/// The failure with what the database says of it, which the library's own text leaves out.
pub(super) fn store_error(error: &tokio_postgres::Error) -> Error {
    let text = match error.as_db_error() {
        Some(said) => format!("{} ({})", said.message(), said.code().code()),
        None => {
            let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
            format!("{error}{}", cause.unwrap_or_default())
        }
    };
    match error.code() {
        // The statement's transaction is rolled back.
        Some(&SqlState::DISK_FULL) => Error::Full(text),
        _ => Error::Store(text),
    }
}

/// Whether the connection, rather than the statement, is what failed.
fn lost(error: &tokio_postgres::Error) -> bool {
    let class = |state: &SqlState| {
        let code = state.code();
        // Connection exceptions; shutting down, crashed, starting up; idle in transaction.
        code.starts_with("08") || code.starts_with("57P") || code == "25P03"
    };
    error.is_closed() || error.code().map_or(error.as_db_error().is_none(), class)
}

/// Whether the same transaction may well succeed when it is tried again.
fn passing(error: &tokio_postgres::Error) -> bool {
    let clash = [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED];
    error.code().is_some_and(|state| clash.contains(state)) || lost(error)
}

/// A session and the statements that it has prepared.
pub(super) struct Connection {
    pub(super) client: Client,
    statements: Mutex<HashMap<&'static str, Statement>>,
}

impl Connection {
    /// The statement, prepared at its first use.
    pub(super) async fn statement(
        &self,
        sql: &'static str,
    ) -> Result<Statement, tokio_postgres::Error> {
        if let Some(known) = self.statements.lock().get(sql) {
            return Ok(known.clone());
        }
        let statement = self.client.prepare(sql).await?;
        self.statements.lock().insert(sql, statement.clone());
        Ok(statement)
    }

    /// Runs a statement by itself.
    pub(super) async fn query(
        &self,
        sql: &'static str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        self.client.query(&self.statement(sql).await?, params).await
    }

    /// Runs a statement that changes rows, and says how many.
    pub(super) async fn execute(
        &self,
        sql: &'static str,
        params: Params<'_>,
    ) -> Result<u64, tokio_postgres::Error> {
        self.client.execute(&self.statement(sql).await?, params).await
    }

    /// Ends a transaction. Where the connection is lost here, nobody knows how it ended.
    pub(super) async fn end(&self) -> Result<(), Trouble> {
        self.client.batch_execute("COMMIT").await.map_err(|error| {
            if lost(&error) { Trouble::Unknown(error) } else { Trouble::Database(error) }
        })
    }
}

/// What every new session is told first.
#[derive(Clone, Debug)]
pub(super) struct Session {
    /// The role that it acts as; none for whoever logs in.
    pub(super) role: Option<&'static str>,
    /// The plane's schema.
    pub(super) schema: &'static str,
    /// How long one statement may take.
    pub(super) limit: Duration,
}

impl Session {
    fn sql(&self) -> String {
        let Self { role, schema, limit } = self;
        let role = role.map_or_else(String::new, |role| format!("SET ROLE {role};"));
        let (limit, idle) = (limit.as_millis(), limits::IDLE_IN_TRANSACTION.as_millis());
        // A commit is only one once it is on disk, whatever the database is set to.
        format!(
            "{role} SET search_path = {schema}; SET statement_timeout = {limit};
            SET lock_timeout = {limit}; SET idle_in_transaction_session_timeout = {idle};
            SET default_transaction_isolation = 'read committed';
            SELECT set_config('synchronous_commit', 'on', false)
              WHERE current_setting('synchronous_commit') IN ('off', 'local');"
        )
    }
}

/// Connections of one kind.
pub(super) struct Pool {
    database: Database,
    session: Session,
    handle: Handle,
    idle: Mutex<Vec<Connection>>,
    slots: Semaphore,
}

impl Pool {
    pub(super) fn new(database: Database, session: Session, handle: Handle, size: usize) -> Self {
        let slots = Semaphore::new(size);
        Self { database, session, handle, idle: Mutex::default(), slots }
    }

    /// Does `work` on a connection, anew where what goes wrong passes. All of it within `limit`.
    pub(super) async fn with<T>(
        &self,
        limit: Duration,
        work: impl AsyncFn(&Connection) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let tried = timeout(limit, async {
            let _slot = self.slots.acquire().await.map_err(|_| Error::Stopped)?;
            let mut pause = limits::TRY_AGAIN;
            let mut tries = 1;
            loop {
                match self.once(&work).await {
                    Err(Trouble::Database(error)) if passing(&error) && tries < limits::TRIES => {
                        tracing::debug!(%error, tries, "trying again");
                        if lost(&error) {
                            // What ended one has ended all, and some may not know yet.
                            self.idle.lock().clear();
                        }
                        tokio::time::sleep(pause).await;
                        (tries, pause) = (tries + 1, pause * 2);
                    }
                    ended => return ended,
                }
            }
        });
        tried.await.unwrap_or_else(|_| {
            Err(Error::Store(format!("no answer within {} s", limit.as_secs())).into())
        })
    }

    async fn once<T>(
        &self,
        work: &impl AsyncFn(&Connection) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let kept = {
            let mut idle = self.idle.lock();
            idle.retain(|connection| !connection.client.is_closed());
            idle.pop()
        };
        let connection = match kept {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let done = work(&connection).await?;
        // After trouble it is closed instead: nobody knows in which state it is.
        self.idle.lock().push(connection);
        Ok(done)
    }

    async fn connect(&self) -> Result<Connection, Trouble> {
        let connecting = async {
            let client = match &self.database.tls {
                None => self.open(NoTls).await?,
                Some(tls) => self.open(tls.clone()).await?,
            };
            client.batch_execute(&self.session.sql()).await?;
            Ok::<_, Trouble>(client)
        };
        let client = timeout(limits::CONNECT, connecting)
            .await
            .map_err(|_| Error::Store("the database cannot be reached in time".to_owned()))??;
        Ok(Connection { client, statements: Mutex::default() })
    }

    async fn open<T>(&self, tls: T) -> Result<Client, tokio_postgres::Error>
    where
        T: MakeTlsConnect<Socket>,
        T::Stream: Send + 'static,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let (client, connection) = self.database.config.connect(tls).await?;
        self.handle.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the database ended");
            }
        });
        Ok(client)
    }
}

/// The threads that drive connections. Dropping it closes them.
pub(super) struct Threads(Option<Runtime>);

impl Threads {
    pub(super) fn start() -> Result<Arc<Self>, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(limits::THREADS)
            .thread_name("tally-postgres")
            .enable_all()
            .build()
            .map_err(|error| Error::Store(error.to_string()))?;
        Ok(Arc::new(Self(Some(runtime))))
    }

    pub(super) fn handle(&self) -> Result<&Handle, Error> {
        self.0.as_ref().map(Runtime::handle).ok_or(Error::Stopped)
    }

    /// Runs `work` to its end while this thread waits. A thread of the server's own runtime lends
    /// its other tasks to another thread meanwhile.
    pub(super) fn wait<T: Send>(
        &self,
        work: impl AsyncFnOnce() -> Result<T, Trouble> + Send,
    ) -> Result<T, Trouble> {
        let handle = self.handle()?;
        let run = || handle.block_on(work());
        match Handle::try_current().map(|current| current.runtime_flavor()) {
            Err(_) => run(),
            Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(run),
            // A runtime of one thread cannot wait in itself.
            Ok(_) => std::thread::scope(|scope| {
                let ended = scope.spawn(run).join();
                ended.unwrap_or_else(|_| Err(Error::Store("a thread died".to_owned()).into()))
            }),
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Waiting for its end is not allowed on a thread of another runtime.
            runtime.shutdown_background();
        }
    }
}
