//! Names that are granted and lead where nothing is: the answers of the name server are in the hand
//! of whoever attacks, and differ from one question to the next.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::case::{Case, Want, With as _, crash, denied_for, javascript, python, told};
use super::door::calls;
use super::host::Host;
use crate::common::Server;
use crate::common::names::Names;
use crate::common::target::Target;

/// An address of nobody: it is public, and was given back by those who had it.
const NOBODY: &str = "3ffe::1";

/// What a name leads to, how the cases that ask for it are called, and the name.
const LEADS: [(&str, [&str; 3], &str); 9] = [
    (
        "169.254.169.254",
        [
            "a name of the metadata service in JavaScript",
            "a name of the metadata service in Python",
            "a name of the metadata service by a tool",
        ],
        "metadata.names.test",
    ),
    (
        "127.0.0.1",
        [
            "a name of loopback in JavaScript",
            "a name of loopback in Python",
            "a name of loopback by a tool",
        ],
        "loopback.names.test",
    ),
    (
        "::1",
        [
            "a name of IPv6 loopback in JavaScript",
            "a name of IPv6 loopback in Python",
            "a name of IPv6 loopback by a tool",
        ],
        "loopback6.names.test",
    ),
    (
        "::ffff:169.254.169.254",
        [
            "a name of the mapped metadata service in JavaScript",
            "a name of the mapped metadata service in Python",
            "a name of the mapped metadata service by a tool",
        ],
        "mapped-metadata.names.test",
    ),
    (
        "::ffff:127.0.0.1",
        [
            "a name of mapped loopback in JavaScript",
            "a name of mapped loopback in Python",
            "a name of mapped loopback by a tool",
        ],
        "mapped-loopback.names.test",
    ),
    (
        "64:ff9b::7f00:1",
        [
            "a name of loopback behind NAT64 in JavaScript",
            "a name of loopback behind NAT64 in Python",
            "a name of loopback behind NAT64 by a tool",
        ],
        "nat64.names.test",
    ),
    (
        "10.0.0.1",
        [
            "a name of a private address in JavaScript",
            "a name of a private address in Python",
            "a name of a private address by a tool",
        ],
        "private.names.test",
    ),
    (
        "3ffe::1 127.0.0.1",
        [
            "a name of a public address and loopback in JavaScript",
            "a name of a public address and loopback in Python",
            "a name of a public address and loopback by a tool",
        ],
        "both.names.test",
    ),
    (
        "127.0.0.1 169.254.169.254",
        [
            "a name of loopback and the metadata service in JavaScript",
            "a name of loopback and the metadata service in Python",
            "a name of loopback and the metadata service by a tool",
        ],
        "neither.names.test",
    ),
];
/// Leads to nobody when it is asked for first, and to loopback from then on.
const TURNS: &str = "turns.names.test";
/// The same for a tool, which repeats what did not go out.
const REPEATED: &str = "repeated.names.test";
/// Leads to one system of this machine, which is granted as an address, and then to another one.
const MOVES: &str = "moves.names.test";
/// Nobody has it.
const NONE: &str = "none.names.test";

/// Two systems at the same port of two addresses of this machine: the second is granted by its
/// address, the first never.
pub(crate) struct Pair {
    pub(crate) hidden: Target,
    pub(crate) granted: Target,
}

impl Pair {
    pub(crate) async fn start() -> Self {
        loop {
            let hidden = Target::start().await;
            let address = (Ipv4Addr::new(127, 0, 0, 2), hidden.port());
            if let Some(granted) = Target::at(address).await {
                return Self { hidden, granted };
            }
        }
    }
}

/// A server that asks the test for addresses. Every name is granted at the port of the pair, to
/// code and to tools: to tools with leave to have private addresses where that is not enough.
pub(crate) async fn host(pair: &Pair) -> Host {
    let port = pair.hidden.port();
    let mut names: Vec<(&str, &[&str])> = Vec::new();
    for (leads, _, name) in &LEADS {
        names.push((name, std::slice::from_ref(leads)));
    }
    let turns: &[&str] = &[NOBODY, "127.0.0.1"];
    names.extend([(TURNS, turns), (REPEATED, turns), (MOVES, &["127.0.0.2", "127.0.0.1"])]);
    let names = Names::new(&names);
    let ceiling = format!(
        "    network:\n      allowlist: ['*.names.test:{port}', '127.0.0.2:{port}', \
         '169.254.169.254:{port}', '[::1]:{port}']\n"
    );
    let mut http = vec![format!("{{host: {REPEATED}, port: {port}}}")];
    http.extend(LEADS.map(|(leads, _, name)| {
        // Of the link, no name is good enough, whatever it is granted.
        let private = leads.ends_with("169.254.169.254");
        format!("{{host: {name}, port: {port}, private: {private}}}")
    }));
    let start = |yaml: &str| Server::start_knowing(names, yaml);
    Host::by(start, "", &ceiling, &http.join(", ")).await
}

pub(crate) fn cases(pair: &Pair) -> Vec<Case> {
    let port = pair.hidden.port();
    let mut cases = Vec::new();
    for (_, [by_javascript, by_python, by_tool], name) in LEADS {
        let (url, grant) = (format!("http://{name}:{port}/"), format!("{name}:{port}"));
        cases.push(Case {
            name: by_javascript,
            request: javascript(&format!("return await (await fetch({url:?})).text()"))
                .hosts(&[&grant], &[]),
            want: guarded(name, port),
        });
        cases.push(Case {
            name: by_python,
            request: python(&format!("from tally import fetch\nreturn fetch({url:?}).text()"))
                .hosts(&[&grant], &[]),
            want: guarded(name, port),
        });
        let says = format!("{name} has an address that is not public");
        cases.push(calls(by_tool, "core.http_call", &json!({"url": url}), crash("raised", &says)));
    }
    cases.extend(in_turn(port));
    cases
}

fn guarded(name: &str, port: u16) -> Want {
    let says = format!("{name} has an address that is denied or not public");
    denied_for("network", &format!("{name}:{port}"), &says)
}

fn in_turn(port: u16) -> Vec<Case> {
    let fetch = |name: &str| {
        let url = format!("http://{name}:{port}/");
        python(&format!("from tally import fetch\nreturn fetch({url:?}).text()"))
            .hosts(&[&format!("{name}:{port}"), &format!("127.0.0.2:{port}")], &[])
    };
    let url = format!("http://{TURNS}:{port}/");
    let again = format!(
        "from tally import fetch\ntry:\n    return fetch({url:?}).text()\n\
         except Exception as error:\n    \
         if 'cannot connect' not in str(error): return str(error)\n\
         return fetch({url:?}).text()"
    );
    let answer: Value = "answer 1".into();
    vec![
        Case {
            name: "a name that was public leads to loopback",
            request: python(&again).hosts(&[&format!("{TURNS}:{port}")], &[]),
            want: guarded(TURNS, port),
        },
        calls(
            "a name that was public leads a tool to loopback",
            "core.http_call",
            &json!({"url": format!("http://{REPEATED}:{port}/")}),
            crash("raised", &format!("{REPEATED} has an address that is not public")),
        ),
        Case { name: "what was checked is spoken to", request: fetch(MOVES), want: told(answer) },
        Case {
            name: "what a name leads to is checked each time",
            request: fetch(MOVES),
            want: guarded(MOVES, port),
        },
        Case {
            name: "a name of nobody",
            request: fetch(NONE),
            want: crash("raised", &format!("no address found for {NONE}")),
        },
    ]
}

/// Each name was looked up once for each request: what was checked is what would have been spoken
/// to. Only what is granted was.
pub(crate) fn looked_up_once(host: &Host, pair: &Pair) {
    let names = host.server.names();
    for (_, ways, name) in LEADS {
        assert_eq!(names.looked_up(name), ways.len(), "{name}");
    }
    assert_eq!([TURNS, REPEATED, MOVES].map(|name| names.looked_up(name)), [2, 2, 2]);
    assert_eq!(pair.hidden.seen(), [], "what no name may lead to was spoken to");
    assert_eq!(pair.granted.seen().len(), 1, "{:?}", pair.granted.seen());
}
