//! The tables. As in ServiceNow every value is a text, and a reference is the `sys_id` of another
//! record.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use proto::wire::Timestamp;
use serde::Serialize;

use super::script::Script;
use crate::commands::dev::post::{hex, now_s};

pub(super) const INCIDENT: &str = "incident";
pub(super) const JOURNAL: &str = "sys_journal_field";
pub(super) const GROUP: &str = "sys_user_group";
pub(super) const USER: &str = "sys_user";

/// The journals of an incident: what is written into them adds to them.
pub(super) const JOURNALS: [&str; 2] = ["work_notes", "comments"];
/// Fields that refer to another record, and to which table.
pub(super) const REFERENCES: [(&str, &str); 3] =
    [("assignment_group", GROUP), ("assigned_to", USER), ("caller_id", USER)];
/// Fields that only the system writes.
const SYSTEM: &str = "sys_";
/// What an incident has, besides what the system writes, and with which value it begins.
const FIELDS: [(&str, &str); 18] = [
    ("active", "true"),
    ("assigned_to", ""),
    ("assignment_group", ""),
    ("caller_id", ""),
    ("category", "inquiry"),
    ("close_code", ""),
    ("close_notes", ""),
    ("comments", ""),
    ("contact_type", ""),
    ("description", ""),
    ("impact", "3"),
    ("number", ""),
    ("priority", "5"),
    ("short_description", ""),
    ("state", "1"),
    ("subcategory", ""),
    ("urgency", "3"),
    ("work_notes", ""),
];
/// The number of the first incident.
const FIRST: u64 = 10_001;

/// A record.
pub(super) type Record = BTreeMap<String, String>;

/// One field that a call changed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Change {
    pub(super) at: String,
    pub(super) by: String,
    pub(super) number: String,
    pub(super) sys_id: String,
    pub(super) field: String,
    pub(super) from: String,
    pub(super) to: String,
}

/// Everything that there is.
#[derive(Debug)]
pub(super) struct Records {
    tables: BTreeMap<&'static str, Vec<Record>>,
    /// Where each incident is in its table, by `sys_id`.
    incidents: BTreeMap<String, usize>,
    /// What was changed after it was created, in order.
    pub(super) changes: Vec<Change>,
}

/// A time as ServiceNow writes it.
pub(super) fn now() -> String {
    let seconds = i64::try_from(now_s()).unwrap_or(i64::MAX);
    let time = Timestamp { seconds, nanos: 0 }.to_string();
    time.get(..19).unwrap_or_default().replace('T', " ")
}

/// An id of 32 hex digits: the same each time for the same name.
fn sys_id(table: &str, name: &str) -> String {
    let digest = digest::digest(&digest::SHA256, format!("{table}:{name}").as_bytes());
    hex(digest.as_ref().get(..16).unwrap_or_default())
}

/// A record that has a name.
fn named(sys_id: &str, name: &str) -> Record {
    let fields = [("sys_id", sys_id), ("name", name), ("user_name", name)];
    fields.map(|(field, value)| (field.to_owned(), value.to_owned())).into()
}

impl Records {
    pub(super) fn new(script: &Script) -> Self {
        let groups = script.groups.iter().map(|group| named(&group.sys_id, &group.name));
        let users = script.users.iter().map(|user| named(&sys_id(USER, &user.name), &user.name));
        let tables = BTreeMap::from([
            (INCIDENT, Vec::new()),
            (JOURNAL, Vec::new()),
            (GROUP, groups.collect()),
            (USER, users.collect()),
        ]);
        let mut records = Self { tables, incidents: BTreeMap::new(), changes: Vec::new() };
        for incident in &script.incidents {
            records.create(incident, "system");
        }
        records
    }

    /// All records of a table; none where there is no such table.
    pub(super) fn table(&self, name: &str) -> Option<&[Record]> {
        self.tables.get(name).map(Vec::as_slice)
    }

    /// One record.
    pub(super) fn find(&self, table: &str, sys_id: &str) -> Option<&Record> {
        let records = self.tables.get(table)?;
        if table == INCIDENT {
            return records.get(*self.incidents.get(sys_id)?);
        }
        records.iter().find(|record| field(record, "sys_id") == sys_id)
    }

    /// The `sys_id` of the record that people call `name`.
    pub(super) fn by_name(&self, table: &str, name: &str) -> Option<&str> {
        let mut records = self.tables.get(table)?.iter();
        Some(field(records.find(|record| field(record, "name") == name)?, "sys_id"))
    }

    /// Creates an incident. What it has not got is left out, as the Table API does.
    pub(super) fn create(&mut self, given: &BTreeMap<String, String>, by: &str) -> Record {
        let at = self.incidents.len();
        let number = FIRST + u64::try_from(at).unwrap_or(u64::MAX);
        let number = format!("INC{number:07}");
        let id = sys_id(INCIDENT, &number);
        let now = now();
        let mut record: Record =
            FIELDS.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        for (name, value) in given {
            if let Some(own) = record.get_mut(name) {
                own.clone_from(value);
            }
        }
        for (name, value) in [
            ("number", number.as_str()),
            ("sys_id", &id),
            ("sys_class_name", INCIDENT),
            ("opened_at", &now),
            ("sys_created_on", &now),
            ("sys_created_by", by),
            ("sys_updated_on", &now),
            ("sys_updated_by", by),
            ("sys_mod_count", "0"),
        ] {
            record.insert(name.to_owned(), value.to_owned());
        }
        for journal in JOURNALS {
            let text = record.insert(journal.to_owned(), String::new()).unwrap_or_default();
            self.note(&id, journal, &text, by);
        }
        self.incidents.insert(id, at);
        self.tables.entry(INCIDENT).or_default().push(record.clone());
        record
    }

    /// Changes an incident and returns it. What changes nothing counts for nothing.
    pub(super) fn change(
        &mut self,
        sys_id: &str,
        given: &BTreeMap<String, String>,
        by: &str,
    ) -> Option<Record> {
        let mut record = self.find(INCIDENT, sys_id)?.clone();
        let number = field(&record, "number").to_owned();
        let mut changes = Vec::new();
        let at = now();
        for (name, value) in given {
            let Some(own) = record.get_mut(name) else { continue };
            let same = own == value || (JOURNALS.contains(&name.as_str()) && value.is_empty());
            if name.starts_with(SYSTEM) || name == "number" || same {
                continue;
            }
            changes.push(Change {
                at: at.clone(),
                by: by.to_owned(),
                number: number.clone(),
                sys_id: sys_id.to_owned(),
                field: name.clone(),
                from: own.clone(),
                to: value.clone(),
            });
            match JOURNALS.iter().find(|journal| *journal == name) {
                Some(journal) => self.note(sys_id, journal, value, by),
                None => own.clone_from(value),
            }
        }
        if !changes.is_empty() {
            let count = field(&record, "sys_mod_count").parse::<u64>().unwrap_or(0) + 1;
            record.insert("sys_mod_count".to_owned(), count.to_string());
            record.insert("sys_updated_on".to_owned(), at);
            record.insert("sys_updated_by".to_owned(), by.to_owned());
            self.changes.append(&mut changes);
        }
        let place = *self.incidents.get(sys_id)?;
        self.tables.get_mut(INCIDENT)?.get_mut(place)?.clone_from(&record);
        Some(record)
    }

    /// Adds to a journal.
    fn note(&mut self, id: &str, journal: &str, text: &str, by: &str) {
        if text.is_empty() {
            return;
        }
        let entries = self.tables.entry(JOURNAL).or_default();
        let fields = [
            ("sys_id", sys_id(JOURNAL, &entries.len().to_string())),
            ("name", INCIDENT.to_owned()),
            ("element", journal.to_owned()),
            ("element_id", id.to_owned()),
            ("value", text.to_owned()),
            ("sys_created_on", now()),
            ("sys_created_by", by.to_owned()),
        ];
        entries.push(fields.map(|(name, value)| (name.to_owned(), value)).into());
    }
}

/// A field of a record; empty where it has none.
pub(super) fn field<'a>(record: &'a Record, name: &str) -> &'a str {
    record.get(name).map_or("", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn only_what_changes_counts() {
        let mut records = Records::new(&Script::sample());
        let made = records.create(&given(&[("short_description", "x"), ("nothing", "y")]), "ada");
        let id = field(&made, "sys_id").to_owned();
        assert_eq!((field(&made, "number"), field(&made, "nothing")), ("INC0010001", ""));
        let same = records.change(&id, &given(&[("priority", "5")]), "bob").unwrap();
        assert_eq!(field(&same, "sys_mod_count"), "0");
        let change = given(&[("priority", "2"), ("sys_id", "0"), ("number", "1"), ("none", "1")]);
        let changed = records.change(&id, &change, "bob").unwrap();
        assert_eq!(field(&changed, "sys_mod_count"), "1");
        assert_eq!(field(&changed, "sys_updated_by"), "bob");
        let [Change { field: name, from, to, .. }] = &records.changes[..] else { panic!() };
        assert_eq!((name.as_str(), from.as_str(), to.as_str()), ("priority", "5", "2"));
        assert!(records.change("0", &change, "bob").is_none());
    }

    #[test]
    fn a_note_adds_to_the_journal_and_stays_out_of_the_record() {
        let mut records = Records::new(&Script::sample());
        let id = field(&records.create(&given(&[]), "ada"), "sys_id").to_owned();
        for text in ["one", "", "one"] {
            let noted = records.change(&id, &given(&[("work_notes", text)]), "bob").unwrap();
            assert_eq!(field(&noted, "work_notes"), "");
        }
        let notes = records.table(JOURNAL).unwrap();
        assert_eq!(notes.iter().map(|n| field(n, "value")).collect::<Vec<_>>(), ["one", "one"]);
        assert_eq!(field(records.find(INCIDENT, &id).unwrap(), "sys_mod_count"), "2");
    }
}
