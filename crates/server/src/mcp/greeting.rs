//! What the gateway says of itself when a client comes.

use super::limits;
use super::lists::Lister;
use super::modern;
use super::raw;
use super::revision::SUPPORTED;
use super::surface::Visit;

/// What every client may use. Which upstreams there are changes while a client is here, so this
/// does not depend on them: a list may be empty.
const FEATURES: &str = concat!(
    r#""tools":{"listChanged":true},"#,
    r#""resources":{"subscribe":true,"listChanged":true},"#,
    r#""prompts":{"listChanged":true},"completions":{},"logging":{}"#,
);
const LEGACY_TASKS: &str = r#""tasks":{"list":{},"cancel":{},"requests":{"tools":{"call":{}}}}"#;
const TASKS: &str = r#""extensions":{"io.modelcontextprotocol/tasks":{}}"#;
/// For how long a client may keep what the gateway says of itself, in milliseconds.
const TTL_MS: u64 = 60_000;

/// Who answers.
pub(super) fn server_info() -> &'static str {
    concat!(r#"{"name":"tally","title":"Tally","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#)
}

/// The result of `server/discover`.
pub(super) async fn discover(visit: &Visit) -> String {
    modern::result(&format!(
        r#""supportedVersions":{SUPPORTED},"capabilities":{{{FEATURES},{TASKS}}}{},{}"#,
        instructions(visit).await,
        format_args!(r#""ttlMs":{TTL_MS},"cacheScope":"private""#),
    ))
}

/// The result of `initialize`.
pub(super) async fn initialized(visit: &Visit, revision: &str) -> String {
    let members = [
        format!(r#""protocolVersion":{}"#, raw::quoted(revision)),
        format!(r#""capabilities":{{{FEATURES},{LEGACY_TASKS}}}"#),
        format!(r#""serverInfo":{}{}"#, server_info(), instructions(visit).await),
    ];
    format!("{{{}}}", members.join(","))
}

/// The member `instructions`, with a comma in front: what the upstreams of the view tell models,
/// as far as the caller sees any of their tools. Text of several goes under their names.
async fn instructions(visit: &Visit) -> String {
    let lister = Lister { shared: visit.shared(), caller: &visit.caller, view: &visit.view };
    let told: Vec<(String, String)> = lister
        .upstreams()
        .into_iter()
        .filter_map(|upstream| Some((upstream.name.clone(), upstream.instructions()?)))
        .filter(|(name, _)| lister.sees_any_of(name))
        .map(|(name, text)| (name, text.chars().take(limits::INSTRUCTIONS_CHARS_MAX).collect()))
        .collect();
    let text = match told.as_slice() {
        [] => return String::new(),
        [(_, text)] => text.clone(),
        several => {
            let parts = several.iter().map(|(name, text)| format!("## {name}\n\n{text}"));
            parts.collect::<Vec<_>>().join("\n\n")
        }
    };
    format!(r#","instructions":{}"#, raw::quoted(&text))
}
