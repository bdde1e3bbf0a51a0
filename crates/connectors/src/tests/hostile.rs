//! URLs, names and answers that try to reach what was not granted.

use serde_json::json;

use super::{Names, failed, grant, run, tools};

/// Each with the code of its refusal, though every public host is granted on the usual ports.
const HOSTILE: &[(&str, &str)] = &[
    ("http://127.0.0.1/", "address_not_granted"),
    ("http://127.1/", "address_not_granted"),
    ("http://2130706433/", "address_not_granted"),
    ("http://0x7f000001/", "address_not_granted"),
    ("http://0x7f.0.0.1/", "address_not_granted"),
    ("http://0177.0.0.1/", "address_not_granted"),
    ("http://017700000001/", "address_not_granted"),
    ("http://127.0.0.1./", "address_not_granted"),
    ("http://%31%32%37.0.0.1/", "address_not_granted"),
    ("http://127.0.0.1/", "address_not_granted"),
    ("http://①②⑦.⓪.⓪.①/", "address_not_granted"),
    ("http://127。0。0。1/", "address_not_granted"),
    ("http://0/", "address_not_granted"),
    ("http://0.0.0.0/", "address_not_granted"),
    ("http://10.0.0.1/", "address_not_granted"),
    ("http://172.16.0.1/", "address_not_granted"),
    ("http://172.31.255.255/", "address_not_granted"),
    ("http://192.168.0.1/", "address_not_granted"),
    ("http://100.64.0.1/", "address_not_granted"),
    ("http://169.254.169.254/latest/meta-data/", "address_not_granted"),
    ("http://2852039166/", "address_not_granted"),
    ("http://0xa9fea9fe/", "address_not_granted"),
    ("http://0251.0376.0251.0376/", "address_not_granted"),
    ("http://100.100.100.200/", "address_not_granted"),
    ("http://168.63.129.16/", "address_not_granted"),
    ("http://192.0.2.1/", "address_not_granted"),
    ("http://198.18.0.1/", "address_not_granted"),
    ("http://198.51.100.1/", "address_not_granted"),
    ("http://203.0.113.1/", "address_not_granted"),
    ("http://224.0.0.1/", "address_not_granted"),
    ("http://255.255.255.255/", "address_not_granted"),
    ("http://[::]/", "address_not_granted"),
    ("http://[::1]/", "address_not_granted"),
    ("http://[0:0:0:0:0:0:0:1]/", "address_not_granted"),
    ("http://[::ffff:127.0.0.1]/", "address_not_granted"),
    ("http://[::ffff:7f00:1]/", "address_not_granted"),
    ("http://[::127.0.0.1]/", "address_not_granted"),
    ("http://[::ffff:169.254.169.254]/", "address_not_granted"),
    ("http://[64:ff9b::7f00:1]/", "address_not_granted"),
    ("http://[64:ff9b:1::a00:1]/", "address_not_granted"),
    ("http://[2002:7f00:1::]/", "address_not_granted"),
    ("http://[2001:0:4136:e378:8000:63bf:80ff:fffe]/", "address_not_granted"),
    ("http://[fe80::1]/", "address_not_granted"),
    ("http://[fc00::1]/", "address_not_granted"),
    ("http://[fd00:ec2::254]/", "address_not_granted"),
    ("http://[ff02::1]/", "address_not_granted"),
    ("http://loop.test/", "address_not_granted"),
    ("http://LOOP.test./", "address_not_granted"),
    ("http://mixed.test/", "address_not_granted"),
    ("http://mixed6.test/", "address_not_granted"),
    ("http://metadata.test/", "address_not_granted"),
    ("http://good.test:22/", "host_not_granted"),
    ("https://good.test:80/", "host_not_granted"),
    ("http://nowhere.test/", "dns_failed"),
    ("http://[fe80::1%25eth0]/", "url_invalid"),
    ("http://[::1/", "url_invalid"),
    ("http://256.256.256.256/", "url_invalid"),
    ("http:///", "url_invalid"),
    ("http://./", "url_invalid"),
    ("http://good.test:0/", "url_invalid"),
    ("http://good.test:99999/", "url_invalid"),
    ("http://good.test\\@127.0.0.1/", "url_invalid"),
    ("http://good.test/\r\nX: y", "url_invalid"),
    ("http://good.test/a b", "url_invalid"),
    ("http://good.test\u{9}/", "url_invalid"),
    (" http://good.test/", "url_invalid"),
    ("//good.test/", "url_invalid"),
    ("good.test/", "url_invalid"),
    ("file:///etc/passwd", "url_invalid"),
    ("ftp://good.test/", "url_invalid"),
    ("gopher://good.test/", "url_invalid"),
    ("javascript:alert(1)", "url_invalid"),
    ("data:text/plain,a", "url_invalid"),
    ("unix:///var/run/docker.sock", "url_invalid"),
    ("http://user@good.test/", "url_credentials"),
    ("http://user:word@good.test/", "url_credentials"),
    ("http://good.test@127.0.0.1/", "url_credentials"),
];

fn names() -> std::sync::Arc<Names> {
    Names::of(&[
        ("good.test", &["8.8.8.8"]),
        ("loop.test", &["127.0.0.1"]),
        ("mixed.test", &["8.8.8.8 127.0.0.1"]),
        ("mixed6.test", &["8.8.8.8 ::ffff:10.0.0.1"]),
        ("metadata.test", &["169.254.169.254"]),
    ])
}

#[tokio::test]
async fn hostile_urls_are_refused() {
    let tools = tools(vec![grant("*", None, false)], names());
    for (url, code) in HOSTILE {
        let failure = failed(run(&tools, "core.http_call", json!({"url": url})).await);
        assert_eq!(failure.code, *code, "{url:?}: {failure}");
    }
}

#[tokio::test]
async fn without_a_grant_every_host_is_refused() {
    let tools = tools(Vec::new(), names());
    for url in ["http://good.test/", "http://8.8.8.8/", "http://127.0.0.1/"] {
        let failure = failed(run(&tools, "core.http_call", json!({"url": url})).await);
        assert_eq!(failure.code, "host_not_granted", "{url}");
        assert!(failure.message.contains("grants.http"), "{failure}");
    }
}

/// A private grant is for one host and port, and never lets a name stand for the metadata service.
#[tokio::test]
async fn a_private_grant_is_narrow() {
    let hosts = vec![
        grant("127.0.0.1", Some(1), true),
        grant("metadata.test", None, true),
        grant("0.0.0.0", None, true),
        grant("*", None, false),
    ];
    let tools = tools(hosts, names());
    for (url, code) in [
        ("http://127.0.0.1:2/", "host_not_granted"),
        ("http://127.0.0.1/", "address_not_granted"),
        ("http://loop.test:1/", "host_not_granted"),
        ("http://[::ffff:127.0.0.1]:1/", "host_not_granted"),
        ("http://metadata.test/", "address_not_granted"),
        ("http://0.0.0.0/", "address_not_granted"),
    ] {
        let failure = failed(run(&tools, "core.http_call", json!({"url": url})).await);
        assert_eq!(failure.code, code, "{url}");
    }
}

#[tokio::test]
async fn headers_that_frame_or_route_are_refused() {
    let tools = tools(vec![grant("*", None, false)], names());
    for (name, value) in [
        ("Host", "127.0.0.1"),
        ("connection", "upgrade"),
        ("Content-Length", "0"),
        ("transfer-encoding", "chunked"),
        ("X-Forwarded-Host", "a"),
        ("proxy-authorization", "a"),
        ("idempotency-key", "a"),
        ("x-a", "b\r\nhost: 127.0.0.1"),
        ("x-a", "b\nc"),
        ("x a", "b"),
        ("x-a:", "b"),
        ("", "b"),
    ] {
        let params = json!({"url": "http://good.test/", "headers": {name: value}});
        let failure = failed(run(&tools, "core.http_call", params).await);
        assert_eq!(failure.code, "header_refused", "{name:?}: {value:?}");
        assert!(!failure.message.contains(value) || value.len() == 1, "{failure}");
    }
    let twice = json!({"url": "http://good.test/", "headers": {"x-a": "1", "X-A": "2"}});
    assert_eq!(failed(run(&tools, "core.http_call", twice).await).code, "header_refused");
}
