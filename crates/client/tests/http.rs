//! The client against a small server that counts, over real sockets.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail loudly")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use client::{Client, Error, SetupError, TransportError};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proto::actions::SubmitActionRequest;
use proto::identity::CreatePrincipalRequest;
use proto::system::GetVersionRequest;
use proto::types::error::Category;
use tokio::net::TcpListener;

/// Status, Retry-After and body of each answer, in turn.
type Script = VecDeque<(u16, Option<&'static str>, &'static str)>;

/// The path and the headers of each request that came.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(String, http::HeaderMap)>>>);

impl Seen {
    fn header(&self, at: usize, name: &str) -> Option<String> {
        let seen = self.0.lock().unwrap();
        seen[at].1.get(name).map(|value| value.to_str().unwrap().to_owned())
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

async fn server(script: &[(u16, Option<&'static str>, &'static str)]) -> (Client, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let script = Arc::new(Mutex::new(script.iter().copied().collect::<Script>()));
    let seen = Seen::default();
    let log = seen.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (script, log) = (script.clone(), log.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let line = (request.uri().to_string(), request.headers().clone());
                log.0.lock().unwrap().push(line);
                let (status, after, body) = script.lock().unwrap().pop_front().unwrap();
                let mut answer = Response::builder().status(status);
                if let Some(after) = after {
                    answer = answer.header("retry-after", after);
                }
                let answer = answer.body(Full::new(Bytes::from(body))).unwrap();
                async { Ok::<_, Infallible>(answer) }
            });
            let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(served);
        }
    });
    (Client::new(&url, "k_secret").unwrap(), seen)
}

const BUSY: &str = r#"{"error":{"code":"busy","category":"RATE_LIMITED","message":"slow down"}}"#;
const PRINCIPAL: &str = r#"{"principal_id":"p_1","kind":"agent"}"#;

#[tokio::test]
async fn a_get_is_repeated_after_the_pause_asked_for() {
    let (client, seen) =
        server(&[(503, Some("0"), BUSY), (429, Some("0"), BUSY), (200, None, "{}")]).await;
    client.get_version(&GetVersionRequest {}).await.unwrap();
    assert_eq!(seen.count(), 3);
    assert_eq!(seen.header(0, "x-api-key").as_deref(), Some("k_secret"));
    assert_eq!(seen.header(0, "idempotency-key"), None);
}

#[tokio::test]
async fn a_mutation_gets_one_key_for_all_its_attempts() {
    let (client, seen) = server(&[(429, Some("0"), BUSY), (200, None, PRINCIPAL)]).await;
    let request = CreatePrincipalRequest { name: "n".to_owned(), ..Default::default() };
    let principal = client.create_principal(&request, None).await.unwrap();
    assert_eq!(principal.principal_id, "p_1");
    let (first, second) = (seen.header(0, "idempotency-key"), seen.header(1, "idempotency-key"));
    assert_eq!(first.clone().unwrap().len(), 26);
    assert_eq!(first, second);

    let (client, seen) = server(&[(200, None, PRINCIPAL)]).await;
    client.create_principal(&request, Some("mine")).await.unwrap();
    assert_eq!(seen.header(0, "idempotency-key").as_deref(), Some("mine"));
}

#[tokio::test]
async fn what_may_have_an_effect_is_sent_once() {
    let (client, seen) = server(&[(429, Some("0"), BUSY)]).await;
    match client.submit_action(&SubmitActionRequest::default(), None).await {
        Err(Error::Refused { status: 429, error }) => {
            assert_eq!((error.code.as_str(), error.category()), ("busy", Category::RateLimited));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((seen.count(), seen.header(0, "idempotency-key")), (1, None));
}

#[tokio::test]
async fn attempts_end_with_the_last_answer() {
    let busy = [(503, Some("0"), BUSY); 9];
    let (client, seen) = server(&busy).await;
    let refused = client.get_version(&GetVersionRequest {}).await;
    assert!(matches!(refused, Err(Error::Refused { status: 503, .. })), "{refused:?}");
    assert_eq!(seen.count(), client::limits::ATTEMPTS_MAX as usize);

    // A pause longer than the client waits for is the caller's to decide about.
    let (client, seen) = server(&[(503, Some("3600"), BUSY)]).await;
    client.get_version(&GetVersionRequest {}).await.unwrap_err();
    assert_eq!(seen.count(), 1);
}

#[tokio::test]
async fn no_server_and_no_protocol() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let client = Client::new(&format!("http://127.0.0.1:{port}"), "").unwrap();
    let failed = client.get_version(&GetVersionRequest {}).await;
    let connect = matches!(failed, Err(Error::Transport(TransportError::Connect { .. })));
    assert!(connect, "{failed:?}");

    let (client, _seen) = server(&[(502, None, "<html>"), (200, None, "<html>")]).await;
    for status in [502, 200] {
        match client.get_version(&GetVersionRequest {}).await {
            Err(Error::Answer { status: found, .. }) => assert_eq!(found, status),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn addresses_and_keys_are_checked_first() {
    for (url, key, expected) in [
        ("http://127.0.0.1:1", "k", None),
        ("https://tally.example/", "", None),
        ("127.0.0.1:8480", "k", Some("url")),
        ("ftp://host", "k", Some("url")),
        ("http://user:pass@host", "k", Some("url")),
        ("http://host/v1", "k", Some("url")),
        ("", "k", Some("url")),
        ("http://host", "a\nb", Some("key")),
    ] {
        let found = match Client::new(url, key) {
            Ok(_) => None,
            Err(SetupError::Url { .. }) => Some("url"),
            Err(SetupError::Key) => Some("key"),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(found, expected, "{url:?} {key:?}");
    }
}
