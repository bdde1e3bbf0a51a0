//! What is answered. A token is up to four bytes of text, cut where a character ends.

use serde_json::Value;

use super::asked::Asked;
use super::instance::instance;
use super::script::Rule;

/// Bytes of a token.
const TOKEN_BYTES: usize = 4;
/// Characters of a message that the summary of it repeats.
const REPEATED_CHARS: usize = 40;
/// What is answered in place of JSON.
const JUNK: &str = "Certainly! Here is what you asked for, though not as you asked for it.";

/// The tokens of a text.
pub(super) fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let ends = rest.char_indices().map(|(at, c)| at + c.len_utf8());
        let end = ends.take_while(|end| *end <= TOKEN_BYTES).last().unwrap_or(TOKEN_BYTES);
        let (token, more) = rest.split_at_checked(end).unwrap_or((rest, ""));
        tokens.push(token);
        rest = more;
    }
    tokens
}

/// How many tokens a text has.
pub(super) fn count(text: &str) -> u64 {
    u64::try_from(tokens(text).len()).unwrap_or(u64::MAX)
}

/// Why an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    Stop,
    Length,
    Refused,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) tokens: Vec<String>,
    pub(super) finish: Finish,
    pub(super) model: String,
    pub(super) usage: Option<Usage>,
}

/// What is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) input: u64,
    pub(super) cached: u64,
    pub(super) output: u64,
}

impl Reply {
    /// The answer to a request, by its rule where there is one.
    pub(super) fn new(asked: &Asked, rule: &Rule) -> Self {
        let text = text(asked, rule);
        let mut written: Vec<String> = tokens(&text).into_iter().map(str::to_owned).collect();
        let most = asked.max_tokens.and_then(|most| usize::try_from(most).ok());
        let most = most.unwrap_or(usize::MAX);
        let mut finish = if rule.refuse { Finish::Refused } else { Finish::Stop };
        if written.len() > most {
            written.truncate(most);
            // A refusal stays one.
            if finish == Finish::Stop {
                finish = Finish::Length;
            }
        }
        written.extend(std::iter::repeat_n("more".to_owned(), rule.overlong));
        let output = u64::try_from(written.len()).unwrap_or(u64::MAX);
        let said = rule.usage.unwrap_or_default();
        let usage = Usage {
            input: said.input.unwrap_or(asked.input_tokens),
            cached: said.cached,
            output: said.output.unwrap_or(output),
        };
        Self {
            tokens: written,
            finish,
            model: rule.answer_as.clone().unwrap_or_else(|| asked.model.clone()),
            usage: (!rule.no_usage).then_some(usage),
        }
    }

    /// All of it.
    pub(super) fn text(&self) -> String {
        self.tokens.concat()
    }
}

fn text(asked: &Asked, rule: &Rule) -> String {
    if rule.refuse {
        return "I cannot help with that.".to_owned();
    }
    if rule.junk {
        return JUNK.to_owned();
    }
    if let Some(json) = &rule.json {
        return json.to_string();
    }
    if let Some(reply) = &rule.reply {
        return reply.clone();
    }
    match &asked.schema {
        Some(schema) => instance(schema).to_string(),
        None => summary(&asked.said),
    }
}

/// What is answered where no rule says otherwise.
fn summary(said: &str) -> String {
    let begins: String = said.chars().take(REPEATED_CHARS).collect();
    let tokens = count(said);
    format!("Simulated answer to {tokens} tokens that begin {}.", Value::String(begins))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_up_to_four_bytes() {
        assert_eq!(tokens("abcdefgh"), ["abcd", "efgh"]);
        assert_eq!(tokens("aßbß"), ["aßb", "ß"]);
        assert_eq!(tokens("🦀🦀"), ["🦀", "🦀"]);
        assert_eq!(tokens("äöü"), ["äö", "ü"]);
        assert_eq!((count(""), count("a"), count("abcde")), (0, 1, 2));
    }
}
