//! E-mail to a server of our own that follows a script, so that it can fail where it likes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use kernel::failure::Category;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use super::{Names, anybody, failed, result, run, unknown};
use crate::{EmailConfig, Tools, ToolsConfig};

const SEND: &str = "email.send";

/// Where a server answers with something else than what is usual.
type Script = &'static [(&'static str, &'static str)];

/// The mails that were taken, and all that was said to the server.
#[derive(Default)]
struct Heard {
    mails: Vec<String>,
    commands: Vec<String>,
}

/// Serves SMTP without TLS. A command that begins with the first of a pair is answered by the
/// second, where nothing means to hang up; `.` is the end of a mail.
async fn server(script: Script) -> (SocketAddr, Arc<Mutex<Heard>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::new(Mutex::new(Heard::default()));
    let shared = heard.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // Whoever is not served well ends the session.
            let _ended = serve(stream, script, &shared).await;
        }
    });
    (address, heard)
}

async fn serve(
    stream: tokio::net::TcpStream,
    script: Script,
    heard: &Mutex<Heard>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 test ESMTP\r\n").await?;
    let mut mail: Option<String> = None;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        if let Some(mail) = mail.as_mut().filter(|_| line != ".\r\n") {
            mail.push_str(&line);
            continue;
        }
        let command = line.trim_end().to_owned();
        heard.lock().unwrap().commands.push(command.clone());
        let told = script.iter().find(|(start, _)| command.starts_with(start));
        let answer = match told {
            Some((_, "")) => return Ok(()),
            Some((_, answer)) => answer,
            None if command.starts_with("EHLO") => "250-test\r\n250-AUTH PLAIN\r\n250 SIZE 1000000",
            None if command == "DATA" => {
                mail = Some(String::new());
                "354 go on"
            }
            None if command == "QUIT" => "221 bye",
            None if command.starts_with("AUTH") => "235 welcome",
            None => "250 fine",
        };
        if command == "."
            && let Some(mail) = mail.take().filter(|_| answer.starts_with('2'))
        {
            heard.lock().unwrap().mails.push(mail);
        }
        stream.write_all(format!("{answer}\r\n").as_bytes()).await?;
    }
}

fn config(at: SocketAddr) -> Value {
    json!({
        "host": "127.0.0.1",
        "port": at.port(),
        "tls": "none",
        "from": ["bot@example.com", "*@team.example.com"],
    })
}

fn tools_with(config: Value) -> Result<Tools, crate::Error> {
    let email: EmailConfig = serde_json::from_value(config).unwrap();
    let resolver = Names::of(&[("mail.test", &["10.0.0.1"])]);
    Tools::new(ToolsConfig { email: Some(email), resolver, ..ToolsConfig::default() })
}

fn tools(at: SocketAddr) -> Tools {
    tools_with(config(at)).unwrap()
}

fn mail() -> Value {
    json!({"to": ["a@example.org"], "subject": "Hello", "text": "Grüße\n.\nbye"})
}

/// `mail` with other members.
fn with(more: &Value) -> Value {
    let mut whole = mail();
    whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    whole
}

#[tokio::test]
async fn a_mail_is_handed_over_as_it_was_written() {
    let (at, heard) = server(&[]).await;
    let params = with(&json!({
        "from": "Ünal <ops@team.example.com>",
        "cc": ["B <b@example.org>"],
        "bcc": ["secret@example.org"],
        "reply_to": "help@example.com",
        "subject": "Rechnung für März",
        "html": "<p>Grüße</p>",
    }));
    let sent = result(run(&tools(at), SEND, params).await);
    assert_eq!(sent, json!({"message_id": "<act_1@team.example.com>", "recipients": 3}));
    let heard = heard.lock().unwrap();
    let said = |command: &str| heard.commands.iter().any(|c| c.starts_with(command));
    assert!(said("MAIL FROM:<ops@team.example.com>"), "{:?}", heard.commands);
    for name in ["a", "b", "secret"] {
        assert!(said(&format!("RCPT TO:<{name}@example.org>")), "{:?}", heard.commands);
    }
    let [mail] = &heard.mails[..] else { panic!("{:?}", heard.mails) };
    for line in [
        "Message-ID: <act_1@team.example.com>\r\n",
        "Date: Sat, 21 Nov 2026 02:00:00 +0000\r\n",
        "To: a@example.org\r\n",
        "Cc: B <b@example.org>\r\n",
        "Reply-To: help@example.com\r\n",
        "Auto-Submitted: auto-generated\r\n",
    ] {
        assert!(mail.contains(line), "{line}: {mail}");
    }
    assert!(mail.is_ascii() && !mail.contains("secret@"), "{mail}");
    assert!(mail.contains("text/plain") && mail.contains("text/html"), "{mail}");
}

#[tokio::test]
async fn a_no_before_the_mail_is_a_no() {
    for (script, code, category) in [
        (&[("EHLO", "554 no")] as Script, "smtp_refused", Category::Permanent),
        (&[("MAIL", "451 later")], "smtp_deferred", Category::Upstream),
        (&[("MAIL", "")], "smtp_failed", Category::Upstream),
        (&[("RCPT TO:<b@", "550 nobody here")], "smtp_refused", Category::Permanent),
        (&[("DATA", "421 closing")], "smtp_deferred", Category::Upstream),
        (&[("DATA", "what?")], "smtp_failed", Category::Upstream),
        // It has the mail, and says that it does not take it.
        (&[(".", "552 too much")], "smtp_refused", Category::Permanent),
        (&[(".", "452 full")], "smtp_deferred", Category::Upstream),
    ] {
        let (at, heard) = server(script).await;
        let params = with(&json!({"to": ["a@example.org", "b@example.org"]}));
        let failure = failed(run(&tools(at), SEND, params).await);
        assert_eq!((failure.code.as_str(), failure.category), (code, category), "{script:?}");
        assert_eq!(failure.retryable, category.retryable(), "{script:?}");
        assert!(!failure.message.contains("example.org"), "{failure}");
        assert!(heard.lock().unwrap().mails.is_empty());
    }
}

#[tokio::test]
async fn what_is_not_heard_after_the_mail_is_unknown() {
    for script in [&[(".", "")] as Script, &[(".", "hm")]] {
        let (at, _) = server(script).await;
        let failure = unknown(run(&tools(at), SEND, mail()).await);
        assert_eq!((failure.code.as_str(), failure.retryable), ("smtp_unanswered", false));
    }
    // How the session ends afterwards changes nothing.
    let (at, heard) = server(&[("QUIT", "")]).await;
    result(run(&tools(at), SEND, mail()).await);
    assert_eq!(heard.lock().unwrap().mails.len(), 1);
}

#[tokio::test]
async fn nothing_is_smuggled_into_a_mail() {
    let (at, heard) = server(&[]).await;
    let tools = tools(at);
    for (params, code) in [
        (json!({"subject": "a\r\nBcc: x@evil.test"}), "header_refused"),
        (json!({"subject": "a\nb"}), "header_refused"),
        (json!({"subject": "a\u{0}b"}), "header_refused"),
        (json!({"to": ["a@example.org\r\nRCPT TO:<x@evil.test>"]}), "header_refused"),
        (json!({"to": ["A\r\nBcc: x <a@example.org>"]}), "header_refused"),
        (json!({"reply_to": "a@example.org\nx: y"}), "header_refused"),
        (json!({"to": ["a@example.org, b@example.org"]}), "address_invalid"),
        (json!({"to": ["<a@example.org> SIZE=1"]}), "address_invalid"),
        (json!({"to": ["nobody"]}), "address_invalid"),
        (json!({"to": ["ä@example.org"]}), "address_invalid"),
        (json!({"to": []}), "too_many_recipients"),
        (json!({"cc": vec!["a@example.org"; 50]}), "too_many_recipients"),
        (json!({"text": ""}), "body_refused"),
        (json!({"html": "x".repeat(600_000)}), "body_refused"),
        (json!({"subject": "x".repeat(513)}), "params_invalid"),
        (json!({"from": "x@example.com"}), "sender_not_allowed"),
        (json!({"from": "bot@evil.test"}), "sender_not_allowed"),
        (json!({"from": "bot@sub.team.example.com"}), "sender_not_allowed"),
        (json!({"headers": {"x": "y"}}), "params_invalid"),
    ] {
        let failure = failed(run(&tools, SEND, with(&params)).await);
        assert_eq!(failure.code, code, "{params}");
    }
    assert!(heard.lock().unwrap().commands.is_empty(), "nobody was spoken to");
    for from in ["bot@EXAMPLE.com", "any@team.example.com", "Bot <bot@example.com>"] {
        result(run(&tools, SEND, with(&json!({"from": from}))).await);
    }
}

#[tokio::test]
async fn in_the_clear_only_on_this_machine_and_never_where_tls_was_asked_for() {
    let (at, heard) = server(&[]).await;
    let mut starttls = config(at);
    starttls["tls"] = json!("starttls");
    let failure = failed(run(&tools_with(starttls).unwrap(), SEND, mail()).await);
    assert_eq!(failure.code, "tls_failed");
    let commands = heard.lock().unwrap().commands.clone();
    assert!(commands.iter().all(|c| c.starts_with("EHLO")), "{commands:?}");
    // Something in the clear behind the answer is no answer later.
    let injected = "220 go on\r\n250 injected";
    let script = Box::leak(Box::new([("STARTTLS", injected), ("EHLO", "250 STARTTLS")]));
    let (at, _) = server(script).await;
    let mut starttls = config(at);
    starttls["tls"] = json!("starttls");
    let failure = failed(run(&tools_with(starttls).unwrap(), SEND, mail()).await);
    assert_eq!(failure.code, "tls_failed");
    let mut away = config(at);
    away["host"] = json!("mail.test");
    let failure = failed(run(&tools_with(away).unwrap(), SEND, mail()).await);
    assert_eq!(failure.code, "smtp_refused");
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert_eq!(failed(run(&tools(gone), SEND, mail()).await).code, "connect_failed");
}

#[test]
fn settings_that_are_refused() {
    let at = "127.0.0.1:25".parse().unwrap();
    let check = |change: Value, key: &str| {
        let mut whole = config(at);
        whole.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let error = tools_with(whole).unwrap_err().to_string();
        assert!(error.contains(key), "{change}: {error}");
    };
    check(json!({"host": "smtp://a"}), "email.host");
    check(json!({"port": 0}), "email.port");
    check(json!({"from": []}), "email.from");
    check(json!({"from": ["*"]}), "email.from");
    check(json!({"from": ["*@*.com"]}), "email.from");
    check(json!({"user": "bot"}), "email.user");
    check(json!({"user": "bot", "password": "not a name"}), "email.password");
    assert!(tools_with(config(at)).is_ok());
}

#[tokio::test]
async fn without_a_server_there_is_no_such_tool() {
    let tools = Tools::new(ToolsConfig::default()).unwrap();
    assert!(tools.all(&anybody()).all(|tool| tool.manifest.id.as_str() != SEND));
    let id = kernel::ids::ToolId::new(SEND).unwrap();
    let params = kernel::json::RawJson::empty_object();
    assert_eq!(tools.validate(&id, &params).unwrap_err().code, "tool_not_found");
}
