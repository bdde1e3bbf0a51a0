//! A bundle taken apart, changed as an attacker would, and put together again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use kernel::bundle::{self, Manifest, archive};
use kernel::dsse::{self, Envelope};
use kernel::note::{Checkpoint, Note, NoteSignature};
use kernel::proof::TlogProof;
use kernel::receipt::{Predicate, Statement};
use kernel::signing_key::{Handover, KeyRanges};
use kernel::tile;
use kernel::tree;
use kernel::values::Digest;
use ledger::keys::{NoteSigner, P256Signer};

/// The files of a bundle by their paths.
#[derive(Clone)]
pub(crate) struct Bundle {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

impl Bundle {
    pub(crate) fn read(tar: &[u8]) -> Self {
        let files = archive::read(tar).unwrap().into_iter();
        Self { files: files.map(|(path, file)| (path.to_owned(), file.to_vec())).collect() }
    }

    pub(crate) fn tar(&self) -> Vec<u8> {
        archive::write(&bundle::borrowed(&self.files)).unwrap()
    }

    pub(crate) fn unpack(&self, to: &Path) {
        for (path, file) in &self.files {
            let path = to.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
    }

    /// What is of the control log, as a bundle of its own, where there is something.
    pub(crate) fn control(&self) -> Option<Self> {
        let own = self.files.iter();
        let own = own.filter_map(|(path, file)| {
            Some((path.strip_prefix(bundle::CONTROL)?.to_owned(), file.clone()))
        });
        let files: BTreeMap<String, Vec<u8>> = own.collect();
        (!files.is_empty()).then_some(Self { files })
    }

    /// Puts a bundle in the place of what is of the control log.
    pub(crate) fn put_control(&mut self, control: Self) {
        self.files.retain(|path, _| !path.starts_with(bundle::CONTROL));
        let named = |(path, file)| (format!("{}{path}", bundle::CONTROL), file);
        self.files.extend(control.files.into_iter().map(named));
    }

    /// The indices of the receipts that are there.
    pub(crate) fn indices(&self) -> Vec<u64> {
        let names = self.files.keys().filter_map(|path| path.strip_prefix("receipts/"));
        let numbers = names.filter_map(|name| name.strip_suffix(".dsse.json"));
        let mut indices: Vec<u64> = numbers.map(|number| number.parse().unwrap()).collect();
        indices.sort_unstable();
        indices
    }

    /// How many receipts there are.
    pub(crate) fn size(&self) -> u64 {
        self.indices().len() as u64
    }

    pub(crate) fn receipt(&self, index: u64) -> Vec<u8> {
        self.files[&bundle::receipt_path(index)].clone()
    }

    pub(crate) fn receipts(&self) -> Vec<Vec<u8>> {
        (0..self.size()).map(|index| self.receipt(index)).collect()
    }

    pub(crate) fn checkpoint(&self) -> Vec<u8> {
        self.files[bundle::CHECKPOINT].clone()
    }

    /// Flips one bit of a file.
    pub(crate) fn flip(&mut self, path: &str, at: usize) {
        self.files.get_mut(path).unwrap()[at] ^= 1;
    }

    /// The path of the first file that begins so.
    pub(crate) fn path(&self, prefix: &str) -> String {
        self.files.keys().find(|path| path.starts_with(prefix)).unwrap().clone()
    }

    /// Puts `envelope` in the place of receipt `index`, wherever that stands.
    pub(crate) fn put(&mut self, index: u64, envelope: &[u8]) {
        // One that does not parse is said to be of the same key as before.
        let before = self.receipt(index);
        let read = Envelope::parse(envelope).or_else(|_| Envelope::parse(&before));
        let hint = read.unwrap().key_id;
        self.files.insert(bundle::receipt_path(index), envelope.to_vec());
        let sigstore = bundle::sigstore_bundle(envelope, &hint);
        self.files.insert(bundle::sigstore_path(index), sigstore);
        if self.files.keys().any(|path| path.starts_with("log/tile/entries/")) {
            self.entries();
        }
    }

    /// The log's keys as its receipts hand them on, for who has all of them.
    pub(crate) fn ranges(&self) -> KeyRanges {
        let mut ranges: Option<KeyRanges> = None;
        for (index, receipt) in (0..).zip(self.receipts()) {
            let Envelope { payload, key_id, .. } = Envelope::parse(&receipt).unwrap();
            let ranges = ranges.get_or_insert_with(|| KeyRanges::start(key_id));
            let transitions = Statement::parse(&payload).unwrap().predicate.transitions;
            if let Some(handover) = Handover::read(index, &transitions).unwrap() {
                ranges.hand_over(&handover).unwrap();
            }
        }
        ranges.unwrap()
    }

    /// Writes the entry tiles anew.
    fn entries(&mut self) {
        let receipts = self.receipts();
        for (tile, entries) in tile::entry_tiles(0, self.size()).zip(receipts.chunks(256)) {
            let content = tile::encode_entries(entries.iter().map(Vec::as_slice)).unwrap();
            self.files.insert(format!("{}{tile}", bundle::LOG), content);
        }
    }

    /// What anybody can do after a change: write `SHA256SUMS` anew.
    pub(crate) fn list(&mut self) {
        let listed = bundle::sums(&bundle::borrowed(&self.files));
        self.files.insert(bundle::SUMS.to_owned(), listed.into());
    }

    /// What the holder of a receipt key can do: sign a new manifest too.
    pub(crate) fn sign(&mut self, signer: &dyn P256Signer) {
        self.list();
        let envelope = Envelope::parse(&self.files[bundle::MANIFEST]).unwrap();
        let mut manifest: Manifest = serde_json::from_slice(&envelope.payload).unwrap();
        let note = Note::parse(&self.files[bundle::CHECKPOINT]).unwrap();
        let Checkpoint { size, root, .. } = Checkpoint::parse(note.text()).unwrap();
        manifest.subject = bundle::subjects(&bundle::borrowed(&self.files));
        (manifest.predicate.size, manifest.predicate.root) = (size, root);
        manifest.predicate.receipts = self.size();
        manifest.predicate.keys = self.ranges().as_slice().to_vec();
        manifest.predicate.content = bundle::content(&bundle::borrowed(&self.files));
        let manifest = signed(&serde_json::to_vec(&manifest).unwrap(), signer);
        self.files.insert(bundle::MANIFEST.to_owned(), manifest);
    }

    /// The same where only some receipts of the log are here.
    pub(crate) fn sign_selection(&mut self, signer: &dyn P256Signer) {
        self.list();
        let envelope = Envelope::parse(&self.files[bundle::MANIFEST]).unwrap();
        let mut manifest: Manifest = serde_json::from_slice(&envelope.payload).unwrap();
        manifest.subject = bundle::subjects(&bundle::borrowed(&self.files));
        manifest.predicate.receipts = self.size();
        manifest.predicate.content = bundle::content(&bundle::borrowed(&self.files));
        let manifest = signed(&serde_json::to_vec(&manifest).unwrap(), signer);
        self.files.insert(bundle::MANIFEST.to_owned(), manifest);
    }

    /// The manifest.
    pub(crate) fn manifest(&self) -> Manifest {
        serde_json::from_slice(&self.payload()).unwrap()
    }

    /// What is signed as the manifest.
    pub(crate) fn payload(&self) -> Vec<u8> {
        Envelope::parse(&self.files[bundle::MANIFEST]).unwrap().payload
    }

    /// Tells the run anew from the receipts that are there.
    pub(crate) fn retell(&mut self) {
        let statement = |envelope: &Vec<u8>| {
            let envelope = Envelope::parse(envelope).unwrap();
            Statement::parse(&envelope.payload).unwrap().predicate
        };
        let read: Vec<_> =
            self.indices().iter().map(|index| statement(&self.receipt(*index))).collect();
        let of_control = |(path, _): &(&String, &Vec<u8>)| {
            path.starts_with("control/receipts/") && path.ends_with(".dsse.json")
        };
        let control = self.files.iter().filter(of_control).map(|(_, file)| statement(file));
        let mut control: Vec<_> = control.collect();
        control.sort_by_key(|predicate| predicate.log.index);
        let governing = control.first().map(|first| bundle::run::Control {
            origin: &first.log.origin,
            told: control.iter().map(told).collect(),
        });
        let read: Vec<_> = read.iter().map(told).collect();
        let run = bundle::run::named(&self.files[bundle::RUN]).unwrap();
        let origin = self.manifest().predicate.origin;
        let story = bundle::run::tell(&run, &origin, &read, governing.as_ref()).unwrap();
        self.files.insert(bundle::RUN.to_owned(), story.bytes().unwrap());
    }

    /// Leaves a receipt out.
    pub(crate) fn leave_out(&mut self, index: u64) {
        for path in
            [bundle::receipt_path(index), bundle::sigstore_path(index), bundle::proof_path(index)]
        {
            self.files.remove(&path).unwrap();
        }
    }

    /// What the holder of the log's key can do: make these receipts the whole log, with a tree, a
    /// checkpoint and proofs that fit them.
    pub(crate) fn relog(&mut self, receipts: &[Vec<u8>], signer: &dyn NoteSigner) {
        let of_log = ["receipts/", "proofs/", "log/"];
        self.files.retain(|path, _| !of_log.iter().any(|prefix| path.starts_with(prefix)));
        for (index, envelope) in (0..).zip(receipts) {
            self.files.insert(bundle::receipt_path(index), envelope.clone());
            let key_id = Envelope::parse(envelope).unwrap().key_id;
            let sigstore = bundle::sigstore_bundle(envelope, &key_id);
            self.files.insert(bundle::sigstore_path(index), sigstore);
        }
        self.entries();
        let size = self.size();
        let leaves: Vec<Digest> = receipts.iter().map(|entry| tree::leaf_hash(entry)).collect();
        let leaves = leaves.as_slice();
        for (tile, hashes) in tile::hash_tiles(0, size).zip(leaves.chunks(256)) {
            // A small log has one level of tiles.
            assert_eq!(tile.kind(), tile::Kind::Hashes(0));
            self.files.insert(format!("{}{tile}", bundle::LOG), tile::encode_hashes(hashes));
        }
        let root = tree::root(size, leaves).unwrap();
        let key = signer.verifier_key();
        let text = Checkpoint { origin: key.name().to_owned(), size, root }.text().unwrap();
        let signature = NoteSignature::by(key, signer.sign(text.as_bytes()).unwrap());
        let checkpoint = Note::new(&text, vec![signature]).unwrap();
        for index in 0..size {
            let hashes = tree::inclusion_proof(index, size, leaves).unwrap();
            let checkpoint = checkpoint.clone();
            let proof = TlogProof { extra: Vec::new(), index, hashes, checkpoint };
            self.files.insert(bundle::proof_path(index), proof.to_string().into());
        }
        self.files.insert(bundle::CHECKPOINT.to_owned(), checkpoint.to_string().into());
    }
}

fn told(of: &Predicate) -> bundle::run::Told<'_> {
    let Predicate { log, time_us, transitions, .. } = of;
    bundle::run::Told { index: log.index, time: *time_us, transitions }
}

/// An envelope over `payload`.
pub(crate) fn signed(payload: &[u8], signer: &dyn P256Signer) -> Vec<u8> {
    let signature = signer.sign(&dsse::pae(payload)).unwrap();
    dsse::envelope(payload, &signer.key_id(), &signature)
}
