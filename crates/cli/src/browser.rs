//! A login by a browser on this machine: where it comes back to, by RFC 8252.

use std::convert::Infallible;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, REFERRER_POLICY};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use kernel::values::Digest;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// What the server sent the browser back with.
pub(crate) enum Answer {
    /// What the session is opened with.
    Code(String),
    /// All that it was sent back with, where somebody else judges it: the query.
    Back(String),
    /// Why there is none.
    Refused {
        /// The error's code.
        code: String,
        /// The error's words.
        message: String,
    },
}

/// Listens for the browser. It ends when this is dropped.
pub(crate) struct Waiting {
    /// Where it listens, on 127.0.0.1.
    pub(crate) port: u16,
    answers: mpsc::Receiver<Answer>,
    _serving: AbortOnDropHandle<()>,
}

impl Waiting {
    /// Listens on a free port for an answer with this `state`; any other is refused.
    pub(crate) async fn start(state: &str) -> std::io::Result<Self> {
        Self::listen(Some(state.to_owned())).await
    }

    /// Listens on a free port for an answer with any `state`: whose it is, another says.
    pub(crate) async fn any() -> std::io::Result<Self> {
        Self::listen(None).await
    }

    async fn listen(state: Option<String>) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (sender, answers) = mpsc::channel(1);
        let serving = tokio::spawn(serve(listener, state, sender));
        Ok(Self { port, answers, _serving: AbortOnDropHandle::new(serving) })
    }

    /// The first answer.
    pub(crate) async fn answer(mut self) -> anyhow::Result<Answer> {
        self.answers.recv().await.context("the listener has ended")
    }
}

async fn serve(listener: TcpListener, state: Option<String>, sender: mpsc::Sender<Answer>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (state, sender) = (state.clone(), sender.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (page, answer) = answered(&request, state.as_deref());
                // Only the first answer counts: a full channel has it.
                let _taken = answer.map(|answer| sender.try_send(answer));
                async { Ok::<_, Infallible>(page) }
            });
            // What goes wrong with a browser's connection is for the browser to say.
            let _shown = http1::Builder::new()
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn answered(
    request: &Request<Incoming>,
    state: Option<&str>,
) -> (Response<Full<Bytes>>, Option<Answer>) {
    let query = request.uri().query().unwrap_or_default();
    let get = |wanted: &str| {
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        pairs.find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
    };
    let own = get("state").filter(|own| state.is_none_or(|state| own == state));
    if request.uri().path() != "/" || own.is_none() {
        return (page(StatusCode::NOT_FOUND, "There is nothing here."), None);
    }
    if state.is_none() {
        let text = "The terminal has what you came back with. Close this page and go back to it.";
        return (page(StatusCode::OK, text), Some(Answer::Back(query.to_owned())));
    }
    if let Some(code) = get("code") {
        let text = "You are logged in. Close this page and go back to the terminal.";
        return (page(StatusCode::OK, text), Some(Answer::Code(code)));
    }
    let code = get("error").unwrap_or_default();
    let message = get("error_description").unwrap_or_else(|| "the login failed".to_owned());
    let text = "The login failed. The terminal says why.";
    (page(StatusCode::OK, text), Some(Answer::Refused { code, message }))
}

fn page(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut page = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *page.status_mut() = status;
    let headers = page.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    page
}

/// 256 random bits as text.
pub(crate) fn random() -> anyhow::Result<String> {
    Ok(BASE64URL.encode(ledger::keys::random::<32>()?.as_ref()))
}

/// The S256 challenge of a PKCE verifier.
pub(crate) fn challenge(verifier: &str) -> String {
    BASE64URL.encode(Digest::of(verifier.as_bytes()).0)
}

/// Opens a page in a browser, where there is one: the URL is shown in any case.
pub(crate) fn open(url: &str) {
    let quiet = Stdio::null;
    let mut command = Command::new("xdg-open");
    let started = command.arg(url).stdin(quiet()).stdout(quiet()).stderr(quiet()).spawn();
    if let Err(error) = started {
        eprintln!("tally: xdg-open: {error}");
    }
}
