//! Templates: how a step reads what came before it.
//!
//! `{{previous_output}}`, `{{steps.NAME.output}}` and `{{input}}`, each with a path behind it
//! (`.items.0.title`). A text that is one template and nothing else takes the value as it is; in a
//! longer text the value becomes text. `{{"…"}}` is the text in the quotes, for braces that are
//! meant as such. What is put in is never read as a template again.

use std::collections::BTreeMap;

use serde_json::Value;

use super::StepId;
use crate::json::{self, RawJson};
use crate::limits;

/// What a template begins with.
pub(super) const OPEN: &str = "{{";
const CLOSE: &str = "}}";

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// It is never closed.
    #[error(
        "a template ends with `}}}}`; braces that are meant as such are written {{{{\"{{{{\"}}}}"
    )]
    Open,
    /// It names nothing that there is.
    #[error(
        "a template is `previous_output`, `steps.NAME.output` or `input`, each with a path of at \
         most {max} names, or a text in double quotes",
        max = limits::TEMPLATE_PATH_MAX
    )]
    Unknown,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// What the run was started with.
    Input,
    /// The output of the step before.
    Previous,
    /// The output of an earlier step.
    Step(StepId),
}

/// A value that came before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Where it comes from.
    pub source: Source,
    /// Members of objects and, as numbers, elements of arrays, from the outside in.
    pub path: Vec<String>,
}

impl Reference {
    /// Reads what stands between the braces.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let mut names = text.split('.');
        let source = match names.next() {
            Some("input") => Source::Input,
            Some("previous_output") => Source::Previous,
            Some("steps") => {
                let id = names.next().and_then(|name| StepId::new(name).ok());
                let id = id.filter(|_| names.next() == Some("output")).ok_or(Invalid::Unknown)?;
                Source::Step(id)
            }
            _ => return Err(Invalid::Unknown),
        };
        let path: Vec<String> = names.map(str::to_owned).collect();
        if path.len() > limits::TEMPLATE_PATH_MAX || !path.iter().all(|name| is_segment(name)) {
            return Err(Invalid::Unknown);
        }
        Ok(Self { source, path })
    }

    /// The value; none where there is none at the path.
    pub fn find<'a>(&self, context: &Context<'a>) -> Option<&'a Value> {
        let root = match &self.source {
            Source::Input => context.input,
            Source::Previous => context.outputs.get(context.previous?)?,
            Source::Step(id) => context.outputs.get(id)?,
        };
        self.path.iter().try_fold(root, |value, name| match value {
            Value::Object(members) => members.get(name),
            Value::Array(items) => items.get(name.parse::<usize>().ok()?),
            _ => None,
        })
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.source {
            Source::Input => f.write_str("input")?,
            Source::Previous => f.write_str("previous_output")?,
            Source::Step(id) => write!(f, "steps.{id}.output")?,
        }
        self.path.iter().try_for_each(|name| write!(f, ".{name}"))
    }
}

fn is_segment(name: &str) -> bool {
    (1..=limits::ID_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// As it stands.
    Text(String),
    /// Put in.
    Value(Reference),
}

/// Takes a text apart.
pub fn parse(text: &str) -> Result<Vec<Piece>, Invalid> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, inside)) = rest.split_once(OPEN) {
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_owned()));
        }
        let inside = inside.trim_start();
        rest = if inside.starts_with('"') {
            let (quoted, after) = quoted(inside).ok_or(Invalid::Unknown)?;
            pieces.push(Piece::Text(quoted));
            after.trim_start().strip_prefix(CLOSE).ok_or(Invalid::Open)?
        } else {
            let (name, after) = inside.split_once(CLOSE).ok_or(Invalid::Open)?;
            pieces.push(Piece::Value(Reference::parse(name.trim_end())?));
            after
        };
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

/// A JSON string at the beginning of `text`, and what follows it.
pub(super) fn quoted(text: &str) -> Option<(String, &str)> {
    let mut strings = serde_json::Deserializer::from_str(text).into_iter::<String>();
    let string = strings.next()?.ok()?;
    Some((string, text.get(strings.byte_offset()..)?))
}

/// What there is to be read.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// What the run was started with.
    pub input: &'a Value,
    /// What the steps so far gave; `null` of a step that did not run.
    pub outputs: &'a BTreeMap<StepId, Value>,
    /// The step before, see [`super::Plan::previous`].
    pub previous: Option<&'a StepId>,
}

/// Why parameters cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unrendered {
    /// A text is no template.
    #[error("{0}")]
    Invalid(#[from] Invalid),
    /// There is no such value.
    #[error("there is nothing at `{0}`")]
    Missing(String),
    /// The whole is too large.
    #[error("the parameters have more than {max} bytes", max = limits::PARAMS_BYTES_MAX)]
    TooLarge,
    /// The whole is not accepted as parameters.
    #[error("{0}")]
    Json(#[from] json::Error),
}

impl Unrendered {
    /// A stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "template_invalid",
            Self::Missing(_) => "template_missing",
            Self::TooLarge => "params_too_large",
            Self::Json(error) => error.code(),
        }
    }
}

/// Whether `params` have a template. Braces may be written as escapes.
pub fn is_constant(params: &RawJson) -> bool {
    let text = params.as_str();
    !text.contains(OPEN) && !text.contains("\\u")
}

/// `params` with what their templates stand for. Without templates they are kept as they are.
pub fn render(params: &RawJson, context: &Context<'_>) -> Result<RawJson, Unrendered> {
    if is_constant(params) {
        return Ok(params.clone());
    }
    let mut rendering = Rendering { context, left: limits::PARAMS_BYTES_MAX };
    let value = rendering.value(params.to_value())?;
    Ok(RawJson::parse(&value.to_string())?)
}

struct Rendering<'a> {
    context: &'a Context<'a>,
    /// Bytes that may still be put in.
    left: usize,
}

impl<'a> Rendering<'a> {
    fn value(&mut self, value: Value) -> Result<Value, Unrendered> {
        Ok(match value {
            Value::String(text) => self.text(text)?,
            Value::Array(items) => Value::Array(
                items.into_iter().map(|item| self.value(item)).collect::<Result<_, _>>()?,
            ),
            Value::Object(members) => {
                let rendered = members.into_iter().map(|(name, v)| Ok((name, self.value(v)?)));
                Value::Object(rendered.collect::<Result<_, Unrendered>>()?)
            }
            other => other,
        })
    }

    fn text(&mut self, text: String) -> Result<Value, Unrendered> {
        if !text.contains(OPEN) {
            return Ok(Value::String(text));
        }
        let pieces = parse(&text)?;
        if let [Piece::Value(reference)] = pieces.as_slice() {
            let value = self.find(reference)?;
            self.take(value.to_string().len())?;
            return Ok(value.clone());
        }
        let mut whole = String::new();
        for piece in pieces {
            match piece {
                Piece::Text(text) => whole.push_str(&text),
                Piece::Value(reference) => {
                    let text = as_text(self.find(&reference)?)?;
                    self.take(text.len())?;
                    whole.push_str(&text);
                }
            }
        }
        Ok(Value::String(whole))
    }

    fn find(&self, reference: &Reference) -> Result<&'a Value, Unrendered> {
        let found = reference.find(self.context);
        found.ok_or_else(|| Unrendered::Missing(reference.to_string()))
    }

    fn take(&mut self, bytes: usize) -> Result<(), Unrendered> {
        self.left = self.left.checked_sub(bytes).ok_or(Unrendered::TooLarge)?;
        Ok(())
    }
}

/// A string as it is, everything else as its canonical JSON.
fn as_text(value: &Value) -> Result<String, Unrendered> {
    match value {
        Value::String(text) => Ok(text.clone()),
        other => Ok(String::from_utf8_lossy(&json::canonical(other)?).into_owned()),
    }
}
