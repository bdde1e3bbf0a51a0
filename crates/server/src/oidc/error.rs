//! Why nobody is logged in.

use kernel::failure::{Category, Failure};

use crate::error::Refused;

/// Why a login is refused. What a provider or a browser sent is shown only where it is harmless.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No provider of that name.
    #[error("`provider` is one of: {0}")]
    UnknownProvider(String),
    /// Not a page of this server.
    #[error("return_to: a path of this server, such as /console")]
    ReturnTo,
    /// A parameter is wrong.
    #[error("{0}")]
    Invalid(&'static str),
    /// The browser did not bring back what it was given.
    #[error("the login was not begun in this browser: begin again at /auth/login, with cookies")]
    NotBegun,
    /// It took too long.
    #[error("the login took too long: begin again at /auth/login")]
    Expired,
    /// The answer belongs to another login.
    #[error("the answer is that of another login: begin again at /auth/login")]
    OtherLogin,
    /// The answer comes from another provider than was asked.
    #[error("the answer is that of another provider: begin again at /auth/login")]
    OtherProvider,
    /// The person or the provider said no.
    #[error("the provider `{provider}` refused the login: {error}")]
    Denied {
        /// Which provider.
        provider: String,
        /// Its error code.
        error: String,
    },
    /// The code is wrong or was used.
    #[error("the code is not good, or no longer: begin again at /auth/login")]
    CodeRefused,
    /// The login was completed before.
    #[error("this login was completed before: begin again at /auth/login")]
    Replayed,
    /// The provider cannot be asked.
    #[error("the provider `{provider}` cannot be reached: {reason}; try again later")]
    Unavailable {
        /// Which provider.
        provider: String,
        /// Why.
        reason: String,
    },
    /// The provider answers what it must not.
    #[error("the provider `{provider}` answers wrongly: {reason}; tell an admin")]
    Misbehaves {
        /// Which provider.
        provider: String,
        /// What is wrong.
        reason: String,
    },
    /// The ID token is not to be believed.
    #[error("the provider's ID token is refused: {0}")]
    IdToken(&'static str),
    /// Nobody here has this login.
    #[error(
        "nobody here has this login: ask an admin to run `tally principal link PRINCIPAL \
         --provider {provider} --subject {subject}`"
    )]
    Unknown {
        /// Which provider.
        provider: String,
        /// Its name for the person who just proved to be it.
        subject: String,
    },
    /// The person has no role.
    #[error("the provider says nothing that gives you a role: ask an admin for {0}")]
    NoRole(String),
    /// The principal is disabled.
    #[error("your principal `{0}` is disabled: ask an admin to enable it")]
    Disabled(String),
    /// The tenant, workspace or environment of the provider is not there.
    #[error("the tenant, workspace or environment of `{0}` is missing: ask an admin to create it")]
    NoPlace(String),
    /// Too many at once.
    #[error("too many logins: try again in a moment")]
    Busy(u64),
    /// Something else, which has its own words.
    #[error("{}", .0.message)]
    Other(Failure),
}

impl Error {
    fn code(&self) -> (&'static str, Category) {
        match self {
            Self::UnknownProvider(_) => ("provider_unknown", Category::Validation),
            Self::ReturnTo => ("return_to_refused", Category::Validation),
            Self::Invalid(_) => ("invalid_argument", Category::Validation),
            Self::NotBegun => ("login_not_begun", Category::Auth),
            Self::Expired => ("login_expired", Category::Auth),
            Self::OtherLogin => ("login_state_mismatch", Category::Auth),
            Self::OtherProvider => ("login_provider_mismatch", Category::Auth),
            Self::Denied { .. } => ("login_denied", Category::Permission),
            Self::CodeRefused => ("login_code_refused", Category::Auth),
            Self::Replayed => ("login_replayed", Category::Auth),
            Self::Unavailable { .. } => ("provider_unavailable", Category::Upstream),
            Self::Misbehaves { .. } => ("provider_invalid", Category::Upstream),
            Self::IdToken(_) => ("id_token_invalid", Category::Auth),
            Self::Unknown { .. } => ("login_unknown", Category::Permission),
            Self::NoRole(_) => ("login_without_role", Category::Permission),
            Self::Disabled(_) => ("principal_disabled", Category::Permission),
            Self::NoPlace(_) => ("login_place_missing", Category::Permission),
            Self::Busy(_) => ("rate_limited", Category::RateLimited),
            Self::Other(_) => ("internal", Category::Internal),
        }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        Self::Other(refused.0)
    }
}

impl From<ledger::Error> for Error {
    fn from(error: ledger::Error) -> Self {
        Refused::from(error).into()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (code, category) = error.code();
        let failure = Self::new(category, code, error.to_string());
        match error {
            Error::Other(failure) => failure,
            Error::Unavailable { .. } => failure.retryable(true),
            Error::Misbehaves { .. } => failure.retryable(false),
            Error::Busy(wait_ms) => failure.retry_after_ms(wait_ms),
            _ => failure,
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, Error>;
