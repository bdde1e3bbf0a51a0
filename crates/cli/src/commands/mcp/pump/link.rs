//! Where calls go, and looking again when the server there is gone.

use std::sync::Arc;

use client::Client;
use tokio::sync::Mutex;

/// A server's MCP endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) client: Client,
    /// The path of the endpoint, with its query.
    pub(crate) path: Arc<str>,
}

/// Knows where calls go.
pub(crate) trait Place: Send + Sync + 'static {
    /// Finds the server, or starts it, and sees to it that calls can be made.
    fn settle(&self) -> impl Future<Output = anyhow::Result<Link>> + Send;
}

/// The link in use. Each one has a number.
pub(crate) struct Wire<P> {
    pub(crate) place: P,
    current: Mutex<(u64, Option<Link>)>,
}

impl<P: Place> Wire<P> {
    pub(crate) fn new(place: P) -> Self {
        Self { place, current: Mutex::default() }
    }

    /// The link, looked for where there is none yet.
    pub(crate) async fn link(&self) -> anyhow::Result<(u64, Link)> {
        let mut current = self.current.lock().await;
        let (number, link) = &mut *current;
        if let Some(link) = link {
            return Ok((*number, link.clone()));
        }
        let found = self.place.settle().await?;
        *number += 1;
        Ok((*number, link.insert(found).clone()))
    }

    /// Another link in place of the one with this number, which broke. Whoever comes second gets
    /// what the first found.
    pub(crate) async fn renew(&self, broken: u64) {
        let mut current = self.current.lock().await;
        if current.0 == broken {
            current.1 = None;
        }
    }
}
