//! E-mail by a mail server in wide use, which wants STARTTLS and a login.

use std::io::BufReader;
use std::net::TcpListener;
use std::process::{Child, ChildStdout, Command, Stdio};

use proto::identity::principal::Kind;
use serde_json::{Value, json};

use super::effects::secret;
use super::{failure, result};
use crate::common::process::line;
use crate::common::{Server, allow_all};

pub(crate) const PASSWORD: &str = "password-Vb9Rt4-of-the-bot";

/// The mail server. It is killed when this is dropped.
struct Smtp {
    port: u16,
    ca: std::path::PathBuf,
    lines: BufReader<ChildStdout>,
    process: Child,
    _folder: tempfile::TempDir,
}

impl Smtp {
    fn start() -> Self {
        let python = std::env::var_os("TALLY_SMTP_PYTHON").unwrap_or_else(|| {
            panic!("no aiosmtpd: run `eval \"$(cargo xtask foreign)\"`, or `cargo xtask test`")
        });
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (ca, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        std::fs::write(&ca, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        // Free a moment ago; nobody else asks for ports by number here.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut process = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/skills/smtp.py"))
            .args([&ca, &key])
            .args([PASSWORD, &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap());
        assert_eq!(line(&mut lines).unwrap(), "listening\n");
        Self { port, ca, lines, process, _folder: folder }
    }

    /// The next mail that it took.
    fn took(&mut self) -> Value {
        serde_json::from_str(&line(&mut self.lines).unwrap()).unwrap()
    }
}

impl Drop for Smtp {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_is_taken_by_a_server_in_wide_use() {
    let mut smtp = Smtp::start();
    let (ca, port) = (smtp.ca.clone(), smtp.port);
    let yaml = |from: &str| {
        format!(
            "extra_ca: {ca:?}\nemail: {{host: localhost, port: {port}, user: bot, password: \
             smtp-password, from: [{from}]}}\npolicy: {{decision_limit_ms: 5000}}"
        )
    };
    let mut server = Server::start(&yaml("bot@example.com"));
    server.publish(&allow_all()).await;
    let agent = server.principal(Kind::Agent, &["agent"]).await;
    let mail = json!({"to": ["Ann <ann@example.org>"], "subject": "Grüße", "text": "Hallo.\n.\n"});
    assert_eq!(failure(&agent, "email.send", &mail).await, "secret_missing");
    secret(&server, "put", "smtp-password", "not it");
    assert_eq!(failure(&agent, "email.send", &mail).await, "smtp_auth_failed");
    secret(&server, "rotate", "smtp-password", PASSWORD);
    let sent = result(&agent, "email.send", &mail).await;
    let took = smtp.took();
    assert_eq!((&took["from"], &took["user"]), (&json!("bot@example.com"), &json!("bot")));
    assert_eq!((&took["to"], &took["tls"]), (&json!(["ann@example.org"]), &json!(true)));
    let text = took["text"].as_str().unwrap();
    assert!(text.contains(&format!("Message-ID: {}\r\n", sent["message_id"].as_str().unwrap())));
    assert!(text.contains("To: Ann <ann@example.org>\r\n") && text.contains("Hallo."), "{text}");
    let absent =
        json!({"to": ["ann@example.org", "nobody@example.org"], "subject": "x", "text": "y"});
    assert_eq!(failure(&agent, "email.send", &absent).await, "smtp_refused");
    let other = json!({"from": "x@example.com", "to": ["a@b.org"], "subject": "x", "text": "y"});
    let refused = agent.submit_action(&crate::common::action("email.send", &other), None).await;
    assert_eq!(crate::common::refusal(refused), (403, "sender_not_allowed".to_owned()));
    // The password is in nothing that was logged.
    assert!(server.terminate().success());
    assert!(!server.log().contains(PASSWORD));
    // Settings that cannot be are refused before a port is bound.
    server.configure(&yaml("nobody"));
    let data = server.data.to_str().unwrap().to_owned();
    let config = server.data.parent().unwrap().join("tally.yaml");
    let config = config.to_str().unwrap();
    let refused = crate::common::tally(&[
        "serve",
        "--data",
        &data,
        "--config",
        config,
        "--listen",
        "127.0.0.1:0",
    ]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("email.from"), "{refused:?}");
}
