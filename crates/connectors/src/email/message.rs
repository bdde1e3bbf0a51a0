//! What is sent: parameters turned into a mail whose headers hold nothing that was smuggled in.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kernel::failure::{Category, Failure};
use kernel::json::RawJson;
use kernel::values::Timestamp;
use lettre::address::Envelope;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::{Address, Message};
use serde::Deserialize;

use super::Error;
use crate::limits;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    from: Option<String>,
    to: Vec<String>,
    #[serde(default)]
    cc: Vec<String>,
    #[serde(default)]
    bcc: Vec<String>,
    reply_to: Option<String>,
    subject: String,
    text: Option<String>,
    html: Option<String>,
}

/// Whom mail may be from.
#[derive(Debug)]
pub(super) struct Senders(Vec<Sender>);

#[derive(Debug)]
enum Sender {
    One(Address),
    /// Every address of the domain.
    Domain(String),
}

impl Senders {
    pub(super) fn new(from: &[String]) -> Result<Self, Error> {
        let error = |reason: String| Error { key: "from", reason };
        if from.is_empty() || from.len() > limits::SENDERS_MAX {
            return Err(error(format!("1 to {} addresses", limits::SENDERS_MAX)));
        }
        let senders = from.iter().map(|text| {
            let whole = || error(format!("`{text}` is no `name@example.com` or `*@example.com`"));
            match text.strip_prefix("*@") {
                // The name stands for any: what is checked is the domain.
                Some(domain) => match Address::new("x", domain) {
                    Ok(address) => Ok(Sender::Domain(address.domain().to_owned())),
                    Err(_) => Err(whole()),
                },
                None => text.parse().map(Sender::One).map_err(|_| whole()),
            }
        });
        Ok(Self(senders.collect::<Result<_, _>>()?))
    }

    fn allows(&self, address: &Address) -> bool {
        let same = |domain: &str| domain.eq_ignore_ascii_case(address.domain());
        self.0.iter().any(|sender| match sender {
            Sender::One(one) => one.user() == address.user() && same(one.domain()),
            Sender::Domain(domain) => same(domain),
        })
    }

    fn first(&self) -> Option<Mailbox> {
        match self.0.first() {
            Some(Sender::One(address)) => Some(Mailbox::new(None, address.clone())),
            _ => None,
        }
    }
}

/// A mail that was checked.
pub(super) struct Mail {
    from: Mailbox,
    to: Vec<Mailbox>,
    cc: Vec<Mailbox>,
    bcc: Vec<Mailbox>,
    reply_to: Option<Mailbox>,
    subject: String,
    text: Option<String>,
    html: Option<String>,
}

/// A mail as it goes out.
pub(super) struct Made {
    pub(super) envelope: Envelope,
    pub(super) message_id: String,
    pub(super) bytes: Vec<u8>,
}

impl Mail {
    /// Reads parameters that are valid by the schema.
    pub(super) fn parse(params: &RawJson, senders: &Senders) -> Result<Self, Failure> {
        let params: Params = serde_json::from_str(params.as_str())
            .map_err(|e| invalid("params_invalid", &e.to_string()))?;
        let all = |field: &str, texts: &[String]| -> Result<Vec<Mailbox>, Failure> {
            texts.iter().map(|text| mailbox(field, text)).collect()
        };
        let (to, cc, bcc) =
            (all("to", &params.to)?, all("cc", &params.cc)?, all("bcc", &params.bcc)?);
        let recipients = to.len() + cc.len() + bcc.len();
        if to.is_empty() || recipients > limits::RECIPIENTS_MAX {
            let message = format!("to, cc, bcc: 1 to {} in all", limits::RECIPIENTS_MAX);
            return Err(invalid("too_many_recipients", &message));
        }
        plain("subject", &params.subject)?;
        if params.subject.len() > limits::SUBJECT_BYTES_MAX {
            let message = format!("subject: at most {} bytes", limits::SUBJECT_BYTES_MAX);
            return Err(invalid("params_invalid", &message));
        }
        let bytes = [&params.text, &params.html].into_iter().flatten().map(String::len).sum();
        if !(1..=limits::EMAIL_BYTES_MAX).contains(&bytes) {
            let message = format!("text, html: 1 to {} bytes in all", limits::EMAIL_BYTES_MAX);
            return Err(invalid("body_refused", &message));
        }
        Ok(Self {
            from: sender(params.from.as_deref(), senders)?,
            to,
            cc,
            bcc,
            reply_to: params
                .reply_to
                .as_deref()
                .map(|text| mailbox("reply_to", text))
                .transpose()?,
            subject: params.subject,
            text: params.text,
            html: params.html,
        })
    }

    /// The mail as it goes out at `now`. Its id is the same for each attempt at the action.
    pub(super) fn build(self, action: &str, now: Timestamp) -> Result<Made, Failure> {
        let broken = |e: &dyn std::fmt::Display| {
            Failure::new(Category::Validation, "address_invalid", format!("no mail: {e}"))
        };
        let everyone = self.to.iter().chain(&self.cc).chain(&self.bcc);
        let recipients = everyone.map(|mailbox| mailbox.email.clone()).collect();
        let envelope = Envelope::new(Some(self.from.email.clone()), recipients);
        let envelope = envelope.map_err(|e| broken(&e))?;
        let message_id = format!("<{action}@{}>", self.from.email.domain());
        let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
        let mut builder = Message::builder()
            .from(self.from)
            .message_id(Some(message_id.clone()))
            .date(time(now))
            .subject(self.subject)
            .raw_header(HeaderValue::new(automatic, "auto-generated".to_owned()))
            .envelope(envelope.clone());
        for mailbox in self.to {
            builder = builder.to(mailbox);
        }
        for mailbox in self.cc {
            builder = builder.cc(mailbox);
        }
        if let Some(mailbox) = self.reply_to {
            builder = builder.reply_to(mailbox);
        }
        let built = match (self.text, self.html) {
            (Some(text), Some(html)) => {
                builder.multipart(MultiPart::alternative_plain_html(text, html))
            }
            (None, Some(html)) => builder.singlepart(SinglePart::html(html)),
            (text, None) => builder.singlepart(SinglePart::plain(text.unwrap_or_default())),
        };
        let bytes = built.map_err(|e| broken(&e))?.formatted();
        Ok(Made { envelope, message_id, bytes })
    }
}

fn time(now: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(u64::try_from(now.0).unwrap_or(0))
}

fn sender(given: Option<&str>, senders: &Senders) -> Result<Mailbox, Failure> {
    let refused = |message: &str| Failure::new(Category::Permission, "sender_not_allowed", message);
    let Some(text) = given else {
        let first = senders.first();
        return first.ok_or_else(|| refused("from: name an address that email.from allows"));
    };
    let from = mailbox("from", text)?;
    match senders.allows(&from.email) {
        true => Ok(from),
        false => Err(refused("from: email.from of the configuration has no such address")),
    }
}

/// An address with or without a name.
fn mailbox(field: &str, text: &str) -> Result<Mailbox, Failure> {
    plain(field, text)?;
    let wrong = || {
        let message = format!("{field}: write `name@example.com` or `Name <name@example.com>`");
        invalid("address_invalid", &message)
    };
    let found: Mailbox = text.parse().map_err(|_| wrong())?;
    let address: &str = found.email.as_ref();
    // Not every server on the way takes other letters; a domain can be written as `xn--`.
    if text.len() > limits::MAILBOX_BYTES_MAX || !address.is_ascii() {
        return Err(wrong());
    }
    Ok(found)
}

/// Refuses what could begin another header.
fn plain(field: &str, text: &str) -> Result<(), Failure> {
    if text.chars().any(char::is_control) {
        let message = format!("{field}: has a control character in it, such as a line break");
        return Err(invalid("header_refused", &message));
    }
    Ok(())
}

fn invalid(code: &str, message: &str) -> Failure {
    Failure::new(Category::Validation, code, message)
}
