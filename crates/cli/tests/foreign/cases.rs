//! The matrix: what is done to evidence, and which tool sees it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use kernel::bundle::{
    CHECKPOINT, COST, MANIFEST, RUN, key_path, proof_path, receipt_path, sigstore_path,
};
use kernel::dsse::Envelope;
use kernel::pem;
use kernel::receipt::Statement;
use kernel::values::Digest;
use ledger::keys::P256Signer;

use super::bundle::{Bundle, signed};
use super::scene::Scene;
use super::tools::TOOLS;

/// Whether a tool sees a tampering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// It must refuse.
    Sees,
    /// It must accept, for this reason.
    Cannot(&'static str),
}

/// One tampering.
pub(super) struct Case {
    /// What was done.
    pub(super) what: &'static str,
    /// By whom: what they need for it.
    pub(super) by: &'static str,
    /// The bundle that comes of it.
    pub(super) make: fn(&Scene) -> Bundle,
    /// The checkpoint that whoever verifies holds from before.
    pub(super) held: Option<fn(&Scene) -> Vec<u8>>,
    /// For each of [`TOOLS`], in their order.
    pub(super) sights: [Sight; TOOLS.len()],
}

const SEES: Sight = Sight::Sees;
const RELISTED: Sight = Sight::Cannot("anybody can write SHA256SUMS anew");
const UNLISTED: Sight = Sight::Cannot("SHA256SUMS does not list the manifest");
const RESIGNED: Sight = Sight::Cannot("every signature is good: the operator made them");
const ENVELOPES: Sight = Sight::Cannot("it reads each receipt by itself, and no log");
const NO_MANIFEST: Sight = Sight::Cannot("it reads the log, not the manifest or what it lists");
const PRESENT: Sight = Sight::Cannot("it proves the receipts that are there");
const NO_TILES: Sight = Sight::Cannot("it builds the tree from receipts and reads no tile");
const NO_SIGNATURES: Sight = Sight::Cannot("it checks no signature");
const NO_CHAIN: Sight = Sight::Cannot("the tree fits itself, and it reads nothing in a receipt");
const NO_RANGES: Sight =
    Sight::Cannot("the key is one of the log's, and it knows no ranges of keys");

/// Anybody: has no key, but can write `SHA256SUMS` anew.
const ANYBODY: &str = "anybody";
/// Whoever holds the receipt key and the log's key: can sign everything anew.
const OPERATOR: &str = "operator";

/// The case of a key of the log that was not its key at that index.
pub(super) const OUTSIDE_RANGE: &str = "receipt signed by a retired key, outside its range";

/// The receipt that is tampered with, neither the first nor the last.
const VICTIM: u64 = 3;

/// Changes the victim wherever it stands, as anybody can.
fn changed(scene: &Scene, change: impl FnOnce(&mut Vec<u8>)) -> Bundle {
    let mut bundle = scene.late.clone();
    let mut envelope = bundle.receipt(VICTIM);
    change(&mut envelope);
    bundle.put(VICTIM, &envelope);
    bundle.list();
    bundle
}

/// Flips a bit of the byte that lies `after` bytes behind the end of `mark`.
fn flip_after(envelope: &mut [u8], mark: &str, after: usize) {
    let at = envelope.windows(mark.len()).position(|window| window == mark.as_bytes()).unwrap();
    let byte = &mut envelope[at + mark.len() + after];
    // Another letter of base64, so that it still decodes.
    *byte = if *byte == b'A' { b'B' } else { b'A' };
}

/// Flips a bit in a file, and lists it anew.
fn flipped(scene: &Scene, prefix: &str, at: usize) -> Bundle {
    let mut bundle = scene.late.clone();
    let path = bundle.path(prefix);
    bundle.flip(&path, at);
    bundle.list();
    bundle
}

/// The log with other receipts, signed by the operator wherever anything is signed.
fn rewritten(scene: &Scene, receipts: &[Vec<u8>]) -> Bundle {
    let mut bundle = scene.late.clone();
    bundle.relog(receipts, scene.operator.log.as_ref());
    bundle.sign(scene.operator.current());
    bundle
}

fn dropped_files(scene: &Scene) -> Bundle {
    let mut bundle = scene.late.clone();
    for path in [receipt_path(VICTIM), sigstore_path(VICTIM), proof_path(VICTIM)] {
        bundle.files.remove(&path).unwrap();
    }
    bundle.list();
    bundle
}

fn dropped(scene: &Scene) -> Bundle {
    let mut receipts = scene.late.receipts();
    receipts.remove(VICTIM as usize);
    rewritten(scene, &receipts)
}

fn swapped(scene: &Scene) -> Bundle {
    let mut bundle = scene.late.clone();
    let (one, other) = (bundle.receipt(VICTIM), bundle.receipt(VICTIM + 1));
    bundle.put(VICTIM, &other);
    bundle.put(VICTIM + 1, &one);
    bundle.list();
    bundle
}

fn reordered(scene: &Scene) -> Bundle {
    let mut receipts = scene.late.receipts();
    receipts.swap(VICTIM as usize, VICTIM as usize + 1);
    rewritten(scene, &receipts)
}

/// A receipt of another tenant of the same server, with its key.
fn of_stranger(scene: &Scene) -> Bundle {
    let mut bundle = scene.late.clone();
    let envelope = scene.stranger.receipt(0);
    let key_id = Envelope::parse(&envelope).unwrap().key_id;
    let key = scene.stranger.files[&key_path(&key_id)].clone();
    bundle.files.insert(key_path(&key_id), key);
    bundle.put(VICTIM, &envelope);
    bundle.sign(scene.operator.current());
    bundle
}

/// All of it made anew with keys of the forger's own, which hand over as the genuine ones do: but
/// for the keys, nothing is wrong with it.
pub(super) fn forged(scene: &Scene) -> Bundle {
    let (mut bundle, forger) = (scene.late.clone(), &scene.forger);
    let named = |key: &dyn P256Signer| [key.key_id().hex(), BASE64.encode(key.spki_der())];
    let pairs = scene.operator.receipts.iter().zip(&forger.receipts);
    let swaps: Vec<_> = pairs
        .flat_map(|(old, new)| named(old.as_ref()).into_iter().zip(named(new.as_ref())))
        .collect();
    let ranges = bundle.ranges();
    let (mut receipts, mut prev) = (Vec::new(), Digest::of(b""));
    for (index, envelope) in (0..).zip(bundle.receipts()) {
        let payload = Envelope::parse(&envelope).unwrap().payload;
        let before = Statement::parse(&payload).unwrap().predicate.log.prev;
        let mut text = String::from_utf8(payload).unwrap().replace(&before.hex(), &prev.hex());
        for (old, new) in &swaps {
            text = text.replace(old, new);
        }
        prev = Digest::of(text.as_bytes());
        let key = ranges.at(index).unwrap();
        let at = ranges.as_slice().iter().position(|range| range.key_id == key).unwrap();
        receipts.push(signed(text.as_bytes(), forger.receipts[at].as_ref()));
    }
    bundle.files.retain(|path, _| !path.starts_with("keys/"));
    for key in &forger.receipts {
        bundle.files.insert(key_path(&key.key_id()), pem::encode(key.spki_der()).into());
    }
    let log_key = format!("{}\n", forger.log.verifier_key());
    bundle.files.insert("keys/log.vkey".to_owned(), log_key.into());
    bundle.relog(&receipts, forger.log.as_ref());
    bundle.sign(forger.current());
    bundle
}

/// The receipt after the handover signed by the key before, and all else as it has to be. Receipts
/// are chained by their payloads, which stay.
fn outside_range(scene: &Scene) -> Bundle {
    let after = scene.late.ranges().as_slice()[1].from;
    let mut receipts = scene.late.receipts();
    let receipt = &mut receipts[usize::try_from(after).unwrap()];
    *receipt = signed(&Envelope::parse(receipt).unwrap().payload, scene.operator.retired());
    rewritten(scene, &receipts)
}

/// Every case, in the order of the table.
pub(super) fn cases() -> Vec<Case> {
    of_bytes()
        .into_iter()
        .chain(of_files())
        .chain(of_the_log())
        .chain(of_a_run())
        .chain(of_governance())
        .collect()
}

fn of_bytes() -> [Case; 8] {
    let case = |what, make, sights| Case { what, by: ANYBODY, make, held: None, sights };
    [
        case(
            "byte in a receipt's payload",
            |scene| changed(scene, |envelope| flip_after(envelope, "\"payload\":\"", 40)),
            [RELISTED, SEES, SEES, SEES, SEES, SEES, SEES, SEES],
        ),
        case(
            "byte in a receipt's signature",
            |scene| changed(scene, |envelope| flip_after(envelope, "\"sig\":\"", 40)),
            [RELISTED, SEES, SEES, SEES, SEES, SEES, SEES, SEES],
        ),
        case(
            "byte in a receipt's envelope (its type)",
            |scene| changed(scene, |envelope| flip_after(envelope, "application/vnd.in-", 0)),
            [RELISTED, SEES, SEES, SEES, SEES, SEES, SEES, SEES],
        ),
        case(
            "byte in a hash tile",
            |scene| flipped(scene, "log/tile/0/", 40),
            [RELISTED, SEES, SEES, ENVELOPES, SEES, NO_TILES, SEES, SEES],
        ),
        case(
            "byte in the checkpoint's root",
            |scene| {
                let text = String::from_utf8(scene.late.checkpoint()).unwrap();
                let root = text.match_indices('\n').nth(1).unwrap().0 + 1;
                let mut bundle = scene.late.clone();
                let byte = &mut bundle.files.get_mut(CHECKPOINT).unwrap()[root];
                *byte = if *byte == b'A' { b'B' } else { b'A' };
                bundle.list();
                bundle
            },
            [RELISTED, SEES, SEES, ENVELOPES, SEES, SEES, SEES, SEES],
        ),
        case(
            "byte in the checkpoint's signature",
            |scene| {
                let mut bundle = scene.late.clone();
                let note = bundle.files.get_mut(CHECKPOINT).unwrap();
                let at = note.len() - 20;
                note[at] = if note[at] == b'A' { b'B' } else { b'A' };
                bundle.list();
                bundle
            },
            [RELISTED, SEES, SEES, ENVELOPES, SEES, NO_SIGNATURES, SEES, SEES],
        ),
        case(
            "byte in the manifest",
            |scene| {
                let mut bundle = scene.late.clone();
                flip_after(bundle.files.get_mut(MANIFEST).unwrap(), "\"payload\":\"", 40);
                bundle
            },
            [UNLISTED, SEES, SEES, ENVELOPES, NO_MANIFEST, NO_MANIFEST, SEES, SEES],
        ),
        case(
            "byte in another file (cost.json), not listed anew",
            |scene| {
                let mut bundle = scene.late.clone();
                bundle.flip(COST, 3);
                bundle
            },
            [SEES, SEES, SEES, ENVELOPES, NO_MANIFEST, NO_MANIFEST, SEES, SEES],
        ),
    ]
}

fn of_files() -> [Case; 4] {
    let case = |what, by, make, sights| Case { what, by, make, held: None, sights };
    [
        case(
            "receipt dropped from the bundle",
            ANYBODY,
            dropped_files,
            [RELISTED, SEES, SEES, ENVELOPES, PRESENT, SEES, SEES, SEES],
        ),
        case(
            "two receipts swapped",
            ANYBODY,
            swapped,
            [RELISTED, SEES, SEES, ENVELOPES, SEES, SEES, SEES, SEES],
        ),
        case(
            "another tenant's receipt, with its key",
            OPERATOR,
            of_stranger,
            [RELISTED, SEES, SEES, SEES, SEES, SEES, SEES, SEES],
        ),
        case(
            "foreign keys: all of it signed anew by a stranger",
            ANYBODY,
            forged,
            [RELISTED, SEES, SEES, SEES, SEES, NO_SIGNATURES, SEES, SEES],
        ),
    ]
}

/// What the operator can do to the log itself, with every signature made anew.
fn of_the_log() -> [Case; 6] {
    let case = |what, make, held, sights| Case { what, by: OPERATOR, make, held, sights };
    let late: fn(&Scene) -> Vec<u8> = |scene| scene.late.checkpoint();
    [
        case(
            "receipt dropped from the log",
            dropped,
            None,
            [RELISTED, RESIGNED, RESIGNED, ENVELOPES, NO_CHAIN, NO_CHAIN, SEES, SEES],
        ),
        case(
            "receipts reordered in the log",
            reordered,
            None,
            [RELISTED, RESIGNED, RESIGNED, ENVELOPES, NO_CHAIN, NO_CHAIN, SEES, SEES],
        ),
        case(
            "receipts reordered, against a held checkpoint",
            reordered,
            Some(late),
            [RELISTED, RESIGNED, RESIGNED, ENVELOPES, SEES, SEES, SEES, SEES],
        ),
        case(
            "tail cut off, against a held checkpoint",
            |scene| scene.early.clone(),
            Some(late),
            [RELISTED, RESIGNED, RESIGNED, ENVELOPES, SEES, SEES, SEES, SEES],
        ),
        case(
            "fork, against a held checkpoint of the other branch",
            |scene| scene.forked.clone(),
            Some(late),
            [RELISTED, RESIGNED, RESIGNED, ENVELOPES, SEES, SEES, SEES, SEES],
        ),
        case(
            OUTSIDE_RANGE,
            outside_range,
            None,
            [RELISTED, SEES, NO_RANGES, NO_RANGES, NO_CHAIN, NO_CHAIN, SEES, SEES],
        ),
    ]
}

/// The run said to have ended another way.
fn embellished(scene: &Scene) -> Bundle {
    let mut bundle = scene.run.clone();
    let told = String::from_utf8(bundle.files[RUN].clone()).unwrap();
    let changed = told.replace("\"status\":\"succeeded\"", "\"status\":\"canceled\"");
    assert_ne!(changed, told);
    bundle.files.insert(RUN.to_owned(), changed.into());
    bundle
}

/// The bundle of a run, with what is of the control log changed.
fn of_control(scene: &Scene, change: impl FnOnce(&mut Bundle, u64)) -> Bundle {
    let mut bundle = scene.run.clone();
    let mut control = bundle.control().unwrap();
    // Somebody's yes to the release.
    let tells = |index: &u64| {
        let payload = Envelope::parse(&control.receipt(*index)).unwrap().payload;
        String::from_utf8(payload).unwrap().contains("release.approved")
    };
    let victim = control.indices().into_iter().find(tells).unwrap();
    change(&mut control, victim);
    bundle.put_control(control);
    bundle
}

/// What can be done to what a run rests on.
fn of_governance() -> [Case; 3] {
    let case = |what, by, make, sights| Case { what, by, make, held: None, sights };
    [
        case(
            "byte in a receipt of the control log",
            ANYBODY,
            |scene| {
                let mut bundle = of_control(scene, |control, victim| {
                    let mut envelope = control.receipt(victim);
                    flip_after(&mut envelope, "\"payload\":\"", 40);
                    control.put(victim, &envelope);
                });
                bundle.list();
                bundle
            },
            [RELISTED, SEES, SEES, SEES, SEES, SEES, SEES, SEES],
        ),
        case(
            "approval of the release left out of the control log, signed anew",
            OPERATOR,
            |scene| {
                let mut bundle = of_control(scene, |control, victim| {
                    for path in [receipt_path(victim), sigstore_path(victim), proof_path(victim)] {
                        control.files.remove(&path).unwrap();
                    }
                });
                bundle.sign_selection(scene.operator.current());
                bundle
            },
            [RELISTED, RESIGNED, RESIGNED, ENVELOPES, PRESENT, PRESENT, SEES, SEES],
        ),
        case(
            "approval of the release by a key put among those of the control log, signed anew",
            OPERATOR,
            |scene| {
                let mut bundle = of_control(scene, |control, victim| {
                    let key = scene.forger.current();
                    let payload = Envelope::parse(&control.receipt(victim)).unwrap().payload;
                    control.put(victim, &signed(&payload, key));
                    let file = pem::encode(key.spki_der()).into();
                    control.files.insert(key_path(&key.key_id()), file);
                });
                bundle.sign_selection(scene.operator.current());
                bundle
            },
            [RELISTED, SEES, SEES, SEES, SEES, SEES, SEES, SEES],
        ),
    ]
}

/// What can be done to the bundle of a run.
fn of_a_run() -> [Case; 3] {
    let case = |what, by, make, sights| Case { what, by, make, held: None, sights };
    [
        case(
            "run.json changed, with a manifest by a key of one's own",
            ANYBODY,
            |scene| {
                let mut bundle = embellished(scene);
                bundle.sign_selection(scene.forger.current());
                bundle
            },
            [RELISTED, SEES, SEES, ENVELOPES, NO_MANIFEST, NO_MANIFEST, SEES, SEES],
        ),
        case(
            "run.json changed, signed anew",
            OPERATOR,
            |scene| {
                let mut bundle = embellished(scene);
                bundle.sign_selection(scene.operator.current());
                bundle
            },
            [RELISTED, RESIGNED, RESIGNED, ENVELOPES, NO_MANIFEST, NO_MANIFEST, SEES, SEES],
        ),
        case(
            "receipt of the run left out, signed anew",
            OPERATOR,
            |scene| {
                let mut bundle = scene.run.clone();
                let indices = bundle.indices();
                // Neither the handover, which comes first, nor the last.
                bundle.leave_out(indices[indices.len() - 3]);
                bundle.sign_selection(scene.operator.current());
                bundle
            },
            [RELISTED, RESIGNED, RESIGNED, ENVELOPES, PRESENT, PRESENT, SEES, SEES],
        ),
    ]
}

/// The matrix as it stands in the guide.
pub(super) fn table() -> String {
    let mut reasons: Vec<&str> = Vec::new();
    let heads: String = TOOLS.iter().map(|tool| format!(" {} |", tool.name)).collect();
    let mut table = format!("| tampering | by |{heads}\n");
    table += &format!("| --- | --- |{}\n", " --- |".repeat(TOOLS.len()));
    for Case { what, by, sights, .. } in cases() {
        table += &format!("| {what} | {by} |");
        for sight in sights {
            table += &match sight {
                Sight::Sees => " sees |".to_owned(),
                Sight::Cannot(reason) => {
                    let known = reasons.iter().position(|known| *known == reason);
                    let at = known.unwrap_or_else(|| {
                        reasons.push(reason);
                        reasons.len() - 1
                    });
                    format!(" no ({}) |", at + 1)
                }
            };
        }
        table.push('\n');
    }
    table.push('\n');
    for (at, reason) in reasons.iter().enumerate() {
        table += &format!("{}. {reason}\n", at + 1);
    }
    table
}
