//! Whom a client talks to, what it shows of secrets, and what a child gets to see.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use connectors::address::{Resolver, Resolving};
use connectors::mcp::{Parts, Revision, Secrets, Spec, Transport, Upstream};
use kernel::failure::{Category, Failure};
use kernel::permit::Permit;
use kernel::values::Digest;
use zeroize::Zeroizing;

use super::peer::{Answer, Peer};
use super::{Ask, child, not_sent, spec, upstream, value};

#[derive(Debug)]
struct To(&'static str);

impl Resolver for To {
    fn resolve<'a>(&'a self, _host: &'a str) -> Resolving<'a> {
        let ip: IpAddr = self.0.parse().unwrap();
        Box::pin(async move { Ok(vec![ip]) })
    }
}

fn http(url: &str, private: bool) -> Spec {
    spec(Transport::Http { url: url.to_owned(), headers: BTreeMap::new(), private })
}

#[tokio::test]
async fn private_addresses_need_leave() {
    let peer = Peer::start(Revision::V2026_07_28, |_| None).await;
    let port = peer.address.port();
    let literal = format!("http://127.0.0.1:{port}/mcp");
    let named = format!("http://inside.test:{port}/mcp");
    let parts = |to| Parts { resolver: Arc::new(To(to)), ..Parts::default() };
    for (url, to, private, code) in [
        (literal.as_str(), "127.0.0.1", false, Some("address_not_granted")),
        (&named, "127.0.0.1", false, Some("address_not_granted")),
        (&named, "169.254.169.254", true, Some("address_not_granted")),
        (&named, "127.0.0.1", true, None),
    ] {
        let upstream = Upstream::new(http(url, private), parts(to)).unwrap();
        let ended = Ask::tool("echo", "{}").call(&upstream).await;
        match code {
            Some(code) => {
                let failure = not_sent(ended);
                assert_eq!(failure.code, code, "{url} to {to}");
                assert!(!failure.message.contains(to) || url.contains(to), "{failure:?}");
                assert!(peer.all().is_empty());
            }
            None => drop(value(ended)),
        }
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let other = Peer::start(Revision::V2026_07_28, |_| None).await;
    let target = format!("http://{}/mcp", other.address);
    for status in [301, 302, 303, 307, 308] {
        let target = target.clone();
        let peer = Peer::start(Revision::V2026_07_28, move |got| {
            let called = got.rpc() == "tools/call";
            called.then(|| Answer::empty(status).with("location", &target))
        })
        .await;
        let headers = BTreeMap::from([("authorization".to_owned(), "Bearer t".to_owned())]);
        let upstream = upstream(spec(peer.transport(headers)));
        let failure = not_sent(Ask::tool("t", "{}").call(&upstream).await);
        assert_eq!(failure.code, "redirect_refused");
        assert_eq!(peer.got("tools/call")[0].header("authorization"), Some("Bearer t"));
    }
    assert!(other.all().is_empty());
}

/// One secret, which can be changed.
struct Vault(Mutex<String>);

impl Secrets for Vault {
    fn reveal(&self, name: &str) -> Result<Zeroizing<String>, Failure> {
        match name {
            "key" => Ok(Zeroizing::new(self.0.lock().unwrap().clone())),
            _ => Err(Failure::new(Category::NotFound, "secret_not_found", "no such secret")),
        }
    }
}

#[tokio::test]
async fn secrets_go_to_the_upstream_and_nowhere_else() {
    let peer = Peer::start(Revision::V2026_07_28, |_| None).await;
    let vault = Arc::new(Vault(Mutex::new("s3cret-1".to_owned())));
    let parts = Parts { secrets: vault.clone(), ..Parts::default() };
    let headers = BTreeMap::from([("x-key".to_owned(), "k ${secret:key}".to_owned())]);
    let spec = spec(peer.transport(headers));
    assert_eq!(spec.secrets(), ["key"]);
    let upstream = Upstream::new(spec, parts.clone()).unwrap();
    value(Ask::tool("echo", "{}").call(&upstream).await);
    *vault.0.lock().unwrap() = "s3cret-2".to_owned();
    value(Ask::tool("echo", "{}").call(&upstream).await);
    let sent: Vec<_> =
        peer.got("tools/call").iter().map(|got| got.headers["x-key"].clone()).collect();
    assert_eq!(sent, ["k s3cret-1", "k s3cret-2"]);
    assert!(!format!("{upstream:?} {:?}", upstream.health()).contains("s3cret"));

    *vault.0.lock().unwrap() = "s3cret\n".to_owned();
    let failure = not_sent(Ask::tool("echo", "{}").call(&upstream).await);
    assert_eq!(failure.code, "header_refused");
    assert!(!failure.message.contains("s3cret"));

    let headers = BTreeMap::from([("x-key".to_owned(), "${secret:other}".to_owned())]);
    let upstream = Upstream::new(super::spec(peer.transport(headers)), parts).unwrap();
    let before = peer.all().len();
    assert_eq!(not_sent(Ask::tool("t", "{}").call(&upstream).await).code, "secret_not_found");
    assert_eq!(peer.all().len(), before);
}

#[tokio::test]
async fn a_child_sees_little_of_our_environment() {
    let upstream = upstream(spec(child::transport("old")));
    let names = value(Ask::tool("environment", "{}").call(&upstream).await);
    for name in names["names"].as_array().unwrap() {
        let known = ["PATH", "HOME", "LANG", "TMPDIR", "MCP_FIXTURE"];
        assert!(known.contains(&name.as_str().unwrap()), "{name}");
    }
}

#[tokio::test]
async fn nothing_happens_without_a_permit_for_it() {
    let peer = Peer::start(Revision::V2026_07_28, |_| None).await;
    let upstream = upstream(peer.spec());
    let permit: Permit = testkit::permit(Digest::of(b"another plan"));
    let params = kernel::json::RawJson::empty_object();
    let call = connectors::mcp::Call {
        permit: &permit,
        plan_digest: Digest::of(b"this plan"),
        now: kernel::values::Timestamp(0),
        method: connectors::mcp::Method::CallTool,
        tool: "echo",
        params: &params,
        continuation: None,
        idempotent: true,
        meta: None,
        progress_token: None,
        lane: connectors::mcp::Lane::Shared,
        back: Arc::new(connectors::mcp::Detached),
        subject: None,
        cancel: Default::default(),
    };
    assert_eq!(not_sent(upstream.call(call).await).code, "permit_other_plan");
    assert!(peer.all().is_empty());
}

#[test]
fn specifications_that_are_none() {
    let new = |spec: Spec| Upstream::new(spec, Parts::default()).map(drop);
    let code = |spec: Spec| new(spec).unwrap_err().code();
    let good = || http("https://example.com/mcp", false);
    new(good()).unwrap();
    assert_eq!(code(Spec { name: "A".to_owned(), ..good() }), "upstream_name_invalid");
    assert_eq!(code(Spec { name: "-a".to_owned(), ..good() }), "upstream_name_invalid");
    assert_eq!(code(Spec { timeout_ms: 0, ..good() }), "upstream_timeout_invalid");
    for url in [
        "ftp://example.com/",
        "https://user:pass@example.com/",
        "https://${secret:key}.example.com/mcp",
        "https://${secret:key}/mcp",
        "not a url",
    ] {
        assert_eq!(code(http(url, false)), "upstream_url_invalid", "{url}");
    }
    assert_eq!(code(http("https://a.test/${secret:}", false)), "upstream_secret_invalid");
    for (name, value) in
        [("host", "a"), ("mcp-session-id", "a"), ("Mcp-Param-A", "a"), ("a b", "a"), ("x", "a\nb")]
    {
        let headers = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let url = "https://example.com/mcp".to_owned();
        let spec = spec(Transport::Http { url, headers, private: false });
        assert_eq!(code(spec), "upstream_header_invalid", "{name}");
    }
}
