//! How much work a stranger's schema can make of a value.
//!
//! A schema may refer to itself from two places at once: then each level of a value doubles the
//! work, and sixty levels never end. Before a schema is used, the number of times that its parts
//! can be evaluated at one place of a value is bounded for each depth; a value whose size makes
//! too much of it is refused.

use std::collections::{BTreeMap, HashMap};

use kernel::limits::{JSON_DEPTH_MAX, PARAMS_BYTES_MAX};
use serde_json::Value;

use crate::limits;

/// Keywords with one subschema that is applied to the same value.
const HERE: [&str; 4] = ["not", "if", "then", "else"];
/// Keywords with a list of them.
const HERE_LISTS: [&str; 3] = ["allOf", "anyOf", "oneOf"];
/// Keywords with one for each of some names.
const HERE_MAPS: [&str; 2] = ["dependentSchemas", "dependencies"];
/// Keywords with one subschema for members.
const MEMBERS: [&str; 3] = ["additionalProperties", "unevaluatedProperties", "propertyNames"];
/// Keywords with one for elements.
const ELEMENTS: [&str; 4] = ["items", "additionalItems", "unevaluatedItems", "contains"];
/// Keywords that are read again to see what was evaluated.
const UNEVALUATED: [&str; 2] = ["unevaluatedProperties", "unevaluatedItems"];
/// Keywords that refer to another part.
const REFERENCES: [&str; 3] = ["$ref", "$dynamicRef", "$recursiveRef"];
/// Keywords with parts that only references reach.
const DEFINITIONS: [&str; 2] = ["$defs", "definitions"];

/// A part of a schema, by where its parts are applied.
#[derive(Debug, Default)]
struct Part {
    here: Vec<usize>,
    /// What is applied here is read once more.
    again: bool,
    /// At most one of these meets a given member.
    properties: Vec<usize>,
    /// All of these may.
    members: Vec<usize>,
    /// At most one of these meets a given element.
    places: Vec<usize>,
    elements: Vec<usize>,
}

/// The parts of a schema.
struct Parts<'a> {
    root: &'a Value,
    parts: Vec<Part>,
    /// By JSON pointer.
    known: HashMap<String, usize>,
    /// By `$anchor` and the like.
    anchors: BTreeMap<&'a str, Vec<usize>>,
    references: Vec<(usize, &'a str)>,
    /// Whether a part is a resource of its own: references in it lead elsewhere.
    nested: bool,
}

/// How often parts of a schema can be evaluated at one place of a value, by the depth of the place.
#[derive(Clone, Debug)]
pub(super) struct Growth(Vec<u64>);

impl Growth {
    /// The growth of `schema`; the reason where it is not bounded, or cannot be told.
    pub(super) fn of(schema: &Value) -> Result<Self, String> {
        let mut parts = Parts {
            root: schema,
            parts: Vec::new(),
            known: HashMap::new(),
            anchors: BTreeMap::new(),
            references: Vec::new(),
            nested: false,
        };
        let root = parts.add(schema, String::new());
        parts.resolve()?;
        let order = parts.order()?;
        let mut growth = Vec::with_capacity(JSON_DEPTH_MAX);
        let mut below = vec![0_u64; parts.parts.len()];
        for depth in 0..=JSON_DEPTH_MAX {
            let mut level = vec![0_u64; parts.parts.len()];
            for at in &order {
                let Some(part) = parts.parts.get(*at) else { continue };
                let count = part.count(&level, &below, u64::from(depth == 0));
                if let Some(own) = level.get_mut(*at) {
                    *own = count;
                }
            }
            growth.push(level.get(root).copied().unwrap_or(0));
            below = level;
        }
        Ok(Self(growth))
    }

    /// Whether validating `value` takes no more than is done for anybody.
    pub(super) fn bears(&self, value: &Value) -> bool {
        // Most schemas bear whatever can be sent: a value takes two bytes at least.
        let largest = u64::try_from(PARAMS_BYTES_MAX / 2).unwrap_or(u64::MAX);
        let most = self.0.iter().max().copied().unwrap_or(0);
        if most.saturating_mul(largest) <= limits::SCHEMA_WORK_MAX {
            return true;
        }
        let mut size = 0;
        let depth = measure(value, &mut size);
        let worst = self.0.iter().take(depth.saturating_add(1)).max().copied().unwrap_or(0);
        worst.saturating_mul(size) <= limits::SCHEMA_WORK_MAX
    }
}

/// The depth of a value, and how many values it is made of.
fn measure(value: &Value, size: &mut u64) -> usize {
    *size = size.saturating_add(1);
    let inside = match value {
        Value::Array(items) => items.iter().map(|item| measure(item, size)).max(),
        Value::Object(map) => map.values().map(|item| measure(item, size)).max(),
        _ => return 0,
    };
    inside.map_or(0, |depth| depth.saturating_add(1))
}

impl Part {
    /// How often parts are evaluated at a place so deep below one where this part is: `own` times
    /// this one, what is applied here, and what is applied below.
    fn count(&self, level: &[u64], below: &[u64], own: u64) -> u64 {
        let at = |counts: &[u64], part: &usize| counts.get(*part).copied().unwrap_or(0);
        let sum = |counts: &[u64], parts: &[usize]| {
            parts.iter().fold(0_u64, |sum, part| sum.saturating_add(at(counts, part)))
        };
        let most = |parts: &[usize]| parts.iter().map(|part| at(below, part)).max().unwrap_or(0);
        let here = sum(level, &self.here);
        let here = if self.again { here.saturating_mul(2) } else { here };
        let member = most(&self.properties).saturating_add(sum(below, &self.members));
        let element = most(&self.places).saturating_add(sum(below, &self.elements));
        own.saturating_add(here).saturating_add(member.max(element))
    }

    fn all(&self) -> impl Iterator<Item = usize> {
        [&self.here, &self.properties, &self.members, &self.places, &self.elements]
            .into_iter()
            .flatten()
            .copied()
    }
}

/// Whether a part has been looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    New,
    /// It is on the way.
    Open,
    Done,
}

impl<'a> Parts<'a> {
    /// Adds a part of the schema with its own parts.
    fn add(&mut self, schema: &'a Value, pointer: String) -> usize {
        if let Some(known) = self.known.get(&pointer) {
            return *known;
        }
        let at = self.parts.len();
        self.parts.push(Part::default());
        self.known.insert(pointer.clone(), at);
        let Value::Object(map) = schema else { return at };
        let mut part = Part::default();
        for (key, value) in map {
            let inside = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
            let key = key.as_str();
            part.again |= UNEVALUATED.contains(&key);
            match value {
                Value::String(target) if REFERENCES.contains(&key) => {
                    self.references.push((at, target));
                }
                Value::String(_) if matches!(key, "$id" | "id") && !pointer.is_empty() => {
                    self.nested = true;
                }
                Value::String(name) if matches!(key, "$anchor" | "$dynamicAnchor") => {
                    self.anchors.entry(name).or_default().push(at);
                }
                _ if HERE.contains(&key) => part.here.push(self.add(value, inside)),
                _ if MEMBERS.contains(&key) => part.members.push(self.add(value, inside)),
                Value::Array(_) if matches!(key, "items" | "prefixItems") => {
                    part.places.extend(self.add_all(value, &inside));
                }
                _ if ELEMENTS.contains(&key) => part.elements.push(self.add(value, inside)),
                _ if HERE_LISTS.contains(&key) || HERE_MAPS.contains(&key) => {
                    part.here.extend(self.add_all(value, &inside));
                }
                _ if key == "properties" => part.properties.extend(self.add_all(value, &inside)),
                _ if key == "patternProperties" => {
                    part.members.extend(self.add_all(value, &inside));
                }
                _ if DEFINITIONS.contains(&key) => drop(self.add_all(value, &inside)),
                _ => {}
            }
        }
        if let Some(own) = self.parts.get_mut(at) {
            *own = part;
        }
        at
    }

    fn add_all(&mut self, schemas: &'a Value, pointer: &str) -> Vec<usize> {
        match schemas {
            Value::Array(list) => (0..)
                .zip(list)
                .map(|(at, schema): (usize, _)| self.add(schema, format!("{pointer}/{at}")))
                .collect(),
            Value::Object(map) => map
                .iter()
                .map(|(key, schema)| {
                    let key = key.replace('~', "~0").replace('/', "~1");
                    self.add(schema, format!("{pointer}/{key}"))
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Makes references what they are: parts that are applied here.
    fn resolve(&mut self) -> Result<(), String> {
        let mut count = 0_usize;
        if self.nested && !self.references.is_empty() {
            return Err("references, and an `$id` within the schema".to_owned());
        }
        while let Some((from, target)) = self.references.pop() {
            count = count.saturating_add(1);
            if count > limits::SCHEMA_REFERENCES_MAX {
                return Err("too many references".to_owned());
            }
            let elsewhere = || "a reference leads out of the schema".to_owned();
            let fragment = target.strip_prefix('#').ok_or_else(elsewhere)?;
            let to = if fragment.is_empty() || fragment.starts_with('/') {
                let pointer = percent_encoding::percent_decode_str(fragment)
                    .decode_utf8()
                    .map_err(|_| elsewhere())?;
                let schema = self.root.pointer(&pointer).ok_or_else(elsewhere)?;
                vec![self.add(schema, pointer.into_owned())]
            } else {
                self.anchors.get(fragment).cloned().ok_or_else(elsewhere)?
            };
            if let Some(part) = self.parts.get_mut(from) {
                part.here.extend(to);
            }
        }
        Ok(())
    }

    /// The parts in an order in which each comes after what is applied at the same place. Refused
    /// where a part is applied to its own place, and where parts are nested too deep.
    fn order(&self) -> Result<Vec<usize>, String> {
        let mut marks = vec![Mark::New; self.parts.len()];
        let mut order = Vec::with_capacity(self.parts.len());
        let here = |at: usize| self.parts.get(at).map(|p| p.here.clone()).unwrap_or_default();
        for root in 0..self.parts.len() {
            // Each with what of it is still to be looked at.
            let mut way: Vec<(usize, Vec<usize>)> = vec![(root, vec![root])];
            while let Some((at, mut rest)) = way.pop() {
                let next = rest.pop();
                let mark = next.and_then(|next| marks.get_mut(next));
                match (next, mark) {
                    (Some(_), Some(Mark::Open)) => {
                        return Err("a part of the schema is applied to itself".to_owned());
                    }
                    (Some(next), Some(mark @ Mark::New)) => {
                        *mark = Mark::Open;
                        way.extend([(at, rest), (next, here(next))]);
                    }
                    (Some(_), _) => way.push((at, rest)),
                    (None, _) => {
                        if let Some(mark @ Mark::Open) = marks.get_mut(at) {
                            *mark = Mark::Done;
                            order.push(at);
                        }
                    }
                }
                if way.len() > limits::SCHEMA_DEPTH_MAX {
                    return Err("references lead on for too long".to_owned());
                }
            }
        }
        self.shallow()?;
        Ok(order)
    }

    /// Refuses a schema whose compilation would go too deep: it follows every reference once.
    fn shallow(&self) -> Result<(), String> {
        let mut seen = vec![false; self.parts.len()];
        let all =
            |at: usize| self.parts.get(at).map(|part| part.all().collect()).unwrap_or_default();
        let mut way: Vec<Vec<usize>> = vec![vec![0]];
        while let Some(rest) = way.last_mut() {
            match rest.pop() {
                Some(next) => {
                    if let Some(seen) = seen.get_mut(next).filter(|seen| !**seen) {
                        *seen = true;
                        way.push(all(next));
                    }
                }
                None => drop(way.pop()),
            }
            if way.len() > limits::SCHEMA_DEPTH_MAX {
                return Err("the schema is nested too deep".to_owned());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn growth_is_bounded_or_refused() {
        let check = |schema: Value, expect: Result<(u64, u64), &str>| {
            let found = Growth::of(&schema).map(|growth| (growth.0[0], growth.0[10]));
            match (found, expect) {
                (Ok(found), Ok(expect)) => assert_eq!(found, expect, "{schema}"),
                (Err(found), Err(expect)) => assert!(found.contains(expect), "{schema}: {found}"),
                (found, _) => panic!("{schema}: {found:?}"),
            }
        };
        check(json!({"type": "object"}), Ok((1, 0)));
        check(json!({"properties": {"a": {}, "b": {}}}), Ok((1, 0)));
        // A tree: one evaluation at each place.
        check(json!({"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}}), Ok((1, 2)));
        check(json!({"items": {"$ref": "#"}}), Ok((1, 2)));
        // Two at each place of the level before.
        let twice = json!([{"properties": {"a": {"$ref": "#"}}}, {"items": {"$ref": "#"}}]);
        check(json!({"allOf": twice}), Ok((3, 4096)));
        let both = json!({"patternProperties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}});
        check(both, Ok((1, 2048)));
        for own in [json!({"$ref": "#"}), json!({"anyOf": [{"$ref": "#"}]})] {
            check(own, Err("applied to itself"));
        }
        let round = json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}});
        check(round, Err("applied to itself"));
        check(json!({"$ref": "https://example.com/x.json"}), Err("out of the schema"));
        check(json!({"$ref": "#/nowhere"}), Err("out of the schema"));
        check(json!({"$defs": {"a": {"$id": "x"}}, "$ref": "#/$defs/a"}), Err("`$id` within"));
        let chain: serde_json::Map<_, _> = (0..500)
            .map(|at| (format!("d{at}"), json!({"$ref": format!("#/$defs/d{}", at + 1)})))
            .chain([("d500".to_owned(), json!({}))])
            .collect();
        check(json!({"$defs": chain, "$ref": "#/$defs/d0"}), Err("too long"));
    }
}
