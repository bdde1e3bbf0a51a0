//! The catalogue: what is offered, at which digest, and which parameters it takes.

use std::collections::BTreeMap;

use kernel::ids::{TenantId, ToolId};
use kernel::json::RawJson;
use kernel::values::MicroUsd;
use serde_json::{Value, json};

use super::anybody;
use crate::transform::Worker;
use crate::{Tools, ToolsConfig};

fn all(prices: &[(&str, i64)]) -> Result<Tools, crate::Error> {
    let prices: BTreeMap<_, _> =
        prices.iter().map(|(id, n)| (ToolId::new(id).unwrap(), MicroUsd(*n))).collect();
    let jq_worker = Some(Worker { program: "/bin/false".into(), args: vec![], env: vec![] });
    let email = json!({"host": "mail.test", "from": ["bot@example.com"]});
    let email = Some(serde_json::from_value(email).unwrap());
    Tools::new(ToolsConfig { prices, jq_worker, email, ..ToolsConfig::default() })
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
    let got: Vec<_> = tools
        .all(&anybody())
        .map(|tool| format!("{} {}", tool.manifest.id, tool.digest.hex()))
        .collect();
    assert_eq!(got, GOLDEN);
}

const GOLDEN: [&str; 10] = [
    "core.fs_read 064aca93ffc7c35abebab83db08a760927037750d5d68eb5336052aa9f0fe75c",
    "core.fs_write 84b7f4bc444c2d1dabca05982423c855d414eeea5a068aa3341ba73b6a4f5b5c",
    "core.http_call 95bdf82ed6180b8fd8a0611bad9e0b488da6c865b79731749b013da9e646bfc7",
    "core.json_transform 3f1b95020b6984895a614d245cafadbf89b6a9944a2085f2d27b62b3e23c175e",
    "email.send 154c56295cc92f858e5eecd138e2e537f4cc2d6353f8ac0fdc72b11312e19332",
    "kv.delete 2b7954ae2bab858063c86574750f97366041ac292b652ab6c7fd02f5190c7130",
    "kv.get 124a76ca6379c67b88772ba8f85f6dedc3e60d099254cdea62c00c13ad904f58",
    "kv.set 6cc8c3ac4580108719ab122ca8dee8c77af76fd516491ae02c255ae8d77847f9",
    "time.wait f93209f4fa2c5b4ef096d8a205a66b9f6696a8ce3a0dd15c0bba3a338ea44543",
    "webhook.send 34f441a6af0a3ff887a03bd45124f1ef7e967ce6ad9a697ec12d39ef186c2357",
];

#[test]
fn labels_follow_the_method() {
    let tools = all(&[("core.http_call", 5)]).unwrap();
    let manifest = &tools.get(&anybody(), &id("core.http_call")).unwrap().manifest;
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
    let manifest = &tools.get(&anybody(), &id("core.fs_write")).unwrap().manifest;
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
    let digest = |tools: &Tools| tools.get(&anybody(), &id("core.fs_read")).unwrap().digest;
    assert_ne!(digest(&free), digest(&priced));
    assert!(
        Tools::new(ToolsConfig::default())
            .unwrap()
            .get(&anybody(), &id("core.json_transform"))
            .is_none()
    );
}

fn prices(tools: &Value, models: &Value) -> Result<Tools, crate::Error> {
    let model = json!({"input": 2_000_000, "output": 8_000_000, "context": 50_000});
    let provider = json!({"name": "one", "form": "openai", "base_url": "https://models.test/v1",
        "models": {"m-1": model, "m-2": model}});
    let acme = TenantId::new("acme").unwrap();
    let own = serde_json::from_value(json!({"tools": tools, "models": models})).unwrap();
    Tools::new(ToolsConfig {
        prices: [(id("core.fs_read"), MicroUsd(3)), (id("core.fs_write"), MicroUsd(4))].into(),
        models: serde_json::from_value(json!({"providers": [provider]})).unwrap(),
        tenant_prices: [(acme, own)].into(),
        ..ToolsConfig::default()
    })
}

#[test]
fn a_tenant_pays_its_own_prices_and_others_for_the_rest() {
    let cheap = json!({"input": 1_000_000, "output": 1_000_000});
    let tools =
        prices(&json!({"core.fs_read": 1, "kv.get": 2}), &json!({"one": {"m-1": cheap}})).unwrap();
    let acme = TenantId::new("acme").unwrap();
    let cost = |tenant: &TenantId, tool: &str, params: Value| {
        tools.get(tenant, &id(tool)).unwrap().facts(&raw(&params)).estimate.0
    };
    for (tool, own, usual) in [("core.fs_read", 1, 3), ("core.fs_write", 4, 4), ("kv.get", 2, 0)] {
        let pays = |tenant| cost(tenant, tool, json!({}));
        assert_eq!((pays(&acme), pays(&anybody())), (own, usual), "{tool}");
        let digest = |tenant| tools.get(tenant, &id(tool)).unwrap().digest;
        assert_eq!(digest(&acme) == digest(&anybody()), own == usual, "{tool}");
    }
    let ask = |model: &str| json!({"model": model, "prompt": "hello", "max_tokens": 1_000});
    let asks = |tenant: &TenantId, model| cost(tenant, "llm.invoke", ask(model));
    // Each token of an answer costs seven less, and each that is read one less.
    assert!(asks(&anybody(), "m-1") - asks(&acme, "m-1") > 7 * 1_000);
    assert_eq!(asks(&anybody(), "m-2"), asks(&acme, "m-2"));
    let ids = |tenant| tools.all(tenant).map(|tool| &tool.manifest.id).collect::<Vec<_>>();
    assert_eq!(ids(&acme), ids(&anybody()));
}

#[test]
fn prices_of_a_tenant_are_for_what_is_there() {
    let (none, cheap) = (json!({}), json!({"input": 1, "output": 1}));
    for (tools, models, why) in [
        (json!({"core.nothing": 1}), &none, "tenant_prices.acme.tools: `core.nothing`"),
        (json!({"core.fs_read": -1}), &none, "costs less than nothing"),
        (json!({"llm.invoke": 1}), &none, "has its prices in models"),
        (none.clone(), &json!({"two": {"m-1": cheap}}), "provider `two` is not configured"),
        (none.clone(), &json!({"one": {"m-3": cheap}}), "provider `one` has no model `m-3`"),
        (none.clone(), &json!({"one": {"m-1": {"input": -1, "output": 1}}}), "a price is 0 to"),
    ] {
        let refused = prices(&tools, models).unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
}
