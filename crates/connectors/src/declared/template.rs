//! Templates: expressions of minijinja within JSON and text.
//!
//! Only expressions, between `{{` and `}}`: there is no statement, loop, include or macro.
//! What they read is data and is never read as a template again. A text that is one expression
//! becomes its value, of whatever type; in a longer text, only texts, numbers and truth values are
//! written. What is not there is an error, except under a name that ends in `?`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use minijinja::value::Serde;
use minijinja::{Environment, Error as Broken, ErrorKind, UndefinedBehavior, Value as Data};
use serde_json::{Map, Value};

use crate::limits;

/// Why a template gives nothing. It quotes the definition and never the data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{expression}`: {reason}")]
pub(super) struct Unrendered {
    expression: String,
    reason: String,
}

/// What templates read: `params`, `call`, and what else there is by then.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope(BTreeMap<&'static str, Data>);

impl Scope {
    /// The same with `value` under `name`.
    pub(super) fn with(mut self, name: &'static str, value: &Value) -> Self {
        self.0.insert(name, Data::from(Serde(value)));
        self
    }

    fn data(&self) -> Data {
        Data::from_pairs(self.0.clone())
    }
}

/// One expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expression(String);

impl Expression {
    fn new(source: &str) -> Result<Self, String> {
        let source = source.trim().to_owned();
        let checked = environment().compile_expression(&source).map(drop);
        checked.map_err(|error| format!("`{source}` is no expression: {}", said(&error)))?;
        Ok(Self(source))
    }

    /// What it reads, dotted: `params.channel`.
    fn reads(&self) -> Vec<String> {
        let compiled = environment().compile_expression(&self.0);
        compiled.map(|e| e.undeclared_variables(true).into_iter().collect()).unwrap_or_default()
    }

    fn eval(&self, scope: &Data) -> Result<Data, Unrendered> {
        let compiled = environment().compile_expression(&self.0);
        compiled.and_then(|e| e.eval(scope.clone())).map_err(|error| self.unrendered(&said(&error)))
    }

    fn unrendered(&self, reason: &str) -> Unrendered {
        Unrendered { expression: self.0.clone(), reason: reason.to_owned() }
    }

    fn value(&self, scope: &Data) -> Result<Option<Value>, Unrendered> {
        let data = self.eval(scope)?;
        if data.is_undefined() {
            return Ok(None);
        }
        let value = serde_json::to_value(&data);
        value.map(Some).map_err(|_| self.unrendered("its value has no form in JSON"))
    }
}

/// What an error says of the definition, without the data in it.
fn said(error: &Broken) -> String {
    match error.kind() {
        ErrorKind::SyntaxError => error.detail().unwrap_or("malformed").to_owned(),
        ErrorKind::UndefinedError => "there is no such value".to_owned(),
        kind => kind.to_string(),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Expression(Expression),
}

/// A text with expressions in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text(Vec<Piece>);

impl Text {
    pub(super) fn new(source: &str) -> Result<Self, String> {
        if source.len() > limits::TEMPLATE_BYTES_MAX {
            return Err(format!("a template has at most {} bytes", limits::TEMPLATE_BYTES_MAX));
        }
        if source.contains("{%") || source.contains("{#") {
            return Err("a template has expressions only, `{{ … }}`: no `{%` and no `{#`".into());
        }
        let mut pieces = Vec::new();
        let mut rest = source;
        while let Some((before, after)) = rest.split_once("{{") {
            let Some((inner, next)) = close(after) else {
                return Err("`{{` without its `}}`".to_owned());
            };
            if !before.is_empty() {
                pieces.push(Piece::Literal(before.to_owned()));
            }
            pieces.push(Piece::Expression(Expression::new(inner)?));
            rest = next;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Literal(rest.to_owned()));
        }
        Ok(Self(pieces))
    }

    /// The text itself, where nothing of it is an expression.
    pub(super) fn fixed(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// Its parts that are no expressions.
    pub(super) fn literals(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Literal(text) => Some(text.as_str()),
            Piece::Expression(_) => None,
        })
    }

    /// The one expression that it is, where it is one.
    fn whole(&self) -> Option<&Expression> {
        match self.0.as_slice() {
            [Piece::Expression(expression)] => Some(expression),
            _ => None,
        }
    }

    pub(super) fn reads(&self) -> Vec<String> {
        let expressions = self.0.iter().filter_map(|piece| match piece {
            Piece::Expression(expression) => Some(expression.reads()),
            Piece::Literal(_) => None,
        });
        expressions.flatten().collect()
    }

    /// The text; of what it reads, nothing may be absent or have parts.
    pub(super) fn render(&self, scope: &Scope) -> Result<String, Unrendered> {
        self.render_in(&scope.data())
    }

    fn render_in(&self, scope: &Data) -> Result<String, Unrendered> {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Literal(text) => out.push_str(text),
                Piece::Expression(expression) => match expression.value(scope)? {
                    Some(Value::String(text)) => out.push_str(&text),
                    Some(Value::Number(number)) => out.push_str(&number.to_string()),
                    Some(Value::Bool(truth)) => out.push_str(&truth.to_string()),
                    Some(_) => return Err(expression.unrendered("in a text, it must be one value")),
                    None => return Err(expression.unrendered("there is no such value")),
                },
            }
            if out.len() > limits::TEMPLATE_OUTPUT_BYTES_MAX {
                return Err(Unrendered {
                    expression: self.0.len().to_string(),
                    reason: "a template gives too much".to_owned(),
                });
            }
        }
        Ok(out)
    }

    /// Whether it holds: its one expression is `true`.
    pub(super) fn holds(&self, scope: &Scope) -> Result<bool, Unrendered> {
        let Some(expression) = self.whole() else { return Ok(false) };
        Ok(expression.value(&scope.data())? == Some(Value::Bool(true)))
    }
}

/// What is before the `}}` that closes an expression, and what is after it. Within quotes nothing
/// closes.
fn close(text: &str) -> Option<(&str, &str)> {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '}') => {
                if let (Some(inner), Some(rest)) = (text.get(..at), text.get(at..))
                    && let Some(rest) = rest.strip_prefix("}}")
                {
                    return Some((inner, rest));
                }
            }
            (None, _) => {}
        }
    }
    None
}

/// A member of an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Member {
    pub(super) name: String,
    /// Whether it is left out where its value is absent.
    pub(super) optional: bool,
    pub(super) tree: Tree,
}

/// JSON with expressions in its texts.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Tree {
    Fixed(Value),
    Text(Text),
    List(Vec<Tree>),
    Map(Vec<Member>),
}

impl Tree {
    pub(super) fn new(source: &Value) -> Result<Self, String> {
        Ok(match source {
            Value::String(text) => Self::Text(Text::new(text)?),
            Value::Array(items) => {
                Self::List(items.iter().map(Self::new).collect::<Result<_, _>>()?)
            }
            Value::Object(members) => Self::Map(Self::members(members.iter())?),
            fixed => Self::Fixed(fixed.clone()),
        })
    }

    /// Members whose names may end in `?`.
    pub(super) fn members<'a>(
        source: impl Iterator<Item = (&'a String, &'a Value)>,
    ) -> Result<Vec<Member>, String> {
        let member = |(name, value): (&String, &Value)| {
            let (name, optional) = match name.strip_suffix('?') {
                Some(name) => (name, true),
                None => (name.as_str(), false),
            };
            if name.contains("{{") {
                return Err(format!("`{name}`: a name is no template"));
            }
            Ok(Member { name: name.to_owned(), optional, tree: Self::new(value)? })
        };
        source.map(member).collect()
    }

    pub(super) fn reads(&self) -> Vec<String> {
        match self {
            Self::Fixed(_) => Vec::new(),
            Self::Text(text) => text.reads(),
            Self::List(items) => items.iter().flat_map(Self::reads).collect(),
            Self::Map(members) => members.iter().flat_map(|m| m.tree.reads()).collect(),
        }
    }

    /// The value; every part of it must be there.
    pub(super) fn value(&self, scope: &Scope) -> Result<Value, Unrendered> {
        let value = self.value_in(&scope.data())?;
        let absent = || Unrendered {
            expression: match self {
                Self::Text(text) => text.whole().map(|e| e.0.clone()).unwrap_or_default(),
                _ => String::new(),
            },
            reason: "there is no such value".to_owned(),
        };
        value.ok_or_else(absent)
    }

    fn value_in(&self, scope: &Data) -> Result<Option<Value>, Unrendered> {
        Ok(Some(match self {
            Self::Fixed(value) => value.clone(),
            Self::Text(text) => match text.whole() {
                Some(expression) => return expression.value(scope),
                None => Value::String(text.render_in(scope)?),
            },
            Self::List(items) => {
                let items = items.iter().map(|item| match item.value_in(scope)? {
                    Some(value) => Ok(value),
                    None => Err(absent(item)),
                });
                Value::Array(items.collect::<Result<_, _>>()?)
            }
            Self::Map(members) => Value::Object(map(members, scope)?),
        }))
    }
}

fn absent(tree: &Tree) -> Unrendered {
    let expression = match tree {
        Tree::Text(text) => text.whole().map(|expression| expression.0.clone()),
        _ => None,
    };
    let expression = expression.unwrap_or_default();
    Unrendered { expression, reason: "there is no such value".to_owned() }
}

fn map(members: &[Member], scope: &Data) -> Result<Map<String, Value>, Unrendered> {
    let mut map = Map::new();
    for Member { name, optional, tree } in members {
        match tree.value_in(scope)? {
            Some(value) => drop(map.insert(name.clone(), value)),
            None if *optional => {}
            None => return Err(absent(tree)),
        }
    }
    Ok(map)
}

/// The values of `members`, those that are absent and may be left out.
pub(super) fn values(members: &[Member], scope: &Scope) -> Result<Map<String, Value>, Unrendered> {
    map(members, &scope.data())
}

/// What expressions are made of: these filters and tests and no others.
fn environment<'a>() -> &'a Environment<'a> {
    static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(make);
    &ENVIRONMENT
}

fn make() -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(limits::TEMPLATE_FUEL));
    environment.add_filter("default", default);
    environment.add_filter("first_with", first_with);
    environment.add_filter("length", length);
    environment.add_filter("ref", reference);
    environment.add_filter("values_of", values_of);
    environment.add_test("defined", is_defined);
    environment.add_test("none", is_none);
    environment
}

fn is_defined(value: &Data) -> bool {
    !value.is_undefined()
}

fn is_none(value: &Data) -> bool {
    value.is_none()
}

/// `other` where `value` is absent or none.
fn default(value: &Data, other: &Data) -> Data {
    if value.is_undefined() || value.is_none() { other.clone() } else { value.clone() }
}

fn length(value: &Data) -> Result<usize, Broken> {
    value.len().ok_or_else(|| Broken::from(ErrorKind::InvalidOperation))
}

/// What a field stands for that may be a reference: `value` of an object, else the thing itself;
/// an empty text where it is absent.
fn reference(value: &Data) -> Result<Data, Broken> {
    if value.is_undefined() || value.is_none() {
        return Ok(Data::from(""));
    }
    match value.as_str() {
        Some(_) => Ok(value.clone()),
        None => match value.get_attr("value")? {
            inner if inner.is_undefined() => Ok(value.clone()),
            inner => Ok(inner),
        },
    }
}

/// Of `record`, what is under the names that `fields` has.
fn values_of(record: &Data, fields: &Data) -> Result<Data, Broken> {
    let mut values = BTreeMap::new();
    for name in fields.try_iter()? {
        let Some(text) = name.as_str() else { continue };
        values.insert(text.to_owned(), reference(&record.get_item(&name)?)?);
    }
    Ok(Data::from_pairs(values))
}

/// The first of `list` that has `text` in what is at the dotted `path`; none where there is none.
fn first_with(list: &Data, path: &str, text: &str) -> Result<Data, Broken> {
    for item in list.try_iter()? {
        let mut at = item.clone();
        for name in path.split('.') {
            at = match at.is_undefined() || at.is_none() {
                true => break,
                false => at.get_attr(name)?,
            };
        }
        if at.as_str().is_some_and(|found| found.contains(text)) {
            return Ok(item);
        }
    }
    Ok(Data::from(()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scope() -> Scope {
        let params = json!({
            "a": "x", "n": 7, "list": [1, 2], "none": null, "evil": "{{ 7 * 7 }}{% raw %}",
            "rows": [{"t": {"u": "one"}}, {"t": {"u": "two"}, "id": 2}, {"t": null}],
        });
        Scope::default().with("params", &params)
    }

    fn value(source: Value) -> Result<Value, String> {
        Tree::new(&source)?.value(&scope()).map_err(|error| error.to_string())
    }

    #[test]
    fn one_expression_keeps_its_type() {
        for (source, expect) in [
            (json!("{{ params.n }}"), json!(7)),
            (json!("{{ params.list }}"), json!([1, 2])),
            (json!("{{ params.none }}"), json!(null)),
            (json!("n={{ params.n }}, {{ params.a }}"), json!("n=7, x")),
            (json!({"a?": "{{ params.b }}", "c": [1, "{{ params.a }}"]}), json!({"c": [1, "x"]})),
            (json!("{{ params.b | default('d') }}"), json!("d")),
            (json!("{{ '}}' ~ params.a }}"), json!("}}x")),
            (json!("{{ (params.rows | first_with('t.u', 'tw')).id }}"), json!(2)),
            (json!("{{ (params.rows | first_with('t.u', 'three')) is none }}"), json!(true)),
            (json!("{{ params.list | length < 3 }}"), json!(true)),
            (json!("no template"), json!("no template")),
        ] {
            assert_eq!(value(source.clone()), Ok(expect), "{source}");
        }
    }

    #[test]
    fn data_is_never_a_template() {
        let evil = "{{ 7 * 7 }}{% raw %}";
        assert_eq!(value(json!("{{ params.evil }}")), Ok(json!(evil)));
        assert_eq!(value(json!("<{{ params.evil }}>")), Ok(json!(format!("<{evil}>"))));
    }

    #[test]
    fn what_is_absent_or_has_parts_is_an_error_without_the_data() {
        for source in [
            "{{ params.b }}",
            "-{{ params.b }}",
            "-{{ params.list }}",
            "{{ nothing.x }}",
            "{{ params.a + params.n }}",
            "{{ params.a | upper }}",
            "{{ range(9) }}",
        ] {
            let error = value(json!(source)).unwrap_err();
            assert!(!error.contains('7') && !error.contains("\"x\""), "{source}: {error}");
        }
        assert!(value(json!(["{{ params.b }}"])).is_err());
    }

    #[test]
    fn only_expressions_are_templates() {
        for source in [
            "{% for x in params.list %}{% endfor %}",
            "{# c #}",
            "{{ params.a",
            "{{ }}",
            "{{ a b }}",
            "{% include 'x' %}",
            "{{ params.a }}{{",
        ] {
            assert!(Text::new(source).is_err(), "{source}");
        }
        assert!(Text::new(&"x".repeat(limits::TEMPLATE_BYTES_MAX + 1)).is_err());
        let reads = Text::new("{{ params.a.b }}{{ call.key }}").unwrap().reads();
        assert_eq!(reads.len(), 2, "{reads:?}");
    }
}
