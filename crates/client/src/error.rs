//! What goes wrong before there is an answer.

use std::path::PathBuf;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Not the address of a server.
    #[error("`{url}` is no server address: {reason}")]
    Url {
        /// As given.
        url: String,
        /// What to write instead.
        reason: &'static str,
    },
    /// A key with characters that no header can hold.
    #[error("the API key holds characters that no key has: pass it on as it was shown")]
    Key,
    /// A file of certificate authorities that is none.
    #[error("TALLY_CA_FILE `{path}`: {reason}")]
    CaFile {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// No connection, so the server has seen nothing.
    #[error("cannot connect to {url}: {reason}")]
    Connect {
        /// The server.
        url: String,
        /// The innermost cause.
        reason: String,
    },
    /// No answer in time; the server may have done what was asked.
    #[error("{url} gave no answer within {seconds} s")]
    Timeout {
        /// The server.
        url: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The connection broke; the server may have done what was asked.
    #[error("the connection to {url} broke: {reason}")]
    Broken {
        /// The server.
        url: String,
        /// The innermost cause.
        reason: String,
    },
    /// The request cannot be written as HTTP.
    #[error("the request cannot be sent: {0}")]
    Request(String),
}

/// The innermost cause of an error, which says most.
pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
