//! Checks on the syntax tree: which builtins are called, that no rule has several values, and that
//! no ALLOW reads claims.
//!
//! The check of claims is conservative. A definition of `tally.decisions` or `tally.listing` is
//! restrictive where the element it contributes is an object literal whose `effect` is a literal
//! other than `"ALLOW"`; any other may yield ALLOW. What may yield ALLOW must not read
//! `input.claims`, nor `input` as a whole or by a computed field, neither itself nor through any
//! rule or function that it names. `decisions contains r if some r in REF` passes elements on
//! unchanged, so the definitions of REF are judged one by one in its place.

use regorus::unstable::{
    AssignOp, Expr, Import, Literal, Module, Ref, Rule, RuleAssign, RuleHead, Span,
};
use std::collections::{BTreeMap, BTreeSet};

use crate::compile::{Error, Place};
use crate::guard;
use crate::syntax::{self, Chain, Visitor};

/// The rules whose elements decide.
const ENTRIES: [&str; 2] = ["tally.decisions", "tally.listing"];

/// Checks every module of a policy.
pub(crate) fn check(modules: &[Ref<Module>]) -> Result<(), Error> {
    let definitions: Vec<Definition<'_>> = modules.iter().flat_map(|m| definitions(m)).collect();
    for entry in ["data.tally.decisions", "data.tally.listing"] {
        if !definitions.iter().any(|d| entry.strip_prefix("data.") == Some(&d.path)) {
            return Err(Error::NoEntryPoint(entry));
        }
    }
    check_builtins(&definitions)?;
    check_values(&definitions)?;
    check_claims(&definitions)
}

/// The string literals of a policy, each once.
pub(crate) fn words(modules: &[Ref<Module>]) -> Vec<String> {
    let definitions = modules.iter().flat_map(|module| definitions(module));
    definitions.flat_map(|d| d.reads.texts).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The dotted path of a package or a rule's head.
pub(crate) fn path(refr: &Expr) -> String {
    syntax::chain(refr).map(|chain| chain.dotted()).unwrap_or_default()
}

/// One definition of a rule.
struct Definition<'a> {
    /// `tally.decisions`
    path: String,
    place: Place,
    rule: &'a Rule,
    reads: Reads,
}

/// What a definition reads, with names made absolute.
#[derive(Default)]
struct Reads {
    package: String,
    aliases: BTreeMap<String, Chain>,
    /// What of `input` may reach claims, and where.
    claims: Option<String>,
    /// Paths below `data`; the empty path is all of it.
    paths: BTreeSet<String>,
    /// Calls: the name as written, its absolute path, and where.
    calls: Vec<(String, String, Place)>,
    texts: BTreeSet<String>,
    /// Variables in computed fields: `a[i]`.
    indexes: BTreeSet<String>,
}

fn place(span: &Span) -> Place {
    Place { file: span.source.get_path().clone(), line: span.line }
}

fn definitions(module: &Module) -> Vec<Definition<'_>> {
    let package = path(&module.package.refr);
    let aliases: BTreeMap<String, Chain> = module.imports.iter().filter_map(alias).collect();
    let one = |rule: &'_ Ref<Rule>| {
        let head = match rule.as_ref() {
            Rule::Default { refr, .. } => refr,
            Rule::Spec { head, .. } => match head {
                RuleHead::Compr { refr, .. }
                | RuleHead::Set { refr, .. }
                | RuleHead::Func { refr, .. } => refr,
            },
        };
        let reads = Reads::of(&package, &aliases, |reads| syntax::walk_rule(rule, reads));
        (format!("{package}.{}", path(head)), reads)
    };
    module
        .policy
        .iter()
        .map(|rule| {
            let (path, reads) = one(rule);
            Definition { path, place: place(rule.span()), rule: rule.as_ref(), reads }
        })
        .collect()
}

/// What an import gives a shorter name.
fn alias(import: &Import) -> Option<(String, Chain)> {
    let target = syntax::chain(&import.refr)?;
    let name = match &import.r#as {
        Some(span) => span.text().to_owned(),
        None => target.fields.last()?.clone(),
    };
    Some((name, target))
}

impl Reads {
    fn of(package: &str, aliases: &BTreeMap<String, Chain>, walk: impl FnOnce(&mut Self)) -> Self {
        let mut reads =
            Self { package: package.to_owned(), aliases: aliases.clone(), ..Self::default() };
        walk(&mut reads);
        reads
    }

    /// The reference with an import's short name written out.
    fn written_out(&self, chain: Chain) -> Chain {
        match self.aliases.get(&chain.root) {
            Some(target) => {
                let mut whole = target.clone();
                whole.fields.extend(chain.fields);
                whole.open |= chain.open;
                whole.indexes.extend(chain.indexes);
                whole
            }
            None => chain,
        }
    }

    /// The path below `data` that a reference names: its own, or a rule's of this package.
    fn absolute(&self, chain: &Chain) -> String {
        if chain.root == "data" {
            return chain.fields.join(".");
        }
        format!("{}.{}", self.package, chain.dotted())
    }
}

impl Visitor for Reads {
    fn reference(&mut self, chain: Chain, span: &Span) {
        let mut chain = self.written_out(chain);
        self.indexes.extend(std::mem::take(&mut chain.indexes));
        if chain.root == "input" {
            if chain.fields.first().is_none_or(|field| field == "claims") {
                let place = place(span);
                self.claims.get_or_insert_with(|| format!("`{}` at {place}", span.text()));
            }
            return;
        }
        self.paths.insert(self.absolute(&chain));
    }

    fn call(&mut self, chain: Chain, span: &Span) {
        let name = chain.dotted();
        let absolute = self.absolute(&self.written_out(chain));
        self.calls.push((name, absolute.clone(), place(span)));
        self.paths.insert(absolute);
    }

    fn text(&mut self, text: &str) {
        self.texts.insert(text.to_owned());
    }
}

fn check_builtins(definitions: &[Definition<'_>]) -> Result<(), Error> {
    let own: BTreeSet<&str> = definitions.iter().map(|d| d.path.as_str()).collect();
    for (name, absolute, place) in definitions.iter().flat_map(|d| &d.reads.calls) {
        if !own.contains(absolute.as_str()) && guard::guarded(name).is_none() {
            let (place, name) = (Some(place.clone()), name.clone());
            return Err(Error::Builtin { place, why: guard::why_not(&name), name });
        }
    }
    Ok(())
}

/// The machine keeps the last of several values that one definition gives, where Rego has an
/// error. So a value that is not constant must not come out of an iteration.
fn check_values(definitions: &[Definition<'_>]) -> Result<(), Error> {
    for definition in definitions {
        let Rule::Spec { head, bodies, .. } = definition.rule else { continue };
        let (args, assign): (&[_], _) = match head {
            RuleHead::Compr { assign, .. } => (&[], assign),
            RuleHead::Func { args, assign, .. } => (args, assign),
            RuleHead::Set { .. } => continue,
        };
        let varies = |assign: &Option<RuleAssign>| {
            assign.as_ref().is_some_and(|assign| !is_constant(&assign.value))
        };
        if !varies(assign) && !bodies.iter().any(|body| varies(&body.assign)) {
            continue;
        }
        let mut known: BTreeSet<String> = args.iter().map(|arg| path(arg)).collect();
        let statements = || bodies.iter().flat_map(|body| &body.query.stmts);
        known.extend(statements().filter_map(|stmt| assigned(&stmt.literal)));
        let own_rule = |name: &str| {
            let whole = format!("{}.{name}", definition.reads.package);
            definitions.iter().any(|other| other.path == whole)
        };
        let iterates = statements()
            .any(|stmt| matches!(stmt.literal, Literal::SomeIn { .. } | Literal::SomeVars { .. }));
        let free = |name: &String| !known.contains(name) && !own_rule(name);
        if iterates || definition.reads.indexes.iter().any(free) {
            let (place, rule) = (definition.place.clone(), definition.path.clone());
            return Err(Error::ManyValues { place, rule });
        }
    }
    Ok(())
}

fn is_constant(expr: &Expr) -> bool {
    matches!(
        expr,
        Expr::String { .. }
            | Expr::RawString { .. }
            | Expr::Number { .. }
            | Expr::Bool { .. }
            | Expr::Null { .. }
    )
}

/// The variable of `name := …`.
fn assigned(literal: &Literal) -> Option<String> {
    let Literal::Expr { expr, .. } = literal else { return None };
    match expr.as_ref() {
        Expr::AssignExpr { op: AssignOp::ColEq, lhs, .. } => Some(path(lhs)),
        _ => None,
    }
}

fn check_claims(definitions: &[Definition<'_>]) -> Result<(), Error> {
    let mut judged = BTreeSet::new();
    let mut queue: Vec<String> = ENTRIES.iter().map(|path| (*path).to_owned()).collect();
    while let Some(path) = queue.pop() {
        if !judged.insert(path.clone()) {
            continue;
        }
        for definition in definitions.iter().filter(|d| overlap(&d.path, &path)) {
            if is_restrictive(definition.rule) {
                continue;
            }
            let passed_on = passed_on(definition);
            if let Some(reads) = claims_reached(definition, passed_on.as_deref(), definitions) {
                return Err(Error::AllowReadsClaims {
                    place: definition.place.clone(),
                    rule: definition.path.clone(),
                    reads,
                });
            }
            queue.extend(passed_on);
        }
    }
    Ok(())
}

/// Whether one path is the other or lies below it.
fn overlap(left: &str, right: &str) -> bool {
    let below = |long: &str, short: &str| {
        short.is_empty()
            || long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    below(left, right) || below(right, left)
}

/// Whether the element is an object literal with a literal effect other than ALLOW.
fn is_restrictive(rule: &Rule) -> bool {
    let Rule::Spec { head: RuleHead::Set { key: Some(key), .. }, .. } = rule else { return false };
    let Expr::Object { fields, .. } = key.as_ref() else { return false };
    let named = |key: &Expr| syntax::literal(key).is_some();
    let mut effects = fields.iter().filter(|(_, key, _)| syntax::literal(key) == Some("effect"));
    let (Some((_, _, effect)), None) = (effects.next(), effects.next()) else { return false };
    fields.iter().all(|(_, key, _)| named(key))
        && syntax::literal(effect).is_some_and(|effect| effect != "ALLOW")
}

/// The path REF of `… contains r if some r in REF`.
fn passed_on(definition: &Definition<'_>) -> Option<String> {
    let (key, bodies) = match definition.rule {
        Rule::Spec { head: RuleHead::Set { key: Some(key), .. }, bodies, .. } => (key, bodies),
        _ => return None,
    };
    let [body] = bodies.as_slice() else { return None };
    let [stmt] = body.query.stmts.as_slice() else { return None };
    let Literal::SomeIn { key: None, value, collection, .. } = &stmt.literal else { return None };
    let (Expr::Var { span: out, .. }, Expr::Var { span: each, .. }) =
        (key.as_ref(), value.as_ref())
    else {
        return None;
    };
    let source = definition.reads.written_out(syntax::chain(collection)?);
    let plain = out.text() == each.text() && !source.open && source.root != "input";
    plain.then(|| definition.reads.absolute(&source))
}

/// What a definition reads of claims, itself or through what it names.
fn claims_reached(
    definition: &Definition<'_>,
    passed_on: Option<&str>,
    definitions: &[Definition<'_>],
) -> Option<String> {
    if definition.reads.claims.is_some() {
        return definition.reads.claims.clone();
    }
    let mut seen = BTreeSet::new();
    let mut queue: Vec<&str> = definition
        .reads
        .paths
        .iter()
        .map(String::as_str)
        .filter(|path| Some(*path) != passed_on)
        .collect();
    while let Some(path) = queue.pop() {
        if !seen.insert(path) {
            continue;
        }
        for found in definitions.iter().filter(|d| overlap(&d.path, path)) {
            if found.reads.claims.is_some() {
                return found.reads.claims.clone();
            }
            queue.extend(found.reads.paths.iter().map(String::as_str));
        }
    }
    None
}
