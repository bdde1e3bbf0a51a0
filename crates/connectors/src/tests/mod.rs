//! The tools as a whole, from parameters to outcome.

mod catalogue;
mod declared;
mod egress;
mod email;
mod files;
mod hostile;
mod http;
mod llm;
mod permit;
mod tls;
mod webhook;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use kernel::failure::{Category, Failure};
use kernel::ids::{TenantId, ToolId};
use kernel::json::RawJson;
use kernel::values::Timestamp;
use serde_json::Value;

use crate::address::{Resolver, Resolving};
use crate::kv::NoKeyValues;
use crate::mcp::{NoSecrets, Secrets};
use crate::tools::Context;
use crate::{EffectChange, EffectCheck, Executed, Grants, HttpGrant, Outcome, Tools, ToolsConfig};

/// Remembers what it was asked.
#[derive(Default)]
struct Asked {
    refuse: bool,
    seen: Mutex<Vec<EffectChange>>,
}

impl EffectCheck for Asked {
    fn allow(&self, effect: &EffectChange) -> Result<(), Failure> {
        self.seen.lock().unwrap().push(effect.clone());
        if self.refuse {
            return Err(Failure::new(Category::PolicyDenied, "policy_no_match", "no"));
        }
        Ok(())
    }
}

/// Answers each look-up of a name with the next of its lists, the last one for ever.
#[derive(Debug, Default)]
struct Names(Mutex<BTreeMap<String, Vec<Vec<IpAddr>>>>);

impl Names {
    fn of(names: &[(&str, &[&str])]) -> Arc<Self> {
        let list = |text: &&str| text.split(' ').map(|ip| ip.parse().unwrap()).collect();
        let answers = |(name, lists): &(&str, &[&str])| {
            ((*name).to_owned(), lists.iter().map(list).collect::<Vec<_>>())
        };
        Arc::new(Self(Mutex::new(names.iter().map(answers).collect())))
    }
}

impl Resolver for Names {
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a> {
        let mut names = self.0.lock().unwrap();
        let answer = match names.get_mut(host) {
            Some(lists) if lists.len() > 1 => lists.remove(0),
            Some(lists) => lists[0].clone(),
            None => Vec::new(),
        };
        Box::pin(async move { Ok(answer) })
    }
}

/// A tenant without prices of its own.
fn anybody() -> TenantId {
    TenantId::new("anybody").unwrap()
}

fn grant(host: &str, port: Option<u16>, private: bool) -> HttpGrant {
    HttpGrant { host: host.to_owned(), port, private }
}

/// Tools that may call `hosts`, looking names up in `names`.
fn tools(hosts: Vec<HttpGrant>, names: Arc<Names>) -> Tools {
    let grants = Grants { http: hosts, ..Grants::default() };
    Tools::new(ToolsConfig { grants, resolver: names, ..ToolsConfig::default() }).unwrap()
}

async fn run(tools: &Tools, tool: &str, params: Value) -> Outcome {
    run_asking(tools, tool, params, &Asked::default()).await
}

async fn run_asking(tools: &Tools, tool: &str, params: Value, redirect: &Asked) -> Outcome {
    run_knowing(tools, tool, params, redirect, &NoSecrets).await
}

async fn run_knowing(
    tools: &Tools,
    tool: &str,
    params: Value,
    redirect: &Asked,
    secrets: &dyn Secrets,
) -> Outcome {
    // 2026-11-21T02:00:00Z.
    let now = Timestamp(1_795_226_400_000_000);
    let idempotency_key = "act_1".to_owned();
    let (store, in_doubt) = (&NoKeyValues, false);
    let context = Context { idempotency_key, now, redirect, secrets, store, in_doubt };
    let params = RawJson::parse(&params.to_string()).unwrap();
    let id = ToolId::new(tool).unwrap();
    let tool = tools.get(&anybody(), &id).unwrap();
    let outcome = tools.run(tool, &params, context).await;
    if let Outcome::Executed(executed) = &outcome {
        let schema = &tool.manifest.output_schema;
        jsonschema::validate(schema, &executed.result.to_value()).unwrap();
    }
    // Whatever fails, fails in a way that the manifest names, and of the category that it says.
    if let Outcome::Failed(failure) | Outcome::Unknown(failure) = &outcome {
        let modes = &tool.manifest.failure_modes;
        let named = modes
            .iter()
            .any(|mode| (&mode.code, mode.category) == (&failure.code, failure.category));
        assert!(named || failure.category == Category::PolicyDenied, "{failure:?}");
    }
    outcome
}

fn executed(outcome: Outcome) -> Executed {
    match outcome {
        Outcome::Executed(executed) => executed,
        other => panic!("{other:?}"),
    }
}

fn result(outcome: Outcome) -> Value {
    executed(outcome).result.to_value()
}

fn failed(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

fn unknown(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Unknown(failure) => failure,
        other => panic!("{other:?}"),
    }
}
