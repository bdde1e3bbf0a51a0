//! JSON as received, checked but never rewritten, and JSON in canonical form (RFC 8785).
//!
//! What a person approves must be what runs. So a text that two readers could understand
//! differently is refused: duplicate keys, numbers that a double does not keep, lone surrogates.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use std::fmt;

use crate::limits;

mod canon;
mod scan;

/// Why a text is not JSON that Tally accepts. `at` is an RFC 6901 pointer ("" is the whole text),
/// shortened where it is long.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is larger than the limit.
    #[error("the JSON has {bytes} bytes: send at most {max}")]
    TooLong {
        /// What it has.
        bytes: usize,
        /// What it may have.
        max: usize,
    },
    /// Not JSON by RFC 8259.
    #[error("not JSON at {at:?}, byte {offset}: {need}")]
    Syntax {
        /// Where.
        at: String,
        /// The byte that does not fit, from 0.
        offset: usize,
        /// What is needed there.
        need: &'static str,
    },
    /// Arrays and objects nested deeper than the limit.
    #[error("nested deeper than {max} at {at:?}: flatten it", max = limits::JSON_DEPTH_MAX)]
    TooDeep {
        /// Where.
        at: String,
    },
    /// An object has the same key twice.
    #[error("the key {at:?} occurs twice: send it once")]
    DuplicateKey {
        /// The second occurrence.
        at: String,
    },
    /// A number that a 64-bit float does not keep exactly, or that lies beyond ±2^53.
    #[error("the number at {at:?} does not survive as a 64-bit float: send it as a string")]
    Number {
        /// Where.
        at: String,
    },
    /// Half of a UTF-16 surrogate pair.
    #[error("the string at {at:?} has a lone surrogate: send complete characters")]
    LoneSurrogate {
        /// Where.
        at: String,
    },
    /// A value of ours has no canonical form.
    #[error("no canonical JSON: {0}")]
    Canonical(String),
}

impl Error {
    /// A stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "json_too_long",
            Self::Syntax { .. } => "json_syntax",
            Self::TooDeep { .. } => "json_too_deep",
            Self::DuplicateKey { .. } => "json_duplicate_key",
            Self::Number { .. } => "json_number",
            Self::LoneSurrogate { .. } => "json_lone_surrogate",
            Self::Canonical(_) => "json_not_canonical",
        }
    }

    /// The same error, seen from one level further out.
    fn inside(mut self, segment: &str) -> Self {
        match &mut self {
            Self::Syntax { at, .. }
            | Self::TooDeep { at }
            | Self::DuplicateKey { at }
            | Self::Number { at }
            | Self::LoneSurrogate { at } => *at = pointer(segment, at),
            Self::TooLong { .. } | Self::Canonical(_) => {}
        }
        self
    }
}

/// Characters of one segment that an error shows.
const SEGMENT_CHARS_MAX: usize = 64;

/// `/segment` before `rest`, escaped as RFC 6901 wants it.
fn pointer(segment: &str, rest: &str) -> String {
    let mut shown: String = segment.chars().take(SEGMENT_CHARS_MAX).collect();
    if shown.len() < segment.len() {
        shown.push('…');
    }
    format!("/{}{rest}", shown.replace('~', "~0").replace('/', "~1"))
}

/// One JSON value, its text kept as it was received, known to be accepted:
/// at most [`limits::PARAMS_BYTES_MAX`] bytes, nested at most [`limits::JSON_DEPTH_MAX`] deep, no
/// key twice in an object, every number exact as a 64-bit float and within ±2^53, no lone
/// surrogates. White space around the value is not part of it.
///
/// In a struct it reads and writes as any JSON; it does not work under `#[serde(flatten)]` and
/// `#[serde(untagged)]`, which lose the text.
#[derive(Clone)]
pub struct RawJson(Box<RawValue>);

impl RawJson {
    /// Checks `text`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        scan::check(text, limits::PARAMS_BYTES_MAX)?;
        let raw = serde_json::from_str(text).map_err(|e| Error::Syntax {
            at: String::new(),
            offset: e.column(),
            need: "JSON by RFC 8259",
        })?;
        Ok(Self(raw))
    }

    /// Checks what another system says, which is shown and kept but never decided about: it may
    /// have [`limits::RESULT_BYTES_MAX`] bytes, and numbers beyond ±2^53, as 64-bit ids are.
    pub fn result(raw: Box<RawValue>) -> Result<Self, Error> {
        scan::check_shown(raw.get(), limits::RESULT_BYTES_MAX)?;
        Ok(Self(raw))
    }

    /// The text as received.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// The text as a value.
    #[expect(clippy::expect_used, reason = "parse refuses whatever serde_json would refuse")]
    pub fn to_value(&self) -> serde_json::Value {
        serde_json::from_str(self.as_str()).expect("accepted JSON reads as a value")
    }

    /// `{}`.
    #[expect(clippy::expect_used, reason = "the text is a constant")]
    pub fn empty_object() -> Self {
        Self::parse("{}").expect("{} is JSON")
    }
}

impl PartialEq for RawJson {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for RawJson {}

/// Shows the length only: parameters are content, which does not belong in logs.
impl fmt::Debug for RawJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawJson({} bytes)", self.as_str().len())
    }
}

impl Serialize for RawJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RawJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        scan::check(raw.get(), limits::PARAMS_BYTES_MAX).map_err(serde::de::Error::custom)?;
        Ok(Self(raw))
    }
}

/// Checks a text of at most `max` bytes as [`RawJson`] does, for what is larger than parameters or
/// is taken apart before it is kept.
pub fn check(text: &str, max: usize) -> Result<(), Error> {
    scan::check(text, max)
}

/// `value` as RFC 8785 wants it. A [`RawJson`] within is canonical in the result too. A float that
/// is not finite is `null`, as everywhere in serde_json.
pub fn canonical<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Error> {
    canon::form(value).map_err(|e| Error::Canonical(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expect: Result<&str, (&str, &str)>) {
        match (RawJson::parse(text), expect) {
            (Ok(raw), Ok(form)) => {
                assert_eq!(raw.as_str(), text.trim());
                assert_eq!(String::from_utf8(canonical(&raw).unwrap()).unwrap(), form, "{text}");
                assert_eq!(serde_json::from_str::<RawJson>(text).unwrap(), raw);
                assert_eq!(serde_json::to_string(&raw).unwrap(), text.trim());
            }
            (Err(error), Err((code, place))) => {
                assert_eq!(error.code(), code, "{text}: {error}");
                assert!(error.to_string().contains(place), "{error} names {place}");
                let inside = format!("{{\"p\":{text}}}");
                type Request = std::collections::BTreeMap<String, RawJson>;
                assert!(serde_json::from_str::<Request>(&inside).is_err(), "{text}");
            }
            (got, expect) => panic!("{text}: {got:?}, not {expect:?}"),
        }
    }

    #[test]
    fn numbers() {
        for (text, form) in [
            ("0", "0"),
            ("-0", "0"),
            ("0e999999999999", "0"),
            ("9007199254740992", "9007199254740992"),
            ("-9007199254740992", "-9007199254740992"),
            ("0.1", "0.1"),
            ("1.10E+1", "11"),
            ("100e-2", "1"),
            ("5e-324", "5e-324"),
            ("0.30000000000000004", "0.30000000000000004"),
        ] {
            check(text, Ok(form));
        }
        for text in [
            "9007199254740993",
            "9007199254740994",
            "-18446744073709551616",
            "1e16",
            "1e400",
            "1e-400",
            "4e-324",
            "0.1000000000000000055511151231257827",
            "1e99999999999999999999999",
        ] {
            check(text, Err(("json_number", "\"\"")));
        }
    }

    #[test]
    fn texts() {
        check(
            " {\"b\": 1, \"a\" : [true,null,\"\\u0041\\/\"]}\n",
            Ok(r#"{"a":[true,null,"A/"],"b":1}"#),
        );
        check(r#""\ud83d\ude00""#, Ok("\"😀\""));
        // In the order of UTF-16, where a surrogate comes before the end of the basic plane.
        check(
            "{\"\u{e000}\":1,\"é\":2,\"😀\":3,\"z\":4}",
            Ok("{\"z\":4,\"é\":2,\"😀\":3,\"\u{e000}\":1}"),
        );
        check(r#"{"a":1,"\u0061":2}"#, Err(("json_duplicate_key", "\"/a\"")));
        check(r#"{"x":[0,{"a/b~":1,"a/b~":1}]}"#, Err(("json_duplicate_key", "/x/1/a~1b~0")));
        check(r#"{"a":{"b":[1,1e999]}}"#, Err(("json_number", "/a/b/1")));
        check(r#"["\ud800"]"#, Err(("json_lone_surrogate", "/0")));
        check(r#"["\ud800\u0041"]"#, Err(("json_lone_surrogate", "/0")));
        check(r#"["\udc00\ud800"]"#, Err(("json_lone_surrogate", "/0")));
        for text in ["", "01", "1.", ".5", "+1", "1e", "-", "NaN", "[1,]", "{\"a\":1,}", "{a:1}"] {
            check(text, Err(("json_syntax", "byte")));
        }
        for text in
            ["\"\n\"", "\"\\x\"", "\"\\u12g4\"", "\"", "[", "{\"a\"", "1 2", "tru", "\u{feff}1"]
        {
            check(text, Err(("json_syntax", "byte")));
        }
    }

    #[test]
    fn values_of_any_type() {
        #[derive(Serialize)]
        struct Inner {
            z: Option<u64>,
            #[serde(rename = "\n")]
            line: RawJson,
            a: (i64, f32, f64),
        }
        #[derive(Serialize)]
        enum Outer {
            Some { inner: Vec<Inner>, empty: std::collections::BTreeMap<u8, Inner> },
        }
        let line = RawJson::parse(r#"{"b":{"d":1,"c":[]},"a":2.50}"#).unwrap();
        let a = (i64::MIN, 0.5, f64::NAN);
        let value = Outer::Some {
            inner: vec![Inner { z: Some(u64::MAX), line, a }],
            empty: std::collections::BTreeMap::new(),
        };
        let form = String::from_utf8(canonical(&value).unwrap()).unwrap();
        let whole =
            r#"{"Some":{"empty":{},"inner":[{"\n":{"a":2.5,"b":{"c":[],"d":1}},"#.to_owned();
        let whole = whole + r#""a":[-9223372036854776000,0.5,null],"z":18446744073709552000}]}}"#;
        assert_eq!(form, whole);
        let numbered = std::collections::BTreeMap::from([(9, ()), (10, ())]);
        assert_eq!(canonical(&numbered).unwrap(), br#"{"10":null,"9":null}"#);
        assert_eq!(canonical(&(u128::MAX)).unwrap_err().code(), "json_not_canonical");
    }

    #[test]
    fn bounds() {
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(RawJson::parse(&nested(limits::JSON_DEPTH_MAX)).is_ok());
        check(&nested(limits::JSON_DEPTH_MAX + 1), Err(("json_too_deep", "/0/0")));
        let text = |bytes: usize| format!("\"{}\"", "a".repeat(bytes - 2));
        assert!(RawJson::parse(&text(limits::PARAMS_BYTES_MAX)).is_ok());
        check(&text(limits::PARAMS_BYTES_MAX + 1), Err(("json_too_long", "at most")));
    }

    /// Any value that Tally accepts, with its text written in a random order and spacing.
    fn values() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::Value;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-(1_i64 << 53)..=1 << 53).prop_map(Value::from),
            (-1e15..1e15).prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::btree_map(".{0,8}", inner, 0..8)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    /// Writes `value` with its keys backwards, spaces about, and strings escaped where possible.
    fn scramble(value: &serde_json::Value) -> String {
        use serde_json::Value;
        match value {
            Value::Array(items) => {
                let items: Vec<String> = items.iter().map(scramble).collect();
                format!("[ {} ]", items.join(" ,\n"))
            }
            Value::Object(map) => {
                let quote = |key: &String| scramble(&Value::from(key.as_str()));
                let members: Vec<String> = map
                    .iter()
                    .rev()
                    .map(|(k, v)| format!("{}\t: {}", quote(k), scramble(v)))
                    .collect();
                format!("{{\r\n{} }}", members.join(", "))
            }
            Value::String(text) => {
                let units: Vec<String> =
                    text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
                format!("\"{}\"", units.concat())
            }
            other => other.to_string(),
        }
    }

    #[test]
    fn what_is_only_shown_has_larger_numbers() {
        let shown = |text: &str| RawJson::result(RawValue::from_string(text.to_owned()).unwrap());
        let wide = r#"{"maximum":9223372036854775807,"id":18446744073709551615,"x":1.5e300}"#;
        assert_eq!(shown(wide).unwrap().as_str(), wide);
        assert_eq!(RawJson::parse(wide).unwrap_err().code(), "json_number");
        // What has it as a value has a canonical form.
        assert!(canonical(&shown(wide).unwrap().to_value()).is_ok());
        assert_eq!(shown(r#"{"a":1,"a":2}"#).unwrap_err().code(), "json_duplicate_key");
        assert_eq!(shown("1e999").unwrap_err().code(), "json_number");
    }

    proptest! {
        #[test]
        fn canonical_form_depends_on_the_value_alone(value in values()) {
            let plain = RawJson::parse(&value.to_string()).unwrap();
            let form = canonical(&plain).unwrap();
            let scrambled = RawJson::parse(&scramble(&value)).unwrap();
            prop_assert_eq!(&canonical(&scrambled).unwrap(), &form);
            let again = RawJson::parse(std::str::from_utf8(&form).unwrap()).unwrap();
            prop_assert_eq!(&canonical(&again).unwrap(), &form);
            prop_assert_eq!(plain.to_value(), value);
        }

        #[test]
        fn canonical_form_is_that_of_another_implementation(value in values()) {
            let theirs = serde_json_canonicalizer::to_vec(&value).unwrap();
            prop_assert_eq!(canonical(&value).unwrap(), theirs);
        }

        #[test]
        fn accepts_no_more_than_serde_json(text in r#"[\[\]{}:,"\\u0-9a-fA-F.+\- \n]{0,24}"#) {
            if let Ok(raw) = RawJson::parse(&text) {
                let value: serde_json::Value = serde_json::from_str(&text).unwrap();
                prop_assert_eq!(value, raw.to_value());
            }
        }
    }
}
