//! `tally secret`.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use proto::secrets::{
    ListSecretsRequest, PutSecretRequest, RemoveSecretRequest, RotateSecretRequest, Secret as Entry,
};

use super::{Paging, next};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::{fields, page, when};

/// Longer than the server takes: it says what is wrong.
const VALUE_BYTES_MAX: u64 = 128 << 10;

/// `tally secret`.
#[derive(Debug, Subcommand)]
pub(crate) enum Secret {
    /// Keep a new secret. Its value is read and never shown again, by anybody.
    Put {
        /// What to call it: `${secret:NAME}` in the settings of an upstream stands for its value.
        name: String,
        #[command(flatten)]
        from: From,
    },
    /// Give a secret another value, which the next request to an upstream has.
    Rotate {
        /// Which secret.
        name: String,
        #[command(flatten)]
        from: From,
    },
    /// List the names of the secrets.
    List(Paging),
    /// Delete the value of a secret. Upstreams that need it fail from then on.
    Remove {
        /// Which secret.
        name: String,
    },
}

/// Where a value is read: from standard input, where nothing else is said. No option takes the
/// value itself, since others may see a command line.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct From {
    /// Read the value from a file. One line end after it is not part of it.
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
    /// Read the value from a variable of the environment.
    #[arg(long, value_name = "NAME")]
    from_env: Option<String>,
}

impl From {
    fn read(&self) -> anyhow::Result<String> {
        if let Some(name) = &self.from_env {
            let value = std::env::var(name);
            // The error of a variable that is no text has the text in it.
            return value.map_err(|_| {
                Failure::Usage(format!("the variable `{name}` is not set, or is no text")).into()
            });
        }
        if let Some(path) = &self.from_file {
            let failed = || format!("cannot read `{}`", path.display());
            return value(File::open(path).with_context(failed)?).with_context(failed);
        }
        let stdin = io::stdin();
        if stdin.is_terminal() {
            let message = "pipe the value in, or name --from-file or --from-env: what is typed \
                           here would be seen";
            return Err(Failure::Usage(message.to_owned()).into());
        }
        value(stdin.lock()).context("cannot read the value from standard input")
    }
}

/// The text of `source`, without the line end that files and commands put after it.
fn value(source: impl Read) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = source.take(VALUE_BYTES_MAX).read_to_string(&mut text)?;
    if u64::try_from(read)? == VALUE_BYTES_MAX {
        return Err(Failure::Usage("the value is too long: at most 64 KiB".to_owned()).into());
    }
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

impl Secret {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let (client, output) = (context.client()?, context.output());
        match self {
            Self::Put { name, from } => {
                let request = PutSecretRequest { name, value: from.read()? };
                output.show(&client.put_secret(&request, None).await?, describe)?;
            }
            Self::Rotate { name, from } => {
                let request = RotateSecretRequest { name, value: from.read()? };
                output.show(&client.rotate_secret(&request, None).await?, describe)?;
            }
            Self::List(Paging { page_size, page_token }) => {
                let request = ListSecretsRequest { page_size, page_token };
                let list = client.list_secrets(&request).await?;
                output.show(&list, |list| {
                    let header = ["name", "version", "changed", "by"];
                    page(header, list.secrets.iter().map(row), &next(&list.next_page_token))
                })?;
            }
            Self::Remove { name } => {
                let removed = client.remove_secret(&RemoveSecretRequest { name }, None).await?;
                output.show(&removed, describe)?;
            }
        }
        Ok(Exit::Done)
    }
}

fn row(secret: &Entry) -> [String; 4] {
    let changed = when(secret.changed_at);
    [secret.name.clone(), secret.version.to_string(), changed, secret.changed_by.clone()]
}

fn describe(secret: &Entry) -> String {
    fields([
        ("secret", secret.name.clone()),
        ("version", secret.version.to_string()),
        ("state", if secret.removed { "removed" } else { "kept" }.to_owned()),
        ("changed", when(secret.changed_at)),
        ("by", secret.changed_by.clone()),
    ])
}
