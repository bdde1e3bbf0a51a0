// The verifier as JavaScript has it: `cargo xtask wasm` runs this on the folder that it built.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { pathToFileURL } from "node:url";

const folder = process.env.TALLY_VERIFIER;
assert.ok(folder, "run `cargo xtask wasm`: it sets TALLY_VERIFIER to the folder that it built");
const { load } = await import(pathToFileURL(`${folder}/verifier.mjs`));
const verifier = await load();

const vectors = async (name) =>
  JSON.parse(await readFile(new URL(`../../../spec/vectors/${name}.json`, import.meta.url)));
const codes = ({ errors }) => errors.map(({ code }) => code);
const bytes = (hex) => Uint8Array.from(Buffer.from(hex, "hex"));

test("checkpoints", async () => {
  const { accepted, refused, vkey: logKey } = await vectors("note");
  for (const { note: checkpoint, origin, size, root } of accepted) {
    const answer = verifier.checkpoint({ checkpoint, logKey });
    const errors = [];
    const trust = "caller_supplied";
    assert.deepEqual(answer, { valid: true, trust, errors, checkpoint: { origin, size, root } });
    assert.equal(verifier.checkpoint({ checkpoint, logKey, trust: "pinned" }).trust, "pinned");
  }
  for (const { note: checkpoint, code } of refused) {
    const answer = verifier.checkpoint({ checkpoint, logKey });
    assert.deepEqual([answer.valid, answer.trust, codes(answer)], [false, "unknown", [code]]);
  }
});

test("inclusion proofs", async () => {
  const { accepted, refused, vkey: logKey } = await vectors("proof");
  for (const { entry: envelope, proof, size } of accepted) {
    const answer = verifier.inclusion({ envelope, proof, logKey });
    assert.deepEqual([answer.valid, answer.checkpoint.size], [true, size]);
  }
  for (const { entry: envelope, proof, code } of refused) {
    const answer = verifier.inclusion({ envelope, proof, logKey });
    assert.deepEqual([answer.valid, codes(answer)], [false, [code]]);
  }
});

test("envelopes", async () => {
  const { accepted, refused, spki_der } = await vectors("dsse");
  const key = `-----BEGIN PUBLIC KEY-----\n${spki_der}\n-----END PUBLIC KEY-----\n`;
  for (const { envelope } of accepted) {
    // Signed, but no receipts.
    assert.deepEqual(codes(verifier.receipt({ envelope, keys: [key] })), ["receipt_malformed"]);
    assert.deepEqual(codes(verifier.receipt({ envelope, keys: [] })), ["verify_unknown_key"]);
  }
  for (const { envelope, code } of refused) {
    assert.deepEqual(codes(verifier.receipt({ envelope, keys: [key] })), [code]);
  }
});

test("receipt keys and their ranges", async () => {
  const { accepted, refused, keys, origin, ranges } = await vectors("signing-key");
  const pem = (key) => `-----BEGIN PUBLIC KEY-----\n${key}\n-----END PUBLIC KEY-----\n`;
  const published = {
    keys: ranges.map(({ from, to }, at) => ({
      purpose: "receipt",
      public_key_pem: pem(keys[at]),
      origin,
      from_index: `${from}`,
      to_index: to && `${to}`,
    })),
  };
  for (const [index, envelope] of accepted.entries()) {
    const answer = verifier.receipt({ envelope, published, trust: "pinned" });
    assert.deepEqual([answer.valid, answer.trust, answer.receipt.index], [true, "pinned", index]);
  }
  for (const { envelope } of refused) {
    const answer = verifier.receipt({ envelope, published });
    assert.deepEqual([answer.valid, codes(answer)], [false, ["key_outside_range"]]);
    assert.equal(verifier.receipt({ envelope, keys: keys.map(pem) }).valid, true);
  }
  assert.ok(refused.length > 0);
  const [envelope] = accepted;
  for (const question of [{ published, keys: keys.map(pem) }, { published: { keys: [] } }]) {
    assert.deepEqual(codes(verifier.receipt({ envelope, ...question })), ["question_malformed"]);
    assert.deepEqual(codes(verifier.bundle({ bundle: {}, ...question })), ["question_malformed"]);
  }
});

test("consistency", async () => {
  const { accepted, vkey: logKey } = await vectors("note");
  const { consistency } = await vectors("tree");
  const at = (size) => accepted.find((case_) => case_.size === size)?.note;
  const sizes = [...new Set(accepted.map(({ size }) => size))].sort((a, b) => a - b);
  assert.ok(sizes.length > 1);
  for (const { old, new: newer, proof } of consistency) {
    if (!sizes.includes(old) || !sizes.includes(newer)) continue;
    const hashes = proof.map(bytes);
    const answer = verifier.consistency({ old: at(old), new: at(newer), hashes, logKey });
    assert.deepEqual([answer.valid, codes(answer)], [true, []]);
    const more = verifier.consistency({
      old: at(old), new: at(newer), hashes: [...hashes, new Uint8Array(32)], logKey,
    });
    assert.deepEqual(codes(more), ["tree_proof_length"]);
  }
  const [first, last] = [at(sizes.at(0)), at(sizes.at(-1))];
  const cut = verifier.consistency({ old: last, new: first, hashes: [], logKey });
  assert.deepEqual(codes(cut), ["tree_sizes"]);
});

test("witnesses and their quorum", async () => {
  const { accepted, refused, vkey: witness } = await vectors("cosignature");
  const { vkey: logKey } = await vectors("history");
  const unsigned = refused.filter(({ code }) => code === "verify_unsigned");
  assert.ok(accepted.length > 0 && unsigned.length > 0);
  // Nothing but a checkpoint: what else lacks is said besides.
  const demand = (note, demands) => {
    const bundle = { "log/checkpoint": note };
    return codes(verifier.bundle({ bundle, logKey, ...demands })).filter((code) => /^history/.test(code));
  };
  for (const { note } of accepted) {
    assert.deepEqual(demand(note, { witnesses: [witness] }), []);
    assert.deepEqual(demand(note, { witnesses: [witness], quorum: 2 }), ["history_witnesses"]);
  }
  for (const { note } of unsigned) {
    assert.deepEqual(demand(note, { witnesses: [witness] }), ["history_witnesses"]);
    assert.deepEqual(demand(note, { witnesses: [witness], quorum: 1 }), ["history_witnesses"]);
  }
  const unreadable = verifier.bundle({ bundle: {}, logKey, witnesses: ["a witness"] });
  assert.deepEqual([unreadable.valid, unreadable.errors.length], [false, 1]);
});

test("bundles and questions that are none", () => {
  for (const bundle of [new ArrayBuffer(10), new Uint8Array(10), new DataView(new ArrayBuffer(1))]) {
    assert.deepEqual(codes(verifier.bundle({ bundle })), ["bundle_archive"]);
  }
  for (const bundle of [new Map(), {}]) {
    const answer = verifier.bundle({ bundle });
    assert.deepEqual([answer.valid, answer.receipts], [false, 0]);
    assert.ok(codes(answer).includes("bundle_file_missing"));
  }
  const large = new Uint8Array(100_000).fill(7);
  assert.deepEqual(codes(verifier.bundle({ bundle: { "cost.json": large } })).length > 0, true);
  assert.throws(() => verifier.receipt({ envelope: 7, keys: [] }), TypeError);
  const key = verifier.receipt({ envelope: "{}", keys: ["x"] });
  assert.deepEqual(codes(key), ["question_key"]);
});
