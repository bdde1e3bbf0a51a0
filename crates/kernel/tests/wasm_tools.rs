//! Tools given as code: what runs is what was bound and granted, whatever was registered since.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use kernel::attestation::{CodeKind, Limits};
use kernel::capability::Capabilities;
use kernel::ids::{PrincipalId, ToolId};
use kernel::machine::{Applied, Change, Kind, Refusal, Stream};
use kernel::receipt::{Body, LogId, Position, Statement, Transition};
use kernel::values::{Digest, Timestamp};
use kernel::wasm_tool::{self, Binding, Input, Registration, Status, WasmTool};
use kernel::{ids, limits};
use proptest::prelude::*;

const TOOL: &str = "acme.summarise";
const LIMITS: Limits =
    Limits { memory_bytes: 1, cpu_ms: 1, wall_ms: 1, fuel: 1, output_bytes: 1, tool_calls: 0 };

fn by() -> PrincipalId {
    PrincipalId::new("u_1").unwrap()
}

fn digest(name: char) -> Digest {
    Digest::of(name.to_string().as_bytes())
}

fn reads(glob: &str) -> Capabilities {
    Capabilities { file_read: vec![glob.to_owned()], ..Capabilities::default() }
}

/// What happens to a tool: `a1` registers the code `a` as version 1.0.0, `=a` binds the code `a`,
/// `~a` binds it by another engine, `+a` grants it something and `*a` something else, `-` revokes.
fn input(word: &str) -> Input {
    let bind = |name, engine: &str| {
        let binding = Binding { compiled: digest(name), engine: engine.to_owned() };
        Input::Bind { component: digest(name), binding }
    };
    let grant = |name, glob| {
        let capabilities = reads(glob);
        Input::Grant { component: digest(name), capabilities, limits: LIMITS, by: by() }
    };
    match word.chars().collect::<Vec<_>>().as_slice() {
        ['-'] => Input::Revoke { by: by() },
        ['=', name] => bind(*name, "one"),
        ['~', name] => bind(*name, "two"),
        ['+', name] => grant(*name, "/a"),
        ['*', name] => grant(*name, "/b"),
        [name, version] => Input::Register(Registration {
            manifest: digest('m'),
            version: format!("{version}.0.0").parse().unwrap(),
            component: digest(*name),
            kind: CodeKind::Component,
            by: by(),
        }),
        other => panic!("{other:?}"),
    }
}

/// Steps and folds, or the first refusal.
fn run(words: &str) -> Result<Option<WasmTool>, Refusal> {
    let mut state = None;
    for (index, word) in (0..).zip(words.split(' ')) {
        let change = wasm_tool::step(state.as_ref(), input(word))?;
        let time = Timestamp(i64::try_from(index).unwrap());
        wasm_tool::apply(&mut state, &change, &Applied { id: TOOL, index, time });
    }
    Ok(state)
}

#[test]
fn changed_code_never_runs_under_an_old_grant() {
    use Status::{Active, Registered, Revoked};
    for (words, status, code, granted) in [
        ("a1", Registered, 'a', None),
        ("a1 =a", Registered, 'a', None),
        ("a1 +a", Registered, 'a', Some("/a")),
        ("a1 =a +a", Active, 'a', Some("/a")),
        ("a1 +a =a", Active, 'a', Some("/a")),
        ("a1 =a +a *a", Active, 'a', Some("/b")),
        ("a1 =a +a ~a", Active, 'a', Some("/a")),
        ("a1 =a +a -", Revoked, 'a', None),
        ("a1 =a +a - +a", Active, 'a', Some("/a")),
        ("a1 =a +a b2", Registered, 'b', None),
        ("a1 =a +a b2 =b", Registered, 'b', None),
        ("a1 =a +a b2 =b +b", Active, 'b', Some("/a")),
        // The same code again: another manifest, so nothing holds over either.
        ("a1 =a +a a2", Registered, 'a', None),
        ("a1 =a +a - b2", Registered, 'b', None),
    ] {
        let tool = run(words).unwrap().unwrap();
        let found = tool.grant.as_ref().and_then(|g| g.capabilities.file_read.first().cloned());
        assert_eq!(tool.status(), status, "{words}");
        assert_eq!(tool.registration.component, digest(code), "{words}");
        assert_eq!(found.as_deref(), granted, "{words}");
        assert_eq!(tool.revision, u64::try_from(words.split(' ').count()).unwrap(), "{words}");
    }
    for (words, refusal) in [
        ("=a", Refusal::Absent),
        ("+a", Refusal::Absent),
        ("-", Refusal::Absent),
        ("a1 a1", Refusal::State("unchanged")),
        ("a1 =a =a", Refusal::State("bound")),
        ("a1 +a +a", Refusal::State("unchanged")),
        ("a1 -", Refusal::State("registered")),
        ("a1 +a - -", Refusal::State("revoked")),
        // What was looked at is not what is there any more.
        ("a1 b2 =a", Refusal::Moved),
        ("a1 b2 +a", Refusal::Moved),
        ("a1 +b", Refusal::Moved),
    ] {
        assert_eq!(run(words).unwrap_err(), refusal, "{words}");
    }
    for words in ["a1 b1", "a2 b1", "a2 a1"] {
        let refused = run(words).unwrap_err();
        assert_eq!(refused.code().0, "invalid_argument", "{words}");
        assert!(refused.to_string().contains("higher version"), "{refused}");
    }
}

#[test]
fn what_cannot_be_granted_or_bound() {
    let state = run("a1").unwrap();
    let component = digest('a');
    let refused = |input: Input| {
        let refused = wasm_tool::step(state.as_ref(), input).unwrap_err();
        assert_eq!(refused.code().0, "invalid_argument");
    };
    let grant = |capabilities, limits| Input::Grant { component, capabilities, limits, by: by() };
    refused(grant(reads("data/*"), LIMITS));
    refused(grant(reads("/data/*"), Limits { fuel: 0, ..LIMITS }));
    refused(grant(reads("/data/*"), Limits { memory_bytes: 0, ..LIMITS }));
    for engine in [String::new(), "a\nb".to_owned(), "a".repeat(limits::ENGINE_BYTES_MAX + 1)] {
        let binding = Binding { compiled: component, engine };
        refused(Input::Bind { component, binding });
    }
}

#[test]
fn reserved_names_make_no_tool() {
    for (id, may) in [
        ("acme.summarise", true),
        ("acme.text.summarise", true),
        ("core.http_call", false),
        ("sandbox.execute", false),
        ("tally.x", false),
        ("mcp.files.read", false),
        ("acme", false),
        ("acme.", false),
    ] {
        let id = ToolId::new(id).unwrap();
        assert_eq!(wasm_tool::may_be_named(&id), may, "{id}");
        let change = wasm_tool::step(None, input("a1")).unwrap();
        let mut state = None;
        let applied = Applied { id: id.as_str(), index: 0, time: Timestamp(1) };
        wasm_tool::apply(&mut state, &change, &applied);
        assert_eq!(state.is_some(), may, "{id}");
    }
}

#[test]
fn the_longest_grant_fits_a_receipt() {
    let entry = |i: usize| format!("/{i:02}{}", "\"".repeat(limits::CAPABILITY_BYTES_MAX - 3));
    let most = limits::CAPABILITIES_BYTES_MAX / limits::CAPABILITY_BYTES_MAX;
    let capabilities =
        Capabilities { file_read: (0..most).map(entry).collect(), ..Capabilities::default() };
    let limits = Limits { fuel: u64::MAX, memory_bytes: u64::MAX, ..LIMITS };
    let grant = Input::Grant { component: digest('a'), capabilities, limits, by: by() };
    let change = wasm_tool::step(run("a1").unwrap().as_ref(), grant).unwrap();
    let id = format!("a.{}", "b".repeat(limits::ID_BYTES_MAX - 2));
    let stream = Stream::new(Kind::WasmTool, id);
    let change = Change::WasmTool(change);
    let body =
        Body { transitions: vec![Transition { stream, version: 2, change }], trace_id: None };
    let log = LogId::Control(ids::TenantId::new("acme").unwrap());
    let position = Position { origin: log.origin("t"), index: 0, prev: digest('p') };
    let payload = Statement::new(&log, position, Timestamp(1), body).payload().unwrap();
    assert!(payload.len() > limits::RECEIPT_PAYLOAD_BYTES_MAX / 3);
    assert!(Statement::parse(&payload).is_ok());
}

proptest! {
    /// Whatever happens: what may run was bound and granted since its registration, and of
    /// exactly the code that is registered; and versions only grow.
    #[test]
    fn only_what_was_granted_runs(
        words in prop::collection::vec("[a-c][1-4]|[=~+*][a-c]|-", 1..40)
    ) {
        let mut state: Option<WasmTool> = None;
        let (mut bound, mut granted) = (None, None);
        for (index, word) in (0..).zip(&words) {
            let before = state.clone();
            let Ok(change) = wasm_tool::step(state.as_ref(), input(word)) else {
                prop_assert_eq!(&before, &state);
                continue;
            };
            let applied = Applied { id: TOOL, index, time: Timestamp(1) };
            wasm_tool::apply(&mut state, &change, &applied);
            match &change {
                wasm_tool::Change::Registered(registration) => {
                    (bound, granted) = (None, None);
                    if let Some(before) = before {
                        let last = before.registration.version;
                        prop_assert!(last.precedence(&registration.version).is_lt());
                    }
                }
                wasm_tool::Change::Bound { component, .. } => bound = Some(*component),
                wasm_tool::Change::Granted { component, .. } => granted = Some(*component),
                wasm_tool::Change::Revoked { .. } => granted = None,
            }
            let tool = state.as_ref().unwrap();
            let runs = bound == Some(tool.registration.component) && granted == bound;
            prop_assert_eq!(tool.status() == Status::Active, runs);
        }
    }
}
