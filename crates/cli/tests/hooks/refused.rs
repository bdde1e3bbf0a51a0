//! What is not signed as it should be is answered as what is not there.

use proto::triggers::{DisableTriggerRequest, EnableTriggerRequest, RemoveTriggerRequest};
use serde_json::{Value, json};

use super::{GITHUB, Place, SERVICENOW, SLACK, code, form, incident, now, pull_request};
use crate::common::wire::Ask;

/// The refusal, without what names the request.
async fn refusal(ask: Ask) -> (u16, Value) {
    let reply = ask.send().await;
    let mut error = reply.error();
    error.as_object_mut().unwrap().remove("request_id");
    (reply.status, error)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_tells_a_forgery_from_a_trigger_that_is_not_there() {
    let place = Place::new().await.with_events().await.with_slack().await;
    let body = pull_request("opened", 1);
    let nowhere = place.wire.ask("POST", "/hooks/main/none").bytes(body.clone());
    let absent = refusal(nowhere).await;
    assert_eq!((absent.0, &absent.1["code"]), (404, &json!("not_found")));
    let good = format!("sha256={}", code(GITHUB, body.as_bytes()));
    let time = now().to_string();
    let old = (now() - 301).to_string();
    let ahead = (now() + 330).to_string();
    let event = incident("evt-1", "1").to_string();
    let press = form(&json!({"type": "block_actions"}));
    let hub = |path: &str, signature: &str| {
        let ask = place.wire.ask("POST", path).header("x-github-event", "pull_request");
        ask.header("x-hub-signature-256", signature).bytes(body.clone())
    };
    let slack = |time: &str, signature: &str| {
        let ask = place.post("slack").header("x-slack-request-timestamp", time);
        let ask = ask.header("x-slack-signature", signature).raw(press.clone());
        ask.header("content-type", "application/x-www-form-urlencoded")
    };
    let snow = |time: &str, signature: &str| {
        let ask = place.post("servicenow").header("x-tally-timestamp", time);
        ask.header("x-tally-signature", signature).bytes(event.clone())
    };
    let v0 = |secret: &str, time: &str| {
        format!("v0={}", code(secret, format!("v0:{time}:{press}").as_bytes()))
    };
    let of = |secret: &str, time: &str| code(secret, format!("{time}.{event}").as_bytes());
    let cases = [
        ("no signature", place.post("github").bytes(body.clone())),
        ("forged", hub("/hooks/main/github", &format!("sha256={}", "0".repeat(64)))),
        ("of another body", hub("/hooks/main/github", &format!("sha256={}", code(GITHUB, b"{}")))),
        ("of no form", hub("/hooks/main/github", "sha256=zz")),
        (
            "another's secret",
            hub("/hooks/main/github", &format!("sha256={}", code(SLACK, body.as_bytes()))),
        ),
        ("twice", hub("/hooks/main/github", &good).header("x-hub-signature-256", &good)),
        ("another tenant", hub("/hooks/acme/github", &good)),
        ("no tenant", hub("/hooks/NO%20TENANT/github", &good)),
        ("another trigger", hub("/hooks/main/servicenow", &good)),
        ("another trigger", hub("/hooks/main/slack", &good)),
        ("forged press", slack(&time, &v0(GITHUB, &time))),
        ("old press", slack(&old, &v0(SLACK, &old))),
        ("press from the future", slack(&ahead, &v0(SLACK, &ahead))),
        ("press at another time", slack(&time, &v0(SLACK, &old))),
        ("press at no time", slack("soon", &v0(SLACK, "soon"))),
        ("forged incident", snow(&time, &of(GITHUB, &time))),
        ("old incident", snow(&old, &of(SERVICENOW, &old))),
        ("incident at another time", snow(&time, &of(SERVICENOW, &old))),
    ];
    for (what, ask) in cases {
        assert_eq!(refusal(ask).await, absent, "{what}");
    }
    assert!(place.runs().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_trigger_is_not_there() {
    let place = Place::new().await.with_events().await;
    let name = || "github".to_owned();
    let owner = place.owner();
    let deliver = async |number: u64| {
        let reply = place.github("pull_request", &pull_request("opened", number)).send().await;
        reply.status
    };
    assert_eq!(deliver(1).await, 200);
    let disabled = owner.disable_trigger(&DisableTriggerRequest { name: name() }, None).await;
    assert_eq!(disabled.unwrap().state, "disabled");
    assert_eq!(deliver(2).await, 404);
    let enabled = owner.enable_trigger(&EnableTriggerRequest { name: name() }, None).await;
    assert_eq!(enabled.unwrap().state, "enabled");
    assert_eq!(deliver(3).await, 200);
    let removed = owner.remove_trigger(&RemoveTriggerRequest { name: name() }, None).await;
    assert_eq!(removed.unwrap().state, "removed");
    assert_eq!(deliver(4).await, 404);
    let mut again =
        place.trigger("github", &[("number", "/number"), ("title", "/pull_request/title")]);
    again.events = vec!["pull_request".to_owned()];
    place.create(&again).await;
    // What an earlier trigger of this name took is no second run.
    assert_eq!(deliver(1).await, 200);
    assert_eq!(deliver(5).await, 200);
    assert_eq!(place.runs().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_delivery_must_be_what_its_sender_sends() {
    let place = Place::new().await.with_events().await.with_slack().await;
    let body = pull_request("opened", 1);
    let signed = |body: &str| format!("sha256={}", code(GITHUB, body.as_bytes()));
    let as_type = |kind: &str| {
        let ask = place.post("github").header("x-github-event", "pull_request");
        ask.header("x-hub-signature-256", &signed(&body))
            .raw(body.clone())
            .header("content-type", kind)
    };
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"] {
        let reply = as_type(kind).send().await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "content_type"), "{kind}");
    }
    assert_eq!(as_type("application/json; charset=utf-8").send().await.status, 200);
    let odd = [
        ("{", "json_syntax"),
        ("{\"a\":1,\"a\":2}", "json_syntax"),
        ("{\"action\":\"opened\"}", "event_lacks_field"),
    ];
    for (body, expect) in odd {
        let reply = place.github("pull_request", body).send().await;
        assert_eq!((reply.status, reply.code().as_str()), (400, expect), "{body}");
    }
    for (at, expect) in [("event_id", "event_id_missing"), ("event", "event_unnamed")] {
        let mut event = incident("evt-1", "1");
        event.as_object_mut().unwrap().remove(at);
        let reply = place.servicenow(&event).send().await;
        assert_eq!((reply.status, reply.code().as_str()), (400, expect));
    }
    let no_payload = place.slack_at(&now().to_string(), "a=b");
    let no_payload = no_payload.header("content-type", "application/x-www-form-urlencoded");
    let reply = no_payload.send().await;
    assert_eq!((reply.status, reply.code().as_str()), (400, "payload_missing"));
    // Too long is said before anything is looked at.
    let long = format!("{{\"text\":\"{}\"}}", "x".repeat(1 << 20));
    for path in ["/hooks/main/github", "/hooks/main/none"] {
        let reply = place.wire.ask("POST", path).bytes(long.clone()).send().await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "body_too_large"));
    }
    assert_eq!(place.runs().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_has_no_more_rights_than_its_service() {
    let place = Place::new().await;
    place.workflow("echo", &super::echo(&["number"])).await;
    let kind = proto::identity::principal::Kind::Service;
    let viewer = super::principal(&place.server, kind, &["viewer"]).await;
    let mut request = place.trigger("github", &[("number", "/number")]);
    request.principal_id = viewer;
    place.create(&request).await;
    let reply = place.github("pull_request", &pull_request("opened", 1)).send().await;
    assert_eq!((reply.status, reply.code().as_str()), (403, "permission_denied"));
    let disable = proto::identity::DisablePrincipalRequest { principal_id: place.service.clone() };
    place.owner().disable_principal(&disable, None).await.unwrap();
    request.name = "disabled".to_owned();
    request.principal_id = place.service.clone();
    place.create(&request).await;
    let body = pull_request("opened", 2);
    let ask = place.post("disabled").header("x-github-event", "pull_request").bytes(body.clone());
    let signature = format!("sha256={}", code(GITHUB, body.as_bytes()));
    let reply = ask.header("x-hub-signature-256", &signature).send().await;
    assert_eq!((reply.status, reply.code().as_str()), (403, "principal_disabled"));
    assert!(place.runs().await.is_empty());
}
