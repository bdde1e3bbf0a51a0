//! A door in front of a server for programs that know no credential, such as the conformance
//! suite: it adds the `Authorization` header to each request and changes nothing else. `Host` and
//! `Origin` go through as they are, since the suite looks at what a server does about them; so the
//! server must be told that the door's address is its own. It is a test's: the product has no way
//! in without a credential.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

type Body = BoxBody<Bytes, hyper::Error>;

/// The door. It shuts when this is dropped.
pub(crate) struct Door {
    address: SocketAddr,
    beyond: Arc<OnceLock<Beyond>>,
    serving: AbortHandle,
}

struct Beyond {
    address: String,
    credential: HeaderValue,
}

impl Door {
    /// A door that leads nowhere yet.
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let beyond = Arc::new(OnceLock::new());
        let serving = tokio::spawn(serve(listener, beyond.clone())).abort_handle();
        Self { address, beyond, serving }
    }

    /// What clients have in `Host`.
    pub(crate) fn authority(&self) -> String {
        self.address.to_string()
    }

    /// Leads to the server at `url` from now on, with `key`.
    pub(crate) fn leads_to(&self, url: &str, key: &str) {
        let address = url.split("://").nth(1).unwrap().to_owned();
        let credential = HeaderValue::from_str(&format!("Bearer {key}")).unwrap();
        assert!(self.beyond.set(Beyond { address, credential }).is_ok(), "it leads elsewhere");
    }

    /// The MCP endpoint as seen through the door.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, beyond: Arc<OnceLock<Beyond>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let beyond = beyond.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| pass(request, beyond.clone()));
            let connection = hyper::server::conn::http1::Builder::new();
            // Clients come and go as they like.
            let _gone = connection.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn pass(
    mut request: Request<Incoming>,
    beyond: Arc<OnceLock<Beyond>>,
) -> Result<Response<Body>, hyper::Error> {
    let reached = async {
        let beyond = beyond.get()?;
        request.headers_mut().insert(AUTHORIZATION, beyond.credential.clone());
        TcpStream::connect(&beyond.address).await.ok()
    };
    let Some(stream) = reached.await else {
        let nowhere = Full::new(Bytes::from_static(b"the door leads nowhere"));
        let mut response = Response::new(nowhere.map_err(|never| match never {}).boxed());
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        return Ok(response);
    };
    // One connection for each request: it is cut with the request.
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    Ok(response.map(BodyExt::boxed))
}
