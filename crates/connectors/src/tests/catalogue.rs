//! The catalogue: what is offered, at which digest, and which parameters it takes.

use std::collections::BTreeMap;

use kernel::ids::ToolId;
use kernel::json::RawJson;
use kernel::values::MicroUsd;
use serde_json::{Value, json};

use crate::transform::Worker;
use crate::{Tools, ToolsConfig};

fn all(prices: &[(&str, i64)]) -> Result<Tools, crate::Error> {
    let prices: BTreeMap<_, _> =
        prices.iter().map(|(id, n)| (ToolId::new(id).unwrap(), MicroUsd(*n))).collect();
    let jq_worker = Some(Worker { program: "/bin/false".into(), args: vec![], env: vec![] });
    Tools::new(ToolsConfig { prices, jq_worker, ..ToolsConfig::default() })
}

fn id(text: &str) -> ToolId {
    ToolId::new(text).unwrap()
}

fn raw(value: &Value) -> RawJson {
    RawJson::parse(&value.to_string()).unwrap()
}

/// A changed digest ends every approval of the tool that is open: it is changed on purpose only,
/// with the version.
#[test]
fn digests_are_stable() {
    let tools = all(&[]).unwrap();
    let got: Vec<_> =
        tools.all().map(|tool| format!("{} {}", tool.manifest.id, tool.digest.hex())).collect();
    assert_eq!(got, GOLDEN);
}

const GOLDEN: [&str; 4] = [
    "core.fs_read fe056835f20419439ee8c1fba774bcfca1813fe1190e27f47c58c6261ef0e95b",
    "core.fs_write 54eecf2b3bd4d4c1d517345a93ec6fd1520f7c771f32e25985299b50aa33ab9e",
    "core.http_call 586061bb2acf5a639dbd69a7eee881fdcacfd63987751d13aa5eb8f7b1883681",
    "core.json_transform d6b2f4fc0376aab30f4fdd55869860ef86770976a585f559757ce28c2ed84273",
];

#[test]
fn labels_follow_the_method() {
    let tools = all(&[("core.http_call", 5)]).unwrap();
    let manifest = &tools.get(&id("core.http_call")).unwrap().manifest;
    for (method, first, idempotent) in [
        (None, "read", true),
        (Some("GET"), "read", true),
        (Some("HEAD"), "read", true),
        (Some("PUT"), "write", true),
        (Some("DELETE"), "destructive", true),
        (Some("POST"), "write", false),
        (Some("PATCH"), "write", false),
    ] {
        let mut params = json!({"url": "http://a.test/"});
        if let Some(method) = method {
            params["method"] = json!(method);
        }
        let facts = manifest.facts(&raw(&params));
        assert!(facts.labels.contains(first) && facts.labels.contains("external"), "{method:?}");
        assert_eq!((facts.idempotent, facts.estimate), (idempotent, MicroUsd(5)), "{method:?}");
    }
    let manifest = &tools.get(&id("core.fs_write")).unwrap().manifest;
    for (mode, idempotent) in [("overwrite", true), ("append", false), ("create_new", false)] {
        let params = json!({"path": "/a", "content": "", "mode": mode});
        assert_eq!(manifest.facts(&raw(&params)).idempotent, idempotent, "{mode}");
    }
}

#[test]
fn violations_name_their_place_and_no_content() {
    let tools = all(&[]).unwrap();
    for (tool, params, place) in [
        ("core.http_call", json!({}), "`/params`"),
        ("core.http_call", json!({"url": 17}), "`/params/url`"),
        ("core.http_call", json!({"url": "http://a/", "method": "get"}), "`/params/method`"),
        ("core.http_call", json!({"url": "http://a/", "headers": {"s3cret": 1}}), "s3cret"),
        ("core.http_call", json!({"url": "http://a/", "timeout_ms": 0}), "`/params/timeout_ms`"),
        ("core.fs_read", json!({"path": "/a", "max_bytes": -1}), "`/params/max_bytes`"),
        ("core.fs_write", json!({"path": "/a", "content": "", "mode": "s3cret"}), "/params/mode"),
        ("core.json_transform", json!({"input": 1, "filter": ""}), "`/params/filter`"),
        ("core.json_transform", json!([]), "`/params`"),
    ] {
        let failure = tools.validate(&id(tool), &raw(&params)).unwrap_err();
        assert_eq!(failure.code, "params_invalid");
        assert!(failure.message.contains(place), "{failure}");
        assert!(place == "s3cret" || !failure.message.contains("s3cret"), "{failure}");
    }
    let extra = raw(&json!({"path": "/a", "mx_bytes": 1}));
    let failure = tools.validate(&id("core.fs_read"), &extra).unwrap_err();
    assert!(failure.message.contains("mx_bytes"), "{failure}");
    let unknown = tools.validate(&id("core.nothing"), &extra).unwrap_err();
    assert_eq!(unknown.code, "tool_not_found");
    assert!(tools.validate(&id("core.fs_read"), &raw(&json!({"path": "/a"}))).is_ok());
}

#[test]
fn prices_are_for_tools_that_are_there() {
    assert!(all(&[("core.nothing", 1)]).is_err());
    assert!(all(&[("core.fs_read", -1)]).is_err());
    let (free, priced) = (all(&[]).unwrap(), all(&[("core.fs_read", 1)]).unwrap());
    let digest = |tools: &Tools| tools.get(&id("core.fs_read")).unwrap().digest;
    assert_ne!(digest(&free), digest(&priced));
    assert!(Tools::new(ToolsConfig::default()).unwrap().get(&id("core.json_transform")).is_none());
}
