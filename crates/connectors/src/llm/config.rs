//! The providers of models, as whoever runs Tally describes them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kernel::values::MicroUsd;
use serde::{Deserialize, Serialize};

use crate::grants::{self, HttpGrant, Rule};
use crate::http::request::{Target, parse_url};
use crate::limits;

/// Why a provider is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("models: provider `{provider}` {reason}")]
pub struct Error {
    /// Its name.
    pub provider: String,
    /// What is wrong and what to write instead.
    pub reason: String,
}

/// The section `models` of `tally.yaml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelsConfig {
    /// The providers. Without any, `llm.invoke` is not offered.
    pub providers: Vec<ProviderConfig>,
}

/// A provider of models. To name it here is the leave to call it: no other grant is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderConfig {
    /// What calls name it by.
    pub name: String,
    /// What it speaks.
    pub form: Form,
    /// Where it is, as its own SDK takes it: `https://api.openai.com/v1`,
    /// `https://api.anthropic.com`.
    pub base_url: String,
    /// The name of the secret with its key, in the vault of whichever tenant calls. Without it the
    /// provider is called without a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Whether it may have a private or loopback address.
    #[serde(default)]
    pub private: bool,
    /// The models that may be called, each with its price.
    pub models: BTreeMap<String, ModelConfig>,
    /// The version of the API; Azure OpenAI alone needs it: `2024-10-21`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// The deployments of models at Azure OpenAI, where they are not called as their models.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub deployments: BTreeMap<String, String>,
    /// The member that bounds an answer, for servers that know only the older one.
    #[serde(default)]
    pub max_tokens_as: MaxTokens,
    /// How long its answer may take to begin, in milliseconds.
    #[serde(default = "first_byte_ms")]
    pub first_byte_ms: u64,
    /// How long its answer may pause, in milliseconds.
    #[serde(default = "idle_ms")]
    pub idle_ms: u64,
    /// How long one call of the tool may take, repairs included, in milliseconds.
    #[serde(default = "total_ms")]
    pub total_ms: u64,
}

/// What a provider speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// `POST {base_url}/chat/completions`.
    Openai,
    /// `POST {base_url}/responses`.
    OpenaiResponses,
    /// `POST {base_url}/v1/messages`.
    Anthropic,
    /// `POST {base_url}/openai/deployments/{deployment}/chat/completions?api-version=…`, with the
    /// key in `api-key`.
    AzureOpenai,
}

/// The member of a chat completion that bounds its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaxTokens {
    /// As OpenAI has it.
    #[default]
    MaxCompletionTokens,
    /// As it had it before, and as some servers of the same form still do.
    MaxTokens,
}

impl MaxTokens {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::MaxCompletionTokens => "max_completion_tokens",
            Self::MaxTokens => "max_tokens",
        }
    }
}

/// What a model costs and takes. Prices are micro-USD for a million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// What it reads.
    pub input: MicroUsd,
    /// What it writes, its reasoning included.
    pub output: MicroUsd,
    /// What it reads out of its cache; as `input` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input: Option<MicroUsd>,
    /// What it reads and puts into its cache; as `input` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<MicroUsd>,
    /// Tokens that it reads and writes in one call at most.
    pub context: u64,
    /// Tokens of an answer where a call does not say.
    #[serde(default = "max_tokens")]
    pub max_tokens: u64,
}

/// What a model costs in place of what is told for everybody, in micro-USD for a million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelPrice {
    /// What it reads.
    pub input: MicroUsd,
    /// What it writes, its reasoning included.
    pub output: MicroUsd,
    /// What it reads out of its cache; as `input` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input: Option<MicroUsd>,
    /// What it reads and puts into its cache; as `input` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<MicroUsd>,
}

/// The prices of models, by the names of their providers and their own.
pub type ModelPrices = BTreeMap<String, BTreeMap<String, ModelPrice>>;

fn first_byte_ms() -> u64 {
    limits::LLM_FIRST_BYTE_MS
}

fn idle_ms() -> u64 {
    limits::LLM_IDLE_MS
}

fn total_ms() -> u64 {
    limits::LLM_TOTAL_MS
}

fn max_tokens() -> u64 {
    limits::LLM_MAX_TOKENS
}

impl ModelsConfig {
    /// Checks what serde cannot.
    pub fn check(&self) -> Result<(), Error> {
        let mut names = BTreeSet::new();
        for provider in &self.providers {
            provider.open()?;
            if !names.insert(&provider.name) {
                return Err(provider.refused("is there twice"));
            }
        }
        match self.providers.get(limits::LLM_PROVIDERS_MAX) {
            Some(provider) => Err(provider.refused("is one too many")),
            None => Ok(()),
        }
    }

    /// The same with these prices in place of its own. They are for models that are there.
    pub fn at(&self, prices: &ModelPrices) -> Result<Self, Error> {
        let mut priced = self.clone();
        for (name, models) in prices {
            let refused = |reason: String| Error { provider: name.clone(), reason };
            let provider = priced.providers.iter_mut().find(|provider| provider.name == *name);
            let provider = provider.ok_or_else(|| refused("is not configured".to_owned()))?;
            for (model, price) in models {
                let ModelPrice { input, output, cached_input, cache_write } = *price;
                let known = provider.models.get_mut(model);
                let known = known.ok_or_else(|| refused(format!("has no model `{model}`")))?;
                *known = ModelConfig { input, output, cached_input, cache_write, ..*known };
            }
        }
        priced.check()?;
        Ok(priced)
    }

    /// The longest that one call may take.
    pub(super) fn longest_ms(&self) -> u64 {
        self.providers.iter().map(|provider| provider.total_ms).max().unwrap_or_default()
    }
}

impl ProviderConfig {
    fn refused(&self, reason: impl Into<String>) -> Error {
        Error { provider: self.name.clone(), reason: reason.into() }
    }

    /// Checks the provider; where it is and the rule that lets it be called.
    pub(super) fn open(&self) -> Result<(Target, Rule), Error> {
        if !is_name(&self.name) {
            return Err(self.refused("needs a name of 1 to 64 of a-z, 0-9, `-`, `_` and `.`"));
        }
        let secret = self.key.as_deref().is_none_or(|key| {
            (1..=limits::MCP_SECRET_NAME_BYTES_MAX).contains(&key.len()) && is_word(key)
        });
        if !secret {
            return Err(self.refused("key: write the name of a secret, never the key itself"));
        }
        self.check_times()?;
        self.check_models()?;
        let path = match self.form {
            Form::Openai => "/chat/completions",
            Form::OpenaiResponses => "/responses",
            Form::Anthropic => "/v1/messages",
            Form::AzureOpenai => "/openai/deployments",
        };
        self.check_azure()?;
        let bad = |reason: String| self.refused(format!("base_url: {reason}"));
        let base = parse_url(&self.base_url).map_err(|e| bad(e.message))?;
        if base.query().is_some() || base.fragment().is_some() {
            return Err(bad("takes no query and no fragment".to_owned()));
        }
        let whole = format!("{}{path}", base.as_str().trim_end_matches('/'));
        let target = parse_url(&whole).and_then(Target::new).map_err(|e| bad(e.message))?;
        let grant = HttpGrant {
            host: target.host.to_string(),
            port: Some(target.port),
            private: self.private,
        };
        let rule = Rule::new("models", &grant).map_err(|error| match error {
            // It is no grant: the place is told by the provider's name.
            grants::Error::Host { host, reason, .. } => bad(format!("host `{host}` {reason}")),
            other => bad(other.to_string()),
        })?;
        Ok((target, rule))
    }

    /// What belongs to Azure OpenAI is there for it and for no other.
    fn check_azure(&self) -> Result<(), Error> {
        let azure = self.form == Form::AzureOpenai;
        if azure != self.api_version.is_some() {
            return Err(self.refused("api_version: of the form azure_openai, and of no other"));
        }
        let plain = |text: &String| {
            let good = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
            (1..=64).contains(&text.len()) && text.bytes().all(good) && !text.starts_with('.')
        };
        if !self.api_version.iter().all(plain) {
            return Err(self.refused("api_version: letters, digits, `-` and `.`"));
        }
        if !azure && !self.deployments.is_empty() {
            return Err(self.refused("deployments: of the form azure_openai, and of no other"));
        }
        if let Some(model) = self.deployments.keys().find(|name| !self.models.contains_key(*name)) {
            return Err(self.refused(format!("deployments: `{model}` is not among its models")));
        }
        if azure && !self.models.keys().all(|model| plain(self.deployment(model))) {
            return Err(
                self.refused("a deployment is named with letters, digits, `-`, `_` and `.`")
            );
        }
        Ok(())
    }

    /// What a model is called where it is deployed.
    fn deployment<'a>(&'a self, model: &'a String) -> &'a String {
        self.deployments.get(model).unwrap_or(model)
    }

    /// Where a model is asked, of a provider that is at `target`.
    pub(super) fn place(&self, target: &Target, model: &str) -> Target {
        let Some(version) = &self.api_version else { return target.clone() };
        let model = model.to_owned();
        let mut url = target.url.clone();
        let below = format!("{}/{}/chat/completions", target.url.path(), self.deployment(&model));
        url.set_path(&below);
        url.set_query(Some(&format!("api-version={version}")));
        Target { url, ..target.clone() }
    }

    fn check_times(&self) -> Result<(), Error> {
        let range = 1..=limits::LLM_TOTAL_MS_MAX;
        if [self.first_byte_ms, self.idle_ms, self.total_ms].iter().all(|ms| range.contains(ms)) {
            return Ok(());
        }
        let most = limits::LLM_TOTAL_MS_MAX;
        Err(self.refused(format!("first_byte_ms, idle_ms and total_ms: 1 to {most}")))
    }

    fn check_models(&self) -> Result<(), Error> {
        if self.models.len() > limits::LLM_MODELS_MAX {
            return Err(self.refused(format!("has more than {} models", limits::LLM_MODELS_MAX)));
        }
        for (name, model) in &self.models {
            let bad = |reason: &str| Err(self.refused(format!("model `{name}`: {reason}")));
            if !(1..=limits::LLM_MODEL_NAME_BYTES_MAX).contains(&name.len()) || !is_word(name) {
                return bad("a name is printable ASCII without spaces");
            }
            let prices =
                [Some(model.input), Some(model.output), model.cached_input, model.cache_write];
            let range = 0..=limits::LLM_PRICE_MAX;
            if !prices.into_iter().flatten().all(|price| range.contains(&price.0)) {
                return bad("a price is 0 to 10^12 micro-USD for a million tokens");
            }
            let tokens = 1..=limits::LLM_TOKENS_MAX;
            if !tokens.contains(&model.context) || !(1..=model.context).contains(&model.max_tokens)
            {
                return bad("context is 1 to 10^9 tokens, and max_tokens no more than that");
            }
        }
        Ok(())
    }

    pub(super) fn first_byte(&self) -> Duration {
        Duration::from_millis(self.first_byte_ms)
    }

    pub(super) fn idle(&self) -> Duration {
        Duration::from_millis(self.idle_ms)
    }

    pub(super) fn total(&self) -> Duration {
        Duration::from_millis(self.total_ms)
    }
}

fn is_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    (1..=64).contains(&name.len()) && name.bytes().all(good)
}

fn is_word(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(change: impl FnOnce(&mut ProviderConfig)) -> Result<(), Error> {
        let mut provider: ProviderConfig = serde_json::from_value(serde_json::json!({
            "name": "one", "form": "openai", "base_url": "https://api.example.com/v1",
            "models": {"m": {"input": 1, "output": 2, "context": 100, "max_tokens": 10}},
        }))
        .unwrap();
        change(&mut provider);
        ModelsConfig { providers: vec![provider] }.check()
    }

    #[test]
    fn providers_are_checked() {
        assert_eq!(provider(|_| ()), Ok(()));
        assert!(provider(|p| p.name = "A b".to_owned()).is_err());
        assert!(provider(|p| p.base_url = "ftp://a".to_owned()).is_err());
        assert!(provider(|p| p.base_url = "https://u:p@a/v1".to_owned()).is_err());
        assert!(provider(|p| p.base_url = "https://a/v1?x=1".to_owned()).is_err());
        assert!(provider(|p| p.key = Some("two words".to_owned())).is_err());
        assert!(provider(|p| p.total_ms = 0).is_err());
        assert!(provider(|p| p.api_version = Some("2024-10-21".to_owned())).is_err());
        assert!(provider(|p| p.form = Form::AzureOpenai).is_err());
        let azure = |version: &str, model: &str, deployment: &str| {
            provider(|p| {
                p.form = Form::AzureOpenai;
                p.api_version = Some(version.to_owned());
                p.deployments = [(model.to_owned(), deployment.to_owned())].into();
            })
        };
        assert_eq!(azure("2024-10-21", "m", "my-gpt"), Ok(()));
        for (version, model, deployment) in [
            ("2024&x=1", "m", "d"),
            ("2024-10-21", "other", "d"),
            ("2024-10-21", "m", "../d"),
            ("2024-10-21", "m", ".."),
        ] {
            assert!(azure(version, model, deployment).is_err(), "{version} {model} {deployment}");
        }
        let model = |change: fn(&mut ModelConfig)| {
            provider(|p| p.models.values_mut().for_each(change)).is_err()
        };
        assert!(model(|m| m.input = MicroUsd(-1)));
        assert!(model(|m| m.cached_input = Some(MicroUsd(i64::MAX))));
        assert!(model(|m| m.max_tokens = 101));
        assert!(model(|m| m.context = 0));
    }

    #[test]
    fn a_url_is_joined_as_the_sdks_join_it() {
        for (form, base, whole) in [
            (Form::Openai, "https://a.test/v1/", "https://a.test/v1/chat/completions"),
            (Form::OpenaiResponses, "https://a.test/v1", "https://a.test/v1/responses"),
            (Form::Anthropic, "https://a.test", "https://a.test/v1/messages"),
        ] {
            let provider = ProviderConfig {
                name: "one".to_owned(),
                form,
                base_url: base.to_owned(),
                key: None,
                private: false,
                models: BTreeMap::new(),
                api_version: None,
                deployments: BTreeMap::new(),
                max_tokens_as: MaxTokens::default(),
                first_byte_ms: 1,
                idle_ms: 1,
                total_ms: 1,
            };
            assert_eq!(provider.open().unwrap().0.url.as_str(), whole);
        }
    }
}
