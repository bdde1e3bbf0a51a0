//! The tables and how they came to be: numbered migrations, forward only, one text for every
//! engine. An engine stores each with its checksum, and a fingerprint of every table after it, so
//! that a store that somebody else has changed is refused by name.

use std::collections::BTreeMap;

use kernel::values::Digest;

use crate::Error;

/// One step. Once released, none is ever changed: what is wrong is put right by the next.
pub(crate) struct Migration {
    /// From 1, without a gap.
    pub(crate) number: i64,
    /// What it is about.
    pub(crate) name: &'static str,
    /// For every engine. `BYTES` stands for the engine's type of bytes, `TEXT` for its type of
    /// texts, which compare by their bytes.
    shared: &'static str,
    /// For PostgreSQL besides: the lease of the writer, grants, row-level security. `THE_SCHEMA`
    /// stands for the plane's schema.
    postgres: &'static str,
}

/// Which migrations there are.
pub(crate) const ALL: [Migration; 1] = [Migration {
    number: 1,
    name: "logs, states, content",
    shared: include_str!("migrations/0001.sql"),
    postgres: include_str!("migrations/0001.postgres.sql"),
}];

/// The table that says which migrations a store has. `tables` is JSON: what each table's
/// fingerprint was when the migration had been applied.
pub(crate) const TABLE: &str = "CREATE TABLE IF NOT EXISTS migration \
    (number BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, \
    tables TEXT NOT NULL)";
pub(crate) const KNOWN: &str = "SELECT number, name, checksum, tables FROM migration \
    ORDER BY number";
pub(crate) const RECORD: &str =
    "INSERT INTO migration (number, name, checksum, tables) VALUES ($1, $2, $3, $4)";

/// What tells engines apart here.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Engine {
    Sqlite,
    /// With the schema of the plane.
    Postgres(&'static str),
}

impl Engine {
    /// A shared text as this engine takes it.
    pub(crate) fn text(self, shared: &str) -> String {
        match self {
            Self::Sqlite => shared.replace("BYTES", "BLOB"),
            Self::Postgres(_) => {
                shared.replace("BYTES", "BYTEA").replace("TEXT", "TEXT COLLATE \"C\"")
            }
        }
    }
}

impl Migration {
    /// What this engine has to run.
    pub(crate) fn sql(&self, engine: Engine) -> String {
        let shared = engine.text(self.shared);
        match engine {
            Engine::Sqlite => shared,
            Engine::Postgres(schema) => {
                shared + &engine.text(&self.postgres.replace("THE_SCHEMA", schema))
            }
        }
    }

    /// What tells whether a store's migration is this one.
    pub(crate) fn checksum(&self, engine: Engine) -> String {
        Digest::of(self.sql(engine).as_bytes()).hex()
    }
}

/// A migration that a store has.
pub(crate) struct Known {
    pub(crate) number: i64,
    pub(crate) name: String,
    pub(crate) checksum: String,
    pub(crate) tables: String,
}

/// The fingerprint of each table.
pub(crate) type Tables = BTreeMap<String, String>;

/// The fingerprints of tables out of what an engine says of them, line by line.
pub(crate) fn fingerprints(lines: impl IntoIterator<Item = (String, String)>) -> Tables {
    let mut said: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (table, line) in lines {
        said.entry(table).or_default().push(line);
    }
    let print = |mut lines: Vec<String>| {
        lines.sort_unstable();
        Digest::of(lines.join("\n").as_bytes()).hex()
    };
    said.into_iter().map(|(table, lines)| (table, print(lines))).collect()
}

/// The migrations that a store lacks. `present` are its tables as they are now. Refused where the
/// store has been changed by anything but these migrations.
pub(crate) fn missing(
    engine: Engine,
    known: &[Known],
    present: &Tables,
) -> Result<&'static [Migration], Error> {
    const MIGRATIONS: &[Migration] = &ALL;
    let drift = |reason: String| Err(Error::Schema(reason));
    for (at, has) in known.iter().enumerate() {
        let Known { number, name, checksum, .. } = has;
        match MIGRATIONS.get(at) {
            Some(ours) if ours.number != *number => {
                return drift(format!("migration {} is not in it, but {number} is", ours.number));
            }
            Some(ours) if ours.checksum(engine) != *checksum => {
                return drift(format!("migration {number} ({name}) is not the one known here"));
            }
            Some(_) => {}
            None => {
                return drift(format!(
                    "migration {number} ({name}) is of a later version of tally"
                ));
            }
        }
    }
    if let Some(last) = known.last() {
        let expected: Tables = serde_json::from_str(&last.tables)
            .map_err(|error| Error::Corrupt(format!("migration {}: {error}", last.number)))?;
        let names = expected.keys().chain(present.keys());
        if let Some(name) = names.clone().find(|name| expected.get(*name) != present.get(*name)) {
            let how = match (expected.contains_key(name), present.contains_key(name)) {
                (true, true) => "was changed",
                (true, false) => "is gone",
                (false, _) => "is not of tally",
            };
            return drift(format!("the table `{name}` {how}"));
        }
    }
    Ok(MIGRATIONS.get(known.len()..).unwrap_or_default())
}

/// The row that says that a migration was applied and what it left behind.
pub(crate) fn tables_json(tables: &Tables) -> Result<String, Error> {
    serde_json::to_string(tables).map_err(|error| Error::Corrupt(error.to_string()))
}
