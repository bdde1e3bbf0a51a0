//! `tally login` and `tally logout`: a person's session, by way of a browser.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use client::Client;
use proto::wire::Timestamp;
use serde::Serialize;

use crate::browser::{Answer, Waiting, challenge, open, random};
use crate::context::Context;
use crate::credentials::Credentials;
use crate::exit::{Exit, Failure};
use crate::output::{fields, when};

/// How long a person may take to log in: as long as the server gives them.
const PATIENCE: Duration = Duration::from_secs(600);
/// What begins the secret of a session.
const SESSION: &str = "tses_";

/// What is said of a session: everything but its secret.
#[derive(Serialize)]
struct Shown<'a> {
    url: &'a str,
    tenant: &'a str,
    workspace: &'a str,
    environment: &'a str,
    principal_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    credentials: &'a Path,
}

impl<'a> Shown<'a> {
    fn of(file: &'a Credentials, path: &'a Path) -> Self {
        Self {
            url: &file.url,
            tenant: &file.tenant,
            workspace: &file.workspace,
            environment: &file.environment,
            principal_id: &file.principal_id,
            expires_at: None,
            credentials: path,
        }
    }

    fn lines(&self) -> String {
        fields([
            ("principal", self.principal_id.to_owned()),
            ("workspace", format!("{}/{}", self.tenant, self.workspace)),
            ("environment", self.environment.to_owned()),
            ("until", when(self.expires_at)),
            ("credentials", self.credentials.display().to_string()),
        ])
    }
}

/// `tally login`.
#[derive(Debug, Args)]
pub(crate) struct Login {
    /// The provider, by its name in the server's configuration; without it the only one.
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Open the page in a browser, by xdg-open.
    #[arg(long)]
    browser: bool,
}

impl Login {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let output = context.output();
        let path = context.login_path()?;
        let replace = may_replace(&path)?;
        let client = context.public_client()?;
        let (verifier, state) = (random()?, random()?);
        let waiting = Waiting::start(&state).await.context("cannot listen on 127.0.0.1")?;
        let url = self.url(client.url(), waiting.port, &challenge(&verifier), &state);
        output.note(&format!("log in here:\n  {url}"))?;
        if self.browser {
            open(&url);
        }
        let Ok(answer) = tokio::time::timeout(PATIENCE, waiting.answer()).await else {
            bail!("nobody has logged in for {} minutes", PATIENCE.as_secs() / 60);
        };
        let code = match answer? {
            Answer::Code(code) => code,
            Answer::Refused { code, message } => bail!("{message} ({code})"),
            Answer::Back(_) => bail!("the browser came back with nothing"),
        };
        let made = client.redeem_login(&code, &verifier).await?;
        let credentials = Credentials {
            url: client.url().to_owned(),
            tenant: made.tenant,
            workspace: made.workspace,
            environment: made.environment,
            principal_id: made.principal_id,
            key: made.key,
        };
        let written = credentials.write(&path, replace);
        if written.is_err() {
            // What nobody can use is not left open.
            Client::new(client.url(), &credentials.key)?.log_out().await?;
        }
        written?;
        let shown = Shown { expires_at: Some(made.expires_at), ..Shown::of(&credentials, &path) };
        output.show(&shown, Shown::lines)?;
        Ok(Exit::Done)
    }

    fn url(&self, server: &str, port: u16, challenge: &str, state: &str) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("cli_port", &port.to_string());
        query.append_pair("code_challenge", challenge).append_pair("state", state);
        query.extend_pairs(self.provider.as_ref().map(|name| ("provider", name)));
        format!("{server}/auth/login?{}", query.finish())
    }
}

/// Whether there is a file to replace: that of an earlier login, never that of a key, which may be
/// nowhere else.
fn may_replace(path: &Path) -> Result<bool, Failure> {
    if !path.exists() {
        return Ok(false);
    }
    if Credentials::read(path)?.key.starts_with(SESSION) {
        return Ok(true);
    }
    let path = path.display();
    Err(Failure::Configuration(format!("`{path}` holds an API key: name another --credentials")))
}

/// Ends the session of the credentials file and removes it.
pub(crate) async fn logout(context: &Context) -> anyhow::Result<Exit> {
    let path = context.login_path()?;
    let credentials = Credentials::read(&path)?;
    if !credentials.key.starts_with(SESSION) {
        let path = path.display();
        let message = format!("`{path}` holds an API key and no session: revoke the key instead");
        return Err(Failure::Configuration(message).into());
    }
    let ended = Client::new(&credentials.url, &credentials.key)?.log_out().await;
    match ended {
        Ok(()) => {}
        // It was over already: the file is of no use either way.
        Err(client::Error::Refused { status: 401, .. }) => {}
        Err(error) => return Err(error.into()),
    }
    std::fs::remove_file(&path).with_context(|| format!("cannot remove `{}`", path.display()))?;
    let output = context.output();
    let shown = Shown::of(&credentials, &path);
    output.show(&shown, |shown| format!("{} is logged out", shown.principal_id))?;
    Ok(Exit::Done)
}
