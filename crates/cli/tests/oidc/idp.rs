//! The provider's process, and a browser that logs in with it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::common::process::first_line;
use crate::common::wire::{Reply, Wire};

/// The provider. It is killed when this is dropped.
pub(crate) struct Idp {
    pub(crate) url: String,
    process: Child,
}

impl Idp {
    pub(crate) fn start() -> Self {
        let modules = std::env::var_os("TALLY_FOREIGN_NODE_MODULES").map(PathBuf::from);
        let modules = modules.filter(|folder| folder.join("oidc-provider").is_dir());
        let Some(modules) = modules else {
            panic!(
                "no oidc-provider: run `eval \"$(cargo xtask foreign)\"`, or `cargo xtask test`"
            );
        };
        let mut process = Command::new("node")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oidc/idp.mjs"))
            .env("TALLY_FOREIGN_NODE_MODULES", modules)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let line = first_line(&mut process);
        let url = line.strip_prefix("listening on ").unwrap().trim_end().to_owned();
        Self { url, process }
    }

    /// Changes what the provider is told.
    pub(crate) async fn set(&self, change: Value) {
        let reply = Wire::new(&self.url).ask("POST", "/fixture").json(&change).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }

    /// Lets the provider send people back to a server, by all the names that it has in a test.
    pub(crate) async fn redirects_to(&self, urls: &[&str]) {
        let uris: Vec<_> = urls.iter().map(|url| format!("{url}/auth/callback")).collect();
        self.set(json!({"redirect_uris": uris})).await;
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Idp {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// A browser with its cookies, of one person.
pub(crate) struct Browser {
    person: String,
    cookies: BTreeMap<(String, String), String>,
}

/// Redirects and forms that one login may take.
const STEPS_MAX: usize = 20;

impl Browser {
    pub(crate) fn of(person: &str) -> Self {
        Self { person: person.to_owned(), cookies: BTreeMap::new() }
    }

    /// The value of a cookie of `url`'s server.
    pub(crate) fn cookie(&self, url: &str, name: &str) -> Option<&str> {
        let (origin, _) = split(url);
        self.cookies.get(&(origin, name.to_owned())).map(String::as_str)
    }

    /// Sets a cookie as another browser had it.
    pub(crate) fn set_cookie(&mut self, url: &str, name: &str, value: &str) {
        self.cookies.insert((split(url).0, name.to_owned()), value.to_owned());
    }

    /// One request, without following where it leads.
    pub(crate) async fn get(&mut self, url: &str) -> Reply {
        self.send("GET", url, None).await
    }

    /// A POST from a page of `site`.
    pub(crate) async fn post(&mut self, url: &str, site: &str) -> Reply {
        let (origin, path) = split(url);
        let ask = Wire::new(&origin).ask("POST", &path).header("sec-fetch-site", site);
        self.keep(&origin, ask.header("cookie", &self.cookies_of(&origin)).send().await)
    }

    /// A form of a page of `site`.
    pub(crate) async fn submit(&mut self, url: &str, site: &str, form: &str) -> Reply {
        let (origin, path) = split(url);
        let ask = Wire::new(&origin).ask("POST", &path).header("sec-fetch-site", site);
        let ask = ask.raw(form).header("content-type", "application/x-www-form-urlencoded");
        self.keep(&origin, ask.header("cookie", &self.cookies_of(&origin)).send().await)
    }

    async fn send(&mut self, method: &str, url: &str, form: Option<&str>) -> Reply {
        let (origin, path) = split(url);
        let ask = Wire::new(&origin).ask(method, &path).header("accept", "text/html");
        let ask = ask.header("cookie", &self.cookies_of(&origin));
        let ask = match form {
            None => ask,
            Some(form) => ask.raw(form).header("content-type", "application/x-www-form-urlencoded"),
        };
        self.keep(&origin, ask.send().await)
    }

    fn cookies_of(&self, origin: &str) -> String {
        let own = self.cookies.iter().filter(|((of, _), _)| of == origin);
        own.map(|((_, name), value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    fn keep(&mut self, origin: &str, reply: Reply) -> Reply {
        for line in reply.headers.get_all("set-cookie") {
            let line = line.to_str().unwrap();
            let (name, value) = line.split(';').next().unwrap().split_once('=').unwrap();
            let key = (origin.to_owned(), name.trim().to_owned());
            if value.is_empty() {
                self.cookies.remove(&key);
            } else {
                self.cookies.insert(key, value.to_owned());
            }
        }
        reply
    }

    /// Begins at `url` and goes through the provider's forms, up to its answer: the URL that
    /// would be asked next, of the server that the login began at.
    pub(crate) async fn until_callback(&mut self, url: &str) -> String {
        let begun = self.get(url).await;
        assert_eq!(begun.status, 303, "{}", begun.text());
        self.sent_to(begun.header("location"), &split(url).0).await
    }

    /// Goes through the provider's forms from `url` on, up to where it sends to `home`.
    pub(crate) async fn sent_to(&mut self, url: &str, home: &str) -> String {
        let mut next = url.to_owned();
        for _ in 0..STEPS_MAX {
            if split(&next).0 == home {
                return next;
            }
            let mut reply = self.get(&next).await;
            if reply.status == 200 {
                let login = reply.text().contains("name=\"login\"");
                let form = match login {
                    true => format!("prompt=login&login={}&password=any", self.person),
                    false => "prompt=consent".to_owned(),
                };
                let action = next.clone();
                reply = self.send("POST", &action, Some(&form)).await;
            }
            assert!(matches!(reply.status, 302 | 303), "{next}: {} {}", reply.status, reply.text());
            let location = reply.header("location");
            next = match location.starts_with('/') {
                true => format!("{}{location}", split(&next).0),
                false => location.to_owned(),
            };
        }
        panic!("the login at {url} never ends");
    }

    /// Goes through the provider's forms from `url` on, and back to who listens on this machine.
    pub(crate) async fn through(&mut self, url: &str) {
        let home = form_urlencoded::parse(url.split_once('?').unwrap().1.as_bytes())
            .find_map(|(name, value)| (name == "redirect_uri").then(|| value.into_owned()));
        let callback = self.sent_to(url, &split(&home.unwrap()).0).await;
        let shown = self.get(&callback).await;
        assert_eq!(shown.status, 200, "{}", shown.text());
    }

    /// Logs in whole: the answer to the callback.
    pub(crate) async fn log_in(&mut self, url: &str) -> Reply {
        let callback = self.until_callback(url).await;
        self.get(&callback).await
    }
}

/// The origin of a URL, and the rest.
fn split(url: &str) -> (String, String) {
    let (scheme, rest) = url.split_once("://").unwrap();
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(at);
    (format!("{scheme}://{host}"), path.to_owned())
}
