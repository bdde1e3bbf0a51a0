//! A token of a PKCS#11 module: loading, logging in, and sessions.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error as TokenError, RvError};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::key_error;
use crate::Error;

/// Sessions kept open while nobody uses them.
const IDLE_SESSIONS_MAX: usize = 8;
/// Where the token is.
#[derive(Clone)]
pub struct Config {
    /// The module: a shared library of the token's vendor.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// The user PIN.
    pub pin: Zeroizing<String>,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { module, token, .. } = self;
        f.debug_struct("Config")
            .field("module", module)
            .field("token", token)
            .finish_non_exhaustive()
    }
}

/// Why a token cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The module cannot be loaded.
    #[error("the PKCS#11 module `{path}` cannot be loaded: {reason}")]
    Module {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// No token has this label, or more than one.
    #[error("{found} tokens have the label `{label}`: initialise one with this label")]
    Token {
        /// The label.
        label: String,
        /// How many have it.
        found: usize,
    },
    /// The token refuses the PIN.
    #[error("the token `{0}` refuses the PIN: nothing more is tried, as it may lock itself")]
    Pin(String),
    /// The token lacks a mechanism.
    #[error("the token `{label}` has no {mechanism}, which signing takes")]
    Mechanism {
        /// The label.
        label: String,
        /// Which.
        mechanism: &'static str,
    },
    /// Something else is wrong with it.
    #[error("the token `{label}` cannot be used: {reason}")]
    Other {
        /// The label.
        label: String,
        /// Why.
        reason: String,
    },
}

impl OpenError {
    /// A stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Module { .. } => "pkcs11_module",
            Self::Token { .. } => "pkcs11_token",
            Self::Pin(_) => "pkcs11_pin",
            Self::Mechanism { .. } => "pkcs11_mechanism",
            Self::Other { .. } => "pkcs11_failed",
        }
    }
}

/// Whether a new session may help: this one, its login or the token was lost.
pub(super) fn lost(error: &TokenError) -> bool {
    let TokenError::Pkcs11(error, _) = error else { return false };
    matches!(
        error,
        RvError::SessionHandleInvalid
            | RvError::SessionClosed
            | RvError::UserNotLoggedIn
            | RvError::DeviceRemoved
            | RvError::DeviceError
            | RvError::TokenNotPresent
            | RvError::KeyHandleInvalid
            | RvError::ObjectHandleInvalid
    )
}

fn is(error: &TokenError, expected: &[RvError]) -> bool {
    matches!(error, TokenError::Pkcs11(error, _) if expected.contains(error))
}

/// A token that was logged in to, and its sessions that nobody uses.
pub(super) struct Token {
    module: Pkcs11,
    pub(super) label: String,
    pin: AuthPin,
    /// The PIN was refused: trying on would lock the token.
    refused: AtomicBool,
    idle: Mutex<Vec<Session>>,
}

impl Token {
    pub(super) fn open(config: &Config) -> Result<Self, OpenError> {
        let Config { module: path, token: label, pin } = config;
        let unloadable =
            |error: TokenError| OpenError::Module { path: path.clone(), reason: error.to_string() };
        let module = Pkcs11::new(path).map_err(unloadable)?;
        let started = module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
        match started {
            Err(error) if !is(&error, &[RvError::CryptokiAlreadyInitialized]) => {
                return Err(unloadable(error));
            }
            _ => {}
        }
        let pin = AuthPin::from(pin.as_str().to_owned());
        let (label, idle, refused) = (label.clone(), Mutex::default(), AtomicBool::new(false));
        let token = Self { module, label, pin, refused, idle };
        let session = token.session()?;
        token.check(&session)?;
        token.idle.lock().push(session);
        Ok(token)
    }

    /// Checks that the token can do what is asked of it.
    fn check(&self, session: &Session) -> Result<(), OpenError> {
        use cryptoki::mechanism::MechanismType as Type;
        let slot = session.get_session_info().map_err(|error| self.other(&error))?.slot_id();
        let able = self.module.get_mechanism_list(slot).map_err(|error| self.other(&error))?;
        for (mechanism, name) in [
            (Type::ECC_KEY_PAIR_GEN, "CKM_EC_KEY_PAIR_GEN"),
            (Type::ECDSA, "CKM_ECDSA"),
            (Type::ECC_EDWARDS_KEY_PAIR_GEN, "CKM_EC_EDWARDS_KEY_PAIR_GEN"),
            (Type::EDDSA, "CKM_EDDSA"),
            (Type::AES_KEY_GEN, "CKM_AES_KEY_GEN"),
            (Type::AES_GCM, "CKM_AES_GCM"),
        ] {
            if !able.contains(&mechanism) {
                return Err(OpenError::Mechanism { label: self.label.clone(), mechanism: name });
            }
        }
        Ok(())
    }

    fn other(&self, reason: &TokenError) -> OpenError {
        OpenError::Other { label: self.label.clone(), reason: reason.to_string() }
    }

    /// A new session that is logged in.
    fn session(&self) -> Result<Session, OpenError> {
        let refused = || OpenError::Pin(self.label.clone());
        if self.refused.load(Ordering::Acquire) {
            return Err(refused());
        }
        let other = |error: TokenError| self.other(&error);
        let mut slots = Vec::new();
        for slot in self.module.get_slots_with_initialized_token().map_err(other)? {
            if self.module.get_token_info(slot).map_err(other)?.label() == self.label {
                slots.push(slot);
            }
        }
        let [slot] = slots.as_slice() else {
            return Err(OpenError::Token { label: self.label.clone(), found: slots.len() });
        };
        let session = self.module.open_rw_session(*slot).map_err(other)?;
        match session.login(UserType::User, Some(&self.pin)) {
            Ok(()) => Ok(session),
            // The login is of the process, not of the session.
            Err(error) if is(&error, &[RvError::UserAlreadyLoggedIn]) => Ok(session),
            Err(error) => {
                let pin = [
                    RvError::PinIncorrect,
                    RvError::PinInvalid,
                    RvError::PinLenRange,
                    RvError::PinLocked,
                ];
                if is(&error, &pin) {
                    self.refused.store(true, Ordering::Release);
                    return Err(refused());
                }
                Err(other(error))
            }
        }
    }

    /// Works in a session. Where that turns out to be lost, once more in a new one.
    pub(super) fn run<T>(
        &self,
        name: &str,
        work: impl Fn(&Session) -> Result<T, TokenError>,
    ) -> Result<T, Error> {
        self.attempt(name, true, work)
    }

    /// Makes a key in a session. Never twice: the first may have been made.
    pub(super) fn make<T>(
        &self,
        name: &str,
        work: impl Fn(&Session) -> Result<T, TokenError>,
    ) -> Result<T, Error> {
        self.attempt(name, false, work)
    }

    fn attempt<T>(
        &self,
        name: &str,
        again: bool,
        work: impl Fn(&Session) -> Result<T, TokenError>,
    ) -> Result<T, Error> {
        let idle = self.idle.lock().pop();
        let fresh = idle.is_none();
        let session = match idle {
            Some(session) => session,
            None => self.session().map_err(|error| key_error(name, error))?,
        };
        match work(&session) {
            Err(error) if lost(&error) => {
                tracing::warn!(token = self.label, %error, "a session was lost");
                drop(session);
                // They were opened before; a login ends with the last of a process's sessions.
                self.idle.lock().clear();
                if fresh || !again {
                    return Err(key_error(name, error));
                }
                let session = self.session().map_err(|error| key_error(name, error))?;
                let done = work(&session).map_err(|error| key_error(name, error));
                self.release(session);
                done
            }
            done => {
                self.release(session);
                done.map_err(|error| key_error(name, error))
            }
        }
    }

    fn release(&self, session: Session) {
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_SESSIONS_MAX {
            idle.push(session);
        }
    }
}

/// Reads a PIN from a file: its first line.
pub fn read_pin(path: &Path) -> std::io::Result<Zeroizing<String>> {
    let text = Zeroizing::new(std::fs::read_to_string(path)?);
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}
