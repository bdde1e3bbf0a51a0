// Checks unpacked bundles with our verifier in WebAssembly, as Node has it.
//
// Arguments: the folder that `cargo xtask wasm` built. Standard input: {name: {"dir": …, "keys":
// [PEM, …], "published": what the tenant publishes of its keys, "log_key": …, "since": a held
// checkpoint or null, "hashes": [hex, …]}}. Standard output: {name: what is wrong, or null}.

import { readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { pathToFileURL } from "node:url";

const { load } = await import(pathToFileURL(join(process.argv[2], "verifier.mjs")));
const verifier = await load();

function files(dir) {
  const entries = readdirSync(dir, { recursive: true, withFileTypes: true });
  const paths = entries.filter((entry) => entry.isFile()).map((e) => join(e.parentPath ?? e.path, e.name));
  return new Map(paths.map((path) => [relative(dir, path), readFileSync(path)]));
}

function outcome({ dir, keys, published, log_key: logKey, since, hashes }) {
  const bundle = files(dir);
  const given = { logKey, trust: "pinned" };
  const whole = { bundle, ...given, since: since ?? undefined };
  // By the log's first key, from which the handovers lead to the others, and by all of them.
  const answers = [{ keys: keys.slice(0, 1) }, { published }].map((by) => verifier.bundle({ ...whole, ...by }));
  if (answers[0].valid !== answers[1].valid) throw new Error(`${dir}: ${JSON.stringify(answers)}`);
  for (const index of [...bundle.keys()].flatMap((path) => path.match(/(?<=^receipts\/)\d+(?=\.dsse)/) ?? [])) {
    const envelope = bundle.get(`receipts/${index}.dsse.json`);
    const proof = bundle.get(`proofs/${index}.tlog-proof`);
    answers.push(verifier.receipt({ envelope, published, ...given }));
    // A proof that was dropped is what the bundle's answer is about.
    if (proof !== undefined) answers.push(verifier.inclusion({ envelope, proof, ...given }));
  }
  if (since !== null) {
    const proof = hashes.map((hash) => Buffer.from(hash, "hex"));
    const newer = bundle.get("log/checkpoint");
    answers.push(verifier.consistency({ old: since, new: newer, hashes: proof, ...given }));
  }
  const errors = answers.flatMap((answer) => answer.errors);
  const trust = answers.map((answer) => answer.trust).join();
  if (answers.every(({ valid }) => valid)) {
    return answers.every((answer) => answer.trust === "pinned") ? null : `trust ${trust}`;
  }
  return errors.map(({ code, message }) => `${code}: ${message}`).join("; ") || "no reason";
}

const cases = Object.entries(JSON.parse(readFileSync(0, "utf8")));
console.log(JSON.stringify(Object.fromEntries(cases.map(([name, q]) => [name, outcome(q)]))));
