//! A witness process, logs that are signed by hand, and a reader of cosignatures that is not ours.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signer as _, SigningKey};
use kernel::cosignature::CosignerKey;
use kernel::note::{Checkpoint, Note, NoteSignature, VerifierKey};
use kernel::tree::{self, Frontier};
use kernel::values::Digest;
use kernel::witness::AddCheckpoint;
use proto::identity::GetTenantKeysRequest;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::process::{ended, first_line};
use crate::common::wire::Wire;
use crate::common::{Server, WORKSPACE, assert_code, command, tally, text};

/// Leaves of a log that is made by hand.
const LEAVES: u64 = 40;

/// A witness process. It is killed when this is dropped.
pub(super) struct Watch {
    pub(super) url: String,
    pub(super) data: PathBuf,
    pub(super) vkey: String,
    keys: PathBuf,
    process: Child,
    log: Option<thread::JoinHandle<std::io::Result<Vec<u8>>>>,
}

impl Watch {
    /// Starts a witness below `folder` that watches the logs of these keys.
    pub(super) fn start(folder: &Path, logs: &[VerifierKey]) -> Self {
        let (data, keys) = (folder.join("witness"), folder.join("logs"));
        let lines: Vec<String> = logs.iter().map(ToString::to_string).collect();
        std::fs::write(&keys, format!("# the logs\n{}\n", lines.join("\n"))).unwrap();
        let data_name = data.to_str().unwrap();
        let key = tally(&["witness", "key", "--data", data_name, "--name", "witness.test/b"]);
        assert_code(&key, 0);
        let vkey = text(&key).trim_end().to_owned();
        let (process, url, log) = spawn(&data, &keys, "127.0.0.1:0");
        Self { url, data, vkey, keys, process, log: Some(log) }
    }

    /// The settings of a server that asks this witness.
    pub(super) fn setting(&self) -> String {
        let Self { url, vkey, .. } = self;
        format!(
            "witnesses: [{{url: '{url}', vkey: '{vkey}'}}]\nwitness_quorum: 1\nwitness_every_s: 1"
        )
    }

    pub(super) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Ends it, and gives what it logged.
    pub(super) fn terminate(&mut self) -> String {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        assert!(ended(&mut self.process).success());
        let log = self.log.take().unwrap().join().unwrap().unwrap();
        String::from_utf8(log).unwrap()
    }

    pub(super) fn restart(&mut self) {
        let address = self.url.split("://").nth(1).unwrap().to_owned();
        let (process, url, log) = spawn(&self.data, &self.keys, &address);
        assert_eq!(url, self.url);
        (self.process, self.log) = (process, Some(log));
    }

    pub(super) fn wire(&self) -> Wire {
        Wire::new(&self.url)
    }

    /// Status, body and content type of the answer to a request.
    pub(super) async fn add(&self, request: &str) -> (u16, String, String) {
        Self::add_by(&self.wire(), request).await
    }

    pub(super) async fn add_by(wire: &Wire, request: &str) -> (u16, String, String) {
        let reply = wire.ask("POST", "/add-checkpoint").bytes(request).send().await;
        (reply.status, reply.text(), reply.header("content-type").to_owned())
    }

    pub(super) async fn alarms(&self) -> Vec<Value> {
        let reply = self.wire().ask("GET", "/alarms").send().await.good();
        reply["alarms"].as_array().unwrap().clone()
    }

    pub(super) async fn lives(&self) -> bool {
        self.wire().ask("GET", "/healthz").send().await.status == 200
    }

    pub(super) async fn metrics(&self) -> String {
        self.wire().ask("GET", "/metrics").send().await.text()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

type Spawned = (Child, String, thread::JoinHandle<std::io::Result<Vec<u8>>>);

fn spawn(data: &Path, keys: &Path, address: &str) -> Spawned {
    let mut process = command(&["witness", "serve", "--listen", address])
        .arg("--data")
        .arg(data)
        .arg("--log-keys")
        .arg(keys)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = process.stderr.take().unwrap();
    let log = thread::spawn(move || {
        let mut text = Vec::new();
        stderr.read_to_end(&mut text).map(|_| text)
    });
    let line = first_line(&mut process);
    let Some(url) = line.strip_prefix("listening on ") else {
        process.kill().unwrap();
        let log = log.join().unwrap().unwrap();
        panic!("the witness does not start: {line:?} {}", String::from_utf8_lossy(&log));
    };
    (process, url.trim_end().to_owned(), log)
}

/// The keys of the logs of a server's first tenant.
pub(super) async fn log_keys(server: &Server) -> Vec<VerifierKey> {
    let request = GetTenantKeysRequest { tenant: WORKSPACE.to_owned() };
    let known = server.owner.get_tenant_keys(&request).await.unwrap().keys;
    let keys = known.iter().filter(|key| !key.vkey.is_empty());
    keys.map(|key| key.vkey.parse().unwrap()).collect()
}

/// A log whose key the test has.
pub(super) struct Log {
    origin: String,
    key: SigningKey,
    leaves: Vec<Digest>,
}

impl Log {
    pub(super) fn new(origin: &str, seed: u8) -> Self {
        let leaf = |index: u64| tree::leaf_hash(format!("entry {index}").as_bytes());
        let leaves = (0..LEAVES).map(leaf).collect();
        Self { origin: origin.to_owned(), key: SigningKey::from_bytes(&[seed; 32]), leaves }
    }

    /// The same key's log with other entries from `from` on.
    pub(super) fn forked(&self, from: usize) -> Self {
        let mut leaves = self.leaves.clone();
        leaves[from..].iter_mut().for_each(|leaf| *leaf = tree::leaf_hash(&leaf.0));
        Self { origin: self.origin.clone(), key: self.key.clone(), leaves }
    }

    pub(super) fn key(&self) -> VerifierKey {
        VerifierKey::new(&self.origin, self.key.verifying_key().to_bytes()).unwrap()
    }

    /// The same key as a witness's.
    pub(super) fn cosigner(&self) -> CosignerKey {
        CosignerKey::new(&self.origin, self.key.verifying_key().to_bytes()).unwrap()
    }

    fn signed(&self, text: &str) -> Note {
        let sig = self.key.sign(text.as_bytes()).to_bytes().to_vec();
        Note::new(text, vec![NoteSignature::by(&self.key(), sig)]).unwrap()
    }

    pub(super) fn checkpoint(&self, size: u64) -> Note {
        let mut tree = Frontier::default();
        let taken = self.leaves.iter().take(usize::try_from(size).unwrap());
        taken.for_each(|leaf| tree.push(*leaf));
        let head = Checkpoint { origin: self.origin.clone(), size, root: tree.root() };
        self.signed(&head.text().unwrap())
    }

    /// A request with this proof.
    pub(super) fn body(&self, old: u64, proof: &[Digest], size: u64) -> String {
        let checkpoint = self.checkpoint(size);
        AddCheckpoint { old, proof: proof.to_vec(), checkpoint }.to_string()
    }

    /// A request with the right proof.
    pub(super) fn request(&self, old: u64, size: u64) -> String {
        let proof = tree::consistency_proof(old, size, self.leaves.as_slice()).unwrap();
        self.body(old, &proof, size)
    }

    /// A request for a checkpoint with an extension line.
    pub(super) fn with_extension(&self, size: u64) -> String {
        let text = format!("{}extension\n", self.checkpoint(size).text());
        format!("old 0\n\n{}", self.signed(&text))
    }
}

/// Verifies a timestamped Ed25519 signature, as C2SP tlog-cosignature describes it.
struct Cosigner {
    name: String,
    id: u32,
    key: ed25519_dalek::VerifyingKey,
}

impl signed_note::Verifier for Cosigner {
    fn name(&self) -> &str {
        &self.name
    }

    fn key_id(&self) -> u32 {
        self.id
    }

    fn verify(&self, msg: &[u8], sig: &[u8]) -> bool {
        let (time, sig) = sig.split_at(8);
        let time = u64::from_be_bytes(time.try_into().unwrap());
        let head = format!("cosignature/v1\ntime {time}\n");
        let signed = [head.as_bytes(), msg].concat();
        let sig = ed25519_dalek::Signature::from_slice(sig).unwrap();
        time > 1_700_000_000 && self.key.verify_strict(&signed, &sig).is_ok()
    }
}

/// Reads the note with the `signed_note` crate, and checks that the witness cosigned it.
#[track_caller]
pub(super) fn cosignature_by_others(note: &str, vkey: &str) {
    let (name, key) = vkey.split_once('+').map(|(n, r)| (n, r.split_once('+').unwrap().1)).unwrap();
    let key = BASE64.decode(key).unwrap();
    assert_eq!(key[0], 4, "the type of timestamped Ed25519");
    let cosigner = Cosigner {
        name: name.to_owned(),
        id: signed_note::key_id(name, &key),
        key: ed25519_dalek::VerifyingKey::from_bytes(key[1..].try_into().unwrap()).unwrap(),
    };
    let known = signed_note::VerifierList::new(vec![Box::new(cosigner)]);
    let read = signed_note::Note::from_bytes(note.as_bytes()).unwrap();
    let (verified, _) = read.verify(&known).unwrap();
    assert_eq!(verified.len(), 1);
    let head = tlog_tiles::Checkpoint::from_bytes(read.text()).unwrap();
    assert!(head.size() > 0);
}
