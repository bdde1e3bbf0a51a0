//! What a step reads of what came before it.

use serde_json::Value;

use super::Step;
use super::claims::Claims;
use super::template::{self, Piece, Source};

impl Step {
    /// Where its parameters, its claims and its condition read from.
    pub fn reads(&self) -> Vec<Source> {
        let mut sources = Vec::new();
        gather(&self.params.to_value(), &mut sources);
        for text in self.claims.iter().flat_map(Claims::texts) {
            of_text(text, &mut sources);
        }
        let references = self.when.iter().flat_map(|condition| condition.references());
        sources.extend(references.map(|reference| reference.source.clone()));
        sources
    }
}

fn gather(value: &Value, sources: &mut Vec<Source>) {
    match value {
        Value::String(text) => of_text(text, sources),
        Value::Array(items) => items.iter().for_each(|item| gather(item, sources)),
        Value::Object(members) => members.values().for_each(|member| gather(member, sources)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A text of a plan is one that was checked: what is no template reads nothing.
fn of_text(text: &str, sources: &mut Vec<Source>) {
    for piece in template::parse(text).unwrap_or_default() {
        if let Piece::Value(reference) = piece {
            sources.push(reference.source);
        }
    }
}
