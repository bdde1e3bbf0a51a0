//! A small server of ServiceNow's Table API, with what the shipped connector uses of it.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// The incident that there is.
pub(crate) const INCIDENT: &str = "1c741bd70b2322007518478d83673af3";

/// What a request is met with before it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// It is refused with this status.
    Refuse(u16),
    /// It is carried out, and its answer is lost.
    Lose,
}

#[derive(Default)]
struct Table {
    incident: BTreeMap<String, String>,
    notes: Vec<String>,
    seen: Vec<(String, String)>,
    acts: VecDeque<Act>,
    token: String,
    connections: usize,
}

type Shared = Arc<Mutex<Table>>;

/// The server. It ends when this is dropped.
pub(crate) struct ServiceNow {
    address: SocketAddr,
    table: Shared,
    serving: AbortHandle,
}

impl ServiceNow {
    /// It takes `secret` from clients, and shows them `token`.
    pub(crate) async fn start(secret: &'static str, token: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let field = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let incident = [
            ("sys_id", INCIDENT),
            ("number", "INC0010023"),
            ("short_description", "No network"),
            ("category", "inquiry"),
            ("priority", "5"),
            ("assignment_group", ""),
            ("sys_updated_on", "2026-11-21 09:00:00"),
        ];
        let incident = incident.into_iter().map(field).collect();
        let table = Table { incident, token: token.to_owned(), ..Table::default() };
        let table = Arc::new(Mutex::new(table));
        let serving = tokio::spawn(serve(listener, table.clone(), secret)).abort_handle();
        Self { address, table, serving }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn grant(&self) -> String {
        format!("{{host: {}, port: {}, private: true}}", self.address.ip(), self.address.port())
    }

    /// What the next requests to the tables are met with.
    pub(crate) fn next(&self, acts: &[Act]) {
        self.table.lock().unwrap().acts.extend(acts);
    }

    pub(crate) fn field(&self, name: &str) -> String {
        self.table.lock().unwrap().incident[name].clone()
    }

    pub(crate) fn set(&self, name: &str, value: &str) {
        self.table.lock().unwrap().incident.insert(name.to_owned(), value.to_owned());
    }

    pub(crate) fn notes(&self) -> Vec<String> {
        self.table.lock().unwrap().notes.clone()
    }

    /// Methods and paths of the requests since it was asked last, without those for tokens.
    pub(crate) fn seen(&self) -> Vec<(String, String)> {
        let mut table = self.table.lock().unwrap();
        let seen = std::mem::take(&mut table.seen);
        seen.into_iter().filter(|(_, path)| path != "/oauth_token.do").collect()
    }
}

impl ServiceNow {
    /// How many connections were ever opened.
    pub(crate) fn connections(&self) -> usize {
        self.table.lock().unwrap().connections
    }
}

impl Drop for ServiceNow {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, table: Shared, secret: &'static str) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        table.lock().unwrap().connections += 1;
        let table = table.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, table.clone(), secret));
            // A connection that is cut off is part of some tests.
            let _ended =
                http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn reply(status: u16, body: &Value) -> Response<Full<Bytes>> {
    let body = Full::new(Bytes::from(body.to_string()));
    Response::builder().status(status).body(body).unwrap()
}

fn refused(status: u16) -> Response<Full<Bytes>> {
    reply(status, &json!({"error": {"message": "no", "detail": "no"}, "status": "failure"}))
}

async fn answer(
    request: Request<Incoming>,
    table: Shared,
    secret: &'static str,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    let mut table = table.lock().unwrap();
    table.seen.push((head.method.to_string(), head.uri.path().to_owned()));
    if head.uri.path() == "/oauth_token.do" {
        let form: BTreeMap<String, String> =
            form_urlencoded::parse(text.as_bytes()).into_owned().collect();
        let good = form.get("client_secret").is_some_and(|given| given == secret);
        return Ok(match good && form["grant_type"] == "client_credentials" {
            true => {
                let token = &table.token;
                reply(
                    200,
                    &json!({"access_token": token, "token_type": "Bearer", "expires_in": 1799}),
                )
            }
            false => reply(401, &json!({"error": "server_error"})),
        });
    }
    let authorised = head.headers.get("authorization").and_then(|value| value.to_str().ok());
    if authorised != Some(&format!("Bearer {}", table.token)) {
        return Ok(refused(401));
    }
    let act = table.acts.pop_front();
    if let Some(Act::Refuse(status)) = act {
        return Ok(refused(status));
    }
    let query: BTreeMap<String, String> =
        form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
    let answer = carried_out(&mut table, &head.method, head.uri.path(), &query, &text);
    match act {
        Some(Act::Lose) => Err(std::io::Error::other("the answer is lost")),
        _ => Ok(answer),
    }
}

fn carried_out(
    table: &mut Table,
    method: &Method,
    path: &str,
    query: &BTreeMap<String, String>,
    body: &str,
) -> Response<Full<Bytes>> {
    if path == "/api/now/table/sys_journal_field" {
        let mark = query["sysparm_query"].rsplit("valueLIKE").next().unwrap().to_owned();
        let found = table.notes.iter().filter(|note| note.contains(&mark));
        let found: Vec<Value> = found.map(|note| json!({"value": note})).collect();
        return reply(200, &json!({"result": found}));
    }
    if path != format!("/api/now/table/incident/{INCIDENT}") {
        return refused(404);
    }
    if *method == Method::PATCH {
        let fields: BTreeMap<String, String> = serde_json::from_str(body).unwrap();
        for (name, value) in fields {
            match name.as_str() {
                "work_notes" => table.notes.push(value),
                _ => drop(table.incident.insert(name, value)),
            }
        }
    }
    let fields = query["sysparm_fields"].split(',');
    let shown = fields.map(|name| {
        let value = table.incident.get(name).cloned().unwrap_or_default();
        (name.to_owned(), Value::from(value))
    });
    reply(200, &json!({"result": shown.collect::<Map<_, _>>()}))
}
