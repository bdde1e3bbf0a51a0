//! The typed client of Tally's REST API, over HTTP and HTTPS.
//!
//! Every rpc is a method, by [`proto::client::Client`]:
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let tally = client::Client::new("http://127.0.0.1:8480", "the key")?;
//! let version = tally.get_version(&proto::system::GetVersionRequest {}).await?;
//! # let _ = version; Ok(()) }
//! ```

mod error;
mod exchange;
mod http;
pub mod limits;
mod login;
pub mod oauth;
mod retry;

use std::ops::Deref;

pub use crate::error::{SetupError, TransportError};
pub use crate::exchange::Exchange;
pub use crate::http::{CA_FILE, Http};
pub use crate::login::LoggedIn;

/// What can go wrong with a call: no answer, a refusal with its typed reason, or an answer that
/// is not of this protocol.
pub type Error = proto::client::ClientError<TransportError>;

/// A client of one server with one API key, session or access token. Cheap to clone; clones share
/// their connections.
#[derive(Clone, Debug)]
pub struct Client(proto::client::Client<Http>);

impl Client {
    /// A client of the server at `url` (`http://` or `https://`, host and port, no path). `key` is
    /// an API key or access token; an empty one serves for the public calls only. TLS trusts the
    /// system's authorities and those of the PEM file that the environment variable TALLY_CA_FILE
    /// names.
    ///
    /// # Errors
    /// A URL or key that cannot be used, or a certificate file that cannot be read.
    pub fn new(url: &str, key: &str) -> Result<Self, SetupError> {
        Ok(Self(proto::client::Client::new(Http::new(url, key)?)))
    }

    /// Where the server is, without a trailing slash.
    pub fn url(&self) -> &str {
        self.0.transport().url()
    }
}

impl Deref for Client {
    type Target = proto::client::Client<Http>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}
