//! Making and checking the tables: run by whoever owns the database, never by a server.

use serde::Serialize;
use tokio_postgres::error::SqlState;

use super::connection::{Connection, Pool, Session, Threads, Trouble};
use super::{Database, Plane, READER, WRITER, limits, rows};
use crate::Error;
use crate::migrations::{self, Engine, Known, Tables};

const TABLES: &str = include_str!("tables.sql");
const EXISTS: &str = "SELECT count(*) > 0 FROM pg_class c \
    JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname = $1 AND c.relname = 'migration'";
/// The roles that whoever is logged in may not act as.
const NOT_GRANTED: &str = "SELECT rolname::text, current_user::text FROM pg_roles \
    WHERE rolname = ANY ($1) AND NOT pg_has_role(current_user, oid, 'MEMBER')";
const ROLES: &str = "SELECT rolname::text FROM pg_roles WHERE rolname = ANY ($1)";
/// Roles for which the database does not enforce what the tables grant.
const MIGHTY: &str = "SELECT rolname::text FROM pg_roles \
    WHERE rolname = ANY ($1) AND (rolsuper OR rolbypassrls)";
const SETTINGS: &str = "SELECT current_setting('server_version_num')::bigint, \
    current_setting('fsync'), current_setting('server_encoding')";
const VERSION_MIN: i64 = 150_000;

/// A migration that was applied, or that is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The schema.
    pub schema: &'static str,
    /// From 1.
    pub number: i64,
    /// What it is about.
    pub name: &'static str,
}

/// Brings a database to this version: the roles, and for each plane its schema and tables. Returns
/// what was applied. A database that was changed by anything else is refused, and left as it is.
pub fn migrate(database: &Database) -> Result<Vec<Step>, Error> {
    let threads = Threads::start()?;
    let steps = threads.wait(async || {
        let mut steps = Vec::new();
        for plane in Plane::ALL {
            let pool = owner(&threads, database, plane)?;
            pool.with(limits::READ, prepare).await?;
            while let Some(step) = pool
                .with(limits::MIGRATE, async |connection| apply_next(connection, plane).await)
                .await?
            {
                steps.push(step);
            }
        }
        Ok(steps)
    });
    Ok(steps?)
}

/// What [`migrate`] would apply. Changes nothing.
pub fn missing(database: &Database) -> Result<Vec<Step>, Error> {
    let threads = Threads::start()?;
    let steps = threads.wait(async || {
        let mut steps = Vec::new();
        for plane in Plane::ALL {
            let pool = owner(&threads, database, plane)?;
            steps.extend(
                pool.with(limits::READ, async |connection| lacks(connection, plane).await).await?,
            );
        }
        Ok(steps)
    });
    Ok(steps?)
}

/// Refuses a database that was never migrated, and a login that cannot do a server's work. For a
/// session that acts as nobody yet.
pub(super) async fn check_login(connection: &Connection, plane: Plane) -> Result<(), Trouble> {
    let roles: &[&str] = &[WRITER, READER];
    let made = connection.query(ROLES, &[&roles]).await?.len() == roles.len();
    if !made || !exists(connection, plane.schema()).await? {
        let reason = format!("there is no {}: run `tally migrate`", plane.schema());
        return Err(Error::Schema(reason).into());
    }
    if let Some(row) = connection.query(NOT_GRANTED, &[&roles]).await?.first() {
        let (role, login): (String, String) = (rows::get(row, 0)?, rows::get(row, 1)?);
        let reason = format!("{login} may not act as {role}: GRANT {WRITER}, {READER} TO {login}");
        return Err(Error::Database(reason).into());
    }
    Ok(())
}

async fn exists(connection: &Connection, schema: &'static str) -> Result<bool, Trouble> {
    let found = connection.query(EXISTS, &[&schema]).await?;
    let found = found.first().map(|row| rows::get::<bool>(row, 0)).transpose()?;
    Ok(found == Some(true))
}

/// Refuses a database that a server cannot rely on.
pub(super) async fn check(connection: &Connection, plane: Plane) -> Result<(), Trouble> {
    suits(connection).await?;
    let roles: &[&str] = &[WRITER, READER];
    if let Some(row) = connection.query(MIGHTY, &[&roles]).await?.first() {
        let name: String = rows::get(row, 0)?;
        let reason = format!("the role {name} must be neither superuser nor BYPASSRLS");
        return Err(Error::Schema(reason).into());
    }
    if let Some(step) = lacks(connection, plane).await?.first() {
        let Step { schema, number, .. } = step;
        let reason = format!("{schema} lacks migration {number}: run `tally migrate`");
        return Err(Error::Schema(reason).into());
    }
    Ok(())
}

fn owner(threads: &Threads, database: &Database, plane: Plane) -> Result<Pool, Error> {
    let session = Session { role: None, schema: plane.schema(), limit: limits::MIGRATE };
    Ok(Pool::new(database.clone(), session, threads.handle()?.clone(), 1))
}

/// Whether the database keeps what it says it has kept, and text as it is given.
async fn suits(connection: &Connection) -> Result<(), Trouble> {
    let found = connection.query(SETTINGS, &[]).await?;
    let Some(row) = found.first() else { return Ok(()) };
    let (fsync, encoding): (String, String) = (rows::get(row, 1)?, rows::get(row, 2)?);
    let reason = if rows::get::<i64>(row, 0)? < VERSION_MIN {
        "it takes PostgreSQL 15 or later"
    } else if fsync != "on" {
        "its setting `fsync` is off: it would lose what it has confirmed"
    } else if encoding != "UTF8" {
        "its encoding is not UTF8: create it with ENCODING 'UTF8' TEMPLATE template0"
    } else {
        return Ok(());
    };
    Err(Error::Database(reason.to_owned()).into())
}

/// Makes the roles. They belong to all databases of the server, so another may have made them.
async fn prepare(connection: &Connection) -> Result<(), Trouble> {
    suits(connection).await?;
    for role in [WRITER, READER] {
        let roles: &[&str] = &[role];
        if !connection.query(ROLES, &[&roles]).await?.is_empty() {
            continue;
        }
        let made = connection.client.batch_execute(&format!("CREATE ROLE {role} NOLOGIN")).await;
        let raced = [SqlState::DUPLICATE_OBJECT, SqlState::UNIQUE_VIOLATION];
        match made {
            Err(error) if error.code().is_some_and(|state| raced.contains(state)) => {}
            made => made?,
        }
    }
    Ok(())
}

/// Applies the next migration that is missing, in one transaction.
async fn apply_next(connection: &Connection, plane: Plane) -> Result<Option<Step>, Trouble> {
    let (schema, engine) = (plane.schema(), Engine::Postgres(plane.schema()));
    let begin = format!(
        "BEGIN; CREATE SCHEMA IF NOT EXISTS {schema}; {};
        LOCK TABLE migration IN EXCLUSIVE MODE",
        engine.text(migrations::TABLE)
    );
    connection.client.batch_execute(&begin).await?;
    let (known, tables) = state(connection, schema).await?;
    let Some(migration) = migrations::missing(engine, &known, &tables)?.first() else {
        connection.client.batch_execute("ROLLBACK").await?;
        return Ok(None);
    };
    connection.client.batch_execute(&migration.sql(engine)).await?;
    let (_, tables) = state(connection, schema).await?;
    let (number, name) = (migration.number, migration.name);
    let (checksum, tables) = (migration.checksum(engine), migrations::tables_json(&tables)?);
    connection.execute(migrations::RECORD, &[&number, &name, &checksum, &tables]).await?;
    connection.end().await?;
    Ok(Some(Step { schema, number, name }))
}

/// What a plane lacks.
async fn lacks(connection: &Connection, plane: Plane) -> Result<Vec<Step>, Trouble> {
    let schema = plane.schema();
    let (known, tables) = if exists(connection, schema).await? {
        state(connection, schema).await?
    } else {
        (Vec::new(), Tables::new())
    };
    let lacks = migrations::missing(Engine::Postgres(schema), &known, &tables)?;
    let step = |m: &migrations::Migration| Step { schema, number: m.number, name: m.name };
    Ok(lacks.iter().map(step).collect())
}

/// The migrations that a schema has, and its tables.
async fn state(
    connection: &Connection,
    schema: &'static str,
) -> Result<(Vec<Known>, Tables), Trouble> {
    let known = connection.query(migrations::KNOWN, &[]).await?;
    let known: Result<_, Error> = known
        .iter()
        .map(|row| {
            let (number, name) = (rows::get(row, 0)?, rows::get(row, 1)?);
            Ok(Known { number, name, checksum: rows::get(row, 2)?, tables: rows::get(row, 3)? })
        })
        .collect();
    let lines = connection.query(TABLES, &[&schema]).await?;
    let lines: Result<Vec<_>, Error> =
        lines.iter().map(|row| Ok((rows::get(row, 0)?, rows::get(row, 1)?))).collect();
    Ok((known?, migrations::fingerprints(lines?)))
}
