//! Approvers' own signatures: made by the program, checked by the server, and by openssl.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use client::Client;
use proto::actions::Action;
use proto::actions::action::State;
use proto::approvals::{Approval, Choice, DecideApprovalRequest, Signature};
use proto::identity::principal::Kind;
use proto::me::{
    AddSigningKeyRequest, ListSigningKeysRequest, RemoveSigningKeyRequest, SigningKey,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::common::desk::{Desk, approve, held_by};
use crate::common::{assert_code, json, refusal, text};

const SIGNED: &str = r#"{"approval": {"signed": true, "stages": [{"name": "legal"}]}}"#;

fn openssl(args: &[&str]) -> String {
    let output = Command::new("openssl").args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A folder with a private key that openssl made, of either kind.
struct Keys(TempDir);

impl Keys {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// The path of a new private key.
    fn make(&self, kind: &str) -> String {
        let path = self.path(&format!("{kind}.pem"));
        let curve = ["-pkeyopt", "ec_paramgen_curve:P-256"];
        let mut args = vec!["genpkey", "-algorithm", kind, "-out", &path];
        if kind == "EC" {
            args.extend(curve);
        }
        openssl(&args);
        path
    }

    fn public(&self, private: &str) -> String {
        openssl(&["pkey", "-in", private, "-pubout"])
    }
}

async fn register(who: &Client, pem: &str) -> SigningKey {
    let (public_key_pem, name) = (pem.to_owned(), "work laptop".to_owned());
    who.add_signing_key(&AddSigningKeyRequest { public_key_pem, name }, None).await.unwrap()
}

/// The bytes that an approver's signature is over, as spec/receipt.md says.
fn statement(approval: &str, plan: &str, not_after: i64, stage: &str) -> Vec<u8> {
    let plan = plan.strip_prefix("sha256:").unwrap();
    let members = [
        format!(r#""approval_id":"{approval}","decision":"approve","not_after":{not_after}"#),
        format!(r#""plan_digest":"{plan}","stage":"{stage}""#),
    ];
    let statement = format!("{{{}}}", members.join(","));
    let kind = "application/vnd.tally.approval+json";
    format!("DSSEv1 {} {kind} {} {statement}", kind.len(), statement.len()).into_bytes()
}

/// The same for a vote in a receipt.
fn signed_bytes(approval: &Approval, vote: &Value) -> Vec<u8> {
    let not_after = vote["signature"]["not_after"].as_i64().unwrap();
    let stage = vote["stage"].as_str().unwrap();
    statement(&approval.approval_id, &approval.plan_digest, not_after, stage)
}

/// Whether openssl, with nothing but the receipt, finds the signature good over `bytes`.
fn verifies(folder: &Path, vote: &Value, bytes: &[u8]) -> bool {
    let file = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let field = |name: &str| BASE64.decode(vote["signature"][name].as_str().unwrap()).unwrap();
    let key = file("key.der", &field("public_key"));
    let (sig, data) = (file("sig", &field("sig")), file("data", bytes));
    let mut command = Command::new("openssl");
    let ed25519 = field("public_key").len() == 44;
    command.args(["pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey"]).arg(key);
    command.arg("-sigfile").arg(sig).arg("-in").arg(data).arg("-rawin");
    if !ed25519 {
        command.args(["-digest", "sha256"]);
    }
    command.output().unwrap().status.success()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_openssl_verifies_what_an_approver_signed() {
    let desk = Desk::new(&held_by(SIGNED)).await;
    let keys = Keys::new();
    for kind in ["ED25519", "EC"] {
        let private = keys.make(kind);
        let key = desk.server.key(Kind::User, &["approver"], "dev").await;
        let run = |args: &[&str]| desk.server.tally(&key, args);
        let added = run(&["--json", "me", "signing-keys", "add", &private, "--name", "mine"]);
        assert_code(&added, 0);
        let added = json(&added);
        assert_eq!(added["public_key_pem"].as_str().unwrap(), keys.public(&private));
        let held = desk.held().await;
        let bare = run(&["approve", &held.approval_id]);
        assert_code(&bare, 3);
        assert!(String::from_utf8_lossy(&bare.stderr).contains("signature_required"));
        let signed = run(&["approve", &held.approval_id, "--sign", &private]);
        assert_code(&signed, 0);
        desk.reaches(&held, State::Executed).await;

        let approval = desk.approval(&held.approval_id).await;
        let shown = approval.approvals[0].signature.as_ref().unwrap();
        assert_eq!(shown.key_id, added["key_id"].as_str().unwrap());
        let vote = desk.changes(&approval).await[1]["vote"].clone();
        let bytes = signed_bytes(&approval, &vote);
        assert!(verifies(keys.0.path(), &vote, &bytes), "{vote}");
        let other = Approval { plan_digest: format!("sha256:{}", "0".repeat(64)), ..approval };
        assert!(!verifies(keys.0.path(), &vote, &signed_bytes(&other, &vote)));
        let list = run(&["me", "signing-keys", "list"]);
        assert!(text(&list).contains("mine"), "{}", text(&list));
    }
    desk.verify().await;
}

/// A signature that the program makes for `on` by the key in `private`, as the wire has it.
fn sign(on: &Action, private: &str, not_after: i64, stage: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (data, sig) = (folder.path().join("data"), folder.path().join("sig"));
    fs::write(&data, statement(&on.approval_id, &on.plan_digest, not_after, stage)).unwrap();
    let (data, sig) = (data.to_str().unwrap(), sig.to_str().unwrap());
    openssl(&["pkeyutl", "-sign", "-inkey", private, "-rawin", "-in", data, "-out", sig]);
    BASE64.encode(fs::read(sig).unwrap())
}

fn with(on: &Action, key_id: &str, sig: &str, not_after: i64) -> DecideApprovalRequest {
    let (key_id, sig) = (key_id.to_owned(), sig.to_owned());
    DecideApprovalRequest {
        approval_id: on.approval_id.clone(),
        decision: Choice::Approve.into(),
        plan_digest: on.plan_digest.clone(),
        signature: Some(Signature { key_id, sig, not_after, public_key: String::new() }),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_that_is_wrong_or_of_another_key_records_nothing() {
    let desk = Desk::new(&held_by(SIGNED)).await;
    let (ann, bob) = (desk.approver().await, desk.approver().await);
    let keys = Keys::new();
    let private = keys.make("ED25519");
    let held = desk.held().await;
    let end = i64::MAX >> 11;
    let good = sign(&held, &private, end, "legal");
    // Another's key, and one that was not registered.
    let id = register(&bob, &keys.public(&private)).await.key_id;
    let refused = |code: &str| (403, code.to_owned());
    let foreign = ann.decide_approval(&with(&held, &id, &good, end), None).await;
    assert_eq!(refusal(foreign), refused("signature_key_unknown"));
    register(&ann, &keys.public(&private)).await;
    for (sig, not_after) in [
        (sign(&held, &private, end, ""), end),
        (sign(&held, &private, end - 1, "legal"), end),
        (sign(&held, &keys.make("EC"), end, "legal"), end),
        ("AAAA".to_owned(), end),
    ] {
        let wrong = ann.decide_approval(&with(&held, &id, &sig, not_after), None).await;
        assert_eq!(refusal(wrong), refused("signature_invalid"));
    }
    let late = with(&held, &id, &sign(&held, &private, 1, "legal"), 1);
    let late = refusal(ann.decide_approval(&late, None).await);
    assert_eq!(late.0, 400, "it has ended already");
    let other = desk.held().await;
    let moved = ann.decide_approval(&with(&other, &id, &good, end), None).await;
    assert_eq!(refusal(moved), refused("signature_invalid"), "it was made for another approval");
    let unsigned = refusal(approve(&ann, &held).await);
    assert_eq!(unsigned, refused("signature_required"));
    let seen = desk.approval(&held.approval_id).await;
    assert_eq!((seen.approvals.len(), seen.receipts.len(), desk.effects()), (0, 1, 0));

    let remove = RemoveSigningKeyRequest { key_id: id.clone() };
    bob.remove_signing_key(&remove, None).await.unwrap();
    let gone = bob.decide_approval(&with(&held, &id, &good, end), None).await;
    assert_eq!(refusal(gone), refused("signature_key_unknown"), "a removed key counts no more");
    ann.decide_approval(&with(&held, &id, &good, end), None).await.unwrap();
    desk.reaches(&held, State::Executed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_registered_by_their_holders_alone() {
    let desk = Desk::new(&held_by(SIGNED)).await;
    let (ann, bob) = (desk.approver().await, desk.approver().await);
    let keys = Keys::new();
    let pem = keys.public(&keys.make("EC"));
    let made = register(&ann, &pem).await;
    assert_eq!((made.name.as_str(), made.algorithm.as_str()), ("work laptop", "ecdsa_p256_sha256"));
    let list = |who: Client| async move {
        who.list_signing_keys(&ListSigningKeysRequest {}).await.unwrap().keys
    };
    assert_eq!(list(bob.clone()).await, []);
    let remove = RemoveSigningKeyRequest { key_id: made.key_id.clone() };
    assert_eq!(refusal(bob.remove_signing_key(&remove, None).await).0, 404);
    let add = |pem: &str| AddSigningKeyRequest {
        public_key_pem: pem.to_owned(),
        name: "another".to_owned(),
    };
    assert_eq!(refusal(ann.add_signing_key(&add(&pem), None).await).0, 409);
    let rsa = keys.path("rsa.pem");
    openssl(&["genpkey", "-algorithm", "RSA", "-out", &rsa]);
    for bad in ["", "no key", &keys.public(&rsa)] {
        assert_eq!(refusal(ann.add_signing_key(&add(bad), None).await).0, 400);
    }
    assert_eq!(refusal(desk.agent.add_signing_key(&add(&pem), None).await).0, 403);
    ann.remove_signing_key(&remove, None).await.unwrap();
    assert!(list(ann.clone()).await[0].removed_at.is_some());
    assert_eq!(
        refusal(ann.add_signing_key(&add(&pem), None).await).0,
        409,
        "it does not come back"
    );
}
