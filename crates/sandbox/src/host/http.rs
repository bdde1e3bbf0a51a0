//! HTTP to granted hosts: each request is handed to the server's egress, which alone has sockets.

use std::sync::Arc;

use http_body_util::BodyExt as _;
use kernel::capability::{Capability, Network};
use wasmtime_wasi_http::{
    Error as HttpError, RequestOptions, WasiBody, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use crate::run::{Egress, EgressFailure};
use crate::state::{Books, Denials, State};

/// What a request needs once it is on its way.
pub(crate) struct Way {
    egress: Arc<dyn Egress>,
    capabilities: Arc<kernel::capability::Capabilities>,
    books: Arc<Books>,
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let way = self.way.get_or_insert_with(|| Way {
            egress: Arc::clone(&self.given.egress),
            capabilities: Arc::clone(&self.given.capabilities),
            books: Arc::clone(&self.books),
        });
        WasiHttpCtxView { hooks: way, table: &mut self.table, ctx: &mut self.http }
    }
}

type Io = Box<dyn Future<Output = Result<(), HttpError>> + Send>;
type Sent = Result<(http::Response<WasiBody>, Io), HttpError>;

impl WasiHttpHooks for Way {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        _options: Option<RequestOptions>,
        _sent: Io,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        // How long it may take is for the egress to say, and for the wall time.
        let egress = Arc::clone(&self.egress);
        let capabilities = Arc::clone(&self.capabilities);
        let books = Arc::clone(&self.books);
        Box::new(
            async move { send(&*egress, &capabilities.network, &books.denials, request).await },
        )
    }
}

async fn send(
    egress: &dyn Egress,
    network: &Network,
    denials: &Denials,
    request: http::Request<WasiBody>,
) -> Sent {
    let wanted = wanted(request.uri());
    let request = request
        .map(|body| body.map_err(|error| std::io::Error::other(error.to_string())).boxed_unsync());
    match egress.send(network, request).await {
        Ok(response) => {
            let response = response.map(|body| {
                let failed =
                    |error: std::io::Error| HttpError::InternalError(Some(error.to_string()));
                body.map_err(failed).boxed_unsync()
            });
            Ok((response, Box::new(async { Ok(()) }) as Io))
        }
        Err(EgressFailure { denied: true, message, .. }) => {
            denials.add_for(Capability::Network, &wanted, &message);
            Err(HttpError::HttpRequestDenied)
        }
        Err(failure) => {
            Err(HttpError::InternalError(Some(format!("{} ({})", failure.message, failure.code))))
        }
    }
}

/// `host:port` of a request.
fn wanted(uri: &http::Uri) -> String {
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
    format!("{}:{port}", uri.host().unwrap_or_default())
}
