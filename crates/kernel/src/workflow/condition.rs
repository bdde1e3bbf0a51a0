//! Conditions: whether a step runs.
//!
//! A closed language: references (`{{steps.a.output.ok}}`), JSON strings, numbers, `true`, `false`
//! and `null`, compared by `==` and `!=`, joined by `!`, `&&`, `||` and brackets. A value counts as
//! false where it is absent, `null`, `false`, `0`, or an empty text, array or object.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::template::{Context, Reference, quoted};
use crate::{json, limits};

/// Why a text is no condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no condition at character {at}: {need}; a condition compares {{{{…}}}} and JSON values by == \
     and !=, joined by !, &&, || and brackets"
)]
pub struct Invalid {
    /// Where, from 1.
    pub at: usize,
    /// What is needed there.
    pub need: &'static str,
}

/// When a step runs. Reads and writes as its text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Condition {
    text: String,
    root: Node,
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Or(Box<Node>, Box<Node>),
    And(Box<Node>, Box<Node>),
    Not(Box<Node>),
    Equal(Box<Node>, Box<Node>),
    Unequal(Box<Node>, Box<Node>),
    Constant(Value),
    Reference(Reference),
}

impl Condition {
    /// Reads a condition.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if text.len() > limits::CONDITION_BYTES_MAX {
            return Err(Invalid { at: 1, need: "less than 1,000 bytes" });
        }
        let mut parser = Parser { whole: text, rest: text, depth: 0 };
        let root = parser.or()?;
        match parser.space() {
            "" => Ok(Self { text: text.to_owned(), root }),
            _ => Err(parser.need("nothing more")),
        }
    }

    /// The condition as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What it reads.
    pub fn references(&self) -> Vec<&Reference> {
        let mut found = Vec::new();
        self.root.gather(&mut found);
        found
    }

    /// Whether it holds.
    pub fn holds(&self, context: &Context<'_>) -> bool {
        truthy(&self.root.value(context))
    }
}

impl TryFrom<String> for Condition {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        Self::parse(&text)
    }
}

impl From<Condition> for String {
    fn from(condition: Condition) -> Self {
        condition.text
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(yes) => *yes,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
    }
}

/// Whether two values are the same as JSON: 1 and 1.0 are.
fn same(a: &Value, b: &Value) -> bool {
    match (json::canonical(a), json::canonical(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

impl Node {
    fn gather<'a>(&'a self, found: &mut Vec<&'a Reference>) {
        match self {
            Self::Or(a, b) | Self::And(a, b) | Self::Equal(a, b) | Self::Unequal(a, b) => {
                a.gather(found);
                b.gather(found);
            }
            Self::Not(a) => a.gather(found),
            Self::Reference(reference) => found.push(reference),
            Self::Constant(_) => {}
        }
    }

    fn value(&self, context: &Context<'_>) -> Value {
        let holds = |node: &Self| truthy(&node.value(context));
        let equal = |a: &Self, b: &Self| same(&a.value(context), &b.value(context));
        match self {
            Self::Or(a, b) => Value::Bool(holds(a) || holds(b)),
            Self::And(a, b) => Value::Bool(holds(a) && holds(b)),
            Self::Not(a) => Value::Bool(!holds(a)),
            Self::Equal(a, b) => Value::Bool(equal(a, b)),
            Self::Unequal(a, b) => Value::Bool(!equal(a, b)),
            Self::Constant(value) => value.clone(),
            Self::Reference(reference) => reference.find(context).cloned().unwrap_or_default(),
        }
    }
}

struct Parser<'a> {
    whole: &'a str,
    rest: &'a str,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn need(&self, need: &'static str) -> Invalid {
        let before = self.whole.len().saturating_sub(self.rest.len());
        let read = self.whole.get(..before).unwrap_or_default();
        Invalid { at: read.chars().count().saturating_add(1), need }
    }

    fn space(&mut self) -> &'a str {
        self.rest = self.rest.trim_start();
        self.rest
    }

    fn pass(&mut self, token: &str) -> bool {
        let rest = self.space().strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn or(&mut self) -> Result<Node, Invalid> {
        let mut left = self.and()?;
        while self.pass("||") {
            left = Node::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Node, Invalid> {
        let mut left = self.comparison()?;
        while self.pass("&&") {
            left = Node::And(Box::new(left), Box::new(self.comparison()?));
        }
        Ok(left)
    }

    fn comparison(&mut self) -> Result<Node, Invalid> {
        let left = Box::new(self.unary()?);
        if self.pass("==") {
            return Ok(Node::Equal(left, Box::new(self.unary()?)));
        }
        if self.pass("!=") {
            return Ok(Node::Unequal(left, Box::new(self.unary()?)));
        }
        Ok(*left)
    }

    /// Brackets and `!` nest, so they are counted.
    fn unary(&mut self) -> Result<Node, Invalid> {
        if self.depth == limits::CONDITION_DEPTH_MAX {
            return Err(self.need("less nesting"));
        }
        self.depth += 1;
        let node = if self.pass("!") {
            Node::Not(Box::new(self.unary()?))
        } else if self.pass("(") {
            let inner = self.or()?;
            if !self.pass(")") {
                return Err(self.need("a closing bracket"));
            }
            inner
        } else {
            self.atom()?
        };
        self.depth -= 1;
        Ok(node)
    }

    fn atom(&mut self) -> Result<Node, Invalid> {
        if self.space().starts_with('"') {
            let (text, rest) = quoted(self.rest).ok_or_else(|| self.need("a JSON string"))?;
            self.rest = rest;
            return Ok(Node::Constant(Value::String(text)));
        }
        if let Some(inside) = self.rest.strip_prefix("{{") {
            let unclosed = self.need("}} after {{");
            let (name, rest) = inside.split_once("}}").ok_or(unclosed)?;
            let reference = Reference::parse(name.trim());
            let need = "previous_output, steps.NAME.output or input, and a path";
            let reference = reference.map_err(|_| self.need(need))?;
            self.rest = rest;
            return Ok(Node::Reference(reference));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.');
        let end = self.rest.find(|c| !plain(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(end).unwrap_or_default();
        let value = json::RawJson::parse(word);
        let value = value.map_err(|_| self.need("{{…}} or a JSON value"))?.to_value();
        self.rest = rest;
        Ok(Node::Constant(value))
    }
}
