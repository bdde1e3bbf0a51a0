//! Files: paths that lead elsewhere, links, globs, and what is put in place.

use proto::sandboxes::ExecuteRequest;
use serde_json::json;

use super::case::{Case, With as _, crash, denied, denied_for, failed, python, texts, wat};
use super::guests;
use super::host::Host;

/// One component does what the first letter of its input says with the path behind it.
fn does(host: &Host, op: char, path: &str, read: &[&str], write: &[&str]) -> ExecuteRequest {
    let globs = |list: &[&str]| list.iter().map(|glob| host.whole(glob)).collect();
    wat(&guests::files()).input(&json!(format!("{op}{path}"))).grants(|grants| {
        grants.file_read = globs(read);
        grants.file_write = globs(write);
    })
}

const JSON: &[&str] = &["data/*.json"];
const ALL: &[&str] = &["data/**"];
const SUB: &[&str] = &["data/sub/*"];
const NONE: &[&str] = &[];
/// Why a link is not there.
const LINK: &str = "a symbolic link, which is not followed";

pub(crate) fn cases(host: &Host) -> Vec<Case> {
    let mut cases = reading(host);
    cases.extend(odd_spellings(host));
    cases.extend(writing(host));
    cases.extend(in_place(host));
    cases.extend(in_python(host));
    cases
}

/// A path as the code says it: without the slash in front.
fn said(host: &Host, path: &str) -> String {
    host.whole(path).trim_start_matches('/').to_owned()
}

fn reading(host: &Host) -> Vec<Case> {
    let read = |name, path: &str, globs: &[&str]| Case {
        name,
        request: does(host, 'r', &said(host, path), globs, NONE),
        want: denied("file_read", &host.whole(path)),
    };
    let linked = |name, path: &str, globs: &[&str]| Case {
        name,
        request: does(host, 'r', &said(host, path), globs, NONE),
        want: denied_for("file_read", &host.whole(path), LINK),
    };
    vec![
        read("read what is not granted", "secret.json", JSON),
        read("* does not match folders", "data/sub/c.json", JSON),
        read("? is one character", "data/ab.json", &["data/?.json"]),
        read("a folder with a longer name", "data2/a.json", ALL),
        read("upper case", "DATA/a.json", ALL),
        read("a glob that matches its own text", "data/[ab].json", &["data/a.json"]),
        linked("a link to a file beside", "data/link.json", JSON),
        linked("a link to /etc", "data/etc/passwd", ALL),
        linked("a link to a folder beside", "data/vault/a.json", ALL),
        Case {
            name: "a pipe",
            request: does(host, 'r', &said(host, "data/pipe.json"), JSON, NONE),
            want: denied_for(
                "file_read",
                &host.whole("data/pipe.json"),
                "no regular file that can be read",
            ),
        },
        Case {
            name: "read where a link leads",
            request: does(host, 'k', &said(host, "data/link.json"), JSON, NONE),
            want: denied_for("file_read", &host.whole("data/link.json"), LINK),
        },
    ]
}

fn odd_spellings(host: &Host) -> Vec<Case> {
    let up = "../../../../../../../../etc/passwd";
    let as_said = |name, path: &str, wanted: &str, globs: &[&str]| Case {
        name,
        request: does(host, 'r', path, globs, NONE),
        want: denied("file_read", wanted),
    };
    let secret = host.whole("secret.json");
    let credentials = host.server.data.join("credentials.json").display().to_string();
    vec![
        as_said("through ..", &said(host, "data/../secret.json"), &secret, JSON),
        as_said("through . and //", &said(host, "data/.//../secret.json"), &secret, JSON),
        as_said(
            "through .. in a granted tree",
            &said(host, "data/sub/../../secret.json"),
            &secret,
            ALL,
        ),
        as_said("out of the root", up, up, JSON),
        as_said("absolute", "/etc/passwd", "/etc/passwd", JSON),
        as_said("without any grant", "etc/passwd", "/etc/passwd", NONE),
        as_said("its own memory", "proc/self/mem", "/proc/self/mem", JSON),
        as_said("the credentials of the server", &credentials, &credentials, ALL),
    ]
}

fn writing(host: &Host) -> Vec<Case> {
    let beyond = |name, op, path: &str, wanted: &str, read: &[&str], write: &[&str]| Case {
        name,
        request: does(host, op, &said(host, path), read, write),
        want: denied("file_write", &host.whole(wanted)),
    };
    let write = |name, op, path: &str, read: &[&str], write: &[&str]| {
        beyond(name, op, path, path, read, write)
    };
    vec![
        write("write without a grant", 'w', "data/n.json", JSON, NONE),
        write("write beside", 'w', "n.json", NONE, ALL),
        beyond("write through ..", 'w', "data/../n.json", "n.json", NONE, ALL),
        write("write what may only be read", 'w', "data/a.json", JSON, SUB),
        write("remove what may only be read", 'u', "data/a.json", JSON, SUB),
        write("rename what may only be read", 'n', "data/a.json", JSON, NONE),
        write("make a folder beside", 'd', "evil", NONE, ALL),
        Case {
            name: "make a link to /etc/passwd",
            request: does(host, 's', &said(host, "data/new.json"), JSON, ALL),
            want: denied("file_write", "data/new.json (a link to /etc/passwd)"),
        },
        Case {
            name: "make a second name of a file",
            request: does(host, 'l', &said(host, "data/a.json"), JSON, ALL),
            want: denied("file_write", "data/link (a link)"),
        },
        Case {
            name: "write four gigabytes away",
            request: does(host, 'W', &said(host, "data/n.json"), NONE, ALL),
            want: crash("raised", "denied 8"),
        },
        Case {
            name: "open without end",
            request: does(host, 'o', &said(host, "data/a.json"), JSON, NONE),
            want: crash("raised", "denied 22"),
        },
    ]
}

/// What is put in place when the code has ended: by grant, after success, through no link.
fn in_place(host: &Host) -> Vec<Case> {
    vec![
        Case {
            name: "write and then fail",
            request: does(host, 'x', &said(host, "data/failed.json"), NONE, JSON),
            want: crash("trap", "unreachable"),
        },
        Case {
            name: "the file in place is a link out",
            request: does(host, 'w', &said(host, "data/out.json"), NONE, &["data/out.json"]),
            want: crash("write_failed", &host.whole("data/out.json")),
        },
        Case {
            name: "the folder in place is a link out",
            request: does(host, 'w', &said(host, "data/vault/a.json"), NONE, &["data/vault/*"]),
            want: crash("write_failed", &host.whole("data/vault/a.json")),
        },
        Case {
            name: "a result longer than a file may be",
            request: does(host, 'w', &said(host, "data/n.json"), NONE, ALL)
                .limits(|limits| limits.output_bytes = Some(4)),
            want: crash("raised", "denied 8"),
        },
        Case {
            name: "more than is staged",
            request: does(host, 'r', &said(host, "data/a.json"), &["huge/*"], NONE),
            want: failed("too_many_files", "bytes"),
        },
    ]
}

/// The same through the libraries of an interpreter.
fn in_python(host: &Host) -> Vec<Case> {
    let granted = |body: &str| {
        let globs = texts(&[host.whole("data/**").as_str()]);
        python(body).grants(|grants| grants.file_read = globs)
    };
    let secret = host.whole("secret.json");
    vec![
        Case {
            name: "Python opens a file beside",
            request: granted(&format!("return open({secret:?}).read()")),
            want: denied("file_read", &secret),
        },
        Case {
            name: "Python follows a link of its own",
            request: granted(&format!(
                "import os\nos.symlink({secret:?}, '/tmp/s')\nreturn open('/tmp/s').read()"
            )),
            want: denied("file_write", &format!("(a link to {secret})")),
        },
        Case {
            name: "Python makes a database",
            request: granted(
                "import sqlite3\nsqlite3.connect('/data/a.db').execute('create table t(x)')",
            ),
            want: denied("file_write", "/data/a.db"),
        },
        Case {
            name: "Python writes over its own modules",
            request: granted("import json\nopen(json.__file__, 'w').write('')"),
            want: denied("file_write", "json/__init__.py"),
        },
    ]
}
