//! A fixture that listens on a free port of the loopback.

use std::net::SocketAddr;

use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub struct Running {
    /// Its endpoint.
    pub url: String,
    address: SocketAddr,
    end: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Serves `router`, which has the endpoint `/mcp`, at `address`.
    pub(crate) async fn serve(address: SocketAddr, end: CancellationToken, router: Router) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        Self::accept(listener, end.clone(), async move |listener| {
            let ended = end.clone().cancelled_owned();
            axum::serve(listener, router).with_graceful_shutdown(ended).await.unwrap();
        })
    }

    pub(crate) fn accept<F, Served>(listener: TcpListener, end: CancellationToken, serve: F) -> Self
    where
        F: FnOnce(TcpListener) -> Served,
        Served: Future<Output = ()> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(serve(listener));
        Self { url: format!("http://{address}/mcp"), address, end, task }
    }

    /// Where it listens: a port that is free again after [`Self::stop`].
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts all connections, as a killed server does.
    pub async fn stop(mut self) {
        self.end.cancel();
        self.task.abort();
        let _aborted = (&mut self.task).await;
    }

    /// Runs until the process is killed.
    pub async fn forever(mut self) {
        (&mut self.task).await.unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end.cancel();
        self.task.abort();
    }
}

/// A free port of the loopback.
pub(crate) const ANYWHERE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
