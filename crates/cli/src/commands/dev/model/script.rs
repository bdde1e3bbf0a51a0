//! The script: which request is answered how. The first rule that fits and is not used up counts.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::Value;

use super::asked::Asked;

/// All rules.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Script {
    /// The key that requests must have; any, or none, where absent.
    pub(super) key: Option<String>,
    rules: Vec<Rule>,
}

/// What fits, and how it is answered.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Rule {
    /// A text that is in the last message of the user.
    #[serde(rename = "match")]
    pattern: Option<String>,
    /// The model that is asked.
    model: Option<String>,
    /// For how many requests it counts.
    times: Option<u32>,
    #[serde(skip)]
    used: AtomicU32,
    /// The answer as text.
    pub(super) reply: Option<String>,
    /// The answer as JSON.
    pub(super) json: Option<Value>,
    /// An answer that is no JSON, whatever schema it should match.
    pub(super) junk: bool,
    /// A refusal of the model.
    pub(super) refuse: bool,
    /// A status of HTTP in place of an answer.
    pub(super) status: Option<u16>,
    /// The code of the error with that status.
    pub(super) code: Option<String>,
    /// `Retry-After`, with that status.
    pub(super) retry_after_s: Option<u32>,
    /// The request is taken and never answered.
    pub(super) hang: bool,
    /// Milliseconds before each token of a stream, and before a whole answer.
    pub(super) delay_ms: u64,
    /// Tokens that are written beyond the answer, whatever was asked for.
    pub(super) overlong: usize,
    /// Tokens that are reported in place of those that there are.
    pub(super) usage: Option<Reported>,
    /// Whether none are reported.
    pub(super) no_usage: bool,
    /// The name of the model that answers, in place of the one that is asked.
    pub(super) answer_as: Option<String>,
    /// Tokens of a stream after which the connection breaks.
    pub(super) cut_after: Option<usize>,
}

/// Tokens to be reported.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Reported {
    pub(super) input: Option<u64>,
    pub(super) cached: u64,
    pub(super) output: Option<u64>,
}

impl Script {
    pub(super) fn load(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
        serde_yaml_ng::from_str(&text).with_context(|| format!("{shown}"))
    }

    /// The rule for a request, which is used by that.
    pub(super) fn rule(&self, asked: &Asked) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.fits(asked) && rule.take())
    }
}

impl Rule {
    fn fits(&self, asked: &Asked) -> bool {
        self.pattern.as_ref().is_none_or(|text| asked.said.contains(text))
            && self.model.as_ref().is_none_or(|model| *model == asked.model)
    }

    fn take(&self) -> bool {
        let more = |used: u32| self.times.is_none_or(|times| used < times).then(|| used + 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}
