//! Looks for what must be nowhere: needles, in whatever form they may have been written down, in
//! every file of a data folder and in whatever else a scenario left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use aho_corasick::AhoCorasick;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::Server;

/// Texts to look for, each by a name.
#[derive(Default)]
pub(crate) struct Needles {
    /// Each form of each needle: the name of both, and the form.
    forms: Vec<(String, String)>,
}

/// A needle that was found: where, which, in which form.
pub(crate) type Leak = (String, String);

impl Needles {
    /// Looks for these texts. Short ones are found by chance: at least eight bytes.
    pub(crate) fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut needles = Self::default();
        for text in texts {
            assert!(text.len() >= 8, "`{text}` is found by chance");
            for (name, form) in forms(text) {
                needles.forms.push((format!("`{text}` {name}"), form));
            }
        }
        needles
    }

    /// Every needle in `bytes`, by its name.
    pub(crate) fn within(&self, bytes: &[u8]) -> Vec<String> {
        // What is text stays as it is, whatever stands beside it.
        let text = String::from_utf8_lossy(bytes);
        let found = self.forms.iter().filter(|(_, form)| text.contains(form.as_str()));
        found.map(|(name, _)| name.clone()).collect()
    }

    /// Every needle in a file or in the files below a folder.
    pub(crate) fn below(&self, path: &Path) -> Vec<Leak> {
        let mut leaks = Vec::new();
        self.search(path, &mut leaks);
        leaks
    }

    fn search(&self, path: &Path, leaks: &mut Vec<Leak>) {
        let kind = fs::symlink_metadata(path).unwrap().file_type();
        if kind.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                self.search(&entry.unwrap().path(), leaks);
            }
        } else if kind.is_file() {
            let name = path.display().to_string();
            let found = self.within(&fs::read(path).unwrap());
            leaks.extend(found.into_iter().map(|needle| (name.clone(), needle)));
        }
    }

    /// Fails where a needle is in the data of a server, in what it logged, or in `more`. The server
    /// must have ended before.
    #[track_caller]
    pub(crate) fn assert_absent(&self, server: &mut Server, more: &BTreeMap<&str, &[u8]>) {
        let mut leaks = self.below(&server.data);
        let log = server.log();
        let named = |name: &str, bytes: &[u8]| -> Vec<Leak> {
            self.within(bytes).into_iter().map(|needle| (name.to_owned(), needle)).collect()
        };
        leaks.extend(named("the server's log", log.as_bytes()));
        leaks.extend(more.iter().flat_map(|(name, bytes)| named(name, bytes)));
        assert!(leaks.is_empty(), "{leaks:?}");
    }
}

/// Credentials of tests, and what their incidents say: no server leaves any of it behind, whichever
/// test it is of. (What a test keeps for good on purpose is sealed, and so it is not found.)
fn of_the_suite() -> Vec<&'static str> {
    let secrets = crate::itsm::scene::SECRETS.iter().map(|(_, value)| *value);
    let others = [
        crate::models::KEY,
        crate::connectors::SECRET,
        crate::connectors::TOKEN,
        crate::skills::mail::PASSWORD,
    ];
    secrets.chain(crate::itsm::TEXTS).chain(others).collect()
}

/// Folders of a server's data that are not searched: compiled code, which is large and has nothing
/// that anybody said.
const UNSEARCHED: [&str; 1] = ["compiled"];
/// How long `/metrics` may take.
const METRICS: Duration = Duration::from_secs(2);

/// All forms of many texts, searched for in one pass.
struct Search {
    automaton: AhoCorasick,
    names: Vec<String>,
}

impl Search {
    fn new(forms: impl IntoIterator<Item = (String, String)>) -> Self {
        let (names, forms): (Vec<String>, Vec<String>) = forms.into_iter().unzip();
        Self { automaton: AhoCorasick::new(forms).unwrap(), names }
    }

    fn within(&self, bytes: &[u8]) -> BTreeSet<&str> {
        let found = self.automaton.find_overlapping_iter(bytes);
        found.map(|found| self.names[found.pattern().as_usize()].as_str()).collect()
    }
}

/// What a server left behind that it must not: in the files of its data folder, and in what it
/// `told`. `keys` are those of its own principals.
pub(super) fn of_server(data: &Path, told: &[u8], keys: &[String]) -> Vec<Leak> {
    static SUITE: OnceLock<Search> = OnceLock::new();
    let suite = SUITE.get_or_init(|| Search::new(Needles::new(of_the_suite()).forms));
    let own = Search::new(keys.iter().map(|key| ("a principal's key".to_owned(), key.clone())));
    let mut leaks = Vec::new();
    let mut look = |place: String, bytes: &[u8]| {
        let found = suite.within(bytes).into_iter().chain(own.within(bytes));
        leaks.extend(found.map(|needle| (place.clone(), needle.to_owned())));
    };
    look("its log or /metrics".to_owned(), told);
    let mut folders = vec![data.to_owned()];
    while let Some(folder) = folders.pop() {
        // Files come and go, and a test may have taken the whole folder away.
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if UNSEARCHED.iter().any(|name| entry.file_name() == **name) {
                continue;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(path),
                Ok(kind) if kind.is_file() => {
                    look(path.display().to_string(), &fs::read(&path).unwrap_or_default());
                }
                _ => {}
            }
        }
    }
    leaks
}

/// What `/metrics` of a server says; nothing where it has ended.
pub(super) fn metrics(url: &str) -> Vec<u8> {
    let Some(address) = url.strip_prefix("http://").and_then(|rest| rest.parse().ok()) else {
        return Vec::new();
    };
    let asked = TcpStream::connect_timeout(&address, METRICS).and_then(|mut stream| {
        stream.set_read_timeout(Some(METRICS))?;
        let head = "GET /metrics HTTP/1.1\r\nconnection: close\r\nhost";
        let request = format!("{head}: {address}\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map(|_| answer)
    });
    asked.unwrap_or_default()
}

/// A text as it may have been written down.
fn forms(text: &str) -> BTreeMap<String, String> {
    let mut forms: BTreeMap<String, String> = BTreeMap::new();
    forms.insert("as it is".to_owned(), text.into());
    forms.insert("in capitals".to_owned(), text.to_uppercase());
    forms.insert("in small letters".to_owned(), text.to_lowercase());
    let json = serde_json::to_string(text).unwrap();
    forms.insert("in JSON".to_owned(), json.trim_matches('"').into());
    let again = serde_json::to_string(&json).unwrap();
    forms.insert(
        "in JSON in JSON".to_owned(),
        again.trim_matches('"').trim_matches(['\\', '"']).into(),
    );
    forms.insert("in hex".to_owned(), hex::encode(text));
    forms.insert("in capital hex".to_owned(), hex::encode_upper(text));
    let (mut url, mut form) = (String::new(), String::new());
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        match plain {
            true => url.push(char::from(byte)),
            false => write!(url, "%{byte:02X}").unwrap(),
        }
        match byte {
            b' ' => form.push('+'),
            _ if plain => form.push(char::from(byte)),
            _ => write!(form, "%{byte:02X}").unwrap(),
        }
    }
    forms.insert("in a URL".to_owned(), url);
    forms.insert("in a form".to_owned(), form);
    // Within a longer text its base64 begins at one of three places; the letters at both ends
    // depend on what stands beside it.
    for (name, before) in [("in base64", 0), ("in base64 from 1", 1), ("in base64 from 2", 2)] {
        let shifted = [&b"\0\0"[..before], text.as_bytes()].concat();
        let (first, last) = ((before * 8).div_ceil(6), shifted.len() * 8 / 6);
        for (name, encoded) in [
            (name.to_owned(), STANDARD_NO_PAD.encode(&shifted)),
            (format!("{name} of URLs"), URL_SAFE_NO_PAD.encode(&shifted)),
        ] {
            forms.insert(name, encoded.get(first..last).unwrap().to_owned());
        }
    }
    forms
}

/// A server that left something behind is found out, wherever that lies.
#[test]
fn what_a_server_leaves_behind_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let own = ["tk_0123456789".to_owned()];
    let deep = folder.path().join("a/b");
    fs::create_dir_all(&deep).unwrap();
    fs::create_dir_all(folder.path().join("compiled")).unwrap();
    fs::write(deep.join("fine"), "nothing of the kind").unwrap();
    assert_eq!(of_server(folder.path(), b"nothing either", &own), []);
    for text in of_the_suite() {
        let encoded = STANDARD.encode(format!("x{text} it"));
        fs::write(deep.join("leak"), format!("around {encoded}")).unwrap();
        let found = of_server(folder.path(), text.as_bytes(), &own);
        let places: BTreeSet<&str> = found.iter().map(|(place, _)| place.as_str()).collect();
        assert_eq!(places.len(), 2, "{text}: {found:?}");
    }
    fs::write(deep.join("leak"), &own[0]).unwrap();
    fs::write(folder.path().join("compiled/code"), &own[0]).unwrap();
    assert_eq!(of_server(folder.path(), b"", &own).len(), 1);
}

/// The search finds what is there, in every form.
#[test]
fn whatever_the_form_it_is_found() {
    let secret = "Ümläut & \"secret\" text";
    let needles = Needles::new([secret]);
    let json = serde_json::to_string(secret).unwrap();
    let line = format!("around {secret} it");
    let texts = [
        line.clone(),
        format!("{{\"a\": {json}}}"),
        serde_json::to_string(&format!("{{\"a\": {json}}}")).unwrap(),
        hex::encode(&line),
        hex::encode_upper(&line),
        STANDARD.encode(&line),
        STANDARD.encode(format!("x{line}")),
        STANDARD.encode(format!("xy{line}")),
        "/path?q=%C3%9Cml%C3%A4ut%20%26%20%22secret%22%20text".to_owned(),
        "q=%C3%9Cml%C3%A4ut+%26+%22secret%22+text".to_owned(),
    ];
    for text in texts {
        assert!(!needles.within(text.as_bytes()).is_empty(), "{text}");
    }
    assert!(needles.within(b"nothing of the kind, however long it is").is_empty());
}
