// Checks the Sigstore bundles of unpacked evidence with @sigstore/bundle and @sigstore/verify.
//
// Arguments: the node_modules that has them. Standard input: {name: {"dir": …, "keys": [PEM, …],
// "control_keys": [PEM, …]}}. Standard output: {name: what is wrong, or null}.

import { createHash, createPublicKey } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.argv[2], "index.js"));
const { bundleFromJSON } = require("@sigstore/bundle");
const { toSignedEntity, toTrustMaterial, Verifier } = require("@sigstore/verify");

// No certificate, timestamp or Rekor entry is asked for: the key is given.
const NO_ROOT = { certificateAuthorities: [], timestampAuthorities: [], tlogs: [], ctlogs: [] };
const OPTIONS = { ctlogThreshold: 0, tlogThreshold: 0, timestampThreshold: 0 };

function trusted(pem) {
  const rawBytes = createPublicKey(pem).export({ type: "spki", format: "der" });
  return [createHash("sha256").update(rawBytes).digest("hex"), { rawBytes }];
}

function check({ dir, keys, control_keys }) {
  receipts(dir, keys);
  const control = join(dir, "control");
  if (existsSync(control)) receipts(control, control_keys);
}

function receipts(dir, keys) {
  const material = toTrustMaterial(NO_ROOT, Object.fromEntries(keys.map(trusted)));
  const verifier = new Verifier(material, OPTIONS);
  const names = readdirSync(join(dir, "receipts")).filter((name) => name.endsWith(".sigstore.json"));
  if (names.length === 0) throw new Error("no receipt");
  for (const name of names) {
    const text = readFileSync(join(dir, "receipts", name), "utf8");
    verifier.verify(toSignedEntity(bundleFromJSON(JSON.parse(text))));
  }
}

function outcome(question) {
  try {
    check(question);
    return null;
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
}

const cases = Object.entries(JSON.parse(readFileSync(0, "utf8")));
console.log(JSON.stringify(Object.fromEntries(cases.map(([name, q]) => [name, outcome(q)]))));
