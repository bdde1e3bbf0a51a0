//! `tally me`: who one is, one's second factor and one's signing keys.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use proto::me::{
    AddSigningKeyRequest, ConfirmTotpRequest, EnrollTotpRequest, EnrollTotpResponse, Factor,
    GetMeRequest, ListSigningKeysRequest, Me as Myself, RemoveSigningKeyRequest, RemoveTotpRequest,
    SigningKey,
};

use crate::context::Context;
use crate::exit::Exit;
use crate::output::{fields, page, when};
use crate::signing::Key;

/// `tally me`.
#[derive(Debug, Subcommand)]
pub(crate) enum Me {
    /// Show whom the key stands for and what it may do.
    Show,
    /// Manage your second factor: codes of an authenticator app.
    #[command(subcommand)]
    Totp(Totp),
    /// Manage the public keys with which you sign decisions.
    #[command(subcommand)]
    SigningKeys(SigningKeys),
}

/// `tally me totp`.
#[derive(Debug, Subcommand)]
pub(crate) enum Totp {
    /// Make a secret and show it, once.
    Enroll,
    /// Take the second factor into use, by a first code.
    Confirm {
        /// Six digits.
        code: String,
    },
    /// Remove the second factor, by a code of it.
    Remove {
        /// Six digits.
        code: String,
    },
}

/// `tally me signing-keys`.
#[derive(Debug, Subcommand)]
pub(crate) enum SigningKeys {
    /// Register a public key: ECDSA P-256 or Ed25519.
    Add {
        /// A PEM file. Of a private key, only the public half is sent.
        file: PathBuf,
        /// What to call it.
        #[arg(long, default_value = "signing key")]
        name: String,
    },
    /// List your signing keys.
    List,
    /// Remove a signing key. It does not come back.
    Remove {
        /// The id of the key.
        key_id: String,
    },
}

impl Me {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self {
            Self::Show => {
                let me = context.client()?.get_me(&GetMeRequest {}).await?;
                context.output().show(&me, describe)?;
                Ok(Exit::Done)
            }
            Self::Totp(command) => command.run(context).await,
            Self::SigningKeys(command) => command.run(context).await,
        }
    }
}

impl Totp {
    async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let (client, output) = (context.client()?, context.output());
        match self {
            Self::Enroll => {
                let made = client.enroll_totp(&EnrollTotpRequest {}, None).await?;
                output.show(&made, enrolled)?;
            }
            Self::Confirm { code } => {
                let factor = client.confirm_totp(&ConfirmTotpRequest { code }, None).await?;
                output.show(&factor, state)?;
            }
            Self::Remove { code } => {
                let factor = client.remove_totp(&RemoveTotpRequest { code }, None).await?;
                output.show(&factor, state)?;
            }
        }
        Ok(Exit::Done)
    }
}

impl SigningKeys {
    async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let (client, output) = (context.client()?, context.output());
        match self {
            Self::Add { file, name } => {
                let public_key_pem = public_pem(&file)?;
                let request = AddSigningKeyRequest { public_key_pem, name };
                output.show(&client.add_signing_key(&request, None).await?, key)?;
            }
            Self::List => {
                let list = client.list_signing_keys(&ListSigningKeysRequest {}).await?;
                output.show(&list, |list| {
                    let header = ["id", "name", "algorithm", "registered", "removed"];
                    page(header, list.keys.iter().map(row), "")
                })?;
            }
            Self::Remove { key_id } => {
                let request = RemoveSigningKeyRequest { key_id };
                output.show(&client.remove_signing_key(&request, None).await?, key)?;
            }
        }
        Ok(Exit::Done)
    }
}

/// The public key of a file that holds it, or its private half.
fn public_pem(file: &std::path::Path) -> anyhow::Result<String> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read `{}`", file.display()))?;
    if kernel::pem::decode(&text).is_some() {
        return Ok(text);
    }
    Ok(kernel::pem::encode(&Key::read(file)?.spki_der()?))
}

fn describe(me: &Myself) -> String {
    fields([
        ("principal", me.principal_id.clone()),
        ("kind", me.kind.clone()),
        ("roles", me.roles.join(", ")),
        ("may", me.permissions.join(", ")),
        ("tenant", me.tenant.clone()),
        ("workspace", me.workspace.clone()),
        ("environment", me.environment.clone()),
        ("second factor", me.factor.as_ref().map_or_else(String::new, state)),
    ])
}

fn state(factor: &Factor) -> String {
    let state = factor.state().as_str_name();
    match factor.locked_until {
        None => state.to_owned(),
        until => format!("{state}, locked until {}", when(until)),
    }
}

fn enrolled(made: &EnrollTotpResponse) -> String {
    let mut text = fields([("secret", made.secret.clone()), ("uri", made.otpauth_uri.clone())]);
    text.push_str("It is shown once. Now: tally me totp confirm CODE\n");
    text
}

fn row(key: &SigningKey) -> [String; 5] {
    let SigningKey { key_id, name, algorithm, registered_at, removed_at, .. } = key.clone();
    [key_id, name, algorithm, when(registered_at), when(removed_at)]
}

fn key(key: &SigningKey) -> String {
    fields([
        ("key", key.key_id.clone()),
        ("name", key.name.clone()),
        ("algorithm", key.algorithm.clone()),
        ("registered", when(key.registered_at)),
        ("removed", key.removed_at.map_or_else(String::new, |at| when(Some(at)))),
    ])
}
