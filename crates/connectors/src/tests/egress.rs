//! The way out of a sandbox: which hosts and addresses a request reaches, and what it takes along.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::HeaderMap;
use axum::routing::any;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use kernel::capability::Network;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{Names, http::serve_raw, tls};
use crate::address::{Resolver, Resolving};
use crate::{EgressBody, EgressError, GuardedEgress, limits};

fn network(allowlist: &[&str], denylist: &[&str]) -> Network {
    let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    Network { allowlist: owned(allowlist), denylist: owned(denylist) }
}

fn body(bytes: impl Into<Bytes>) -> EgressBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn get(url: &str) -> Request<EgressBody> {
    Request::builder().uri(url).body(body("")).unwrap()
}

fn egress(resolver: impl Resolver + 'static) -> GuardedEgress {
    GuardedEgress::new(Arc::new(resolver), None).unwrap()
}

/// Looks names up in a list that changes with each look-up, and counts them.
#[derive(Debug, Default)]
struct Counted {
    answers: Vec<Vec<IpAddr>>,
    asked: Arc<AtomicUsize>,
}

impl Counted {
    fn of(answers: &[&str]) -> (Self, Arc<AtomicUsize>) {
        let read = |list: &&str| list.split(' ').map(|ip| ip.parse().unwrap()).collect();
        let asked = Arc::<AtomicUsize>::default();
        (Self { answers: answers.iter().map(read).collect(), asked: Arc::clone(&asked) }, asked)
    }
}

impl Resolver for Counted {
    fn resolve<'a>(&'a self, _: &'a str) -> Resolving<'a> {
        let at = self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = self.answers.get(at).or(self.answers.last()).cloned().unwrap_or_default();
        Box::pin(async move { Ok(answer) })
    }
}

async fn echo(method: Method, headers: HeaderMap, body: Bytes) -> String {
    let headers: Vec<(String, String)> = headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    json!({ "method": method.as_str(), "headers": headers, "bytes": body.len() }).to_string()
}

async fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let too_long = usize::try_from(limits::EGRESS_ANSWER_BYTES_MAX).unwrap() + 1;
    let app = Router::new()
        .route("/echo", any(echo))
        .route("/big", any(move || async move { vec![0; too_long] }))
        .layer(DefaultBodyLimit::disable());
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

async fn text(response: Response<EgressBody>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn refused(answer: Result<Response<EgressBody>, EgressError>) -> (String, bool) {
    let error = answer.err().unwrap();
    (error.code, error.denied)
}

/// Each with whether it is denied; granted are `good.test`, `*.wild.test`, names that lead astray,
/// and the usual spelling of one private address, all on port 80.
const HOSTILE: &[(&str, &str, bool)] = &[
    ("http://other.test/", "host_not_granted", true),
    ("http://good.test.evil.test/", "host_not_granted", true),
    ("http://evil.good.test/", "host_not_granted", true),
    ("http://goodxtest/", "host_not_granted", true),
    ("http://wild.test/", "host_not_granted", true),
    ("http://badwild.test/", "host_not_granted", true),
    ("https://good.test/", "host_not_granted", true),
    ("http://good.test:8080/", "host_not_granted", true),
    ("http://good.test:443/", "host_not_granted", true),
    ("http://8.8.8.8/", "host_not_granted", true),
    ("http://127.0.0.1/", "host_not_granted", true),
    ("http://127.1/", "host_not_granted", true),
    ("http://2130706433/", "host_not_granted", true),
    ("http://0x7f000001/", "host_not_granted", true),
    ("http://0177.0.0.1/", "host_not_granted", true),
    ("http://127.0.0.1./", "host_not_granted", true),
    ("http://[::1]/", "host_not_granted", true),
    ("http://[::ffff:127.0.0.1]/", "host_not_granted", true),
    ("http://[::ffff:7f00:1]/", "host_not_granted", true),
    ("http://[::127.0.0.1]/", "host_not_granted", true),
    ("http://localhost/", "host_not_granted", true),
    ("http://169.254.169.254/latest/meta-data/", "host_not_granted", true),
    ("http://2852039166/", "host_not_granted", true),
    ("http://0xa9fea9fe/", "host_not_granted", true),
    ("http://[::ffff:169.254.169.254]/", "host_not_granted", true),
    ("http://[fe80::1]/", "host_not_granted", true),
    ("http://0/", "address_not_granted", true),
    ("http://loop.test/", "address_not_granted", true),
    ("http://LOOP.test/", "address_not_granted", true),
    ("http://loop.test./", "address_not_granted", true),
    ("http://loop6.test/", "address_not_granted", true),
    ("http://mapped.test/", "address_not_granted", true),
    ("http://nat64.test/", "address_not_granted", true),
    ("http://mixed.test/", "address_not_granted", true),
    ("http://metadata.test/", "address_not_granted", true),
    ("http://private.test/", "address_not_granted", true),
    ("http://zero.test/", "address_not_granted", true),
    ("http://denied.test/", "address_not_granted", true),
    ("http://deep.wild.test/", "address_not_granted", true),
    ("http://0.0.0.0/", "address_not_granted", true),
    ("http://169.254.1.1/", "address_not_granted", true),
    ("http://nowhere.test/", "dns_failed", false),
    ("http://user@good.test/", "url_credentials", false),
    ("http://user:word@good.test/", "url_credentials", false),
    ("http://good.test@127.0.0.1/", "url_credentials", false),
    ("http://good.test:0/", "url_invalid", false),
    ("ftp://good.test/", "url_invalid", false),
    ("ws://good.test/", "url_invalid", false),
    ("http://256.256.256.256/", "url_invalid", false),
    ("/only/a/path", "url_invalid", false),
];

#[tokio::test]
async fn hostile_requests_are_refused() {
    let names = Names::of(&[
        ("loop.test", &["127.0.0.1"]),
        ("loop6.test", &["::1"]),
        ("mapped.test", &["::ffff:127.0.0.1"]),
        ("nat64.test", &["64:ff9b::7f00:1"]),
        ("mixed.test", &["8.8.8.8 10.0.0.1"]),
        ("metadata.test", &["169.254.169.254"]),
        ("private.test", &["192.168.1.1"]),
        ("zero.test", &["0.0.0.0"]),
        ("denied.test", &["203.0.114.7"]),
        ("deep.wild.test", &["10.0.0.1"]),
        ("good.test", &["8.8.8.8"]),
    ]);
    let egress = GuardedEgress::new(names, None).unwrap();
    let hosts = "good loop loop6 mapped nat64 mixed metadata private zero denied nowhere *.wild";
    let hosts: Vec<String> = hosts.split(' ').map(|name| format!("{name}.test:80")).collect();
    let mut hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    // Named as addresses: one that is none to speak to, one that is denied, and the metadata
    // service, which no name may lead to even so.
    hosts.extend(["0.0.0.0:80", "169.254.1.1:80", "169.254.169.254:81"]);
    let network = network(&hosts, &["169.254.1.0/24", "203.0.114.0/24"]);
    for (url, code, denied) in HOSTILE {
        let found = refused(egress.send(&network, get(url)).await);
        assert_eq!((found.0.as_str(), found.1), (*code, *denied), "{url}");
    }
    let none = Network::default();
    let error = egress.send(&none, get("http://good.test/")).await.err().unwrap();
    assert!(error.message.contains("good.test:80 added to network.allowlist"), "{error}");
}

#[tokio::test]
async fn the_link_is_reached_by_its_address_alone() {
    let names = || Names::of(&[("metadata.test", &["169.254.169.254"])]);
    let egress = GuardedEgress::new(names(), None).unwrap();
    let network = network(&["metadata.test:80", "169.254.169.254:80"], &[]);
    let found = refused(egress.send(&network, get("http://metadata.test/")).await);
    assert_eq!(found, ("address_not_granted".to_owned(), true));
}

#[tokio::test]
async fn a_name_is_looked_up_once() {
    let at = serve().await;
    let (granted, denied) = (format!("good.test:{}", at.port()), format!("{at}"));
    let network = network(&[&granted, &denied], &[]);
    let url = format!("http://good.test:{}/echo", at.port());
    // The second answer would be another host: it is never asked for.
    let (names, asked) = Counted::of(&["127.0.0.1", "10.0.0.1"]);
    let answer = egress(names).send(&network, get(&url)).await.unwrap();
    assert_eq!((answer.status().as_u16(), asked.load(Ordering::SeqCst)), (200, 1));
    // The first answer counts, whatever the second is.
    let (names, asked) = Counted::of(&["169.254.169.254", "127.0.0.1"]);
    let found = refused(egress(names).send(&network, get(&url)).await);
    assert_eq!((found.1, asked.load(Ordering::SeqCst)), (true, 1));
    // Each address counts, not just the one that is tried.
    let (names, _) = Counted::of(&["127.0.0.1 10.0.0.1"]);
    assert!(refused(egress(names).send(&network, get(&url)).await).1);
}

#[tokio::test]
async fn a_private_address_is_named_as_one() {
    let at = serve().await;
    let (name, address) = (format!("good.test:{}", at.port()), at.to_string());
    let url = format!("http://good.test:{}/echo", at.port());
    let status = async |allowlist: &[&str], denylist: &[&str], url: &str| {
        let (names, _) = Counted::of(&["127.0.0.1"]);
        let network = network(allowlist, denylist);
        let answer = egress(names).send(&network, get(url)).await;
        answer.map(|answer| answer.status().as_u16()).map_err(|error| error.code)
    };
    assert_eq!(status(&[&name, &address], &[], &url).await, Ok(200));
    let direct = format!("http://{at}/echo");
    assert_eq!(status(&[&address], &[], &direct).await, Ok(200));
    // Other spellings of the same address.
    for spelling in ["127.1", "2130706433", "0x7f.0.0.1", "[::ffff:127.0.0.1]"] {
        let url = format!("http://{spelling}:{}/echo", at.port());
        assert_eq!(status(&[&address], &[], &url).await, Ok(200), "{spelling}");
    }
    let code = |code: &str| Err(code.to_owned());
    assert_eq!(status(&[&name], &[], &url).await, code("address_not_granted"));
    assert_eq!(status(&[&name, "127.0.0.1:1"], &[], &url).await, code("address_not_granted"));
    assert_eq!(status(&[&address], &[], &url).await, code("host_not_granted"));
    // What is denied is denied, however it is granted.
    for denied in ["127.0.0.0/8", "127.0.0.1", "0.0.0.0/0", "::ffff:127.0.0.0/104"] {
        let found = status(&[&name, &address], &[denied], &url).await;
        assert_eq!(found, code("address_not_granted"), "{denied}");
    }
}

#[tokio::test]
async fn what_is_sent_is_framed_here() {
    let at = serve().await;
    let network = network(&[&at.to_string()], &[]);
    let egress = egress(Counted::default());
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{at}/echo"))
        .header("host", "internal.test")
        .header("connection", "keep-alive, x-secret")
        .header("keep-alive", "timeout=5")
        .header("x-secret", "1")
        .header("proxy-authorization", "Basic eA==")
        .header("te", "trailers")
        .header("upgrade", "h2c")
        .header("expect", "100-continue")
        .header("authorization", "Bearer mine")
        .header("x-mine", "2")
        .body(body("four"))
        .unwrap();
    let got: Value =
        serde_json::from_str(&text(egress.send(&network, request).await.unwrap()).await).unwrap();
    assert_eq!((&got["method"], &got["bytes"]), (&json!("POST"), &json!(4)));
    let mut headers: Vec<(String, String)> =
        serde_json::from_value(got["headers"].clone()).unwrap();
    headers.sort_unstable();
    let expect = [
        ("authorization", "Bearer mine"),
        ("connection", "close"),
        ("content-length", "4"),
        ("host", &at.to_string()),
        ("x-mine", "2"),
    ];
    let expect = expect.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(headers, expect);
    for method in [Method::CONNECT, Method::TRACE] {
        let request = Request::builder().method(method).uri(format!("http://{at}/"));
        let found = refused(egress.send(&network, request.body(body("")).unwrap()).await);
        assert_eq!(found, ("method_refused".to_owned(), true));
    }
    let mut many = get(&format!("http://{at}/echo"));
    for i in 0..=limits::HEADERS_MAX {
        let name = http::HeaderName::from_bytes(format!("x-{i}").as_bytes()).unwrap();
        many.headers_mut().insert(name, "1".parse().unwrap());
    }
    assert_eq!(refused(egress.send(&network, many).await).0, "header_refused");
}

#[tokio::test]
async fn redirects_are_for_the_code_to_see() {
    let (at, count) = serve_raw(
        "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\
         keep-alive: timeout=5\r\n\r\n",
    )
    .await;
    let network = network(&[&at.to_string()], &[]);
    let egress = egress(Counted::default());
    let answer = egress.send(&network, get(&format!("http://{at}/"))).await.unwrap();
    assert_eq!((answer.status().as_u16(), count.load(Ordering::SeqCst)), (302, 1));
    assert!(!answer.headers().contains_key("keep-alive"));
    let location = answer.headers()["location"].to_str().unwrap();
    let found = refused(egress.send(&network, get(location)).await);
    assert_eq!(found, ("host_not_granted".to_owned(), true));
}

#[tokio::test]
async fn bodies_have_limits() {
    let at = serve().await;
    let network = network(&[&at.to_string()], &[]);
    let egress = egress(Counted::default());
    let post = |bytes: usize| {
        let uri = format!("http://{at}/echo");
        Request::builder().method(Method::POST).uri(uri).body(body(vec![0; bytes])).unwrap()
    };
    let most = usize::try_from(limits::EGRESS_REQUEST_BYTES_MAX).unwrap();
    let got: Value =
        serde_json::from_str(&text(egress.send(&network, post(most)).await.unwrap()).await)
            .unwrap();
    assert_eq!(got["bytes"], most);
    assert_eq!(refused(egress.send(&network, post(most + 1)).await).0, "body_too_long");
    // One that does not say how long it is.
    let chunk = || Ok(hyper::body::Frame::data(Bytes::from(vec![0; 1 << 20])));
    let chunks = tokio_stream::iter(std::iter::repeat_with(chunk).take((most >> 20) + 1));
    let uri = format!("http://{at}/echo");
    let endless = http_body_util::StreamBody::new(chunks).boxed_unsync();
    let request = Request::builder().method(Method::POST).uri(uri).body(endless).unwrap();
    assert_eq!(refused(egress.send(&network, request).await).0, "body_too_long");
    let answer = egress.send(&network, get(&format!("http://{at}/big"))).await.unwrap();
    let error = answer.into_body().collect().await.err().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::FileTooLarge);
}

#[tokio::test]
async fn answers_that_are_none() {
    let egress = egress(Counted::default());
    for (answer, code) in [
        ("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n", "answer_invalid"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "answer_invalid"),
        ("", "connection_lost"),
    ] {
        let (at, _) = serve_raw(answer).await;
        let network = network(&[&at.to_string()], &[]);
        let found = refused(egress.send(&network, get(&format!("http://{at}/"))).await);
        assert_eq!((found.0.as_str(), found.1), (code, false), "{answer}");
    }
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = free.local_addr().unwrap();
    drop(free);
    let network = network(&[&at.to_string()], &[]);
    let found = refused(egress.send(&network, get(&format!("http://{at}/"))).await);
    assert_eq!(found, ("connect_failed".to_owned(), false));
}

#[tokio::test]
async fn a_certificate_is_for_the_name_that_was_asked_for() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
    let (at, pem) = tls::serve("good.test", answer).await;
    let names = || Names::of(&[("good.test", &["127.0.0.1"]), ("other.test", &["127.0.0.1"])]);
    let hosts = ["good.test", "other.test", "127.0.0.1"].map(|h| format!("{h}:{}", at.port()));
    let network = network(&hosts.each_ref().map(String::as_str), &[]);
    let url = |host: &str| format!("https://{host}:{}/", at.port());
    let trusting = GuardedEgress::new(names(), Some(&pem)).unwrap();
    let answer = trusting.send(&network, get(&url("good.test"))).await.unwrap();
    assert_eq!(text(answer).await, "hi");
    for host in ["other.test", "127.0.0.1"] {
        assert_eq!(refused(trusting.send(&network, get(&url(host))).await).0, "tls_failed");
    }
    let plain = GuardedEgress::new(names(), None).unwrap();
    assert_eq!(refused(plain.send(&network, get(&url("good.test"))).await).0, "tls_failed");
}
