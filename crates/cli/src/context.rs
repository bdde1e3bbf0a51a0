//! What all commands share: the server, the key, and how to answer.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use client::Client;
use server::Serving;

use crate::credentials::{Credentials, LOCAL};
use crate::exit::Failure;
use crate::output::Output;

/// A folder for its owner alone.
const FOLDER_MODE: u32 = 0o700;

/// The options of every command.
#[derive(Debug, Args)]
pub(crate) struct Context {
    /// The server, such as http://127.0.0.1:8480.
    #[arg(long, global = true, env = "TALLY_URL", value_name = "URL")]
    url: Option<String>,
    /// The API key, or an access token. Prefer the environment variable: others may see a command
    /// line.
    #[arg(long, global = true, env = "TALLY_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,
    /// A credentials file, such as tally-data/credentials.json: server and key in one. Without
    /// it, that of `tally login`.
    #[arg(long, global = true, env = "TALLY_CREDENTIALS", value_name = "FILE")]
    credentials: Option<PathBuf>,
    /// Print one JSON document: exactly what the API answered.
    #[arg(long, global = true)]
    json: bool,
}

/// A client, and what is known of its key.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) credentials: Option<Credentials>,
}

impl Context {
    /// How to answer.
    pub(crate) fn output(&self) -> Output {
        Output { json: self.json }
    }

    /// Whether the server is named, by whichever means.
    pub(crate) fn names_server(&self) -> bool {
        self.url.is_some() || self.credentials.is_some()
    }

    /// The data folder whose server is meant, where the credentials file says no more than that.
    pub(crate) fn local_folder(&self) -> anyhow::Result<Option<PathBuf>> {
        let Some(path) = self.credentials.as_ref().filter(|_| self.url.is_none()) else {
            return Ok(None);
        };
        let local = Credentials::read(path)?.url == LOCAL;
        Ok(path.parent().filter(|_| local).map(Path::to_owned))
    }

    /// The server and the key. `--url` and `--api-key` win over the credentials file.
    pub(crate) fn session(&self) -> anyhow::Result<Session> {
        let credentials = self.file()?;
        let file = credentials.as_ref();
        let url = self.url_or(file)?;
        let key = self.key_or(file)?;
        Ok(Session { client: Client::new(&url, &key)?, credentials })
    }

    /// The API key or token in use.
    pub(crate) fn key(&self) -> anyhow::Result<String> {
        let credentials = self.file()?;
        Ok(self.key_or(credentials.as_ref())?)
    }

    /// The credentials file that is named or, where neither it nor a key is, that of a login. A
    /// login's session goes to the server that opened it and to no other.
    fn file(&self) -> anyhow::Result<Option<Credentials>> {
        if let Some(path) = &self.credentials {
            return Ok(Some(Credentials::read(path)?));
        }
        if self.api_key.is_some() {
            return Ok(None);
        }
        let Some(path) = login_file().filter(|path| path.is_file()) else { return Ok(None) };
        let file = Credentials::read(&path)?;
        let same = |url: &String| url.trim_end_matches('/') == file.url;
        Ok(self.url.as_ref().is_none_or(same).then_some(file))
    }

    /// Where `tally login` keeps its session.
    pub(crate) fn login_path(&self) -> anyhow::Result<PathBuf> {
        if let Some(path) = &self.credentials {
            return Ok(path.clone());
        }
        let path = login_file().ok_or_else(|| {
            Failure::Configuration("name a file with --credentials, or set HOME".to_owned())
        })?;
        if let Some(folder) = path.parent() {
            DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder).map_err(
                |error| {
                    let folder = folder.display();
                    Failure::Configuration(format!("cannot make the folder `{folder}`: {error}"))
                },
            )?;
        }
        Ok(path)
    }

    fn key_or(&self, file: Option<&Credentials>) -> Result<String, Failure> {
        let key = self.api_key.clone().or_else(|| file.map(|file| file.key.clone()));
        key.ok_or_else(|| missing("API key", "TALLY_API_KEY"))
    }

    /// The server that is named, or that of the credentials file. A server that has no fixed
    /// address is looked for.
    fn url_or(&self, file: Option<&Credentials>) -> anyhow::Result<String> {
        let url = self.url.clone().or_else(|| file.map(|file| file.url.clone()));
        let url = url.ok_or_else(|| missing("server", "TALLY_URL"))?;
        if url != LOCAL {
            return Ok(url);
        }
        let folder = self.credentials.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        match server::serving(folder) {
            Ok(Serving::At(url)) => Ok(url),
            Ok(Serving::Nobody | Serving::Silent) => anyhow::bail!(Failure::NoServer(format!(
                "no server runs on `{}`: start it with `tally serve --data`, or the program that \
                 runs `tally mcp`",
                folder.display()
            ))),
            Err(error) => anyhow::bail!(Failure::Configuration(format!(
                "cannot look for the server of `{}`: {error}",
                folder.display()
            ))),
        }
    }

    /// The server alone, for public calls.
    pub(crate) fn public_client(&self) -> anyhow::Result<Client> {
        let credentials = self.file()?;
        Ok(Client::new(&self.url_or(credentials.as_ref())?, "")?)
    }

    /// The client of [`Self::session`].
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        Ok(self.session()?.client)
    }
}

impl Session {
    /// The workspace that was asked for, or that of the credentials file.
    pub(crate) fn workspace(&self, asked: Option<String>) -> Result<String, Failure> {
        let known = || self.credentials.as_ref().map(|file| file.workspace.clone());
        asked.or_else(known).ok_or_else(|| Failure::Usage("give --workspace NAME".to_owned()))
    }

    /// The tenant that was asked for, or that of the credentials file.
    pub(crate) fn tenant(&self, asked: Option<String>) -> Result<String, Failure> {
        let known = || self.credentials.as_ref().map(|file| file.tenant.clone());
        asked.or_else(known).ok_or_else(|| Failure::Usage("give --tenant NAME".to_owned()))
    }
}

/// The file of a login: below `$XDG_CONFIG_HOME`, else below `~/.config`.
fn login_file() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let home = || folder("HOME").map(|home| home.join(".config"));
    let base = folder("XDG_CONFIG_HOME").or_else(home)?;
    Some(base.join("tally").join("credentials.json"))
}

fn missing(what: &str, variable: &str) -> Failure {
    Failure::Configuration(format!(
        "no {what}: set {variable}, or TALLY_CREDENTIALS to a file such as \
         tally-data/credentials.json, or run `tally login`"
    ))
}
