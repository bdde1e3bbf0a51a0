/** Bytes, or a text that stands for its UTF-8. */
export type Bytes = ArrayBuffer | ArrayBufferView | string;

/** What vouches for a key, weakest first: it came along with what it signed; whoever asked named
 * it; the verifier was set up with it. */
export type Trust = "unknown" | "caller_supplied" | "pinned";

/** What whoever asks says of the keys that they give; "caller_supplied" where they say nothing. */
export type GivenTrust = Exclude<Trust, "unknown">;

export interface Finding {
  /** Stable. */
  code: string;
  /** A sentence. */
  message: string;
}

export interface Answer {
  /** Whether nothing is wrong. Says nothing of whose keys signed: see `trust`. */
  valid: boolean;
  /** What vouches for the keys; the weakest counts. */
  trust: Trust;
  errors: Finding[];
}

export interface ReceiptAnswer extends Answer {
  /** Only where the signature is right. */
  receipt?: {
    id: string;
    origin: string;
    index: number;
    prev: string;
    time_us: number;
    key_id: string;
    /** The in-toto Statement that was signed. */
    statement: unknown;
  };
}

export interface CheckpointAnswer extends Answer {
  /** Only where the signature, and the proof where there is one, is right. */
  checkpoint?: { origin: string; size: number; root: string };
}

export interface BundleAnswer extends Answer {
  receipts?: number;
  origin?: string;
  size?: number;
}

export interface LogKey {
  /** The log's verifier key: name+id+base64. */
  logKey: string;
  trust?: GivenTrust;
}

export declare class Verifier {
  /** Is this receipt signed by one of these keys (PEM), and well formed? Not: is it in a log. */
  receipt(question: { envelope: Bytes; keys: string[]; trust?: GivenTrust }): ReceiptAnswer;
  /** Is this checkpoint signed by the log? */
  checkpoint(question: { checkpoint: Bytes } & LogKey): CheckpointAnswer;
  /** Does this tlog-proof show the receipt to be in the log? */
  inclusion(question: { envelope: Bytes; proof: Bytes } & LogKey): CheckpointAnswer;
  /** Do these hashes show that the log under the old checkpoint only grew to the new one? */
  consistency(question: { old: Bytes; new: Bytes; hashes: Bytes[] } & LogKey): CheckpointAnswer;
  /** Is this evidence bundle whole and right? A tar, or its files by their paths. With `since`, the
   * log has to continue that checkpoint, held from before; with `witnesses`, `quorum` of them (all,
   * where it is not said) must have cosigned. */
  bundle(question: {
    bundle: ArrayBuffer | ArrayBufferView | Map<string, Bytes> | Record<string, Bytes>;
    keys?: string[];
    logKey?: string;
    trust?: GivenTrust;
    since?: Bytes;
    witnesses?: string[];
    quorum?: number;
  }): BundleAnswer;
}

/** Reads and compiles the WebAssembly module, from beside this file where no source is given. */
export declare function load(
  source?: string | URL | ArrayBuffer | ArrayBufferView | WebAssembly.Module,
): Promise<Verifier>;
