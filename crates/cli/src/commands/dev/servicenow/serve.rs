//! The instance over HTTP.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::access::Access;
use super::query::Query;
use super::records::{INCIDENT, JOURNAL, Records, field};
use super::rule::Rule;
use super::script::{Script, Webhook};
use super::show::{View, given};
use crate::commands::dev::fault::{Fault, Faults};
use crate::commands::dev::locked;
use crate::commands::dev::post::now_us;
use crate::commands::dev::site::{Answer, Asked, Site, pause};

/// Where the Table API is.
const TABLES: &str = "/api/now/table/";
/// Where the simulator itself is asked and told.
const CONTROL: &str = "/simulator/";
/// Records of a list where a call does not say.
const PAGE: usize = 10_000;
/// Calls that are remembered.
const KEPT: usize = 100_000;

/// A call that came.
#[derive(Clone, Debug, Serialize)]
struct Call {
    method: String,
    path: String,
    user: Option<String>,
    /// The status that it was answered with; 0 where the connection broke.
    status: u16,
}

/// When something happened to an incident, in microseconds since 1970.
#[derive(Clone, Debug, Default, Serialize)]
struct Times {
    created_us: u64,
    /// The first change of a field.
    written_us: Option<u64>,
    /// The first work note.
    noted_us: Option<u64>,
}

/// The instance.
#[derive(Debug)]
pub(super) struct Instance {
    base: String,
    access: Access,
    records: Mutex<Records>,
    rule: Arc<Rule>,
    faults: Faults,
    calls: Mutex<Vec<Call>>,
    times: Mutex<BTreeMap<String, Times>>,
    latency_ms: u64,
    logs: bool,
}

impl Instance {
    pub(super) fn new(script: Script, address: &str, logs: bool) -> anyhow::Result<Arc<Self>> {
        let records = Mutex::new(Records::new(&script));
        let faults = Faults::default();
        faults.replace(script.faults);
        Ok(Arc::new(Self {
            base: format!("http://{address}"),
            access: Access::new(script.users, script.clients, script.token_ttl_s),
            records,
            rule: Rule::new(script.webhook),
            faults,
            calls: Mutex::default(),
            times: Mutex::default(),
            latency_ms: script.latency_ms,
            logs,
        }))
    }

    /// What the simulator itself is asked. There is no password: it is of this machine alone.
    fn control(&self, asked: &Asked, name: &str) -> Answer {
        match (&asked.method, name) {
            (&Method::GET, "state") => Answer::json(&self.state()),
            (&Method::GET, "times") => Answer::json(&json!(*locked(&self.times))),
            (&Method::POST, "faults") => match asked.json::<Vec<Fault>>() {
                Ok(faults) => {
                    self.faults.replace(faults);
                    done()
                }
                Err(error) => failed(400, "Bad request", &error),
            },
            (&Method::POST, "webhook") => match asked.json::<Option<Webhook>>() {
                Ok(webhook) => {
                    self.rule.set(webhook);
                    done()
                }
                Err(error) => failed(400, "Bad request", &error),
            },
            (&Method::POST, "announce") => self.announce(asked),
            (&Method::POST, "revoke") => {
                self.access.revoke();
                done()
            }
            _ => failed(404, "The simulator has nothing here", "see docs/guide/itsm.md"),
        }
    }

    /// Has the rule tell of an incident once more, as the same event.
    fn announce(&self, asked: &Asked) -> Answer {
        #[derive(Deserialize)]
        struct Which {
            sys_id: String,
        }
        let Ok(Which { sys_id }) = asked.json() else {
            return failed(400, "Bad request", "name the sys_id");
        };
        match locked(&self.records).find(INCIDENT, &sys_id) {
            None => missing(),
            Some(record) => {
                let mut first = record.clone();
                first.insert("sys_mod_count".to_owned(), "0".to_owned());
                self.rule.created(&first);
                done()
            }
        }
    }

    fn state(&self) -> Value {
        let records = locked(&self.records);
        json!({
            "simulator": Self::NAME,
            "incidents": records.table(INCIDENT),
            "journal": records.table(JOURNAL),
            "changes": records.changes,
            "calls": *locked(&self.calls),
            "deliveries": self.rule.deliveries(),
        })
    }

    /// A page for people.
    fn page(&self) -> Answer {
        let records = locked(&self.records);
        let incidents = records.table(INCIDENT).map_or(0, <[_]>::len);
        Answer::page(format!(
            "<!doctype html><title>ServiceNow simulator</title><h1>ServiceNow simulator</h1>\
             <p>There is no ServiceNow here: <code>tally dev servicenow</code> answers in its \
             place, on this machine alone.</p><p>{incidents} incidents, {} changes. \
             <a href=\"/simulator/state\">Everything as JSON</a>.</p>",
            records.changes.len(),
        ))
    }

    /// The Table API.
    fn table(&self, asked: &Asked, rest: &str) -> (Option<String>, Answer) {
        let Some(user) = self.access.user(asked) else {
            let message = "Required to provide Auth information";
            let basic = "BASIC realm=\"Service-now\"".to_owned();
            let answer = failed(401, "User Not Authenticated", message);
            return (None, answer.header("www-authenticate", basic));
        };
        let (table, id) = match rest.split_once('/') {
            Some((table, id)) => (table, Some(id)),
            None => (rest, None),
        };
        let name = Some(user.name.clone());
        let known = locked(&self.records).table(table).is_some();
        if !known {
            return (name, failed(400, &format!("Invalid table {table}"), ""));
        }
        let reads = asked.method == Method::GET;
        if !reads && (!user.writes || table != INCIDENT) {
            let detail = "ACL Exception Update Failed due to security constraints";
            return (name, failed(403, "Operation Failed", detail));
        }
        let answer = match (&asked.method, id) {
            (&Method::GET, None) => self.list(asked, table),
            (&Method::GET, Some(id)) => self.one(asked, table, id),
            (&Method::POST, None) => self.create(asked, &user.name),
            (&Method::PATCH | &Method::PUT, Some(id)) => self.change(asked, id, &user.name),
            _ => failed(405, "Method not allowed", "this simulator deletes nothing"),
        };
        (name, answer)
    }

    fn list(&self, asked: &Asked, table: &str) -> Answer {
        let number = |name: &str| asked.parameter(name).and_then(|text| text.parse().ok());
        let query = match Query::parse(asked.parameter("sysparm_query").unwrap_or_default()) {
            Ok(query) => query,
            Err(part) => return failed(400, "Invalid query", &part),
        };
        let records = locked(&self.records);
        let selected = query.select(records.table(table).unwrap_or_default());
        let total = selected.len();
        let view = View::of(asked, &self.base);
        let page = selected
            .into_iter()
            .skip(number("sysparm_offset").unwrap_or(0))
            .take(number("sysparm_limit").unwrap_or(PAGE))
            .map(|record| view.show(&records, table, record));
        let found = json!({"result": page.collect::<Vec<_>>()});
        Answer::json(&found).header("x-total-count", total.to_string())
    }

    fn one(&self, asked: &Asked, table: &str, id: &str) -> Answer {
        let records = locked(&self.records);
        match records.find(table, id) {
            None => missing(),
            Some(record) => {
                let shown = View::of(asked, &self.base).show(&records, table, record);
                Answer::json(&json!({"result": shown}))
            }
        }
    }

    fn create(&self, asked: &Asked, user: &str) -> Answer {
        let mut records = locked(&self.records);
        let given = match given(asked, &records) {
            Ok(given) => given,
            Err(error) => return failed(400, "Exception while reading request", &error),
        };
        let record = records.create(&given, user);
        let times = Times { created_us: now_us(), ..Times::default() };
        locked(&self.times).insert(field(&record, "sys_id").to_owned(), times);
        self.rule.created(&record);
        let place = format!("{}{TABLES}{INCIDENT}/{}", self.base, field(&record, "sys_id"));
        let shown = View::of(asked, &self.base).show(&records, INCIDENT, &record);
        Answer::json(&json!({"result": shown})).with(201).location(place)
    }

    fn change(&self, asked: &Asked, id: &str, user: &str) -> Answer {
        let mut records = locked(&self.records);
        let given = match given(asked, &records) {
            Ok(given) => given,
            Err(error) => return failed(400, "Exception while reading request", &error),
        };
        match records.change(id, &given, user) {
            None => missing(),
            Some(record) => {
                self.time(id, given.contains_key("work_notes"));
                let shown = View::of(asked, &self.base).show(&records, INCIDENT, &record);
                Answer::json(&json!({"result": shown}))
            }
        }
    }

    /// Takes the time of a change, the first of its kind.
    fn time(&self, id: &str, noted: bool) {
        if let Some(times) = locked(&self.times).get_mut(id) {
            let place = if noted { &mut times.noted_us } else { &mut times.written_us };
            place.get_or_insert_with(now_us);
        }
    }

    fn remember(&self, call: Call) {
        let mut calls = locked(&self.calls);
        if calls.len() < KEPT {
            calls.push(call);
        }
    }

    /// What an instance answers, and who asked.
    fn perform(&self, asked: &Asked) -> (Option<String>, Answer) {
        if asked.path == "/oauth_token.do" && asked.method == Method::POST {
            return (None, self.access.token(asked));
        }
        match asked.path.strip_prefix(TABLES) {
            Some(rest) => self.table(asked, rest),
            None => {
                let message = "Requested URI does not represent any resource";
                (None, failed(400, message, &asked.path))
            }
        }
    }
}

impl Site for Instance {
    const NAME: &'static str = "ServiceNow simulator (no ServiceNow here)";
    const SERVER: &'static str = "tally-servicenow-simulator";

    async fn answer(self: Arc<Self>, asked: Asked) -> Option<Answer> {
        if let Some(name) = asked.path.strip_prefix(CONTROL) {
            return Some(self.control(&asked, name));
        }
        if asked.path == "/" {
            return Some(self.page());
        }
        pause(self.latency_ms).await;
        let fault = self.faults.rule(&asked);
        let fault = fault.as_deref();
        pause(fault.map_or(0, |fault| fault.delay_ms)).await;
        // What a fault hides has happened.
        let performs = fault.is_none_or(|fault| fault.after || fault.only_slow());
        let (user, performed) = match performs {
            true => self.perform(&asked),
            false => (None, done()),
        };
        let answer = match fault.filter(|fault| !fault.only_slow()) {
            None => Some(performed),
            Some(fault) => faulty(fault),
        };
        let status = answer.as_ref().map_or(0, |answer| answer.status);
        let (method, path) = (asked.method.to_string(), asked.path);
        self.remember(Call { method, path, user, status });
        if fault.is_some_and(|fault| fault.hang) {
            std::future::pending::<()>().await;
        }
        answer
    }

    fn logs(&self) -> bool {
        self.logs
    }
}

/// What a fault answers; none where the connection breaks or nothing ever comes.
fn faulty(fault: &Fault) -> Option<Answer> {
    let status = fault.status.filter(|_| !fault.drop && !fault.hang)?;
    let message = fault.error.as_deref().unwrap_or(match status {
        401 => "User Not Authenticated",
        403 => "Operation Failed",
        429 => "Rate limit exceeded",
        _ => "The script says so",
    });
    let answer = failed(status, message, "the script of the simulator says so");
    Some(match fault.retry_after_s {
        Some(seconds) => answer.retry_after(seconds),
        None => answer,
    })
}

/// An error as ServiceNow writes it.
fn failed(status: u16, message: &str, detail: &str) -> Answer {
    let detail = if detail.is_empty() { Value::Null } else { json!(detail) };
    let error = json!({"message": message, "detail": detail});
    Answer::json(&json!({"error": error, "status": "failure"})).with(status)
}

fn missing() -> Answer {
    let detail = "Record doesn't exist or ACL restricts the record retrieval";
    failed(404, "No Record found", detail)
}

fn done() -> Answer {
    Answer::json(&json!({"result": "done"}))
}
