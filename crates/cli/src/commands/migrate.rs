//! `tally migrate`.

use std::path::PathBuf;

use clap::Args;
use ledger::postgres::migrate::{self, Step};
use serde::Serialize;
use server::{Config, DatabaseUrl, Overrides};

use crate::context::Context;
use crate::exit::{Exit, Failure};

/// `tally migrate`.
#[derive(Debug, Args)]
pub(crate) struct Migrate {
    /// The database, reached as whoever owns it: postgres://USER@HOST/NAME.
    #[arg(long, env = "TALLY_DATABASE", hide_env_values = true, value_name = "URL")]
    database: Option<String>,
    /// The configuration that names the database.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Change nothing; say what is missing, and refuse where anything is.
    #[arg(long)]
    check: bool,
}

/// What was applied, or is missing.
#[derive(Serialize)]
struct Found {
    database: String,
    applied: Vec<Step>,
    missing: Vec<Step>,
}

impl Migrate {
    /// Brings the database to this version.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let database = self.database.map(DatabaseUrl);
        let overrides = Overrides { database, ..Overrides::default() };
        let config = Config::load(self.config.as_deref(), overrides)?;
        let Some(database) = config.database()? else {
            return Err(Failure::Usage("give --database URL".to_owned()).into());
        };
        let mut found =
            Found { database: database.to_string(), applied: Vec::new(), missing: Vec::new() };
        if self.check {
            found.missing = migrate::missing(&database)?;
        } else {
            found.applied = migrate::migrate(&database)?;
        }
        context.output().show(&found, describe)?;
        Ok(if found.missing.is_empty() { Exit::Done } else { Exit::Configuration })
    }
}

fn describe(found: &Found) -> String {
    let line = |verb: &str, step: &Step| {
        let Step { schema, number, name } = step;
        format!("{verb} {schema} {number}: {name}")
    };
    let applied = found.applied.iter().map(|step| line("applied", step));
    let lines: Vec<_> =
        applied.chain(found.missing.iter().map(|step| line("missing", step))).collect();
    if lines.is_empty() { "nothing is missing".to_owned() } else { lines.join("\n") }
}
