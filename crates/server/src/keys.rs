//! Where keys are: in files below the data folder, or in a hardware module.

use std::path::PathBuf;
use std::sync::Arc;

use ledger::keys::pkcs11::{self, Pkcs11Keys, read_pin};
use ledger::keys::{FileKeys, KeyProvider};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{Config, ConfigError};

/// What keeps the keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    /// Encrypted files in the folder `keys` of the data folder.
    #[default]
    File,
    /// A token of a PKCS#11 module.
    Pkcs11,
}

/// Where keys are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keys {
    /// What keeps them. It must not change once logs exist: keys do not move.
    pub provider: Provider,
    /// The PKCS#11 module, a shared library.
    pub module: Option<PathBuf>,
    /// The label of the token.
    pub token: String,
    /// A file whose first line is the user PIN.
    pub pin_file: Option<PathBuf>,
    /// The environment variable that has the user PIN.
    pub pin_env: Option<String>,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            provider: Provider::File,
            module: None,
            token: "tally".to_owned(),
            pin_file: None,
            pin_env: None,
        }
    }
}

fn refused(reason: impl std::fmt::Display) -> ConfigError {
    ConfigError::Value { key: "keys", reason: reason.to_string() }
}

impl Keys {
    /// Checks what serde cannot.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let pins = usize::from(self.pin_file.is_some()) + usize::from(self.pin_env.is_some());
        match self.provider {
            Provider::File if self.module.is_some() || pins > 0 => {
                Err(refused("module, pin_file and pin_env are for the provider pkcs11"))
            }
            Provider::Pkcs11 if self.module.is_none() => Err(refused("name the module, a file")),
            Provider::Pkcs11 if pins != 1 => Err(refused("give either pin_file or pin_env")),
            Provider::Pkcs11 if self.token.is_empty() => Err(refused("token: its label")),
            _ => Ok(()),
        }
    }

    fn pin(&self) -> Result<Zeroizing<String>, ConfigError> {
        let pin = match (&self.pin_file, &self.pin_env) {
            (Some(path), _) => {
                read_pin(path).map_err(|source| ConfigError::Read { path: path.clone(), source })?
            }
            (None, Some(name)) => std::env::var(name)
                .map(Zeroizing::new)
                .map_err(|_| refused(format!("the variable `{name}` of pin_env is not set")))?,
            (None, None) => return Err(refused("give either pin_file or pin_env")),
        };
        if pin.is_empty() { Err(refused("the PIN is empty")) } else { Ok(pin) }
    }
}

/// Logs in to the token, where the configuration names one.
pub(crate) fn connect(config: &Keys) -> Result<Option<Arc<dyn KeyProvider>>, ConfigError> {
    config.check()?;
    if config.provider == Provider::File {
        return Ok(None);
    }
    let module = config.module.clone().ok_or_else(|| refused("name the module, a file"))?;
    let token = pkcs11::Config { module, token: config.token.clone(), pin: config.pin()? };
    Ok(Some(Arc::new(Pkcs11Keys::open(&token).map_err(refused)?)))
}

/// The keys of a data folder, as the server would open them.
pub fn open_keys(config: &Config) -> Result<Arc<dyn KeyProvider>, crate::StartError> {
    if let Some(keys) = connect(&config.keys)? {
        return Ok(keys);
    }
    Ok(Arc::new(FileKeys::open(&config.keys_dir())?))
}
