//! What a call of a connector costs: held, spent and reported, by the example of the recipe.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

const EXAMPLE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/recipes/address-lookup.yaml");
const TOOL: &str = "addresses.find_address";
/// What the definition says, in micro-USD.
const PRICE: i64 = 5_000;
const KEY: &str = "Pw6Td3-key-of-addresses";

/// A system that knows one address.
async fn addresses() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let head = String::from_utf8(head).unwrap().to_lowercase();
                assert!(head.contains(&format!("x-api-key: {}\r\n", KEY.to_lowercase())), "{head}");
                let (status, body) = match head.starts_with("get /v1/addresses?text=10") {
                    true => {
                        ("200 OK", json!({"line": "10 Downing Street", "postcode": "SW1A 2AA"}))
                    }
                    false => ("404 Not Found", json!({})),
                };
                let body = body.to_string();
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n\
                     content-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                // Whoever asked may be gone.
                let _sent = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_costs_what_its_definition_says() {
    let tested = crate::common::tally(&["connector", "test", EXAMPLE]);
    assert_code(&tested, 0);
    let said = text(&tested);
    assert!(said.contains(" 0 failed") && !said.contains("untested"), "{said}");
    let port = addresses().await;
    let server = Server::start(&format!(
        "policy: {{decision_limit_ms: 5000}}\n\
         grants: {{connectors: [{{host: 127.0.0.1, port: {port}, private: true}}]}}"
    ));
    server.publish(&allow_all()).await;
    put(&server, "addresses-key", KEY);
    done(&server, &["connector", "install", EXAMPLE]);
    let url = format!("http://127.0.0.1:{port}");
    let configure = ["connector", "configure", "addresses", "--base-url", &url];
    done(&server, &[&configure[..], &["--secret", "key=addresses-key"]].concat());
    // For two of them, and not for a third.
    let agent = server.paying_agent("lookups", 2 * PRICE + 1).await;
    let known = json!({"text": "10 Downing St"});
    // What finds nothing is held and costs nothing.
    assert_eq!(failure(&agent, TOOL, &json!({"text": "nowhere"})).await, "not_found");
    assert_eq!(server.account("lookups").await.spent_micro_usd, 0);
    for spent in [PRICE, 2 * PRICE] {
        let called = call(&agent, TOOL, &known).await;
        let called = reaches(&agent, &called.action_id, State::Executed).await;
        assert_eq!(called.cost_micro_usd, PRICE);
        let account = server.account("lookups").await;
        assert_eq!((account.spent_micro_usd, account.held_micro_usd), (spent, 0));
        let found: Value = called.result.as_ref().unwrap().decode().unwrap();
        assert_eq!(found["postcode"], "SW1A 2AA");
    }
    let refused = call(&agent, TOOL, &known).await;
    assert_eq!(refused.state(), State::Denied, "{refused:?}");
    assert_eq!(refused.error.unwrap().code, "budget_exceeded");
    // An agent without a budget buys nothing.
    let poor = server.principal(Kind::Agent, &["agent"]).await;
    assert_eq!(call(&poor, TOOL, &known).await.state(), State::Denied);
    let owner = server.owner_key();
    let csv = text(&server.tally(&owner, &["cost", "report", "--by", "tool", "--csv"]));
    let mut lines = csv.lines();
    let names: Vec<_> = lines.next().unwrap().split(',').collect();
    let row = lines.find(|line| line.starts_with(&format!("{TOOL},"))).unwrap();
    let row: Vec<_> = row.split(',').collect();
    let cell = |name: &str| row[names.iter().position(|other| *other == name).unwrap()];
    assert_eq!((cell("executed"), cell("failed")), ("2", "1"), "{csv}");
    assert_eq!(cell("cost_micro_usd"), (2 * PRICE).to_string(), "{csv}");
    let table = text(&server.tally(&owner, &["cost", "report", "--by", "tool"]));
    assert!(table.contains(TOOL) && table.contains("$0.01"), "{table}");
}
