//! `sysparm_query`: which records, and in which order.

use super::records::{Record, field};

/// What a field is held against.
type Test = fn(&str, &str) -> bool;

/// Operators, those first that begin with another.
const OPERATORS: [(&str, Test); 9] = [
    ("ISNOTEMPTY", |has, _| !has.is_empty()),
    ("ISEMPTY", |has, _| has.is_empty()),
    ("STARTSWITH", |has, given| has.starts_with(given)),
    ("LIKE", |has, given| has.contains(given)),
    ("IN", |has, given| given.split(',').any(|one| one == has)),
    ("!=", |has, given| has != given),
    (">=", |has, given| has >= given),
    ("<=", |has, given| has <= given),
    ("=", |has, given| has == given),
];

/// A query: alternatives of conditions that must all hold.
pub(super) struct Query {
    all: Vec<Vec<Condition>>,
    order: Option<(String, bool)>,
}

struct Condition {
    field: String,
    test: Test,
    value: String,
}

impl Condition {
    fn parse(text: &str) -> Option<Self> {
        let ends = |c: char| !(c.is_ascii_lowercase() || c == '_' || c == '.' || c.is_numeric());
        let (field, rest) = text.split_at_checked(text.find(ends)?)?;
        let found =
            OPERATORS.iter().find_map(|(name, test)| Some((rest.strip_prefix(name)?, test)));
        let (value, test) = found.filter(|_| !field.is_empty())?;
        Some(Self { field: field.to_owned(), test: *test, value: value.to_owned() })
    }

    fn holds(&self, record: &Record) -> bool {
        (self.test)(field(record, &self.field), &self.value)
    }
}

impl Query {
    /// Reads a query. ServiceNow passes over what it does not understand; this refuses it, so that
    /// nobody relies on it. The error is the part.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut query = Self { all: Vec::new(), order: None };
        for part in text.split('^').filter(|part| !part.is_empty() && *part != "EQ") {
            if let Some(name) = part.strip_prefix("ORDERBYDESC") {
                query.order = Some((name.to_owned(), true));
                continue;
            }
            if let Some(name) = part.strip_prefix("ORDERBY") {
                query.order = Some((name.to_owned(), false));
                continue;
            }
            let refused = || part.to_owned();
            match part.strip_prefix("OR").filter(|rest| !rest.starts_with(char::is_uppercase)) {
                Some(other) => {
                    let other = Condition::parse(other).ok_or_else(refused)?;
                    query.all.last_mut().ok_or_else(refused)?.push(other);
                }
                None => query.all.push(vec![Condition::parse(part).ok_or_else(refused)?]),
            }
        }
        Ok(query)
    }

    /// The records that it names.
    pub(super) fn select<'a>(&self, records: &'a [Record]) -> Vec<&'a Record> {
        let fits = |record: &&Record| {
            self.all.iter().all(|any| any.iter().any(|condition| condition.holds(record)))
        };
        let mut selected: Vec<_> = records.iter().filter(fits).collect();
        if let Some((name, descending)) = &self.order {
            selected.sort_by(|a, b| field(a, name).cmp(field(b, name)));
            if *descending {
                selected.reverse();
            }
        }
        selected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: &str, priority: &str, text: &str) -> Record {
        let fields = [("number", number), ("priority", priority), ("short_description", text)];
        fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    #[test]
    fn queries_select_and_sort() {
        let records = [
            record("INC1", "5", "mail is slow"),
            record("INC2", "1", ""),
            record("INC3", "3", "no network"),
        ];
        for (query, expect) in [
            ("", "INC1 INC2 INC3"),
            ("number=INC2", "INC2"),
            ("priority!=5^ORDERBYDESCnumber", "INC3 INC2"),
            ("number=INC1^ORnumber=INC3", "INC1 INC3"),
            ("number=INC1^ORnumber=INC3^priority=3", "INC3"),
            ("short_descriptionLIKEnetwork", "INC3"),
            ("short_descriptionISEMPTY", "INC2"),
            ("numberINinc1,INC2,INC3^ORDERBYpriority", "INC2 INC3"),
            ("priority>=3^EQ", "INC1 INC3"),
            ("numberSTARTSWITHX", ""),
        ] {
            let selected = Query::parse(query).ok().unwrap().select(&records);
            let numbers: Vec<_> = selected.iter().map(|one| field(one, "number")).collect();
            assert_eq!(numbers.join(" "), expect, "{query}");
        }
        for refused in ["number", "numberBETWEEN1", "^ORnumber=1", "=1x^y"] {
            assert!(Query::parse(refused).is_err(), "{refused}");
        }
    }
}
