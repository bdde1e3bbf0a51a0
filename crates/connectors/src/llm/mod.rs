//! `llm.invoke`: one question to a model, in the forms of OpenAI and Anthropic.
//!
//! A call has no effect on the world but that it costs something. So it may be repeated, and how
//! it ends is always known; what is not always known is what it cost, and then the most that it
//! can have cost is charged.

mod answer;
mod anthropic;
mod ask;
mod config;
mod leak;
mod manifest;
mod meter;
mod openai;
mod output;
mod responses;
mod schemas;
mod wire;

use std::fmt;
use std::sync::Arc;

use kernel::action::ModelUsed;
use kernel::failure::{Category, Failure};
use kernel::json::RawJson;
use kernel::limits::AMOUNT_MICRO_USD_MAX;
use kernel::tool::CallFacts;
use kernel::units::{Unit, Units};
use kernel::values::MicroUsd;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use tokio_rustls::TlsConnector;

pub use config::{
    Error, Form, MaxTokens, ModelConfig, ModelPrice, ModelPrices, ModelsConfig, ProviderConfig,
};
pub(crate) use manifest::manifest;

use crate::address::Resolver;
use crate::grants::Rule;
use crate::http::request::Target;
use crate::limits;
use crate::schema::Validator;
use crate::tools::{Charged, Context, Executed, Meta, Outcome};
use answer::{Answer, Finish, is_pinned};
use ask::{Ask, Message, Role};
use meter::{Meter, Usage};
use schemas::Schemas;

/// A provider, ready to be called.
struct Provider {
    config: ProviderConfig,
    target: Target,
    rule: Rule,
}

impl Provider {
    /// The body of the request, or of its repair.
    fn body(&self, ask: &Ask<'_>, repair: Option<&Repair>) -> String {
        let more = repair.into_iter().flat_map(Repair::messages);
        let messages: Vec<_> = ask.messages.iter().cloned().chain(more).collect();
        let body = match self.config.form {
            Form::Openai | Form::AzureOpenai => openai::body(ask, &messages),
            Form::OpenaiResponses => responses::body(ask, &messages),
            Form::Anthropic => anthropic::body(ask, &messages),
        };
        body.to_string()
    }

    fn read(&self, value: &Value) -> Answer {
        match self.config.form {
            Form::Openai | Form::AzureOpenai => openai::read(value),
            Form::OpenaiResponses => responses::read(value),
            Form::Anthropic => anthropic::read(value),
        }
    }

    fn event(&self, answer: &mut Answer, value: &Value) {
        match self.config.form {
            Form::Openai | Form::AzureOpenai => openai::event(answer, value),
            Form::OpenaiResponses => responses::event(answer, value),
            Form::Anthropic => anthropic::event(answer, value),
        }
    }
}

/// An answer that will not do, and why.
struct Repair {
    answer: String,
    wrong: String,
}

impl Repair {
    fn messages(&self) -> [Message; 2] {
        let said = |role, content| Message { role, content };
        [
            // No provider takes an empty message.
            match self.answer.as_str() {
                "" => said(Role::Assistant, "(nothing)".to_owned()),
                text => said(Role::Assistant, text.to_owned()),
            },
            said(Role::User, output::repair(&self.wrong)),
        ]
    }
}

/// The models.
pub(crate) struct Llm {
    providers: Vec<Provider>,
    resolver: Arc<dyn Resolver>,
    tls: TlsConnector,
    schemas: Schemas,
}

impl fmt::Debug for Llm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.providers.iter().map(|provider| &provider.config.name);
        f.debug_list().entries(names).finish()
    }
}

/// What comes out.
#[derive(Serialize)]
struct Said<'a> {
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    json: Option<&'a RawJson>,
    finish_reason: &'a str,
    provider: &'a str,
    model: &'a str,
    usage: Used,
    repairs: u32,
}

#[derive(Serialize)]
struct Used {
    #[serde(flatten)]
    usage: Usage,
    requests: u32,
    cost_micro_usd: MicroUsd,
    /// Whether the provider left something unsaid, which is counted with the most that it can be.
    estimated: bool,
}

/// An answer that is good.
struct Good {
    answer: Answer,
    model: String,
    json: Option<RawJson>,
    repairs: u32,
}

impl Llm {
    pub(crate) fn new(
        config: &ModelsConfig,
        resolver: Arc<dyn Resolver>,
        tls: TlsConnector,
    ) -> Result<Self, Error> {
        config.check()?;
        let open = |config: &ProviderConfig| {
            let (target, rule) = config.open()?;
            Ok(Provider { config: config.clone(), target, rule })
        };
        let providers = config.providers.iter().map(open).collect::<Result<_, Error>>()?;
        Ok(Self { providers, resolver, tls, schemas: Schemas::default() })
    }

    /// Checks what the schema cannot say of the parameters.
    pub(crate) fn check(&self, params: &RawJson) -> Result<(), Failure> {
        self.read(params).map(drop)
    }

    /// What is asked, and what answers are held against.
    fn read(&self, params: &RawJson) -> Result<(Ask<'_>, Option<Arc<Validator>>), Failure> {
        let ask = Ask::read(&self.providers, params)?;
        let schema = ask.output.as_ref().map(|schema| self.schemas.compiled(schema));
        Ok((ask, schema.transpose()?))
    }

    /// What the call costs and uses at most.
    pub(crate) fn facts(&self, base: CallFacts, params: &RawJson) -> CallFacts {
        match self.read(params) {
            Ok((ask, _)) => {
                let worst = ask.worst();
                let units = base.units.with(Unit::Tokens, worst.tokens());
                CallFacts { estimate: worst.cost(&ask.price), units, ..base }
            }
            // Whoever asks has had the parameters checked; should they not be good after all, the
            // most that can be held is more than anybody has.
            Err(_) => CallFacts { estimate: MicroUsd(AMOUNT_MICRO_USD_MAX), ..base },
        }
    }

    /// One call, its repairs included, within its time and within what is held for it.
    pub(crate) async fn call(&self, params: &RawJson, context: &Context<'_>) -> Outcome {
        let (ask, schema) = match self.read(params) {
            Ok(read) => read,
            Err(failure) => return Outcome::Failed(failure),
        };
        let mut meter = Meter::new(ask.price);
        let within = ask.provider.config.total();
        let conversation = self.converse(&ask, schema.as_deref(), context, &mut meter);
        let ended = tokio::time::timeout(within, conversation).await;
        let good = ended.unwrap_or_else(|_| Err(wire::silent("no full answer", within)));
        if context.in_doubt && good.is_ok() {
            meter.lost(ask.worst());
        }
        let (usage, cost) = meter.close();
        let meta = Meta {
            bytes_out: meter.bytes_out,
            bytes_in: meter.bytes_in,
            units: Units::of(Unit::Tokens, usage.tokens()),
            ..Meta::default()
        };
        let model = |answered: Option<&str>| {
            let (provider, model) = (ask.provider.config.name.clone(), ask.model.clone());
            Some(ModelUsed { provider, model, answered: answered.map(str::to_owned) })
        };
        let charged = |failure| {
            let model = model(None);
            Outcome::Charged(Charged { failure, cost, meta, model })
        };
        let good = match good {
            Ok(good) => good,
            Err(failure) if meter.calls == 0 => return Outcome::Failed(failure),
            Err(failure) => return charged(failure),
        };
        let (requests, estimated) = (meter.calls, meter.estimated);
        let said = Said {
            text: &good.answer.text,
            json: good.json.as_ref(),
            finish_reason: good.answer.finish.unwrap_or(Finish::Other).as_str(),
            provider: &ask.provider.config.name,
            model: &good.model,
            usage: Used { usage, requests, cost_micro_usd: cost, estimated },
            repairs: good.repairs,
        };
        match to_raw_value(&said).map(result) {
            Ok(Ok(result)) => {
                let model = model(Some(&good.model));
                Outcome::Executed(Executed { result, cost, meta, prior: None, model })
            }
            Ok(Err(failure)) => charged(failure),
            Err(error) => charged(unusable(&error.to_string())),
        }
    }

    async fn converse(
        &self,
        ask: &Ask<'_>,
        schema: Option<&Validator>,
        context: &Context<'_>,
        meter: &mut Meter,
    ) -> Result<Good, Failure> {
        let name = ask.provider.config.key.as_deref();
        let key = name.map(|name| context.secrets.reveal(name)).transpose()?;
        let (first, worst) = (ask.bound(), ask.worst());
        let mut repair: Option<Repair> = None;
        let mut repairs = 0;
        loop {
            let bound = repair.as_ref().map_or(first, |_| first.of_repair(&ask.price));
            let body = ask.provider.body(ask, repair.as_ref());
            let when = (context.now, bound);
            let answer = wire::exchange(self, ask, body, key.as_ref(), when, meter).await?;
            let told = key.as_ref().is_some_and(|key| leak::tells(key, &answer.text));
            if told {
                return Err(leak::failure());
            }
            let model = pinned(ask, &answer)?;
            if answer.finish == Some(Finish::Refused) {
                let message = "the model, or its provider's filter, refused to answer";
                return Err(Failure::new(Category::Permanent, "model_refused", message));
            }
            let Some(schema) = schema else {
                return Ok(Good { answer, model, json: None, repairs });
            };
            let wrong = match output::check(&answer.text, schema) {
                Ok(json) => return Ok(Good { answer, model, json: Some(json), repairs }),
                Err(wrong) => wrong,
            };
            // A provider that used more than it may have leaves nothing to go on with.
            let covered = meter.covers(first.of_repair(&ask.price), worst);
            if repairs == ask.repairs || !covered {
                return Err(invalid_output(repairs, &wrong));
            }
            repairs += 1;
            repair = Some(Repair { answer: answer.text, wrong });
        }
    }
}

/// The model that answered, which must be the one that was asked.
fn pinned(ask: &Ask<'_>, answer: &Answer) -> Result<String, Failure> {
    let answered = answer.model.as_deref().unwrap_or_default();
    if is_pinned(&ask.model, answered) {
        return Ok(answered.to_owned());
    }
    let asked = &ask.model;
    let message = format!("`{asked}` was asked and another model answered");
    Err(Failure::new(Category::Permanent, "model_changed", message))
}

fn invalid_output(repairs: u32, wrong: &str) -> Failure {
    let answers = repairs.saturating_add(1);
    let message = format!("none of {answers} answers matches output_schema: {wrong}");
    Failure::new(Category::Permanent, "model_output_invalid", message)
}

fn result(raw: Box<RawValue>) -> Result<RawJson, Failure> {
    if raw.get().len() > limits::LLM_RESULT_BYTES_MAX {
        return Err(unusable("it is too long"));
    }
    RawJson::result(raw).map_err(|error| unusable(&error.to_string()))
}

fn unusable(why: &str) -> Failure {
    let message = format!("the tool's result cannot be kept: {why}");
    Failure::new(Category::Permanent, "result_invalid", message)
}
