//! A definition that was checked: everything of it is ready to be used.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::{HeaderName, Method};
use kernel::tool::Caps;
use kernel::values::{Digest, MicroUsd};
use kernel::version::Version;
use serde_json::Value;

use super::auth::Scheme;
use super::document::{self, ConfirmDocument, Document, OperationDocument, ReadDocument, at};
use super::error::Error;
use super::request::Plan;
use super::rules::Rule;
use super::template::{Text, Tree};
use crate::limits;
use crate::schema::Validator;

const API_VERSION: &str = "tally/v1";
const KIND: &str = "Connector";

/// A definition of a connector.
#[derive(Debug)]
pub struct Definition {
    /// What it is called; the usual name of its instances.
    pub name: String,
    /// Its version.
    pub version: Version,
    /// For people.
    pub title: String,
    /// One sentence.
    pub description: String,
    /// SHA-256 of its text.
    pub digest: Digest,
    /// Where the system is, where that is the same for everybody.
    pub base_url: Option<String>,
    pub(super) schemes: Vec<(String, Scheme)>,
    pub(super) timeout: Duration,
    pub(super) response_bytes: usize,
    pub(super) in_flight: usize,
    pub(super) operations: BTreeMap<String, Operation>,
}

/// One operation of a connector.
#[derive(Debug)]
pub struct Operation {
    /// Its name: what follows the instance in the id of the tool.
    pub name: String,
    pub(super) internal: bool,
    pub(super) description: String,
    pub(super) labels: BTreeSet<String>,
    pub(super) reads: bool,
    pub(super) idempotent: bool,
    pub(super) input: Value,
    pub(super) output: Value,
    pub(super) input_validator: Validator,
    pub(super) output_validator: Validator,
    pub(super) request: Plan,
    pub(super) idempotency: Option<HeaderName>,
    pub(super) record: Option<Read>,
    /// Where among the parameters what is expected of the record is.
    pub(super) expect: Option<String>,
    /// Where among them what is written is.
    pub(super) reverse: Option<String>,
    pub(super) written: Option<Tree>,
    pub(super) confirm: Option<Confirm>,
    pub(super) result: Tree,
    pub(super) rules: Vec<Rule>,
    pub(super) cost: MicroUsd,
    pub(super) caps: Option<Caps>,
}

/// A reading operation that another one uses, and its parameters.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) operation: String,
    pub(super) params: Tree,
}

/// How an attempt in doubt is looked up.
#[derive(Debug)]
pub(super) struct Confirm {
    pub(super) read: Read,
    pub(super) found: Text,
    pub(super) certain: Text,
    pub(super) result: Tree,
}

impl Operation {
    /// Whether an attempt can be repeated: because that changes nothing more, because the system
    /// knows a repeated one, or because what became of the one before is looked up first.
    pub(super) fn repeatable(&self) -> bool {
        self.naturally() || self.confirm.is_some()
    }

    /// The same without being looked up.
    pub(super) fn naturally(&self) -> bool {
        self.idempotent || self.idempotency.is_some() || self.reads
    }
}

impl Definition {
    /// Reads and checks the text of a definition.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let document: Document = document::read(text)?;
        Checker { text, document: &document }.check()
    }

    /// The operations that are offered as tools, by name.
    pub fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.operations.values().filter(|operation| !operation.internal)
    }

    /// What no exchange of `outcomes` shows: operations that succeed, and each refusal of theirs
    /// that the definition names.
    pub fn untested(&self, outcomes: &[super::Replayed]) -> Vec<String> {
        let mut untested = Vec::new();
        for operation in self.operations() {
            let own = || outcomes.iter().filter(|one| one.operation == operation.name);
            if !own().any(|one| one.failure.is_none() && one.problem.is_none()) {
                untested.push(format!("{} succeeds", operation.name));
            }
            let codes: BTreeSet<&str> = operation.rules.iter().map(Rule::code).collect();
            for code in codes {
                if !own().any(|one| one.failure.as_deref() == Some(code)) {
                    untested.push(format!("{}: {code}", operation.name));
                }
            }
        }
        untested
    }

    /// The ways in which requests can be authorised, each with the credentials that it needs. The
    /// first is the one that is used where an instance names none.
    pub fn auth(&self) -> impl Iterator<Item = (&str, &'static [&'static str])> {
        self.schemes.iter().map(|(name, scheme)| (name.as_str(), scheme.roles()))
    }
}

/// Whether `name` can name a way of authorising.
fn is_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    first && name.len() <= limits::CONNECTOR_NAME_BYTES_MAX && name.bytes().all(good)
}

/// Whether an operation only reads.
fn reads(operation: &OperationDocument) -> bool {
    operation.only_reads || operation.request.method == Method::GET.as_str()
}

struct Checker<'a> {
    text: &'a str,
    document: &'a Document,
}

impl Checker<'_> {
    fn wrong<T>(&self, path: &[&str], reason: impl Into<String>) -> Result<T, Error> {
        Err(at(self.text, path, reason))
    }

    fn check(&self) -> Result<Definition, Error> {
        let Document { api_version, kind, metadata, spec, exchanges: _ } = self.document;
        if api_version != API_VERSION {
            return self.wrong(&["apiVersion"], format!("must be `{API_VERSION}`"));
        }
        if kind != KIND {
            return self.wrong(&["kind"], format!("must be `{KIND}`"));
        }
        if !kernel::connector::is_name(&metadata.name) {
            let reason = "must be 1 to 32 of a-z, 0-9, `_` and `-`, beginning with a letter, and \
                          no vendor of Tally's own tools";
            return self.wrong(&["metadata", "name"], reason);
        }
        let Ok(version) = Version::parse(&metadata.version) else {
            return self.wrong(&["metadata", "version"], "must be a SemVer such as `1.0.0`");
        };
        for name in spec.headers.keys() {
            let checked = super::request::settable(name).map(drop);
            checked.map_err(|reason| at(self.text, &["spec", "headers", name], reason))?;
        }
        if let Some(url) = &spec.base_url {
            let checked = super::instance::base(url);
            checked.map_err(|reason| at(self.text, &["spec", "baseUrl"], reason))?;
        }
        let own = &spec.limits;
        let timeout = self.within("timeoutMs", own.timeout_ms, limits::CONNECTOR_TIMEOUT_MS)?;
        let bytes = own.response_bytes.and_then(|n| u64::try_from(n).ok());
        let most = u64::try_from(limits::CONNECTOR_ANSWER_BYTES_MAX).unwrap_or(u64::MAX);
        let bytes = self.within("responseBytes", bytes, (most, most))?;
        let calls = own.in_flight.and_then(|n| u64::try_from(n).ok());
        let calls = self.within("inFlight", calls, limits::CONNECTOR_IN_FLIGHT)?;
        Ok(Definition {
            name: metadata.name.clone(),
            version,
            title: metadata.title.clone(),
            description: metadata.description.clone(),
            digest: Digest::of(self.text.as_bytes()),
            base_url: spec.base_url.clone(),
            schemes: self.schemes()?,
            timeout: Duration::from_millis(timeout),
            response_bytes: usize::try_from(bytes).unwrap_or(limits::CONNECTOR_ANSWER_BYTES_MAX),
            in_flight: usize::try_from(calls).unwrap_or(1),
            operations: self.operations()?,
        })
    }

    fn within(
        &self,
        name: &str,
        given: Option<u64>,
        (usual, most): (u64, u64),
    ) -> Result<u64, Error> {
        match given.unwrap_or(usual) {
            value if (1..=most).contains(&value) => Ok(value),
            _ => self.wrong(&["spec", "limits", name], format!("must be 1 to {most}")),
        }
    }

    fn schemes(&self) -> Result<Vec<(String, Scheme)>, Error> {
        let mut schemes: Vec<(String, Scheme)> = Vec::new();
        for (index, source) in self.document.spec.auth.iter().enumerate() {
            let index = index.to_string();
            let path = ["spec", "auth", &index];
            if !is_name(&source.name) || schemes.iter().any(|(name, _)| *name == source.name) {
                return self.wrong(&path, "each way needs a name of its own, of a-z and 0-9");
            }
            let made = Scheme::new(source).map_err(|reason| at(self.text, &path, reason))?;
            schemes.push((source.name.clone(), made));
        }
        match schemes.len() {
            0 => self.wrong(&["spec", "auth"], "name at least one way: `type: none` is one"),
            1..=limits::CONNECTOR_SCHEMES_MAX => Ok(schemes),
            _ => self.wrong(&["spec", "auth"], "these are too many"),
        }
    }

    fn operations(&self) -> Result<BTreeMap<String, Operation>, Error> {
        let sources = &self.document.spec.operations;
        if sources.len() > limits::CONNECTOR_OPERATIONS_MAX {
            let most = limits::CONNECTOR_OPERATIONS_MAX;
            return self.wrong(&["spec", "operations"], format!("at most {most}"));
        }
        if sources.values().all(|operation| operation.internal) {
            return self.wrong(&["spec", "operations"], "offer at least one");
        }
        let mut operations = BTreeMap::new();
        for (name, source) in sources {
            let one = OneOperation { whole: self, name, source };
            operations.insert(name.clone(), one.check()?);
        }
        Ok(operations)
    }
}

struct OneOperation<'a> {
    whole: &'a Checker<'a>,
    name: &'a str,
    source: &'a OperationDocument,
}

impl OneOperation<'_> {
    fn error(&self, path: &[&str], reason: impl Into<String>) -> Error {
        let mut whole = vec!["spec", "operations", self.name];
        whole.extend(path);
        at(self.whole.text, &whole, reason)
    }

    fn wrong<T>(&self, path: &[&str], reason: impl Into<String>) -> Result<T, Error> {
        Err(self.error(path, reason))
    }

    fn check(&self) -> Result<Operation, Error> {
        let source = self.source;
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let first = self.name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
        if !first || self.name.len() > 64 || !self.name.bytes().all(good) {
            return self.wrong(&[], "an operation is named with a-z, 0-9 and `_`");
        }
        let headers = &self.whole.document.spec.headers;
        let request = Plan::new(&source.request, headers);
        let request = request.map_err(|(at, why)| self.error(&["request", at], why))?;
        self.check_labels()?;
        self.check_reads(&["request"], &request.reads(), &["params", "call"])?;
        let rules = self.rules()?;
        let idempotency = match &source.idempotency {
            Some(idempotency) => Some(
                super::request::header_name(&idempotency.header)
                    .map_err(|why| self.error(&["idempotency", "header"], why))?,
            ),
            None => None,
        };
        if source.cost.per_call_micro_usd < 0 {
            return self.wrong(&["cost"], "a price is not below zero");
        }
        let caps = self.caps()?;
        let operation = Operation {
            name: self.name.to_owned(),
            internal: source.internal,
            description: source.description.clone(),
            labels: source.labels.clone(),
            reads: reads(source),
            idempotent: source.idempotent,
            input: source.input.clone(),
            output: source.output.clone(),
            input_validator: self.schema("input", &source.input)?,
            output_validator: self.schema("output", &source.output)?,
            request,
            idempotency,
            record: self.read("record", source.record.as_ref())?,
            expect: self.pointer("expect", source.expect.as_deref())?,
            reverse: self.pointer("reverse", source.reverse.as_deref())?,
            written: match &source.written {
                Some(tree) => Some(self.tree("written", tree, &["params", "call", "record"])?),
                None => None,
            },
            confirm: self.confirm(source.confirm.as_ref())?,
            result: self.tree("result", &source.result, &["params", "call", "response"])?,
            rules,
            cost: MicroUsd(source.cost.per_call_micro_usd),
            caps,
        };
        self.check_whole(&operation)?;
        Ok(operation)
    }

    fn caps(&self) -> Result<Option<Caps>, Error> {
        let Some(caps) = self.source.caps else { return Ok(None) };
        if self.source.internal {
            return self.wrong(&["caps"], "what is no tool is bounded by the tools that use it");
        }
        let most = limits::CONNECTOR_CALLS_PER_MINUTE_MAX;
        match caps.per_minute {
            per_minute if (1..=most).contains(&per_minute) => Ok(Some(Caps { per_minute })),
            _ => self.wrong(&["caps", "perMinute"], format!("must be 1 to {most}")),
        }
    }

    /// Labels are what policy decides by: they must not say less than the request does.
    fn check_labels(&self) -> Result<(), Error> {
        let labels = &self.source.labels;
        let has = |label: &str| labels.contains(label);
        let plain = |label: &String| {
            (1..=64).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        };
        if labels.len() > 16 || !labels.iter().all(plain) {
            return self.wrong(&["labels"], "at most 16, each of a-z and `_`");
        }
        if !has("external") {
            return self.wrong(&["labels"], "what leaves Tally has the label `external`");
        }
        let reads = reads(self.source);
        if !reads && !has("write") && !has("destructive") {
            let reason = "a method that may change something has the label `write`";
            return self.wrong(&["labels"], reason);
        }
        if reads && !has("read") {
            return self.wrong(&["labels"], "what only reads has the label `read`");
        }
        if self.source.reverse.is_some() != has("reversible") {
            return self.wrong(&["labels"], "`reversible` and `reverse` belong together");
        }
        Ok(())
    }

    fn check_whole(&self, operation: &Operation) -> Result<(), Error> {
        let reads = operation.expect.is_some() || operation.reverse.is_some();
        if reads != operation.record.is_some() {
            let reason = "`record` is what `expect` and `reverse` look at: have both or neither";
            return self.wrong(&["record"], reason);
        }
        if operation.written.is_some() != operation.reverse.is_some() {
            return self.wrong(&["written"], "`written` and `reverse` belong together");
        }
        if operation.reverse.is_some() && !operation.idempotent {
            return self.wrong(&["idempotent"], "what is reversed sets values: `idempotent: true`");
        }
        if operation.reads && (reads || operation.confirm.is_some()) {
            return self.wrong(&["request", "method"], "what only reads needs none of it");
        }
        Ok(())
    }

    fn schema(&self, name: &str, schema: &Value) -> Result<Validator, Error> {
        if schema.get("type").and_then(Value::as_str) != Some("object") {
            return self.wrong(&[name], "must be the JSON Schema of an object");
        }
        Validator::foreign(schema).map_err(|why| self.error(&[name], why))
    }

    fn rules(&self) -> Result<Vec<Rule>, Error> {
        let common = &self.whole.document.spec.errors;
        let mut rules = Vec::new();
        for (index, rule) in self.source.errors.iter().enumerate() {
            let made = Rule::new(rule);
            rules.push(made.map_err(|why| self.error(&["errors", &index.to_string()], why))?);
        }
        for (index, rule) in common.iter().enumerate() {
            let index = index.to_string();
            let path = ["spec", "errors", &index];
            rules.push(Rule::new(rule).map_err(|why| at(self.whole.text, &path, why))?);
        }
        match rules.len() {
            ..=limits::CONNECTOR_RULES_MAX => Ok(rules),
            _ => self.wrong(&["errors"], format!("at most {}", limits::CONNECTOR_RULES_MAX)),
        }
    }

    fn read(&self, place: &str, source: Option<&ReadDocument>) -> Result<Option<Read>, Error> {
        let Some(ReadDocument { read, params }) = source else { return Ok(None) };
        self.reading(place, read)?;
        let params = self.members(place, params)?;
        Ok(Some(Read { operation: read.clone(), params }))
    }

    /// The operation that is used must read and do nothing else.
    fn reading(&self, place: &str, name: &str) -> Result<(), Error> {
        let found = self.whole.document.spec.operations.get(name);
        if !found.is_some_and(reads) {
            return self.wrong(&[place, "read"], format!("`{name}` is no operation that reads"));
        }
        Ok(())
    }

    fn members(&self, place: &str, source: &BTreeMap<String, Value>) -> Result<Tree, Error> {
        let members = Tree::members(source.iter());
        let tree = Tree::Map(members.map_err(|why| self.error(&[place, "with"], why))?);
        self.check_reads(&[place, "with"], &tree.reads(), &["params", "call"])?;
        Ok(tree)
    }

    fn confirm(&self, source: Option<&ConfirmDocument>) -> Result<Option<Confirm>, Error> {
        let Some(source) = source else { return Ok(None) };
        let place = "confirm";
        self.reading(place, &source.read)?;
        let scope = ["params", "call", "result"];
        let text = |name: &str, text: &str| -> Result<Text, Error> {
            let made = Text::new(text).map_err(|why| self.error(&[place, name], why))?;
            self.check_reads(&[place, name], &made.reads(), &scope)?;
            Ok(made)
        };
        let result = Tree::new(&source.result);
        let result = result.map_err(|why| self.error(&[place, "result"], why))?;
        self.check_reads(&[place, "result"], &result.reads(), &scope)?;
        Ok(Some(Confirm {
            read: Read {
                operation: source.read.clone(),
                params: self.members(place, &source.params)?,
            },
            found: text("found", &source.found)?,
            certain: text("certain", &source.certain)?,
            result,
        }))
    }

    /// A pointer to one of the parameters.
    fn pointer(&self, name: &str, pointer: Option<&str>) -> Result<Option<String>, Error> {
        let Some(pointer) = pointer else { return Ok(None) };
        let member = pointer.strip_prefix('/').unwrap_or_default();
        if self.source.input.get("properties").and_then(|all| all.get(member)).is_none() {
            let reason = "must be `/` and the name of a parameter";
            return self.wrong(&[name], reason);
        }
        Ok(Some(pointer.to_owned()))
    }

    fn tree(&self, name: &str, source: &Value, scope: &[&str]) -> Result<Tree, Error> {
        let tree = Tree::new(source).map_err(|why| self.error(&[name], why))?;
        self.check_reads(&[name], &tree.reads(), scope)?;
        Ok(tree)
    }

    /// Whether templates read only what there is.
    fn check_reads(&self, path: &[&str], reads: &[String], scope: &[&str]) -> Result<(), Error> {
        let properties = self.source.input.get("properties");
        for name in reads {
            let mut parts = name.split('.');
            let root = parts.next().unwrap_or_default();
            if !scope.contains(&root) {
                let reason = format!("`{name}` is not there: {} are", scope.join(", "));
                return self.wrong(path, reason);
            }
            let Some(member) = parts.next() else { continue };
            if root == "params" && properties.and_then(|all| all.get(member)).is_none() {
                let reason = format!("`{name}` is not in the input schema");
                return self.wrong(path, reason);
            }
            if root == "call" && !super::call::GIVEN.contains(&member) {
                let given = super::call::GIVEN.join(", call.");
                return self.wrong(path, format!("`{name}` is not there: call.{given} are"));
            }
        }
        Ok(())
    }
}
