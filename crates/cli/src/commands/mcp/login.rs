//! `tally mcp login`: a person logs in at an MCP server. The server of Tally does the talking and
//! keeps the tokens; this sends the browser there and catches it where it comes back.

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use client::Client;
use proto::upstreams::{BeginUpstreamLoginRequest, FinishUpstreamLoginRequest, Upstream};

use crate::browser::{Answer, Waiting, open};
use crate::output::Output;

/// How long a person may take to log in: as long as the server gives them.
const PATIENCE: Duration = Duration::from_secs(600);

/// `tally mcp login`.
#[derive(Debug, Args)]
pub(crate) struct Login {
    /// The name of the server.
    name: String,
    /// A scope to ask for besides what the server demands. May be repeated.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// Open the page in a browser, by xdg-open.
    #[arg(long)]
    browser: bool,
}

impl Login {
    pub(super) async fn run(self, client: &Client, output: Output) -> anyhow::Result<Upstream> {
        let Self { name, scopes, browser } = self;
        let waiting = Waiting::any().await.context("cannot listen on 127.0.0.1")?;
        let redirect_uri = format!("http://127.0.0.1:{}/", waiting.port);
        let request = BeginUpstreamLoginRequest {
            name: name.clone(),
            redirect_uri: redirect_uri.clone(),
            scopes,
        };
        let url = client.begin_upstream_login(&request, None).await?.authorization_url;
        output.note(&format!("log in here:\n  {url}"))?;
        if browser {
            open(&url);
        }
        let Ok(answer) = tokio::time::timeout(PATIENCE, waiting.answer()).await else {
            bail!("nobody has logged in for {} minutes", PATIENCE.as_secs() / 60);
        };
        let Answer::Back(query) = answer? else { bail!("the browser came back with nothing") };
        let callback_url = format!("{redirect_uri}?{query}");
        let request = FinishUpstreamLoginRequest { name, callback_url };
        Ok(client.finish_upstream_login(&request, None).await?)
    }
}
