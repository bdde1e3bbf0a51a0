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

export interface AttestationAnswer extends Answer {
  /** What is attested, where it is valid. */
  attestation?: {
    execution_id: string;
    origin: string;
    index: number;
    size: number;
    key_id: string;
    /** The fields of spec/receipt.md §5.1. */
    attestation: Record<string, unknown>;
  };
}

export interface LogKey {
  /** The log's verifier key: name+id+base64. */
  logKey: string;
  trust?: GivenTrust;
}

/** A tenant's keys as `GET /v1/trust/tenants/{tenant}/keys` answers and `tally tenant keys --json`
 * prints them. Only the members that stand here are read, and of keys for receipts alone. */
export interface PublishedKeys {
  keys: {
    purpose?: string;
    /** SubjectPublicKeyInfo. */
    public_key_pem?: string;
    /** The log that it signs. */
    origin?: string;
    /** The first index that it is valid for; 0 where it is not there. */
    from_index?: string | number;
    /** The index after the last; not there while it signs. */
    to_index?: string | number | null;
  }[];
}

/** Receipt keys (PEM), or a list that says what each is valid for: the one or the other. */
export type ReceiptKeys =
  | { keys: string[]; published?: undefined }
  | { keys?: undefined; published: PublishedKeys };

export declare class Verifier {
  /** Is this receipt well formed and signed by one of these keys, or by the one of the published
   * ones that is its log's at its index? Not: is it in a log. */
  receipt(question: { envelope: Bytes; trust?: GivenTrust } & ReceiptKeys): ReceiptAnswer;
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
    logKey?: string;
    trust?: GivenTrust;
    since?: Bytes;
    witnesses?: string[];
    quorum?: number;
  } & (ReceiptKeys | { keys?: undefined; published?: undefined })): BundleAnswer;
  /** Is this attestation of an execution what its receipt says, and of what ran? `maxAge` is in
   * seconds, `now` in milliseconds since 1970. */
  attestation(question: {
    document: Bytes;
    logKey?: string;
    trust?: GivenTrust;
    executionId?: string;
    level?: "basic" | "full";
    maxAge?: number;
    now?: number;
    agent?: Bytes;
    input?: Bytes;
    output?: Bytes;
  } & (ReceiptKeys | { keys?: undefined; published?: undefined })): AttestationAnswer;
}

/** Reads and compiles the WebAssembly module, from beside this file where no source is given. */
export declare function load(
  source?: string | URL | ArrayBuffer | ArrayBufferView | WebAssembly.Module,
): Promise<Verifier>;
