//! What we believe and what the senders' own libraries believe is the same.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{GITHUB, Place, SLACK, code, form, now, pull_request};
use crate::common::text;
use crate::common::wire::Ask;

fn installed(variable: &str) -> PathBuf {
    std::env::var_os(variable).map(PathBuf::from).unwrap_or_else(|| {
        panic!(
            "{variable} is not set: run `cargo xtask test`, or what `cargo xtask foreign` prints"
        )
    })
}

/// Asks `@octokit/webhooks-methods` and `@slack/bolt` about deliveries.
fn oracle(cases: &Value) -> Vec<bool> {
    let mut node = Command::new("node");
    node.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hooks"))
        .arg("oracle.mjs")
        .arg(cases.to_string())
        .env("TALLY_HOOK_NODE_MODULES", installed("TALLY_HOOK_NODE_MODULES"))
        .stdin(Stdio::null());
    let output = node.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&text(&output)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_senders_own_libraries_agree() {
    let place = Place::new().await.with_events().await.with_slack().await;
    let body = pull_request("opened", 1);
    let umlaut = json!({"zen": "Schöne Grüße, 世界"}).to_string();
    let press = form(&json!({"type": "block_actions", "text": "a b+c&d=é"}));
    let at = |offset: i64| (now() + offset).to_string();
    let v0 = |secret: &str, time: &str, body: &str| {
        format!("v0={}", code(secret, format!("v0:{time}:{body}").as_bytes()))
    };
    let hub = |secret: &str, body: &str| format!("sha256={}", code(secret, body.as_bytes()));
    let github = |signature: String, body: &str| {
        let of = json!({"of": "github", "secret": GITHUB, "signature": signature});
        crate::runs::with(of, json!({"body": body}))
    };
    let slack = |signature: String, time: String, body: &str| {
        let of = json!({"of": "slack", "secret": SLACK, "signature": signature});
        crate::runs::with(of, json!({"time": time, "body": body}))
    };
    let fresh = at(0);
    let old = at(-600);
    let cases = vec![
        github(hub(GITHUB, &body), &body),
        github(hub(GITHUB, &umlaut), &umlaut),
        github(hub(SLACK, &body), &body),
        github(hub(GITHUB, &umlaut), &body),
        github(hub(GITHUB, &body).replace("sha256=", "sha1="), &body),
        slack(v0(SLACK, &fresh, &press), fresh.clone(), &press),
        slack(v0(GITHUB, &fresh, &press), fresh.clone(), &press),
        slack(v0(SLACK, &fresh, "a=b"), fresh.clone(), &press),
        slack(v0(SLACK, &old, &press), old.clone(), &press),
        slack(v0(SLACK, &old, &press), fresh.clone(), &press),
        slack(v0(SLACK, &fresh, &press).replace("v0=", "v1="), fresh, &press),
    ];
    let believed = oracle(&Value::Array(cases.clone()));
    assert_eq!(believed.iter().filter(|one| **one).count(), 3, "{believed:?}");
    for (case, expect) in cases.iter().zip(believed) {
        let status = ask(&place, case).send().await.status;
        assert_eq!(status != 404, expect, "{status} {case}");
    }
}

fn ask(place: &Place, case: &Value) -> Ask {
    let field = |name: &str| case[name].as_str().unwrap_or_default().to_owned();
    if field("of") == "github" {
        let ask = place.post("github").header("x-github-event", "ping");
        return ask.header("x-hub-signature-256", &field("signature")).bytes(field("body"));
    }
    let ask = place.post("slack").header("x-slack-request-timestamp", &field("time"));
    let ask = ask.header("x-slack-signature", &field("signature")).raw(field("body"));
    ask.header("content-type", "application/x-www-form-urlencoded")
}
