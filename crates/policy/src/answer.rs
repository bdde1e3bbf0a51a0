//! Reading what a policy answered: rules of exactly the contract's form, without a detour.

use kernel::decision::MatchedRule;
use kernel::limits::RULES_PER_DECISION_MAX;
use regorus::Value;
use serde::Deserialize;
use serde::de::value::{Error, MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, Error as _, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use crate::machine::Failure;

/// Reads the result of an evaluation: a set or array of rules of exactly the contract's form.
pub(crate) fn matched(value: &Value) -> Result<Vec<MatchedRule>, Failure> {
    match value {
        Value::Set(set) => rules(set.iter(), set.len()),
        Value::Array(array) => rules(array.iter(), array.len()),
        _ => Err(Failure::error("the result is neither a set nor an array of rules")),
    }
}

fn rules<'a>(
    elements: impl Iterator<Item = &'a Value>,
    count: usize,
) -> Result<Vec<MatchedRule>, Failure> {
    if count > RULES_PER_DECISION_MAX {
        return Err(Failure::error(format!("more than {RULES_PER_DECISION_MAX} rules matched")));
    }
    elements.map(rule).collect()
}

fn rule(value: &Value) -> Result<MatchedRule, Failure> {
    MatchedRule::deserialize(Answer(value))
        .map_err(|e| Failure::error(format!("a matched rule has another form: {e}")))
}

/// A value as data for serde. Sets read as sequences, whole numbers as integers.
#[derive(Clone, Copy)]
struct Answer<'a>(&'a Value);

impl<'de> IntoDeserializer<'de> for Answer<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Answer<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(yes) => visitor.visit_bool(*yes),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(number), _, _) => visitor.visit_u64(number),
                (_, Some(number), _) => visitor.visit_i64(number),
                (_, _, Some(number)) => visitor.visit_f64(number),
                _ => Err(Error::custom("a number beyond 64 bits")),
            },
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Array(items) => {
                SeqDeserializer::new(items.iter().map(Answer)).deserialize_any(visitor)
            }
            Value::Set(items) => {
                SeqDeserializer::new(items.iter().map(Answer)).deserialize_any(visitor)
            }
            Value::Object(fields) => {
                MapDeserializer::new(fields.iter().map(|(key, value)| (Answer(key), Answer(value))))
                    .deserialize_any(visitor)
            }
            Value::Undefined => Err(Error::custom("an undefined value")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::String(text) => visitor.visit_enum(text.as_ref().into_deserializer()),
            _ => Err(Error::custom("the name of a variant is needed")),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    /// Right values, wrong values, and values that only look right.
    fn odd() -> impl Strategy<Value = Json> {
        prop::sample::select(vec![
            json!(null),
            json!(true),
            json!(0),
            json!(1),
            json!(-1),
            json!(1.5),
            json!(4_294_967_296_u64),
            json!(u64::MAX),
            json!(1e300),
            json!(""),
            json!("DENY"),
            json!("allow"),
            json!("strict"),
            json!("approver"),
            json!("core.example"),
            json!([]),
            json!(["approver", "admin"]),
            json!(["approver", 1]),
            json!(["p_7"]),
            json!({}),
            json!({"DENY": null}),
            json!({"quorum": 2}),
            json!({"quorum": 1, "roles": ["approver"], "approvers": ["p_7"], "expires_s": 60}),
            json!({"quorum": 1, "more": 1}),
            json!({"stages": []}),
            json!({"stages": [{"name": "a", "sla_s": 5, "escalate_to": {"roles": ["admin"]}}]}),
            json!({"stages": [{"name": "a"}, {"name": "b", "quorum": 2}], "mode": "parallel"}),
            json!({"stages": [{"name": "a"}], "quorum": 1}),
            json!({"quorum": 1, "valid_s": 60, "signed": true}),
            json!("parallel"),
            json!("forbidden"),
        ])
    }

    /// A rule with nothing to find fault with.
    fn complete() -> Json {
        json!({
            "effect": "REQUIRE_APPROVAL", "rule": "R-1", "reason": "why",
            "obligations": {
                "approval": {"quorum": 2, "roles": ["approver"], "approvers": [], "expires_s": 60},
                "sod": "strict", "retry_after_ms": 5, "route": "core.example",
                "max_cost_micro_usd": 7, "break_glass": "forbidden",
            },
        })
    }

    const PLACES: &[&str] = &[
        "/effect",
        "/rule",
        "/reason",
        "/extra",
        "/obligations",
        "/obligations/extra",
        "/obligations/approval",
        "/obligations/approval/quorum",
        "/obligations/approval/roles",
        "/obligations/approval/approvers",
        "/obligations/approval/expires_s",
        "/obligations/approval/valid_s",
        "/obligations/approval/signed",
        "/obligations/approval/stages",
        "/obligations/approval/mode",
        "/obligations/approval/sla_s",
        "/obligations/approval/escalate_to",
        "/obligations/break_glass",
        "/obligations/sod",
        "/obligations/retry_after_ms",
        "/obligations/route",
        "/obligations/max_cost_micro_usd",
    ];

    /// Puts `value` at `place`, or takes away what is there.
    fn change(rule: &mut Json, place: &str, value: Option<Json>) {
        let Some((parent, key)) = place.rsplit_once('/') else { return };
        if let Some(Json::Object(fields)) = rule.pointer_mut(parent) {
            match value {
                Some(value) => fields.insert(key.to_owned(), value),
                None => fields.remove(key),
            };
        }
    }

    proptest! {
        /// What serde_json would read from the rule's JSON, and nothing else.
        #[test]
        fn reads_as_json_does(changes in prop::collection::vec(
            (prop::sample::select(PLACES), prop::option::of(odd())), 0..4)
        ) {
            let mut json = complete();
            for (place, value) in changes {
                change(&mut json, place, value);
            }
            let direct = rule(&Value::from(json.clone())).ok();
            // An enum as an object of its variant is JSON's own form, not the contract's.
            let by_json = serde_json::from_value::<MatchedRule>(json.clone()).ok();
            let externally_tagged = json.pointer("/effect").is_some_and(Json::is_object);
            prop_assert_eq!(direct, by_json.filter(|_| !externally_tagged), "{}", json);
        }
    }

    #[test]
    fn sets_and_whole_floats() {
        let text = r#"{"effect": "DENY", "rule": "r", "reason": "x", "obligations":
            {"approval": {"quorum": 2.0, "roles": ["approver"]}}}"#;
        let mut value = Value::from_json_str(text).unwrap();
        let before = rule(&value).unwrap();
        assert_eq!(before.obligations.approval.as_ref().unwrap().people(), 2);
        let roles: std::collections::BTreeSet<Value> = [Value::from("approver")].into();
        let demand = value.as_object_mut().unwrap().get_mut(&"obligations".into()).unwrap();
        let demand = demand.as_object_mut().unwrap().get_mut(&"approval".into()).unwrap();
        demand.as_object_mut().unwrap().insert("roles".into(), Value::from(roles));
        assert_eq!(rule(&value).unwrap(), before);
    }
}
