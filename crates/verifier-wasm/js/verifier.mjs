// The verifier of receipts, proofs, evidence bundles and attestations, for browsers and Node >= 20.
// It has no dependency and opens no connection but to read its own `verifier.wasm`.

const WASM = new URL("./verifier.wasm", import.meta.url);

/** Reads and compiles the WebAssembly module, from beside this file where no source is given. */
export async function load(source = WASM) {
  const module = source instanceof WebAssembly.Module ? source : await compile(source);
  const { exports } = await WebAssembly.instantiate(module, {});
  return new Verifier(exports);
}

async function compile(source) {
  if (source instanceof ArrayBuffer || ArrayBuffer.isView(source)) {
    return WebAssembly.compile(source);
  }
  const url = new URL(source, import.meta.url);
  if (url.protocol === "file:") {
    const { readFile } = await import("node:fs/promises");
    return WebAssembly.compile(await readFile(url));
  }
  const response = await fetch(url);
  if (!response.ok) {
    throw new Error(`${url}: ${response.status} ${response.statusText}`);
  }
  return WebAssembly.compile(await response.arrayBuffer());
}

export class Verifier {
  #exports;

  constructor(exports) {
    this.#exports = exports;
  }

  /**
   * Is this receipt well formed and signed by one of these keys, or by the one of the published
   * ones that is its log's at its index? Not: is it in a log.
   */
  receipt({ envelope, keys, published, trust }) {
    return this.#ask({ check: "receipt", envelope: base64(envelope), keys, published, trust });
  }

  /** Is this checkpoint signed by the log? */
  checkpoint({ checkpoint, logKey, trust }) {
    const question = { check: "checkpoint", checkpoint: base64(checkpoint) };
    return this.#ask({ ...question, log_key: logKey, trust });
  }

  /** Does this tlog-proof show the receipt to be in the log? */
  inclusion({ envelope, proof, logKey, trust }) {
    const question = { check: "inclusion", envelope: base64(envelope), proof: base64(proof) };
    return this.#ask({ ...question, log_key: logKey, trust });
  }

  /** Do these hashes show that the log under the old checkpoint only grew to the new one? */
  consistency({ old, new: newer, hashes, logKey, trust }) {
    const question = { check: "consistency", old: base64(old), new: base64(newer) };
    return this.#ask({ ...question, hashes: hashes.map(base64), log_key: logKey, trust });
  }

  /**
   * Is this evidence bundle whole and right? `bundle` is the bytes of its tar, or its files as a
   * Map or an object from path to bytes. Without keys, those that it brings are used: the answer's
   * trust is "unknown" then. `published` stands for `keys` and says what each is valid for. With
   * `since`, the log has to continue that checkpoint, held from
   * before; with `witnesses`, `quorum` of them (all, where it is not said) must have cosigned.
   */
  bundle({ bundle, keys, published, logKey, trust, since, witnesses, quorum = witnesses?.length }) {
    const held = since === undefined ? undefined : base64(since);
    const demands = { since: held, witnesses, quorum };
    const question = { check: "bundle", keys, published, log_key: logKey, trust, ...demands };
    if (bundle instanceof ArrayBuffer || ArrayBuffer.isView(bundle)) {
      return this.#ask({ ...question, tar: base64(bundle) });
    }
    const entries = bundle instanceof Map ? [...bundle] : Object.entries(bundle);
    const files = Object.fromEntries(entries.map(([path, bytes]) => [path, base64(bytes)]));
    return this.#ask({ ...question, files });
  }

  /**
   * Is this attestation of an execution what its receipt says? `document` is what
   * `GET /v1/attestations/{execution_id}` answers. Without keys, those in it are used. With
   * `agent`, `input` and `output`, they have to be what ran; with `maxAge`, the execution may have
   * ended that many seconds ago; with `level: "full"`, all has to be told.
   */
  attestation({ document, keys, published, logKey, trust, ...asked }) {
    const { executionId, level, maxAge, now = Date.now(), ...given } = asked;
    const question = { check: "attestation", document: base64(document), keys, published, trust };
    const content = ["agent", "input", "output"].filter((name) => given[name] !== undefined);
    return this.#ask({
      ...question,
      log_key: logKey,
      execution_id: executionId,
      level,
      max_age_s: maxAge,
      now_us: now * 1000,
      ...Object.fromEntries(content.map((name) => [name, base64(given[name])])),
    });
  }

  #ask(question) {
    const text = new TextEncoder().encode(JSON.stringify(question));
    const { memory, tally_question, tally_verify, tally_answer } = this.#exports;
    // A WebAssembly i32 has a sign; an address has none.
    const at = tally_question(text.length) >>> 0;
    if (at === 0) {
      throw new RangeError(`${text.length} bytes are too many for one question`);
    }
    new Uint8Array(memory.buffer, at, text.length).set(text);
    const length = tally_verify() >>> 0;
    const answer = new Uint8Array(memory.buffer, tally_answer() >>> 0, length).slice();
    tally_question(0);
    return JSON.parse(new TextDecoder().decode(answer));
  }
}

/** Bytes, or the UTF-8 of a text, in base64. */
function base64(value) {
  const bytes = typeof value === "string" ? new TextEncoder().encode(value) : view(value);
  let binary = "";
  // An argument list has a limit, so that a part is converted at a time.
  for (let at = 0; at < bytes.length; at += 0x8000) {
    binary += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  }
  return btoa(binary);
}

function view(value) {
  if (value instanceof ArrayBuffer) {
    return new Uint8Array(value);
  }
  if (ArrayBuffer.isView(value)) {
    return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  }
  throw new TypeError("give bytes or a text");
}
