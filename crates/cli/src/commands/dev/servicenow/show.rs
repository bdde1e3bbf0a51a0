//! Records as the Table API shows and takes them: values, what people see of them, or both.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::records::{INCIDENT, JOURNAL, JOURNALS, REFERENCES, Record, Records, field};
use crate::commands::dev::site::Asked;

/// What people see of a value, where it is not the value.
const CHOICES: [(&str, &str, &str); 20] = [
    ("priority", "1", "1 - Critical"),
    ("priority", "2", "2 - High"),
    ("priority", "3", "3 - Moderate"),
    ("priority", "4", "4 - Low"),
    ("priority", "5", "5 - Planning"),
    ("impact", "1", "1 - High"),
    ("impact", "2", "2 - Medium"),
    ("impact", "3", "3 - Low"),
    ("urgency", "1", "1 - High"),
    ("urgency", "2", "2 - Medium"),
    ("urgency", "3", "3 - Low"),
    ("state", "1", "New"),
    ("state", "2", "In Progress"),
    ("state", "3", "On Hold"),
    ("state", "6", "Resolved"),
    ("category", "inquiry", "Inquiry / Help"),
    ("category", "software", "Software"),
    ("category", "hardware", "Hardware"),
    ("category", "network", "Network"),
    ("category", "database", "Database"),
];

/// Which form values have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Values,
    Displayed,
    Both,
}

/// How a call wants records.
#[derive(Debug)]
pub(super) struct View<'a> {
    form: Form,
    /// Whether a reference is its value and nothing more.
    bare: bool,
    fields: Option<Vec<&'a str>>,
    /// Where the instance is.
    base: &'a str,
}

impl<'a> View<'a> {
    pub(super) fn of(asked: &'a Asked, base: &'a str) -> Self {
        let form = match asked.parameter("sysparm_display_value") {
            Some("true") => Form::Displayed,
            Some("all") => Form::Both,
            _ => Form::Values,
        };
        let fields = asked.parameter("sysparm_fields").filter(|fields| !fields.is_empty());
        Self {
            form,
            bare: asked.parameter("sysparm_exclude_reference_link") == Some("true"),
            fields: fields.map(|fields| fields.split(',').map(str::trim).collect()),
            base,
        }
    }

    /// A record in the form that is wanted.
    pub(super) fn show(&self, records: &Records, table: &str, record: &Record) -> Value {
        let path = |name: &str| Some((name.to_owned(), self.path(records, record, name)?));
        let mut shown: Map<String, Value> = match &self.fields {
            Some(fields) => fields.iter().filter_map(|name| path(name)).collect(),
            None => record.keys().filter_map(|name| path(name)).collect(),
        };
        if table == INCIDENT && self.form == Form::Displayed {
            for journal in JOURNALS {
                if let Some(own) = shown.get_mut(journal) {
                    *own = json!(transcript(records, field(record, "sys_id"), journal));
                }
            }
        }
        Value::Object(shown)
    }

    /// A field, or with a dot one of the record that it refers to.
    fn path(&self, records: &Records, record: &Record, path: &str) -> Option<Value> {
        let Some((own, theirs)) = path.split_once('.') else {
            record.get(path)?;
            return Some(self.value(records, record, path));
        };
        let (_, table) = REFERENCES.iter().find(|(name, _)| *name == own)?;
        match records.find(table, field(record, own)) {
            Some(other) => Some(self.value(records, other, theirs)),
            None => Some(json!("")),
        }
    }

    fn value(&self, records: &Records, record: &Record, name: &str) -> Value {
        let value = field(record, name);
        let reference = REFERENCES.iter().find(|(own, _)| *own == name && !value.is_empty());
        let shown = display(records, name, value);
        let link =
            reference.map(|(_, table)| format!("{}/api/now/table/{table}/{value}", self.base));
        match (self.form, link.filter(|_| !self.bare)) {
            (Form::Values, None) => json!(value),
            (Form::Values, Some(link)) => json!({"link": link, "value": value}),
            (Form::Displayed, None) => json!(shown),
            (Form::Displayed, Some(link)) => json!({"display_value": shown, "link": link}),
            (Form::Both, None) => json!({"display_value": shown, "value": value}),
            (Form::Both, Some(link)) => {
                json!({"display_value": shown, "link": link, "value": value})
            }
        }
    }
}

/// What people see of a value.
fn display(records: &Records, name: &str, value: &str) -> String {
    if let Some((_, table)) = REFERENCES.iter().find(|(own, _)| *own == name) {
        let other = records.find(table, value);
        return other.map_or(value, |other| field(other, "name")).to_owned();
    }
    let choice = CHOICES.iter().find(|(field, own, _)| *field == name && *own == value);
    choice.map_or(value, |(_, _, shown)| shown).to_owned()
}

/// A journal as people see it: the newest entry first.
fn transcript(records: &Records, sys_id: &str, journal: &str) -> String {
    let entries = records.table(JOURNAL).unwrap_or_default().iter().rev();
    let own = entries
        .filter(|entry| field(entry, "element_id") == sys_id && field(entry, "element") == journal);
    let one = |entry: &Record| {
        let name = if journal == "work_notes" { "Work notes" } else { "Additional comments" };
        let (at, by) = (field(entry, "sys_created_on"), field(entry, "sys_created_by"));
        format!("{at} - {by} ({name})\n{}\n\n", field(entry, "value"))
    };
    own.map(one).collect()
}

/// What a call wants to write, as the values that are kept. The error is a sentence.
pub(super) fn given(asked: &Asked, records: &Records) -> Result<BTreeMap<String, String>, String> {
    let body: Map<String, Value> = asked.json()?;
    let displayed = asked.parameter("sysparm_input_display_value") == Some("true");
    let mut given = BTreeMap::new();
    for (name, value) in body {
        let value = match value {
            Value::String(text) => text,
            Value::Null => String::new(),
            Value::Object(members) => {
                let inner = members.get("value").and_then(Value::as_str).unwrap_or_default();
                inner.to_owned()
            }
            other => other.to_string(),
        };
        let kept = if displayed { undisplay(records, &name, &value) } else { value };
        given.insert(name, kept);
    }
    Ok(given)
}

/// The value that people see as `shown`.
fn undisplay(records: &Records, name: &str, shown: &str) -> String {
    if let Some((_, table)) = REFERENCES.iter().find(|(own, _)| *own == name) {
        return records.by_name(table, shown).unwrap_or(shown).to_owned();
    }
    let choice = CHOICES.iter().find(|(field, _, text)| *field == name && *text == shown);
    choice.map_or(shown, |(_, value, _)| value).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::dev::servicenow::Script;
    use hyper::{HeaderMap, Method};

    fn asked(query: &[(&str, &str)], body: &str) -> Asked {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Asked {
            method: Method::GET,
            path: String::new(),
            query: query.iter().map(pair).collect(),
            headers: HeaderMap::new(),
            body: body.to_owned().into(),
        }
    }

    #[test]
    fn values_are_shown_as_they_are_asked_for() {
        let mut records = Records::new(&Script::sample());
        let written = asked(
            &[("sysparm_input_display_value", "true")],
            r#"{"assignment_group": "Network", "priority": "2 - High", "impact": 1}"#,
        );
        let record = records.create(&given(&written, &records).unwrap(), "ada");
        let group = field(&record, "assignment_group").to_owned();
        let link = format!("http://sim/api/now/table/sys_user_group/{group}");
        let fields = "priority,assignment_group,assignment_group.name,nothing";
        for (more, expect) in [
            (
                vec![],
                json!({"priority": "2", "assignment_group": {"link": link, "value": group},
                    "assignment_group.name": "Network"}),
            ),
            (
                vec![("sysparm_exclude_reference_link", "true")],
                json!({"priority": "2", "assignment_group": group,
                    "assignment_group.name": "Network"}),
            ),
            (
                vec![("sysparm_display_value", "true"), ("sysparm_exclude_reference_link", "true")],
                json!({"priority": "2 - High", "assignment_group": "Network",
                    "assignment_group.name": "Network"}),
            ),
        ] {
            let mut query = vec![("sysparm_fields", fields)];
            query.extend(more);
            let asked = asked(&query, "");
            let shown = View::of(&asked, "http://sim").show(&records, INCIDENT, &record);
            assert_eq!(shown, expect);
        }
        let both = asked(&[("sysparm_display_value", "all"), ("sysparm_fields", "priority")], "");
        let shown = View::of(&both, "http://sim").show(&records, INCIDENT, &record);
        assert_eq!(shown["priority"], json!({"display_value": "2 - High", "value": "2"}));
    }

    #[test]
    fn a_body_that_is_no_object_is_refused() {
        let records = Records::new(&Script::sample());
        for body in ["", "[]", "1", "{"] {
            assert!(given(&asked(&[], body), &records).is_err(), "{body}");
        }
    }
}
