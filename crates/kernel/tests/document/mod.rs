//! A document as a server would make it: the story's log, signed, with a proof.

use ed25519_dalek::Signer as _;
use kernel::action;
use kernel::attestation::{Attestation, Disclosure, Document};
use kernel::ids::ActionId;
use kernel::machine::Change;
use kernel::note::{Checkpoint, Note, NoteSignature, VerifierKey};
use kernel::proof::TlogProof;
use kernel::receipt::{ChainEnd, Position, Statement};
use kernel::tree::{self, Frontier};
use kernel::values::{Digest, Timestamp};
use kernel::verify::SignatureVerifier;
use kernel::{dsse, pem};
use p256::ecdsa::signature::Verifier as _;
use p256::pkcs8::{DecodePublicKey as _, EncodePublicKey as _};

use crate::story;

/// The algorithms as the pure Rust crates have them.
pub(crate) struct Pure;

impl SignatureVerifier for Pure {
    fn p256_sha256(&self, spki_der: &[u8], message: &[u8], sig_der: &[u8]) -> bool {
        let key = p256::ecdsa::VerifyingKey::from_public_key_der(spki_der);
        let signature = p256::ecdsa::DerSignature::from_bytes(sig_der);
        key.is_ok_and(|key| signature.is_ok_and(|sig| key.verify(message, &sig).is_ok()))
    }

    fn ed25519(&self, public: &[u8; 32], message: &[u8], sig: &[u8]) -> bool {
        let key = ed25519_dalek::VerifyingKey::from_bytes(public);
        let signature = ed25519_dalek::Signature::from_slice(sig);
        key.is_ok_and(|key| signature.is_ok_and(|sig| key.verify_strict(message, &sig).is_ok()))
    }
}

pub(crate) const HOST: &str = "tally.example";

/// Shortly after the execution.
pub(crate) fn now() -> Timestamp {
    story::time(60)
}

pub(crate) fn spki(scalar: u8) -> Vec<u8> {
    let key = p256::ecdsa::SigningKey::from_slice(&[scalar; 32]).unwrap();
    key.verifying_key().to_public_key_der().unwrap().as_bytes().to_vec()
}

/// An envelope, signed by the key of `scalar`.
pub(crate) fn seal(payload: &[u8], scalar: u8) -> String {
    let key = p256::ecdsa::SigningKey::from_slice(&[scalar; 32]).unwrap();
    let signature: p256::ecdsa::DerSignature = key.sign(&dsse::pae(payload));
    let envelope = dsse::envelope(payload, &Digest::of(&spki(scalar)), signature.as_bytes());
    String::from_utf8(envelope).unwrap()
}

pub(crate) fn log_key(seed: u8) -> (VerifierKey, ed25519_dalek::SigningKey) {
    let signing = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]);
    let (log, _) = story::logs().remove(0);
    (VerifierKey::new(&log.origin(HOST), signing.verifying_key().to_bytes()).unwrap(), signing)
}

/// The envelopes of the story's workspace, in which `act_1` attests `attestation`. The keys of
/// `scalars` sign them, one each, the last one the rest.
pub(crate) fn envelopes(
    attestation: Option<&Attestation>,
    scalars: &[u8],
) -> Vec<(Statement, String)> {
    let (log, commits) = story::logs().remove(0);
    let mut chain = ChainEnd::start(log.origin(HOST));
    let mut envelopes = Vec::new();
    for mut body in commits {
        for transition in &mut body.transitions {
            if let Change::Action(action::Change::Finished { outcome, .. }) = &mut transition.change
                && outcome.attestation.is_some()
            {
                outcome.attestation = attestation.cloned().map(Into::into);
            }
        }
        let at = usize::try_from(chain.size).unwrap();
        let position =
            Position { origin: chain.origin.clone(), index: chain.size, prev: chain.prev };
        let time = story::time(i64::try_from(chain.size).unwrap());
        let statement = Statement::new(&log, position, time, body);
        let payload = statement.payload().unwrap();
        chain.advance(&payload, time);
        let scalar = scalars.get(at).or(scalars.last()).unwrap();
        envelopes.push((statement, seal(&payload, *scalar)));
    }
    envelopes
}

/// Where the receipt is that has such a change of `act_1`.
pub(crate) fn find(
    envelopes: &[(Statement, String)],
    is: impl Fn(&action::Change) -> bool,
) -> usize {
    let has = |(statement, _): &(Statement, String)| {
        statement.predicate.transitions.iter().any(|transition| {
            let ours = &*transition.stream.id == "act_1";
            ours && matches!(&transition.change, Change::Action(change) if is(change))
        })
    };
    envelopes.iter().position(has).unwrap()
}

/// The document of `act_1`, and all receipts of its log.
pub(crate) fn document(attestation: &Attestation, disclosure: Disclosure) -> Document {
    let envelopes = envelopes(Some(attestation), &[1]);
    let ended = find(&envelopes, |c| matches!(c, action::Change::Finished { .. }));
    let begun = find(&envelopes, |c| matches!(c, action::Change::Started(a) if a.number == 2));
    let leaves: Vec<Digest> =
        envelopes.iter().map(|(_, envelope)| tree::leaf_hash(envelope.as_bytes())).collect();
    let mut frontier = Frontier::default();
    leaves.iter().for_each(|leaf| frontier.push(*leaf));
    let size = u64::try_from(leaves.len()).unwrap();
    let (key, signing) = log_key(7);
    let text = Checkpoint { origin: key.name().to_owned(), size, root: frontier.root() };
    let text = text.text().unwrap();
    let signature = signing.sign(text.as_bytes()).to_bytes().to_vec();
    let checkpoint = Note::new(&text, vec![NoteSignature::by(&key, signature)]).unwrap();
    let index = u64::try_from(ended).unwrap();
    let hashes = tree::inclusion_proof(index, size, leaves.as_slice()).unwrap();
    let proof = TlogProof { extra: Vec::new(), index, hashes, checkpoint: checkpoint.clone() };
    Document {
        execution_id: ActionId::new("act_1").unwrap(),
        attempt: 2,
        status: action::Status::Executed,
        receipt: envelopes[ended].1.clone(),
        permit_receipt: envelopes[begun].1.clone(),
        proof: proof.to_string(),
        checkpoint: checkpoint.to_string(),
        receipt_key: pem::encode(&spki(1)),
        permit_receipt_key: None,
        log_key: key.to_string(),
        attestation: attestation.clone(),
        disclosure,
    }
}
