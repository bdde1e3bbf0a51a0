//! Why a specification is no upstream.

/// What is wrong with the specification of an upstream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The name breaks the rules of names.
    #[error(
        "the upstream's name must be 1 to 32 of a-z, 0-9, `-` and `_`, the first no `-` or `_`"
    )]
    Name,
    /// The time of a call is out of bounds.
    #[error("timeout_ms must lie between 1 and {max}")]
    Timeout {
        /// The most.
        max: u64,
    },
    /// The command of a process is unusable.
    #[error("the command {0}")]
    Command(&'static str),
    /// The URL is unusable.
    #[error("the URL {0}")]
    Url(String),
    /// A header is unusable.
    #[error("the header `{name}` {reason}")]
    Header {
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A value has a malformed reference to a secret.
    #[error("{place} has a malformed reference to a secret: write ${{secret:NAME}}")]
    Secret {
        /// Where.
        place: String,
    },
    /// The authorisation is unusable.
    #[error("{0}")]
    Auth(&'static str),
    /// The sandbox is unusable.
    #[error("the sandbox {0}")]
    Sandbox(&'static str),
    /// The certificate authorities are unusable.
    #[error("the certificate authorities: {0}")]
    Certificate(String),
}

impl Error {
    /// A stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Name => "upstream_name_invalid",
            Self::Timeout { .. } => "upstream_timeout_invalid",
            Self::Command(_) => "upstream_command_invalid",
            Self::Url(_) => "upstream_url_invalid",
            Self::Header { .. } => "upstream_header_invalid",
            Self::Secret { .. } => "upstream_secret_invalid",
            Self::Auth(_) => "upstream_auth_invalid",
            Self::Sandbox(_) => "sandbox_type_unavailable",
            Self::Certificate(_) => "upstream_certificate_invalid",
        }
    }
}
