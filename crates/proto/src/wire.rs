//! Wire types written by hand: JSON in place, and times that print with Z.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::value::RawValue;
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

/// Microseconds in a second.
const MICROS: i64 = 1_000_000;
/// Nanoseconds in a microsecond.
const NANOS_PER_MICRO: i32 = 1_000;

/// Any JSON value. As JSON it is the value itself, in place, its text kept byte for byte; as
/// protobuf it is `message Json { string text = 1; }`. An empty text stands for no value.
///
/// Works only through `serde_json` directly (not through `serde_json::Value`), because it keeps
/// the text.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Json {
    /// The text of one JSON value.
    #[prost(string, tag = "1")]
    pub text: String,
}

impl Json {
    /// Takes the text as it is, after checking that it is one JSON value.
    ///
    /// # Errors
    /// What serde_json says when it is not.
    pub fn new(text: impl Into<String>) -> Result<Self, serde_json::Error> {
        let text = text.into();
        serde_json::from_str::<&RawValue>(&text)?;
        Ok(Self { text })
    }

    /// The compact text of a value.
    ///
    /// # Errors
    /// What serde_json says when the value has no JSON form.
    pub fn of(value: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self { text: serde_json::to_string(value)? })
    }

    /// Decodes the value.
    ///
    /// # Errors
    /// What serde_json says when the text is not a `T`.
    pub fn decode<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.text)
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = if self.text.is_empty() { "null" } else { &self.text };
        let raw: &RawValue = serde_json::from_str(text).map_err(ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Self { text: Box::<str>::from(raw).into_string() })
    }
}

/// A point in time, to the microsecond. As JSON `2026-01-02T03:04:05.000006Z`; as protobuf it is
/// `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Message)]
pub struct Timestamp {
    /// Whole seconds since 1970-01-01T00:00:00Z.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Nanoseconds after that, from 0 to 999,999,999.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl Timestamp {
    /// From microseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn from_micros(micros: i64) -> Self {
        let nanos = i32::try_from(micros.rem_euclid(MICROS)).unwrap_or(0) * NANOS_PER_MICRO;
        Self { seconds: micros.div_euclid(MICROS), nanos }
    }

    /// Microseconds since 1970-01-01T00:00:00Z; a time that i64 cannot hold saturates.
    #[must_use]
    pub fn micros(&self) -> i64 {
        let whole = self.seconds.saturating_mul(MICROS);
        whole.saturating_add(i64::from(self.nanos / NANOS_PER_MICRO))
    }
}

impl fmt::Display for Timestamp {
    /// A time outside the years that RFC 3339 can write prints as its seconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(date) = OffsetDateTime::from_unix_timestamp(self.seconds) else {
            return write!(f, "{}s", self.seconds);
        };
        let (hour, minute, second) = date.to_hms();
        let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        write!(f, ".{:06}Z", self.nanos / NANOS_PER_MICRO)
    }
}

impl FromStr for Timestamp {
    type Err = time::error::Parse;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let date = OffsetDateTime::parse(text, &Rfc3339)?.to_offset(UtcOffset::UTC);
        let nanos = i32::try_from(date.microsecond()).unwrap_or(0) * NANOS_PER_MICRO;
        Ok(Self { seconds: date.unix_timestamp(), nanos })
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match OffsetDateTime::from_unix_timestamp(self.seconds) {
            Ok(date) if (0..=9_999).contains(&date.year()) => serializer.collect_str(self),
            _ => Err(ser::Error::custom(format!("{self} is no time that RFC 3339 can write"))),
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let named = |error| de::Error::custom(format!("write the time as RFC 3339: {error}"));
        text.parse().map_err(named)
    }
}
