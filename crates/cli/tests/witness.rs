//! A witness on a server of its own: it cosigns what only grows, remembers it, and raises the alarm
//! where a log was cut off or rewritten.

mod watch;

use std::fs;
use std::path::Path;

use client::Client;
use kernel::note::{Checkpoint, Note, VerifierKey};
use kernel::verify::verify_checkpoint;
use ledger::keys::NativeVerifier;
use proto::identity::principal::Kind;
use proto::ledger::GetCheckpointRequest;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::common::wire::Wire;
use crate::common::{
    LOOK_EVERY, PATIENCE, Server, WORKSPACE, action, allow_all, assert_code, tally, text,
};
use watch::{Log, Watch, cosignature_by_others, log_keys};

/// The checkpoint of the workspace's log.
async fn checkpoint(client: &Client, cosigned: bool) -> Option<(u64, Note)> {
    let request = GetCheckpointRequest { workspace: WORKSPACE.to_owned(), cosigned };
    let data = match client.get_checkpoint(&request).await {
        Ok(body) => body.data,
        Err(client::Error::Refused { status: 404, .. }) => return None,
        Err(error) => panic!("{error}"),
    };
    let note = Note::parse(&data).unwrap();
    Some((Checkpoint::parse(note.text()).unwrap().size, note))
}

/// The newest checkpoint, once witnesses have cosigned it.
async fn cosigned(server: &Server) -> (u64, Note) {
    let until = Instant::now() + PATIENCE;
    loop {
        let (size, newest) = checkpoint(&server.owner, false).await.unwrap();
        if let Some((_, note)) = checkpoint(&server.owner, true).await
            && note.text() == newest.text()
        {
            return (size, note);
        }
        assert!(Instant::now() < until, "nobody cosigns {newest}");
        sleep(LOOK_EVERY).await;
    }
}

/// Runs actions, each of which leaves receipts, until the log's size is good.
async fn grow(server: &Server, agent: &Client, good: impl Fn(u64) -> bool) {
    loop {
        let params = json!({"input": [1], "filter": "length"});
        agent.submit_action(&action("core.json_transform", &params), None).await.unwrap();
        let (size, _) = checkpoint(&server.owner, false).await.unwrap();
        if good(size) {
            return;
        }
    }
}

/// A server that asks `witness`, and the key of its workspace's log.
async fn watched(folder: &Path) -> (Server, Client, Watch, VerifierKey) {
    let mut server = Server::start("");
    server.publish(&allow_all()).await;
    let agent = server.principal(Kind::Agent, &["agent"]).await;
    grow(&server, &agent, |_| true).await;
    let keys = log_keys(&server).await;
    let main = format!("tally.test/{WORKSPACE}/{WORKSPACE}");
    let key = keys.iter().find(|key| key.name() == main).unwrap().clone();
    let witness = Watch::start(folder, &keys);
    assert!(server.terminate().success());
    server.configure(&witness.setting());
    server.restart();
    (server, agent, witness, key)
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.metadata().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// What `/readyz` says of witnesses.
async fn ready(server: &Server) -> Value {
    let reply = Wire::new(&server.url).ask("GET", "/readyz").send().await.good();
    let checks = reply["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == "witnesses").unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_cosigns_what_grows_and_remembers_it() {
    let folder = tempfile::tempdir().unwrap();
    let (server, agent, mut witness, key) = watched(folder.path()).await;
    let (size, note) = cosigned(&server).await;
    assert_eq!(verify_checkpoint(&note, &key, &NativeVerifier).unwrap().size, size);
    // By code that is not ours, from the note's text and the witness's key alone.
    cosignature_by_others(&note.to_string(), &witness.vkey);
    let plain = checkpoint(&server.owner, false).await.unwrap();
    assert_eq!(plain.1, note, "cosignatures come along where the tree is the same");
    assert_eq!(ready(&server).await["ok"], true);

    let held = folder.path().join("held");
    fs::write(&held, note.to_string()).unwrap();
    let held = held.to_str().unwrap();
    witness.kill();
    witness.restart();
    grow(&server, &agent, |now| now > size).await;
    let (larger, note) = cosigned(&server).await;
    assert!(larger > size);
    cosignature_by_others(&note.to_string(), &witness.vkey);
    assert_eq!(witness.alarms().await, Vec::<Value>::new());

    let bundle = folder.path().join("evidence.tar");
    let (bundle, owner, vkey) = (bundle.to_str().unwrap(), server.owner_key(), key.to_string());
    assert_code(&server.tally(&owner, &["evidence", "export", "--cosigned", "--out", bundle]), 0);
    let other = Log::new("log.test/x", 3).cosigner().to_string();
    let offline = ["verify", bundle, "--log-key", &vkey, "--since", held];
    let online =
        ["ledger", "verify", "--workspace", WORKSPACE, "--log-key", &vkey, "--since", held];
    for command in [&offline[..], &online[..]] {
        let with = |more: &[&str]| server.tally(&owner, &[command, more].concat());
        assert_code(&with(&[]), 0);
        assert_code(&with(&["--witness", &witness.vkey]), 0);
        assert_code(&with(&["--witness", &other]), 9);
        assert_code(&with(&["--witness", &other, "--witness", &witness.vkey]), 9);
        let one_of_two = ["--witness", &other, "--witness", &witness.vkey, "--witness-quorum", "1"];
        assert_code(&with(&one_of_two), 0);
        assert_code(&with(&["--witness", &other, "--witness-quorum", "2"]), 2);
    }
    let shown = server.tally(&owner, &["ledger", "checkpoint", "--workspace", WORKSPACE]);
    assert_code(&shown, 0);
    assert_eq!(text(&shown), note.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_cut_off_and_forked_is_refused_and_convicted() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, agent, mut witness, key) = watched(folder.path()).await;
    let (before, _) = cosigned(&server).await;
    assert!(server.terminate().success());
    let copy = tempfile::tempdir().unwrap();
    copy_dir(&server.data, &copy.path().join("data"));

    // The log goes on, and the witness sees it. A proof from a power of two would not convict.
    server.restart();
    grow(&server, &agent, |size| size > before + 2 && !size.is_power_of_two()).await;
    let (seen, note) = cosigned(&server).await;
    assert!(server.terminate().success());
    let held = folder.path().join("held");
    fs::write(&held, note.to_string()).unwrap();
    let (held, vkey) = (held.to_str().unwrap(), key.to_string());

    // The copy does not have what the witness saw: its end is gone.
    let mut fork = Server::start_in(copy, &witness.setting());
    let until = Instant::now() + PATIENCE;
    while ready(&fork).await["ok"] == true {
        assert!(Instant::now() < until, "the server hears that its log was cut off");
        sleep(LOOK_EVERY).await;
    }
    let owner = fork.owner_key();
    let since = ["--log-key", &vkey, "--since", held, "--json"];
    let online = [&["ledger", "verify", "--workspace", WORKSPACE][..], &since].concat();
    let checked = fork.tally(&owner, &online);
    assert_code(&checked, 8);
    assert_eq!(crate::common::json(&checked)["demands"]["code"], "history_truncated");
    let bundle = folder.path().join("cut.tar");
    let bundle = bundle.to_str().unwrap();
    let export = ["evidence", "export", "--out", bundle];
    assert_code(&fork.tally(&owner, &export), 0);
    let offline = [&["verify", bundle][..], &since].concat();
    let checked = tally(&offline);
    assert_code(&checked, 8);
    let found = crate::common::json(&checked);
    assert_eq!(
        (&found["valid"], &found["demands"]["code"]),
        (&true.into(), &"history_truncated".into())
    );

    // It grows anew, past what the witness saw: another tree by the same key.
    let agent = Client::new(&fork.url, agent_key(&fork).await.as_str()).unwrap();
    grow(&fork, &agent, |size| size > seen).await;
    let until = Instant::now() + PATIENCE;
    let alarm = loop {
        let alarms = witness.alarms().await;
        if let Some(alarm) = alarms.iter().find(|alarm| alarm["kind"] == "fork") {
            break alarm.clone();
        }
        assert!(Instant::now() < until, "the witness raises the alarm: {alarms:?}");
        sleep(LOOK_EVERY).await;
    };
    let of = |field: &str| {
        let note = Note::parse(alarm[field].as_str().unwrap().as_bytes()).unwrap();
        verify_checkpoint(&note, &key, &NativeVerifier).unwrap()
    };
    let (known, presented) = (of("known"), of("presented"));
    assert_eq!((known.size, alarm["resolved_us"].is_null()), (seen, true));
    assert!(presented.size > seen, "both checkpoints bear the log's own signature");
    assert_eq!(ready(&fork).await["ok"], false);
    assert!(checkpoint(&fork.owner, true).await.unwrap().0 <= before, "none of it is cosigned");

    let checked = fork.tally(&owner, &online);
    assert_code(&checked, 8);
    assert_eq!(crate::common::json(&checked)["demands"]["code"], "history_forked");
    assert_code(&fork.tally(&owner, &export), 0);
    let checked = tally(&offline);
    assert_code(&checked, 8);
    let found = crate::common::json(&checked);
    assert_eq!(
        (&found["valid"], &found["demands"]["code"]),
        (&true.into(), &"history_forked".into())
    );

    assert!(fork.terminate().success());
    assert!(fork.log().contains("ALARM"), "the operator of the server reads it");
    assert!(witness.terminate().contains("ALARM"), "and that of the witness");
    let shown = tally(&["witness", "alarms", "--json", "--data", witness.data.to_str().unwrap()]);
    assert_code(&shown, 6);
    let shown = crate::common::json(&shown);
    assert!(shown["alarms"].as_array().unwrap().iter().any(|row| row["kind"] == "fork"));

    // The log that kept its word goes on being cosigned.
    witness.restart();
    server.restart();
    grow(&server, &Client::new(&server.url, agent_key(&server).await.as_str()).unwrap(), |size| {
        size > seen
    })
    .await;
    cosigned(&server).await;
}

/// The key of a new agent.
async fn agent_key(server: &Server) -> String {
    server.key(Kind::Agent, &["agent"], "dev").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_protocol_is_that_of_tlog_witness() {
    let folder = tempfile::tempdir().unwrap();
    let (log, stranger) = (Log::new("log.test/a", 1), Log::new("log.test/a", 2));
    let fork = log.forked(5);
    let mut witness = Watch::start(folder.path(), &[log.key()]);
    let unknown = Log::new("log.test/unknown", 1);
    let (status, said, _) = witness.add(&unknown.request(0, 3)).await;
    assert_eq!(status, 404, "{said}");
    assert_eq!(witness.add(&stranger.request(0, 3)).await.0, 403);
    assert_eq!(witness.add(&log.request(0, 7)).await.0, 200);
    let (status, said, kind) = witness.add(&log.request(0, 9)).await;
    assert_eq!((status, said.as_str(), kind.as_str()), (409, "7\n", "text/x.tlog.size"));
    let (status, said, kind) = witness.add(&fork.request(7, 7)).await;
    assert_eq!((status, said.contains("fork")), (409, true), "{said}");
    assert_ne!(kind, "text/x.tlog.size");
    let (status, said, _) = witness.add(&fork.request(7, 9)).await;
    assert_eq!((status, said.contains("fork")), (422, true), "{said}");
    let unproven = log.body(7, &[], 9);
    assert_eq!(witness.add(&unproven).await.0, 422);
    assert_eq!(witness.add(&log.body(8, &[], 7)).await.0, 400);
    let kinds = |alarms: Vec<Value>| {
        let mut kinds: Vec<(String, bool)> = alarms
            .iter()
            .map(|row| (row["kind"].as_str().unwrap().to_owned(), row["resolved_us"].is_null()))
            .collect();
        kinds.sort();
        kinds
    };
    let fork_row = ("fork".to_owned(), true);
    let expected = [fork_row.clone(), fork_row.clone(), ("unproven".to_owned(), true)];
    assert_eq!(kinds(witness.alarms().await), expected);

    // What it cosigned and what it holds against a log outlive a crash.
    witness.kill();
    witness.restart();
    let (status, said, _) = witness.add(&log.request(0, 9)).await;
    assert_eq!((status, said.as_str()), (409, "7\n"));
    let (status, said, _) = witness.add(&log.request(7, 9)).await;
    assert_eq!(status, 200, "{said}");
    cosignature_by_others(&format!("{}{said}", log.checkpoint(9)), &witness.vkey);
    let expected = [fork_row.clone(), fork_row, ("unproven".to_owned(), false)];
    assert_eq!(kinds(witness.alarms().await), expected, "the missing proof has come");
    assert_eq!(witness.add(&log.request(9, 9)).await.0, 200, "again, with the time of now");

    // Of many that race only one moves on from a size.
    let asks = (10..26).map(|size| {
        let (witness, request) = (witness.wire(), log.request(9, size));
        tokio::spawn(async move { Watch::add_by(&witness, &request).await.0 })
    });
    let mut statuses = Vec::new();
    for ask in asks.collect::<Vec<_>>() {
        statuses.push(ask.await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!((statuses[0], &statuses[1..]), (200, &[409; 15][..]));
    assert!(witness.metrics().await.contains(r#"tally_witness_alarms{kind="fork"} 2"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_are_refused_and_hurt_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::new("log.test/a", 1);
    let witness = Watch::start(folder.path(), &[log.key()]);
    let good = log.request(0, 7);
    let corpus: Vec<Vec<u8>> = [
        String::new(),
        "old 0\n".to_owned(),
        "old 0\n\n".to_owned(),
        good.replace("old 0", "old 00"),
        good.replace("old 0", "old -1"),
        good.replace("old 0", "old 99999999999999999999"),
        good.replace("old 0", "OLD 0"),
        good.replace("old 0\n", "old 0\nAAAA\n"),
        good.replace(
            "old 0\n",
            &format!("old 0\n{}", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n".repeat(64)),
        ),
        good.replace("\n7\n", "\n07\n"),
        good.replace("\n7\n", "\n18446744073709551615\n"),
        good.replace('\n', "\r\n"),
        good.replace('—', "-"),
        good.replace("log.test/a", "log test/a"),
        good.trim_end().to_owned(),
        good.replace("\n\n", "\n"),
        "\0".repeat(500),
        "old 0\n\n{}".to_owned(),
        log.with_extension(7),
    ]
    .into_iter()
    .map(String::into_bytes)
    .chain([b"old 0\n\n\xff\xfe\n".to_vec()])
    .collect();
    let wire = Wire::new(&witness.url);
    for body in corpus {
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let reply = wire.ask("POST", "/add-checkpoint").bytes(body).send().await;
        assert!((400..500).contains(&reply.status), "{} {shown:?}", reply.status);
    }
    // What is too long is not even read to its end, so the answer may be lost with the connection.
    let long = Wire::new(&witness.url).ask("POST", "/add-checkpoint").bytes(vec![b'A'; 4 << 20]);
    match long.try_send().await {
        Ok(reply) => assert_eq!(reply.status, 413),
        Err(_) => assert!(witness.lives().await),
    }
    for (method, path) in [("GET", "/add-checkpoint"), ("POST", "/alarms"), ("GET", "/x")] {
        let status = wire.ask(method, path).send().await.status;
        assert!((400..500).contains(&status), "{method} {path}: {status}");
    }
    assert_eq!(witness.add(&good).await.0, 200);
    assert_eq!(witness.alarms().await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_be_refuse_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::new("log.test/a", 1).key().to_string();
    let data = folder.path().join("w");
    let data = data.to_str().unwrap();
    let serve = ["witness", "serve", "--listen", "127.0.0.1:0", "--data", data];
    let with = |more: &[&str]| tally(&[&serve[..], more].concat());
    assert_code(&with(&[]), 2);
    assert_code(&with(&["--log-key", "nonsense"]), 2);
    let key = ["witness", "key", "--data", data];
    let named = tally(&[&key[..], &["--name", "witness.test/w1"]].concat());
    assert_code(&named, 0);
    assert!(text(&named).starts_with("witness.test/w1+"));
    assert_eq!(text(&tally(&key)), text(&named), "name and key stay");
    assert_code(&with(&["--log-key", &log, "--name", "witness.test/w2"]), 64);
    // Without its memory it must not sign again.
    for file in fs::read_dir(data).unwrap() {
        let file = file.unwrap();
        if file.metadata().unwrap().is_file() {
            fs::remove_file(file.path()).unwrap();
        }
    }
    assert_code(&with(&["--log-key", &log]), 64);
    assert_code(&tally(&["witness", "alarms", "--data", data]), 64);

    let vkey = text(&named);
    let vkey = vkey.trim_end();
    let config = folder.path().join("tally.yaml");
    for setting in [
        "witnesses: [{url: 'http://127.0.0.1:1', vkey: nonsense}]".to_owned(),
        format!("witnesses: [{{url: 'http://127.0.0.1:1', vkey: '{log}'}}]"),
        format!("witnesses: [{{url: 'ftp://x', vkey: '{vkey}'}}]"),
        format!("witnesses: [{{url: 'http://u:p@x', vkey: '{vkey}'}}]"),
        format!("witnesses: [{{url: 'http://x', vkey: '{vkey}'}}]\nwitness_quorum: 2"),
        format!("witnesses: [{0}, {0}]", format_args!("{{url: 'http://x', vkey: '{vkey}'}}")),
        "witness_quorum: 1".to_owned(),
        "witness_every_s: 0".to_owned(),
    ] {
        fs::write(&config, &setting).unwrap();
        let data = folder.path().join("never").to_str().unwrap().to_owned();
        let config = config.to_str().unwrap();
        let args = ["serve", "--config", config, "--data", &data, "--listen", "127.0.0.1:0"];
        assert_code(&tally(&args), 64);
    }
}
