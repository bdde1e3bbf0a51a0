//! `tally token`, `tally sessions` and `tally service-account`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use client::oauth::{ACCESS_TOKEN, Issued, TOKEN_EXCHANGE};
use proto::identity::principal::Kind;
use proto::identity::{
    CreatePrincipalRequest, ListPrincipalsRequest, ListSessionsRequest, RevokeSessionRequest,
    RotateTokenKeyRequest, Session as Entry,
};

use super::identity::{CreateKey, RotateKey, principal_row};
use super::{Paging, next};
use crate::context::Context;
use crate::credentials::Credentials;
use crate::exit::{Exit, Failure};
use crate::output::{fields, page, when, yes};

/// What a token is to be.
#[derive(Debug, Args)]
pub(crate) struct Wanted {
    /// The permissions that it may use, separated by spaces; without it all there are.
    #[arg(long, default_value = "", value_name = "SCOPE")]
    scope: String,
    /// Seconds until it ends, at most 3600; without it 900.
    #[arg(long, value_name = "S")]
    expires_in_s: Option<u32>,
    /// For whom it is, where that is not this server.
    #[arg(long, default_value = "", value_name = "NAME")]
    audience: String,
}

/// `tally token`.
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Issue a short access token for the key (or session, or token) in use.
    Issue(Wanted),
    /// Let an agent or service act for the principal of the key in use.
    Exchange {
        #[command(flatten)]
        wanted: Wanted,
        /// A credentials file of who is to act.
        #[arg(long, value_name = "FILE", conflicts_with = "actor_token")]
        actor: Option<PathBuf>,
        /// The key or token of who is to act. Prefer the variable or `--actor`.
        #[arg(long, env = "TALLY_ACTOR_TOKEN", hide_env_values = true, value_name = "TOKEN")]
        actor_token: Option<String>,
    },
    /// Have another key sign tokens.
    RotateKey {
        /// Seconds that tokens of the key before are still taken; 0 ends all of them.
        #[arg(long, value_name = "S")]
        overlap_s: Option<u32>,
    },
}

impl Token {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self {
            Self::Issue(wanted) => wanted.exchange(context, "").await,
            Self::Exchange { wanted, actor, actor_token } => {
                let file = actor.as_deref().map(Credentials::read).transpose()?;
                let actor = file.map(|file| file.key).or(actor_token).ok_or_else(|| {
                    Failure::Usage("give --actor FILE or set TALLY_ACTOR_TOKEN".to_owned())
                })?;
                wanted.exchange(context, &actor).await
            }
            Self::RotateKey { overlap_s } => {
                let request = RotateTokenKeyRequest { overlap_s };
                let rotated = context.client()?.rotate_token_key(&request, None).await?;
                context.output().show(&rotated, |rotated| {
                    let until = when(rotated.previous_until);
                    fields([("key id", rotated.key_id.clone()), ("previous until", until)])
                })?;
                Ok(Exit::Done)
            }
        }
    }
}

impl Wanted {
    /// Exchanges the credential in use for a token, and for one of `actor` where there is one.
    async fn exchange(self, context: &Context, actor: &str) -> anyhow::Result<Exit> {
        let key = context.key()?;
        let expires_in = self.expires_in_s.map(|s| s.to_string()).unwrap_or_default();
        let client = context.client()?;
        let fields = [
            ("grant_type", TOKEN_EXCHANGE),
            ("subject_token", &key),
            ("subject_token_type", ACCESS_TOKEN),
            ("actor_token", actor),
            ("actor_token_type", if actor.is_empty() { "" } else { ACCESS_TOKEN }),
            ("scope", &self.scope),
            ("audience", &self.audience),
            ("expires_in", &expires_in),
        ];
        context.output().show(&client.token(&fields).await?, describe)?;
        Ok(Exit::Done)
    }
}

fn describe(issued: &Issued) -> String {
    fields([
        ("token", issued.access_token.clone()),
        ("ends in", format!("{} s", issued.expires_in)),
        ("scope", issued.scope.clone()),
    ])
}

/// `tally sessions`.
#[derive(Debug, Subcommand)]
pub(crate) enum Sessions {
    /// List your sessions; whoever may revoke keys sees all of the tenant.
    List {
        /// Only those of this principal.
        #[arg(long, default_value = "", value_name = "ID")]
        principal: String,
        #[command(flatten)]
        paging: Paging,
    },
    /// End a session; it and the tokens that rest on it stop working at once.
    Revoke {
        /// The id of the session.
        id: String,
    },
}

impl Sessions {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let (client, output) = (context.client()?, context.output());
        match self {
            Self::List { principal: principal_id, paging: Paging { page_size, page_token } } => {
                let request = ListSessionsRequest { principal_id, page_size, page_token };
                let list = client.list_sessions(&request).await?;
                output.show(&list, |list| {
                    let header = ["id", "principal", "method", "ended", "opened", "ends"];
                    page(header, list.sessions.iter().map(row), &next(&list.next_page_token))
                })?;
            }
            Self::Revoke { id: session_id } => {
                let request = RevokeSessionRequest { session_id };
                let session = client.revoke_session(&request, None).await?;
                output.show(&session, |session| format!("{} is ended", session.session_id))?;
            }
        }
        Ok(Exit::Done)
    }
}

fn row(entry: &Entry) -> [String; 6] {
    let Entry { session_id, principal_id, method, ended, created_at, expires_at, .. } =
        entry.clone();
    [session_id, principal_id, method, yes(ended), when(created_at), when(expires_at)]
}

/// `tally service-account`: a principal of kind service and its key, in one word.
#[derive(Debug, Subcommand)]
pub(crate) enum ServiceAccount {
    /// Create a service account and its first key, shown this once.
    Create {
        /// Its name, for people.
        #[arg(long)]
        name: String,
        /// A role, such as operator; may be repeated.
        #[arg(long = "role", required = true, value_name = "ROLE")]
        roles: Vec<String>,
        #[command(flatten)]
        place: super::identity::Place,
    },
    /// List the service accounts of the tenant.
    List(Paging),
    /// Give a key of a service account another secret and show it, this once.
    Rotate(RotateKey),
}

impl ServiceAccount {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self {
            Self::Create { name, roles, place } => {
                let kind = Kind::Service.into();
                let account_id = String::new();
                let request = CreatePrincipalRequest { kind, name, roles, account_id };
                let made = context.client()?.create_principal(&request, None).await?;
                CreateKey { principal: made.principal_id, place }.run(context).await
            }
            Self::List(Paging { page_size, page_token }) => {
                let request = ListPrincipalsRequest { page_size, page_token };
                let mut list = context.client()?.list_principals(&request).await?;
                list.principals.retain(|principal| principal.kind() == Kind::Service);
                context.output().show(&list, |list| {
                    let header = ["id", "kind", "roles", "disabled", "name"];
                    let rows = list.principals.iter().map(principal_row);
                    page(header, rows, &next(&list.next_page_token))
                })?;
                Ok(Exit::Done)
            }
            Self::Rotate(command) => command.run(context).await,
        }
    }
}
