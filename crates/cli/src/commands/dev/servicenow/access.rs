//! Who asks: a password, or a token of OAuth 2.

use std::collections::BTreeMap;
use std::sync::Mutex;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::script::{Client, User};
use crate::commands::dev::locked;
use crate::commands::dev::post::{hex, now_s};
use crate::commands::dev::site::{Answer, Asked};

/// Who may do what, and the tokens that were given out.
#[derive(Debug)]
pub(super) struct Access {
    users: Vec<User>,
    clients: Vec<Client>,
    ttl_s: u64,
    tokens: Mutex<BTreeMap<String, Token>>,
}

#[derive(Debug)]
struct Token {
    user: String,
    refreshes: bool,
    until: u64,
}

/// Why no token is given.
struct Denied(&'static str, &'static str);

impl Access {
    pub(super) fn new(users: Vec<User>, clients: Vec<Client>, ttl_s: u64) -> Self {
        Self { users, clients, ttl_s, tokens: Mutex::default() }
    }

    /// The user that a request comes from.
    pub(super) fn user(&self, asked: &Asked) -> Option<&User> {
        if let Some(basic) = asked.authorization("Basic") {
            let (name, password) = pair(basic)?;
            return self.login(&name, &password);
        }
        let tokens = locked(&self.tokens);
        let token = tokens.get(asked.authorization("Bearer")?)?;
        let serves = !token.refreshes && now_s() < token.until;
        self.users.iter().find(|user| serves && user.name == token.user)
    }

    fn login(&self, name: &str, password: &str) -> Option<&User> {
        self.users.iter().find(|user| user.name == name && user.password == password)
    }

    /// `POST /oauth_token.do`.
    pub(super) fn token(&self, asked: &Asked) -> Answer {
        let form: BTreeMap<String, String> = asked.form().into_iter().collect();
        match self.grant(asked, &form) {
            Ok(granted) => Answer::json(&granted),
            Err(Denied(error, description)) => {
                Answer::json(&json!({"error": error, "error_description": description})).with(401)
            }
        }
    }

    fn grant(&self, asked: &Asked, form: &BTreeMap<String, String>) -> Result<Value, Denied> {
        let text = |name: &str| form.get(name).map_or("", String::as_str);
        let (id, secret) = match asked.authorization("Basic").and_then(pair) {
            Some(own) => own,
            None => (text("client_id").to_owned(), text("client_secret").to_owned()),
        };
        let known = self.clients.iter().find(|one| one.id == id && one.secret == secret);
        let client = known.ok_or(Denied("invalid_client", "access_denied"))?;
        let refused = || Denied("server_error", "access_denied");
        let (user, refreshes) = match text("grant_type") {
            "client_credentials" => (client.user.clone(), false),
            "password" => {
                let user = self.login(text("username"), text("password")).ok_or_else(refused)?;
                (user.name.clone(), true)
            }
            "refresh_token" => {
                let tokens = locked(&self.tokens);
                let token = tokens.get(text("refresh_token")).filter(|token| token.refreshes);
                (token.ok_or_else(refused)?.user.clone(), true)
            }
            _ => return Err(Denied("unsupported_grant_type", "access_denied")),
        };
        let mut granted = json!({
            "access_token": self.issue(&user, false)?,
            "scope": "useraccount",
            "token_type": "Bearer",
            "expires_in": self.ttl_s,
        });
        if let Some(members) = granted.as_object_mut().filter(|_| refreshes) {
            members.insert("refresh_token".to_owned(), json!(self.issue(&user, true)?));
        }
        Ok(granted)
    }

    fn issue(&self, user: &str, refreshes: bool) -> Result<String, Denied> {
        let mut bytes = [0; 24];
        rand::fill(&mut bytes).map_err(|_| Denied("server_error", "no randomness"))?;
        let (token, user) = (hex(&bytes), user.to_owned());
        let until = now_s().saturating_add(self.ttl_s);
        locked(&self.tokens).insert(token.clone(), Token { user, refreshes, until });
        Ok(token)
    }

    /// Ends all tokens, as when an administrator revokes them.
    pub(super) fn revoke(&self) {
        locked(&self.tokens).clear();
    }
}

/// Name and password of basic authentication.
fn pair(text: &str) -> Option<(String, String)> {
    let text = String::from_utf8(STANDARD.decode(text).ok()?).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}
