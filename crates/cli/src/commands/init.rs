//! `tally init`: a folder to serve from.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use client::Client;
use proto::identity::principal::Kind;
use serde::Serialize;
use server::{Config, Overrides};

use crate::context::Context;
use crate::credentials::Credentials;
use crate::exit::{Exit, Failure};
use crate::setup;

/// What the new configuration says. `DATA` stands for the data folder.
const SAMPLE: &str = include_str!("tally.yaml");

/// `tally init`.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The folder to make.
    #[arg(default_value = "tally", value_name = "DIR")]
    dir: PathBuf,
}

/// What was made.
#[derive(Serialize)]
struct Made {
    config: PathBuf,
    data: PathBuf,
    owner: PathBuf,
    agent: PathBuf,
    approver: PathBuf,
    policy_digest: String,
}

impl Init {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let file = self.write_config()?;
        let config = Config::load(Some(&file), Overrides::default())?;
        let url = format!("http://{}", config.listen);
        let data = config.data.clone();
        let running = server::start(Config { listen: "127.0.0.1:0".to_owned(), ..config }).await?;
        let made = self.fill(&data, running.url(), &url).await;
        running.stop().await;
        let (agent, approver, policy_digest) = made?;
        let owner = data.join("credentials.json");
        let made = Made { config: file, data, owner, agent, approver, policy_digest };
        context.output().show(&made, describe)?;
        Ok(Exit::Done)
    }

    /// Writes the configuration; a folder that has one already is left alone.
    fn write_config(&self) -> anyhow::Result<PathBuf> {
        let failed = |error: std::io::Error| {
            Failure::Configuration(format!("cannot set up `{}`: {error}", self.dir.display()))
        };
        fs::create_dir_all(&self.dir).map_err(failed)?;
        let dir = fs::canonicalize(&self.dir).map_err(failed)?;
        let file = dir.join("tally.yaml");
        let data = serde_json::to_string(&dir.join("data"))?;
        let mut new =
            OpenOptions::new().write(true).create_new(true).open(&file).map_err(failed)?;
        new.write_all(SAMPLE.replace("DATA", &data).as_bytes()).map_err(failed)?;
        Ok(file)
    }

    /// Creates the other principals and publishes the baseline, through the API at `now`. The
    /// credentials files name `later`, where the server is going to be.
    async fn fill(
        &self,
        data: &Path,
        now: &str,
        later: &str,
    ) -> anyhow::Result<(PathBuf, PathBuf, String)> {
        let owner_file = data.join("credentials.json");
        let owner = Credentials::read(&owner_file)?;
        let owner = Credentials { url: later.to_owned(), ..owner };
        owner.write(&owner_file, true)?;
        let client = Client::new(now, &owner.key)?;
        let parties = [("agent", Kind::Agent), ("approver", Kind::User)];
        let [agent, approver] =
            parties.map(|(role, kind)| (role, kind, data.join(format!("{role}.json"))));
        for (role, kind, path) in [&agent, &approver] {
            let made = setup::enrol(&client, &owner, *kind, role, role).await;
            made.with_context(|| format!("creating the {role}"))?.write(path, false)?;
        }
        let policy = setup::publish_baseline(&client, &client).await?;
        Ok((agent.2, approver.2, policy.digest))
    }
}

fn describe(made: &Made) -> String {
    let Made { config, owner, agent, approver, policy_digest, .. } = made;
    let [config, owner, agent, approver] =
        [config, owner, agent, approver].map(|path| path.display().to_string());
    format!(
        "made       {config}
owner      {owner}
agent      {agent}
approver   {approver}
policy     the baseline, {policy_digest};
           denied in prod until another admin publishes it too

Next:
  tally serve --config {config}
  export TALLY_CREDENTIALS={agent}
  tally tool list
  tally submit core.json_transform --params '{{\"input\": {{\"n\": 1}}, \"filter\": \".n + 1\"}}'
What the agent may reach is under `grants` in {config}."
    )
}
