//! MCP servers and their tools: which definition may be called, whatever a server offers.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use kernel::ids::{PrincipalId, ToolId};
use kernel::machine::{Applied, Change, Kind, Refusal, Stream};
use kernel::receipt::{Body, LogId, Position, Statement, Transition};
use kernel::upstream::{self, Settings, Upstream};
use kernel::upstream_tool::{self, Input, Status, UpstreamTool};
use kernel::values::{Digest, Timestamp};
use kernel::{ids, limits};
use proptest::prelude::*;

const TOOL: &str = "mcp.files.read_file";

fn by() -> PrincipalId {
    PrincipalId::new("u_1").unwrap()
}

fn digest(name: char) -> Digest {
    Digest::of(name.to_string().as_bytes())
}

/// What happens to a tool: `1a` the first contact of the first adding offers `a`, `2b` a later
/// contact of it offers `b`, `0` one offers nothing, `!b` somebody releases `b`; `A` and `B` are a
/// first and a later contact of the second adding that offer `a`.
fn input(word: &str) -> Input {
    let offers = |name: char, generation, first| Input::Observe {
        offered: Some(digest(name.to_ascii_lowercase())),
        generation,
        first,
    };
    match word.chars().collect::<Vec<_>>().as_slice() {
        ['0'] => Input::Observe { offered: None, generation: 1, first: false },
        ['!', name] => Input::Release { digest: digest(*name), by: by() },
        ['1', name] => offers(*name, 1, true),
        ['2', name] => offers(*name, 1, false),
        ['3', name] => offers(*name, 2, true),
        ['4', name] => offers(*name, 2, false),
        other => panic!("{other:?}"),
    }
}

/// Steps and folds; whether each input changed something, or the first refusal.
fn run(words: &str) -> Result<(Option<UpstreamTool>, usize), Refusal> {
    let (mut state, mut changes) = (None, 0);
    for (index, word) in (0..).zip(words.split(' ').filter(|word| !word.is_empty())) {
        let Some(change) = upstream_tool::step(state.as_ref(), input(word))? else { continue };
        changes += 1;
        let time = Timestamp(i64::try_from(index).unwrap());
        upstream_tool::apply(&mut state, &change, &Applied { id: TOOL, index, time });
    }
    Ok((state, changes))
}

#[test]
fn only_a_definition_that_was_pinned_or_released_may_be_called() {
    use Status::{Active, Gone, Quarantined};
    // What happens, where the tool stands then, what is pinned and offered, how many changes.
    let check = |words: &str, expect: (Status, Option<char>, Option<char>, usize)| {
        let (state, changes) = run(words).unwrap();
        let state = state.unwrap();
        let (status, pinned, offered, expected) = expect;
        assert_eq!(state.status, status, "{words}");
        assert_eq!(state.pinned, pinned.map(digest), "{words}");
        assert_eq!(state.offered, offered.map(digest), "{words}");
        assert_eq!(changes, expected, "{words}");
        assert_eq!(state.revision, u64::try_from(expected).unwrap(), "{words}");
    };
    check("1a", (Active, Some('a'), None, 1));
    check("1a 2a 2a", (Active, Some('a'), None, 1));
    // A first contact that was cut off goes on: it pins each tool once.
    check("1a 1a", (Active, Some('a'), None, 1));
    check("1a 1b", (Quarantined, Some('a'), Some('b'), 2));
    // New after the first contact.
    check("2a", (Quarantined, None, Some('a'), 1));
    check("2a 2a", (Quarantined, None, Some('a'), 1));
    check("2a !a", (Active, Some('a'), None, 2));
    // Changed, changed again, and back.
    check("1a 2b", (Quarantined, Some('a'), Some('b'), 2));
    check("1a 2b 2b 2c", (Quarantined, Some('a'), Some('c'), 3));
    check("1a 2b 2a", (Active, Some('a'), None, 3));
    check("1a 2b !b", (Active, Some('b'), None, 3));
    check("1a 2b !b 2a", (Quarantined, Some('b'), Some('a'), 4));
    // Gone and back, the same or another.
    check("1a 0", (Gone, Some('a'), None, 2));
    check("1a 0 0", (Gone, Some('a'), None, 2));
    check("1a 0 2a", (Active, Some('a'), None, 3));
    check("1a 0 2b", (Quarantined, Some('a'), Some('b'), 3));
    check("2a 0 2a", (Quarantined, None, Some('a'), 3));
    // Added anew: its first contact pins anew, once.
    check("1a 2b 3b", (Active, Some('b'), None, 3));
    check("1a 3b 3c", (Quarantined, Some('b'), Some('c'), 3));
    check("1a 3a", (Active, Some('a'), None, 2));
    check("1a 4a", (Active, Some('a'), None, 2));
    check("1a 4b", (Quarantined, Some('a'), Some('b'), 2));
    for (words, refusal) in [
        ("!a", Refusal::Absent),
        ("1a !a", Refusal::State("active")),
        ("1a 0 !a", Refusal::State("gone")),
        ("1a 2b !a", Refusal::Moved),
        ("1a 2b 2c !b", Refusal::Moved),
    ] {
        assert_eq!(run(words).unwrap_err(), refusal, "{words}");
    }
    assert_eq!(run("0").unwrap(), (None, 0));
}

fn settings(spec: u8, labels: u8) -> Settings {
    Settings { spec: Digest::of(&[spec]), settings: Digest::of(&[spec, labels]), by: Some(by()) }
}

#[test]
fn a_server_is_one_way_to_reach_it() {
    use upstream::Input::{Add, Change, Pin, Remove};
    let run = |inputs: &[upstream::Input]| -> Result<Upstream, Refusal> {
        let mut state = None;
        for (index, input) in (0..).zip(inputs) {
            let change = upstream::step(state.as_ref(), input.clone())?;
            let applied = Applied { id: "files", index, time: Timestamp(1) };
            upstream::apply(&mut state, &change, &applied);
        }
        state.ok_or(Refusal::Absent)
    };
    let (add, remove) = (Add(settings(1, 1)), Remove { by: None });
    let check = |inputs: &[upstream::Input], generation, pinned, removed| {
        let state = run(inputs).unwrap();
        let found = (state.generation, state.pinned, state.removed);
        assert_eq!(found, (generation, pinned, removed), "{inputs:?}");
        assert_eq!(state.revision, u64::try_from(inputs.len()).unwrap());
    };
    check(std::slice::from_ref(&add), 1, false, false);
    check(&[add.clone(), Pin {}], 1, true, false);
    check(&[add.clone(), Pin {}, Change(settings(1, 2))], 1, true, false);
    check(&[add.clone(), Pin {}, remove.clone()], 1, true, true);
    check(&[add.clone(), Pin {}, remove.clone(), Add(settings(2, 1))], 2, false, false);
    let refused = |inputs: &[upstream::Input], refusal: Refusal| {
        assert_eq!(run(inputs).unwrap_err(), refusal, "{inputs:?}");
    };
    refused(std::slice::from_ref(&remove), Refusal::Absent);
    refused(&[Pin {}], Refusal::Absent);
    refused(&[Change(settings(1, 1))], Refusal::Absent);
    refused(&[add.clone(), add.clone()], Refusal::Exists);
    refused(&[add.clone(), Change(settings(1, 1))], Refusal::State("unchanged"));
    refused(&[add.clone(), Pin {}, Pin {}], Refusal::State("pinned"));
    refused(&[add.clone(), remove.clone(), remove.clone()], Refusal::Absent);
    refused(&[add.clone(), remove, Pin {}], Refusal::Absent);
    let other = [add, Change(settings(2, 1))];
    assert_eq!(run(&other).unwrap_err().code().0, "invalid_argument");
}

fn inputs() -> impl Strategy<Value = Input> {
    let digest = prop::sample::select(vec!['a', 'b', 'c']).prop_map(digest);
    let offered = prop::option::weighted(0.8, digest.clone());
    prop_oneof![
        4 => (offered, 1..4_u32, any::<bool>()).prop_map(|(offered, generation, first)| {
            Input::Observe { offered, generation, first }
        }),
        1 => digest.prop_map(|digest| Input::Release { digest, by: by() }),
    ]
}

proptest! {
    /// Whatever a server offers: what may be called was pinned by the first contact of an adding,
    /// or somebody released exactly that; and what is there is what was offered last.
    #[test]
    fn nobody_calls_what_nobody_pinned(inputs in prop::collection::vec(inputs(), 1..60)) {
        let (mut state, mut trusted) = (None::<UpstreamTool>, Vec::new());
        for (index, input) in (0..).zip(inputs) {
            let before = state.clone();
            let Ok(change) = upstream_tool::step(state.as_ref(), input.clone()) else { continue };
            if let Some(change) = &change {
                let applied = Applied { id: TOOL, index, time: Timestamp(1) };
                upstream_tool::apply(&mut state, change, &applied);
            }
            match (&input, &state) {
                (Input::Release { digest, .. }, Some(tool)) => {
                    prop_assert_eq!(before.and_then(|before| before.offered), Some(*digest));
                    prop_assert_eq!(tool.status, Status::Active);
                    trusted.push(*digest);
                }
                (Input::Observe { offered: Some(digest), first, generation }, Some(tool)) => {
                    if *first && before.is_none_or(|before| before.generation < *generation) {
                        trusted.push(*digest);
                    }
                    let active = tool.status == Status::Active;
                    prop_assert_eq!(active, tool.pinned == Some(*digest));
                    prop_assert_eq!(active, tool.offered.is_none());
                }
                (Input::Observe { offered: None, .. }, Some(tool)) => {
                    prop_assert_eq!(tool.status, Status::Gone);
                }
                (_, None) => prop_assert!(change.is_none()),
            }
            // The same once more changes nothing.
            if matches!(input, Input::Observe { first: false, .. }) {
                prop_assert_eq!(upstream_tool::step(state.as_ref(), input), Ok(None));
            }
            if let Some(pinned) = state.as_ref().and_then(|tool| tool.pinned) {
                prop_assert!(trusted.contains(&pinned));
            }
        }
    }
}

#[test]
fn the_largest_commit_fits_a_receipt() {
    let name = "n".repeat(limits::SERVER_NAME_BYTES_MAX);
    let transition = |at: usize| {
        let tail = format!("{at:0>width$}", width = limits::MCP_TOOL_NAME_BYTES_MAX);
        let id = ToolId::mcp(&name, &tail).unwrap();
        let by = PrincipalId::new("p".repeat(limits::ID_BYTES_MAX)).unwrap();
        let change = upstream_tool::Change::Released { digest: digest('a'), by };
        let stream = Stream::new(Kind::UpstreamTool, id.as_str());
        Transition { stream, version: u64::MAX, change: Change::UpstreamTool(change) }
    };
    let mut transitions: Vec<_> = (0..limits::MCP_TOOLS_PER_RECEIPT_MAX).map(transition).collect();
    transitions.push(Transition {
        stream: Stream::new(Kind::Upstream, &name),
        version: u64::MAX,
        change: Change::Upstream(upstream::Change::Pinned {}),
    });
    assert!(transitions.len() <= limits::TRANSITIONS_PER_RECEIPT_MAX);
    let log = LogId::Control(ids::TenantId::new("t".repeat(limits::ID_BYTES_MAX)).unwrap());
    let origin = log.origin("a-host-with-a-rather-long-name.example.com");
    let position = Position { origin, index: u64::MAX, prev: digest('b') };
    let body = Body { trace_id: Some("f".repeat(32)), transitions };
    Statement::new(&log, position, Timestamp(i64::MAX), body).payload().unwrap();
}
