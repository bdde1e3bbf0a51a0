//! The socket: HTTP/1.1 and HTTP/2 on one port, over TLS where a certificate is given.

use std::io::BufReader;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Tls;
use crate::limits;

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be bound.
    #[error("cannot listen on `{address}`")]
    Bind {
        /// Which address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error("tls: `{path}`: {reason}")]
    Tls {
        /// Which file.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

/// A bound socket.
pub(crate) struct Listener {
    socket: TcpListener,
    tls: Option<TlsAcceptor>,
    pub(crate) address: SocketAddr,
}

impl Listener {
    /// Binds the address; a certificate that cannot be used refuses before.
    pub(crate) async fn bind(address: &str, tls: Option<&Tls>) -> Result<Self, Error> {
        let tls = tls.map(acceptor).transpose()?;
        let bind = |source| Error::Bind { address: address.to_owned(), source };
        let socket = TcpListener::bind(address).await.map_err(bind)?;
        let address = socket.local_addr().map_err(bind)?;
        Ok(Self { socket, tls, address })
    }

    /// `http` or `https`.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Serves `router` until `stop`; then lets what is under way end, for a while.
    pub(crate) async fn serve(self, router: Router, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let builder = Arc::new(server());
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.socket.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file handles, most likely: what is open goes on.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
            };
            let connection = Connection {
                tls: self.tls.clone(),
                router: router.clone(),
                builder: builder.clone(),
                stop: stop.clone(),
            };
            connections.spawn(connection.serve(stream));
        }
        // New connections are refused from here on, rather than left to wait for nothing.
        drop(self.socket);
        connections.close();
        let ended = tokio::time::timeout(limits::STOP_WAIT, connections.wait()).await;
        if ended.is_err() {
            tracing::warn!("some requests did not end in time");
        }
    }
}

fn server() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(hyper_util::rt::TokioTimer::new()).header_read_timeout(HEADER_TIME);
    builder.http2().max_concurrent_streams(STREAMS_MAX);
    builder
}

/// How long a client may take to send the head of a request.
const HEADER_TIME: std::time::Duration = std::time::Duration::from_secs(30);
/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;

struct Connection {
    tls: Option<TlsAcceptor>,
    router: Router,
    builder: Arc<Builder<TokioExecutor>>,
    stop: CancellationToken,
}

impl Connection {
    async fn serve(self, stream: TcpStream) {
        // Answers are whole when they are written: waiting for more only costs time.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "nodelay");
        }
        match &self.tls {
            None => self.run(TokioIo::new(stream)).await,
            Some(tls) => {
                let shaken = tokio::time::timeout(HEADER_TIME, tls.accept(stream)).await;
                match shaken {
                    Ok(Ok(stream)) => self.run(TokioIo::new(stream)).await,
                    Ok(Err(error)) => tracing::debug!(%error, "tls handshake"),
                    Err(_) => tracing::debug!("tls handshake took too long"),
                }
            }
        }
    }

    async fn run<I>(&self, io: I)
    where
        I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let service = TowerToHyperService::new(self.router.clone());
        let connection = self.builder.serve_connection(io, service);
        tokio::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return log_end(ended),
            () = self.stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        log_end(connection.await);
    }
}

fn log_end(ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

fn acceptor(tls: &Tls) -> Result<TlsAcceptor, Error> {
    let failed = |path: &std::path::Path, reason: String| Error::Tls {
        path: path.display().to_string(),
        reason,
    };
    let open = |path: &std::path::Path| {
        std::fs::File::open(path).map(BufReader::new).map_err(|e| failed(path, e.to_string()))
    };
    let certificates: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_reader_iter(open(&tls.cert)?).collect();
    let certificates = certificates.map_err(|error| failed(&tls.cert, error.to_string()))?;
    let key = PrivateKeyDer::from_pem_reader(open(&tls.key)?)
        .map_err(|error| failed(&tls.key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&tls.cert, error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(|error| failed(&tls.cert, error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
