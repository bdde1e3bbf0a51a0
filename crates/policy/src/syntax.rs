//! Reading Rego's syntax tree: names, references, literals and calls.

use regorus::Value;
use regorus::unstable::{Expr, Literal, LiteralStmt, Query, Ref, Rule, RuleAssign, RuleHead, Span};

/// A reference such as `input.tool.labels[_]`: its root's name and its fields as far as they are
/// literal; `open` where a field is computed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) root: String,
    pub(crate) fields: Vec<String>,
    pub(crate) open: bool,
    /// The variables among its computed fields.
    pub(crate) indexes: Vec<String>,
}

impl Chain {
    /// `root.field.field`
    pub(crate) fn dotted(&self) -> String {
        let mut text = self.root.clone();
        for field in &self.fields {
            text.push('.');
            text.push_str(field);
        }
        text
    }
}

/// The text of a string literal.
pub(crate) fn literal(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::String { value: Value::String(text), .. }
        | Expr::RawString { value: Value::String(text), .. } => Some(text),
        _ => None,
    }
}

/// The reference that `expr` is, unless its root is a computed value.
pub(crate) fn chain(expr: &Expr) -> Option<Chain> {
    match expr {
        Expr::Var { span, .. } => Some(Chain { root: span.text().to_owned(), ..Chain::default() }),
        Expr::RefDot { refr, field, .. } => {
            let mut chain = chain(refr)?;
            match &field.1 {
                Value::String(name) if !chain.open => chain.fields.push(name.to_string()),
                _ => chain.open = true,
            }
            Some(chain)
        }
        Expr::RefBrack { refr, index, .. } => {
            let mut chain = chain(refr)?;
            match literal(index) {
                Some(name) if !chain.open => chain.fields.push(name.to_owned()),
                _ => chain.open = true,
            }
            if let Expr::Var { span, .. } = index.as_ref() {
                chain.indexes.push(span.text().to_owned());
            }
            Some(chain)
        }
        _ => None,
    }
}

/// What a walk through the tree meets.
pub(crate) trait Visitor {
    /// A reference, at its longest.
    fn reference(&mut self, chain: Chain, span: &Span);
    /// A call of a builtin or function.
    fn call(&mut self, chain: Chain, span: &Span);
    /// A string literal.
    fn text(&mut self, text: &str);
}

/// Walks through a rule: its head, its values and its bodies.
pub(crate) fn walk_rule(rule: &Rule, visitor: &mut dyn Visitor) {
    match rule {
        Rule::Default { args, value, .. } => {
            args.iter().for_each(|arg| walk(arg, visitor));
            walk(value, visitor);
        }
        Rule::Spec { head, bodies, .. } => {
            walk_head(head, visitor);
            for body in bodies {
                walk_assign(body.assign.as_ref(), visitor);
                walk_query(&body.query, visitor);
            }
        }
    }
}

fn walk_assign(assign: Option<&RuleAssign>, visitor: &mut dyn Visitor) {
    if let Some(assign) = assign {
        walk(&assign.value, visitor);
    }
}

fn walk_head(head: &RuleHead, visitor: &mut dyn Visitor) {
    match head {
        RuleHead::Compr { refr, assign, .. } => {
            walk_indexes(refr, visitor);
            walk_assign(assign.as_ref(), visitor);
        }
        RuleHead::Set { refr, key, .. } => {
            walk_indexes(refr, visitor);
            key.iter().for_each(|key| walk(key, visitor));
        }
        RuleHead::Func { refr, args, assign, .. } => {
            walk_indexes(refr, visitor);
            args.iter().for_each(|arg| walk(arg, visitor));
            walk_assign(assign.as_ref(), visitor);
        }
    }
}

/// The computed parts of a reference, without the reference itself.
fn walk_indexes(expr: &Expr, visitor: &mut dyn Visitor) {
    match expr {
        Expr::RefDot { refr, .. } => walk_indexes(refr, visitor),
        Expr::RefBrack { refr, index, .. } => {
            walk_indexes(refr, visitor);
            walk(index, visitor);
        }
        Expr::Var { .. } => {}
        other => walk(other, visitor),
    }
}

/// Walks through a query's statements.
pub(crate) fn walk_query(query: &Query, visitor: &mut dyn Visitor) {
    query.stmts.iter().for_each(|stmt| walk_statement(stmt, visitor));
}

/// Walks through one statement.
pub(crate) fn walk_statement(stmt: &LiteralStmt, visitor: &mut dyn Visitor) {
    match &stmt.literal {
        Literal::SomeVars { .. } => {}
        Literal::SomeIn { key, value, collection, .. } => {
            key.iter().for_each(|key| walk(key, visitor));
            walk(value, visitor);
            walk(collection, visitor);
        }
        Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => walk(expr, visitor),
        Literal::Every { domain, query, .. } => {
            walk(domain, visitor);
            walk_query(query, visitor);
        }
    }
    for modifier in &stmt.with_mods {
        walk(&modifier.refr, visitor);
        walk(&modifier.r#as, visitor);
    }
}

/// Walks through an expression.
pub(crate) fn walk(expr: &Expr, visitor: &mut dyn Visitor) {
    match expr {
        Expr::String { .. } | Expr::RawString { .. } => {
            if let Some(text) = literal(expr) {
                visitor.text(text);
            }
        }
        Expr::Number { .. } | Expr::Bool { .. } | Expr::Null { .. } => {}
        Expr::Var { span, .. } | Expr::RefDot { span, .. } | Expr::RefBrack { span, .. } => {
            if let Some(chain) = chain(expr) {
                visitor.reference(chain, span);
            }
            walk_indexes(expr, visitor);
        }
        Expr::Array { items, .. } | Expr::Set { items, .. } => walk_all(items, visitor),
        Expr::Object { fields, .. } => {
            for (_, key, value) in fields {
                walk(key, visitor);
                walk(value, visitor);
            }
        }
        Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => {
            walk(term, visitor);
            walk_query(query, visitor);
        }
        Expr::ObjectCompr { key, value, query, .. } => {
            walk(key, visitor);
            walk(value, visitor);
            walk_query(query, visitor);
        }
        Expr::Call { span, fcn, params, .. } => {
            match chain(fcn) {
                Some(chain) => visitor.call(chain, span),
                None => walk(fcn, visitor),
            }
            walk_all(params, visitor);
        }
        Expr::UnaryExpr { expr, .. } => walk(expr, visitor),
        Expr::BinExpr { lhs, rhs, .. }
        | Expr::BoolExpr { lhs, rhs, .. }
        | Expr::ArithExpr { lhs, rhs, .. }
        | Expr::AssignExpr { lhs, rhs, .. } => {
            walk(lhs, visitor);
            walk(rhs, visitor);
        }
        Expr::Membership { key, value, collection, .. } => {
            key.iter().for_each(|key| walk(key, visitor));
            walk(value, visitor);
            walk(collection, visitor);
        }
    }
}

fn walk_all(items: &[Ref<Expr>], visitor: &mut dyn Visitor) {
    items.iter().for_each(|item| walk(item, visitor));
}
