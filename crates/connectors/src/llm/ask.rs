//! What a call asks: its parameters, read against what is configured.

use kernel::failure::{Category, Failure};
use kernel::json::RawJson;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Provider;
use super::config::ModelConfig;
use super::meter::{self, Bound, Usage};
use crate::limits;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    provider: Option<String>,
    model: String,
    prompt: Option<String>,
    #[serde(default)]
    messages: Vec<Message>,
    system: Option<String>,
    max_tokens: Option<u64>,
    temperature: Option<f64>,
    output_schema: Option<Value>,
    repairs: Option<u32>,
    #[serde(default)]
    stream: bool,
}

/// One message of the conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Message {
    pub(super) role: Role,
    pub(super) content: String,
}

/// Who said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Role {
    User,
    Assistant,
}

/// What is asked of which model.
pub(super) struct Ask<'a> {
    pub(super) provider: &'a Provider,
    pub(super) price: ModelConfig,
    pub(super) model: String,
    pub(super) system: Option<String>,
    pub(super) messages: Vec<Message>,
    pub(super) max_tokens: u64,
    pub(super) temperature: Option<f64>,
    /// The schema of the answer. It is compiled where an answer is held against it.
    pub(super) output: Option<Value>,
    pub(super) repairs: u32,
    pub(super) stream: bool,
}

impl<'a> Ask<'a> {
    /// Reads parameters that are valid by the tool's schema.
    pub(super) fn read(providers: &'a [Provider], params: &RawJson) -> Result<Self, Failure> {
        let params: Params = serde_json::from_str(params.as_str())
            .map_err(|error| invalid("params_invalid", error.to_string()))?;
        let (provider, price) = find(providers, params.provider.as_deref(), &params.model)?;
        let messages = conversation(params.prompt, params.messages)?;
        let max_tokens = params.max_tokens.unwrap_or(price.max_tokens);
        let output = params.output_schema;
        let repairs = match &output {
            Some(_) => params.repairs.unwrap_or(limits::LLM_REPAIRS).min(limits::LLM_REPAIRS_MAX),
            None => 0,
        };
        let ask = Self {
            provider,
            price,
            model: params.model,
            system: params.system,
            messages,
            max_tokens,
            temperature: params.temperature,
            output,
            repairs,
            stream: params.stream,
        };
        ask.check_context()?;
        Ok(ask)
    }

    /// Refuses what is sure not to fit. Whether the rest does, only the provider can tell.
    fn check_context(&self) -> Result<(), Failure> {
        let text: usize = self.messages.iter().map(|message| message.content.len()).sum();
        let text = text + self.system.as_ref().map_or(0, String::len);
        let least = u64::try_from(text.div_ceil(limits::LLM_TOKEN_BYTES_MAX)).unwrap_or(u64::MAX);
        if least.saturating_add(self.max_tokens) <= self.price.context {
            return Ok(());
        }
        let (model, context) = (&self.model, self.price.context);
        let message = format!(
            "`{model}` takes {context} tokens, which the messages and max_tokens together exceed"
        );
        Err(invalid("model_context_exceeded", message))
    }

    /// What the first request may come to.
    pub(super) fn bound(&self) -> Bound {
        Bound::of_body(self.provider.body(self, None).len(), self.max_tokens, &self.price)
    }

    /// What all of it may come to.
    pub(super) fn worst(&self) -> Usage {
        meter::worst(self.bound(), self.repairs, &self.price)
    }
}

/// A provider that has a price for the model: the one that is named, or else the first.
fn find<'a>(
    providers: &'a [Provider],
    name: Option<&str>,
    model: &str,
) -> Result<(&'a Provider, ModelConfig), Failure> {
    let named: Vec<_> =
        providers.iter().filter(|p| name.is_none_or(|name| p.config.name == name)).collect();
    if let (true, Some(name)) = (named.is_empty(), name) {
        let message = format!("there is no provider `{name}`: see models.providers");
        return Err(invalid("provider_unknown", message));
    }
    let priced = named.iter().find_map(|p| p.config.models.get(model).map(|price| (*p, *price)));
    priced.ok_or_else(|| {
        let message = format!(
            "`{model}` has no price, so nobody knows what it may cost: add it to the models of \
             its provider"
        );
        invalid("model_price_missing", message)
    })
}

fn conversation(prompt: Option<String>, messages: Vec<Message>) -> Result<Vec<Message>, Failure> {
    let messages = match (prompt, messages.is_empty()) {
        (Some(content), true) => vec![Message { role: Role::User, content }],
        (None, false) => messages,
        _ => return Err(invalid("params_invalid", "give either prompt or messages".to_owned())),
    };
    match messages.last() {
        Some(Message { role: Role::User, .. }) => Ok(messages),
        _ => Err(invalid("params_invalid", "the last message is the user's".to_owned())),
    }
}

pub(super) fn invalid(code: &str, message: String) -> Failure {
    Failure::new(Category::Validation, code, message)
}
