//! What actions use besides money, in units that can be counted and bounded.

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Tokens that a model read and wrote.
    Tokens,
    /// Attempts at actions.
    Calls,
    /// Attempts that change something.
    Writes,
    /// Milliseconds in which code ran.
    CpuMs,
}

impl Unit {
    /// Every unit, in the order in which they are told.
    pub const ALL: [Self; 4] = [Self::Tokens, Self::Calls, Self::Writes, Self::CpuMs];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Calls => "calls",
            Self::Writes => "writes",
            Self::CpuMs => "cpu_ms",
        }
    }

    /// The unit of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|unit| unit.as_str() == name)
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// So much of each unit: a map from unit to number. What is not in it is nothing, so nothing is
/// never written down.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Units {
    tokens: u64,
    calls: u64,
    writes: u64,
    cpu_ms: u64,
}

impl Units {
    /// Nothing.
    pub const NONE: Self = Self { tokens: 0, calls: 0, writes: 0, cpu_ms: 0 };

    /// So much of one unit.
    pub fn of(unit: Unit, amount: u64) -> Self {
        Self::NONE.with(unit, amount)
    }

    /// One attempt at a call with such labels, without what only the tool can tell.
    pub fn of_call(labels: &BTreeSet<String>) -> Self {
        let writes = u64::from(labels.contains("write"));
        Self { calls: 1, writes, ..Self::NONE }
    }

    /// This with so much of one unit in place of what there was.
    #[must_use]
    pub fn with(mut self, unit: Unit, amount: u64) -> Self {
        *self.slot(unit) = amount;
        self
    }

    fn slot(&mut self, unit: Unit) -> &mut u64 {
        match unit {
            Unit::Tokens => &mut self.tokens,
            Unit::Calls => &mut self.calls,
            Unit::Writes => &mut self.writes,
            Unit::CpuMs => &mut self.cpu_ms,
        }
    }

    /// How much of one unit.
    pub fn get(&self, unit: Unit) -> u64 {
        match unit {
            Unit::Tokens => self.tokens,
            Unit::Calls => self.calls,
            Unit::Writes => self.writes,
            Unit::CpuMs => self.cpu_ms,
        }
    }

    /// Whether it is nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::NONE
    }

    /// What there is, in the order of the units.
    pub fn iter(&self) -> impl Iterator<Item = (Unit, u64)> {
        let units = *self;
        Unit::ALL.into_iter().map(move |unit| (unit, units.get(unit))).filter(|(_, n)| *n > 0)
    }

    /// Of these, only those units.
    #[must_use]
    pub fn only(&self, units: &BTreeSet<Unit>) -> Self {
        self.iter().filter(|(unit, _)| units.contains(unit)).collect()
    }

    /// Of these, all but those units.
    #[must_use]
    pub fn only_not(&self, units: &BTreeSet<Unit>) -> Self {
        self.iter().filter(|(unit, _)| !units.contains(unit)).collect()
    }

    fn zip(&self, other: &Self, by: impl Fn(u64, u64) -> u64) -> Self {
        Self::try_zip(self, other, |a, b| Some(by(a, b))).unwrap_or_default()
    }

    fn try_zip(&self, other: &Self, by: impl Fn(u64, u64) -> Option<u64>) -> Option<Self> {
        let of = |unit| by(self.get(unit), other.get(unit));
        Some(Self {
            tokens: of(Unit::Tokens)?,
            calls: of(Unit::Calls)?,
            writes: of(Unit::Writes)?,
            cpu_ms: of(Unit::CpuMs)?,
        })
    }

    /// Both together, if that can be counted.
    pub fn checked_add(&self, more: &Self) -> Option<Self> {
        self.try_zip(more, u64::checked_add)
    }

    /// This less that, if there is as much of each unit.
    pub fn checked_sub(&self, less: &Self) -> Option<Self> {
        self.try_zip(less, u64::checked_sub)
    }

    /// Both together, as far as can be counted.
    #[must_use]
    pub fn saturating_add(&self, more: &Self) -> Self {
        self.zip(more, u64::saturating_add)
    }

    /// This less that, down to nothing.
    #[must_use]
    pub fn saturating_sub(&self, less: &Self) -> Self {
        self.zip(less, u64::saturating_sub)
    }

    /// Of each unit at most as much as there.
    #[must_use]
    pub fn min(&self, most: &Self) -> Self {
        self.zip(most, u64::min)
    }
}

impl fmt::Debug for Units {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl FromIterator<(Unit, u64)> for Units {
    /// What is told twice counts once: the last.
    fn from_iter<T: IntoIterator<Item = (Unit, u64)>>(told: T) -> Self {
        told.into_iter().fold(Self::NONE, |units, (unit, amount)| units.with(unit, amount))
    }
}

impl Serialize for Units {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.iter().count()))?;
        for (unit, amount) in self.iter() {
            map.serialize_entry(unit.as_str(), &amount)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Units {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Told;
        impl<'de> Visitor<'de> for Told {
            type Value = Units;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of units and whole numbers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Units, A::Error> {
                let mut units = Units::NONE;
                let mut seen = BTreeSet::new();
                while let Some((unit, amount)) = map.next_entry::<Unit, u64>()? {
                    if !seen.insert(unit) {
                        return Err(A::Error::custom(format!("`{unit}` is told twice")));
                    }
                    units = units.with(unit, amount);
                }
                Ok(units)
            }
        }
        deserializer.deserialize_map(Told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_a_map_without_nothings() {
        let units: Units =
            [(Unit::CpuMs, 7), (Unit::Tokens, 2), (Unit::Calls, 0)].into_iter().collect();
        let text = r#"{"tokens":2,"cpu_ms":7}"#;
        assert_eq!(serde_json::to_string(&units).unwrap(), text);
        assert_eq!(serde_json::from_str::<Units>(text).unwrap(), units);
        assert_eq!(serde_json::to_string(&Units::NONE).unwrap(), "{}");
        for wrong in [r#"{"miles":1}"#, r#"{"calls":-1}"#, r#"{"calls":1,"calls":1}"#, "3"] {
            assert!(serde_json::from_str::<Units>(wrong).is_err(), "{wrong}");
        }
        for unit in Unit::ALL {
            assert_eq!(Unit::parse(unit.as_str()), Some(unit));
        }
    }

    #[test]
    fn units_are_added_one_by_one() {
        let (one, two) = (Units::of(Unit::Tokens, 5), Units::of(Unit::Writes, 1));
        let both = one.checked_add(&two).unwrap();
        assert_eq!((both.get(Unit::Tokens), both.get(Unit::Writes)), (5, 1));
        assert_eq!(both.checked_sub(&two), Some(one));
        assert_eq!(one.checked_sub(&two), None);
        assert_eq!(one.saturating_sub(&both), Units::NONE);
        assert_eq!(Units::of(Unit::Calls, u64::MAX).checked_add(&Units::of(Unit::Calls, 1)), None);
        assert!(both.min(&one) == one && !both.is_empty());
    }
}
