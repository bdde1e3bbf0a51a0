//! Instances of connectors: what runs is what was looked at, and in prod by the word of two.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use kernel::connector::{self, Connector, Input, Installation, Status};
use kernel::ids::PrincipalId;
use kernel::machine::{Applied, Refusal};
use kernel::values::{Digest, Timestamp};

fn digest(name: char) -> Digest {
    Digest::of(name.to_string().as_bytes())
}

/// What happens to an instance: `a1` installs the definition `a` as version 1.0.0, `ca` configures
/// it, `ka` does so differently, `+a` enables it, `-` disables. Who does so follows: `a1/x`.
fn input(word: &str) -> Input {
    let (word, by) = word.split_once('/').unwrap();
    let by = PrincipalId::new(by).unwrap();
    match word.chars().collect::<Vec<_>>().as_slice() {
        ['-'] => Input::Disable { by },
        ['+', name] => Input::Enable { definition: digest(*name), by },
        ['c', name] if name.is_ascii_alphabetic() => {
            Input::Configure { definition: digest(*name), config: digest('1'), by }
        }
        ['k', name] => Input::Configure { definition: digest(*name), config: digest('2'), by },
        [name, version] => Input::Install(Installation {
            definition: digest(*name),
            version: format!("{version}.0.0").parse().unwrap(),
            by,
        }),
        other => panic!("{other:?}"),
    }
}

fn run(words: &str) -> Result<Option<Connector>, Refusal> {
    let mut state = None;
    for (index, word) in (0..).zip(words.split(' ')) {
        let change = connector::step(state.as_ref(), input(word))?;
        let time = Timestamp(i64::try_from(index).unwrap());
        connector::apply(&mut state, &change, &Applied { id: "slack", index, time });
    }
    Ok(state)
}

#[test]
fn another_definition_or_configuration_is_looked_at_anew() {
    use Status::{Disabled, Enabled, Installed};
    for (words, status, reviewed) in [
        ("a1/x", Installed, false),
        ("a1/x ca/x", Enabled, false),
        ("a1/x ca/y", Enabled, true),
        ("a1/x ca/x +a/y", Enabled, true),
        // Whoever installed it configures it anew: nobody else has looked at that.
        ("a1/x ca/x +a/y ka/x", Enabled, false),
        ("a1/x ca/y ka/x", Enabled, false),
        ("a1/x ca/y b2/x", Installed, false),
        // Nobody else has looked at the other definition.
        ("a1/x ca/y b2/x +b/x", Enabled, false),
        ("a1/x ca/y b2/x +b/y", Enabled, true),
        ("a1/x ca/y b2/x cb/y", Enabled, true),
        ("a1/x ca/x b2/x +b/x", Enabled, false),
        ("a1/x ca/y -/x", Disabled, true),
        ("a1/x ca/y -/x ka/y", Disabled, true),
        ("a1/x ca/y -/x b2/x", Disabled, false),
        ("a1/x ca/y -/x +a/x", Enabled, true),
        ("a1/x -/y ca/x", Disabled, false),
        ("b2/x cb/y a1/x", Installed, false),
    ] {
        let state = run(words).unwrap().unwrap();
        assert_eq!((state.status(), state.reviewed()), (status, reviewed), "{words}");
    }
}

#[test]
fn refused() {
    for (words, refusal) in [
        ("ca/x", Refusal::Absent),
        ("+a/x", Refusal::Absent),
        ("a1/x +a/x", Refusal::State("not configured")),
        ("a1/x a1/y", Refusal::State("unchanged")),
        ("a1/x cb/x", Refusal::Moved),
        ("a1/x ca/x b2/x +a/x", Refusal::Moved),
        ("a1/x ca/x ca/x", Refusal::State("unchanged")),
        ("a1/x ca/x -/x -/x", Refusal::State("disabled")),
    ] {
        assert_eq!(run(words).unwrap_err(), refusal, "{words}");
    }
    let same_version = run("a1/x b1/x").unwrap_err();
    assert!(matches!(same_version, Refusal::InvalidInput(_)), "{same_version:?}");
}

#[test]
fn names() {
    for good in ["slack", "a", "service-now_2"] {
        assert!(connector::is_name(good), "{good}");
    }
    for bad in ["", "Slack", "a.b", "1a", "core", "llm", "tally", "mcp", "a b", &"a".repeat(33)] {
        assert!(!connector::is_name(bad), "{bad}");
    }
}
