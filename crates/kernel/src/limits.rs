//! Every bound of the kernel, in one place.

/// Bytes of an identifier.
pub const ID_BYTES_MAX: usize = 64;
/// Bytes of a receipt's payload (the in-toto statement). Base64 in the DSSE envelope makes it 4/3
/// as long and the envelope adds under 400 bytes: 48,000 × 4 / 3 + 400 = 64,400, which fits the
/// 65,535 bytes that an entry of a tlog-tiles entry bundle may have.
pub const RECEIPT_PAYLOAD_BYTES_MAX: usize = 48_000;
/// Bytes of an action's parameters as received.
pub const PARAMS_BYTES_MAX: usize = 1 << 20;
/// Bytes of the result of a tool that is not our own.
pub const RESULT_BYTES_MAX: usize = 4 << 20;
/// Depth of nesting in parameters and claims.
pub const JSON_DEPTH_MAX: usize = 64;
/// Transitions in one receipt. A submit needs at most 6 (reserve, request, decide, hold, start,
/// approval); 64 leaves room for bulk inputs while one receipt stays under its byte limit.
pub const TRANSITIONS_PER_RECEIPT_MAX: usize = 64;
/// Principals in an actor chain.
pub const ACTOR_CHAIN_MAX: usize = 8;
/// Rules that one decision may name. More matched rules than this are a policy error.
pub const RULES_PER_DECISION_MAX: usize = 64;
/// Bytes of a rule id or reason code.
pub const RULE_BYTES_MAX: usize = 64;
/// Approvers that the quorums of one approval may demand in all.
pub const QUORUM_MAX: u32 = 16;
/// Stages of one approval.
pub const STAGES_MAX: usize = 8;
/// Principals that the stages of one approval may name. A receipt tells a demand at most three
/// times (decision, request, decision again): 3 × 128 × 67 bytes leave half of it for the rest.
pub const APPROVERS_MAX: usize = 128;
/// Approvers of one approval who may hand over their say.
pub const DELEGATIONS_MAX: usize = 16;
/// How long an action may start after glass was broken for it.
pub const BREAK_GLASS_VALID_MICROS: i64 = 15 * 60 * 1_000_000;
/// Wrong codes in a row that lock a second factor.
pub const FACTOR_FAILURES_MAX: u32 = 5;
/// How long a second factor stays locked.
pub const FACTOR_LOCK_MICROS: i64 = 15 * 60 * 1_000_000;
/// Signing keys that one principal may have at once.
pub const SIGNING_KEYS_MAX: usize = 8;
/// Signing keys that one principal may have had: removed ones are kept, to be named.
pub const SIGNING_KEYS_EVER_MAX: usize = 64;
/// Bytes of a signing key (SubjectPublicKeyInfo in DER): a P-256 key has 91, an Ed25519 key 44.
pub const SIGNING_KEY_BYTES_MAX: usize = 128;
/// Bytes of an approver's signature: ECDSA P-256 in DER has at most 72, Ed25519 has 64.
pub const SIGNATURE_BYTES_MAX: usize = 72;
/// How long an approval request may stay open.
pub const APPROVAL_EXPIRES_S_MAX: u32 = 30 * 24 * 3600;
/// How long an approval request stays open where policy does not say.
pub const APPROVAL_EXPIRES_S_DEFAULT: u32 = 24 * 3600;
/// How long a permit is good for. An effect that has not begun by then is decided again.
pub const PERMIT_MICROS_MAX: i64 = 5_000_000;
/// Attempts at one action, the first included.
pub const ATTEMPTS_MAX: u32 = 5;
/// Attempts at one action that servers may cut short by stopping, without any of them counting.
pub const INTERRUPTIONS_MAX: u32 = 1_000;
/// Holds open at once on one account.
pub const HOLDS_PER_ACCOUNT_MAX: usize = 10_000;
/// Largest amount of one posting, in micro-USD: one billion dollars. Sums of 2^13 of them still
/// fit an i64.
pub const AMOUNT_MICRO_USD_MAX: i64 = 1_000_000_000_000_000;
/// Most of one unit in one posting. As many sums of them as of money stay in range.
pub const AMOUNT_UNITS_MAX: u64 = 1_000_000_000_000_000;
/// Most of one unit on one side of an account: what JSON numbers hold exactly.
pub const UNITS_SUM_MAX: u64 = (1 << 53) - 1;
/// How deep accounts lie under one another: tenant, team, agent, run, and as many again.
pub const ACCOUNT_LEVELS_MAX: usize = 8;
/// Shares of what an account was funded with that it tells about. Of five measures they make 20
/// transitions at most.
pub const ALERTS_PER_ACCOUNT_MAX: usize = 4;
/// How long an idempotency key (and a result) is remembered.
pub const RESULT_TTL_MICROS: i64 = 24 * 3600 * 1_000_000;
/// Receipts in one evidence bundle.
pub const BUNDLE_RECEIPTS_MAX: u64 = 10_000;
/// Signatures on one note: the log's own and its witnesses'.
pub const NOTE_SIGNATURES_MAX: usize = 16;
/// Bytes of a note or of a proof that holds one. 16 signatures, each up to 5 kB by a post-quantum
/// key, take 16 × 5,000 × 4 / 3 = 106,667 bytes in base64; the rest is for text and names.
pub const NOTE_BYTES_MAX: usize = 128 * 1024;
/// Hashes of a consistency proof that is sent to a witness, as C2SP tlog-witness says.
pub const WITNESS_PROOF_HASHES_MAX: usize = 63;
/// Bytes of a request to a witness: the old size, 63 hashes of 45 bytes and the checkpoint.
pub const WITNESS_REQUEST_BYTES_MAX: usize = NOTE_BYTES_MAX + 4096;
/// Witnesses that one server asks, or that one check may demand: a note has room for them and for
/// the log's own signature.
pub const WITNESSES_MAX: usize = NOTE_SIGNATURES_MAX - 1;
/// Keys that sign a log's receipts, one after the other: one a week for 19 years.
pub const SIGNING_KEYS_PER_LOG_MAX: usize = 1_000;
/// Bytes of the name of how a session was opened.
pub const SESSION_METHOD_BYTES_MAX: usize = 64;
/// Bytes of the name of a secret.
pub const SECRET_NAME_BYTES_MAX: usize = 64;
/// How long a session may last.
pub const SESSION_MICROS_MAX: i64 = 30 * 24 * 3600 * 1_000_000;
/// How long an access token may be good for.
pub const TOKEN_MICROS_MAX: i64 = 3600 * 1_000_000;
/// How long the secret before a key's rotation may still be good for.
pub const KEY_OVERLAP_MICROS_MAX: i64 = 24 * 3600 * 1_000_000;
/// Bytes of the name of an MCP server.
pub const SERVER_NAME_BYTES_MAX: usize = 32;
/// Bytes of an MCP server's own name for a tool.
pub const MCP_TOOL_NAME_BYTES_MAX: usize = 128;
/// Bytes of the id of an MCP server's tool: `mcp.`, the server, `.` and its own name make 165.
pub const MCP_TOOL_ID_BYTES_MAX: usize = 200;
/// Tools of MCP servers that one commit pins, quarantines or misses. Such a transition takes at
/// most 450 bytes and its subject 280: 48 × 730 = 35,040 bytes leave room for the rest.
pub const MCP_TOOLS_PER_RECEIPT_MAX: usize = 48;
/// Entries of one list of a sandbox's capabilities.
pub const CAPABILITY_ENTRIES_MAX: usize = 64;
/// Bytes of one entry.
pub const CAPABILITY_BYTES_MAX: usize = 512;
/// Bytes of all entries together. A receipt tells a grant once; JSON at most doubles it, since
/// control characters are refused.
pub const CAPABILITIES_BYTES_MAX: usize = 8_192;
/// Characters of an entry that an error shows.
pub const CAPABILITY_SHOWN_CHARS_MAX: usize = 128;
/// Names of one glob, from slash to slash.
pub const GLOB_NAMES_MAX: usize = 64;
/// Bytes of a host, as DNS has it.
pub const HOST_BYTES_MAX: usize = 253;
/// Bytes of one label of a host.
pub const HOST_LABEL_BYTES_MAX: usize = 63;
/// Bytes of a version.
pub const VERSION_BYTES_MAX: usize = 64;
/// Bytes of the name of a connector or of an instance of one.
pub const CONNECTOR_NAME_BYTES_MAX: usize = 32;
/// Bytes of the name of an engine.
pub const ENGINE_BYTES_MAX: usize = 128;
/// Calls of tools that an attestation tells one by one; the rest is in their common hash. One takes
/// at most 440 bytes: 64 × 440 = 28,160 bytes.
pub const ATTESTED_CALLS_MAX: usize = 64;
/// Tools whose digests an attestation tells one by one. One takes at most 240 bytes: with the calls
/// and 2,000 bytes for the rest they leave 10,000 bytes of a receipt.
pub const ATTESTED_TOOLS_MAX: usize = 32;
/// How long an attestation is to be relied on where nobody says otherwise.
pub const ATTESTATION_MICROS: i64 = 90 * 24 * 3600 * 1_000_000;
/// By how much clocks may differ.
pub const CLOCK_SKEW_MICROS: i64 = 60 * 1_000_000;
/// Bytes of an attestation document: two receipts, a proof, and what is disclosed.
pub const ATTESTATION_BYTES_MAX: usize = 4 << 20;
/// Hex digits of the salt of an attestation.
pub const SALT_HEX_DIGITS: usize = 32;
/// Bytes of the name of a plan, a provider, a model or an event.
pub const PLAN_NAME_BYTES_MAX: usize = 128;
/// Steps of a plan.
pub const PLAN_STEPS_MAX: usize = 100;
/// Bytes of a plan in its canonical form.
pub const PLAN_BYTES_MAX: usize = 1 << 20;
/// Bytes of a workflow document.
pub const WORKFLOW_BYTES_MAX: usize = 256 << 10;
/// Triggers of a workflow.
pub const TRIGGERS_MAX: usize = 16;
/// How often one step runs.
pub const ITERATIONS_MAX: u32 = 100;
/// Steps that run at the same time.
pub const GROUP_STEPS_MAX: usize = 16;
/// How long a step may take: waits for people are not counted.
pub const STEP_TIMEOUT_MS_MAX: u64 = 24 * 3600 * 1_000;
/// How long a step may wait before it is tried again.
pub const STEP_BACKOFF_MS_MAX: u64 = 3600 * 1_000;
/// Templates in the parameters of one step.
pub const TEMPLATES_PER_STEP_MAX: usize = 64;
/// Names of the path of one template.
pub const TEMPLATE_PATH_MAX: usize = 16;
/// Bytes of a condition.
pub const CONDITION_BYTES_MAX: usize = 1_000;
/// How deep a condition nests.
pub const CONDITION_DEPTH_MAX: usize = 16;
/// Attempts that a tool's history must have before anything is concluded from it.
pub const HISTORY_MIN: u64 = 10;
/// Attempts from which on its history counts as long.
pub const HISTORY_LONG: u64 = 100;
/// Failures in a million attempts above which a step is a risk.
pub const RISK_PPM_MIN: u64 = 50_000;
/// The chance, in a millionth, that some call of a plan fails, above which the risk is too high.
pub const PLAN_RISK_PPM_MAX: u64 = 500_000;
/// How long a step of a run may wait for its timer, or before it is tried again.
pub const RUN_WAIT_MICROS_MAX: i64 = 366 * 24 * 3600 * 1_000_000;
/// How long a step waits that policy put off, where policy does not say; it doubles up to 64 times.
pub const PUT_OFF_MS: u64 = 1_000;
/// Names that are proposed in place of an unknown one.
pub const ALTERNATIVES_MAX: usize = 3;
/// Attempts of one tool in one environment that are remembered for estimates. Half a megabyte for
/// a workspace with 50 tools; p90 of 256 is exact for these, and within two ranks in a hundred of
/// what all calls would give.
pub const EXPERIENCE_WINDOW: usize = 256;
/// Tools, counted once for each environment, of which attempts are remembered in one workspace.
pub const EXPERIENCE_TOOLS_MAX: usize = 512;
/// Attempts under way that are known at once in one workspace.
pub const EXPERIENCE_RUNNING_MAX: usize = 65_536;
/// Principals whose actions are counted in one workspace.
pub const EXPERIENCE_AGENTS_MAX: usize = 10_000;
/// Differences of time that are none: what a plan takes is not changed by less.
pub const LATENCY_TOLERANCE_MS: u64 = 25;
/// Mismatches in a row that disable an estimator.
pub const DRIFT_MISMATCHES: u32 = 3;
/// Samples that drift is measured by.
pub const DRIFT_SAMPLES: usize = 5;
/// Drift, in millionths of the estimate, above which an estimator is disabled.
pub const DRIFT_PPM_MAX: i64 = 200_000;
/// How long it is disabled.
pub const DRIFT_DISABLED_MICROS: i64 = 24 * 3600 * 1_000_000;
/// The most by which one sample counts towards drift, in millionths of the estimate: what is
/// further off is a mismatch, which counts by itself.
pub const SHIFT_PPM_MAX: i128 = 300_000;
/// Failures, by tool and code, of which is known what helped.
pub const LESSONS_MAX: usize = 512;
/// Trials that are remembered of one strategy after one failure.
pub const TRIALS_MAX: usize = 64;
/// How soon after a failure the same is tried again at once.
pub const AT_ONCE_MICROS: i64 = 5 * 1_000_000;
/// How long after a failure something is done because of it.
pub const FOLLOWS_MICROS_MAX: i64 = 3600 * 1_000_000;
/// Words of one text that ranking reads.
pub const RANK_WORDS_MAX: usize = 512;

/// Times that one bound on what happens in a span gives in advance.
pub const CAP_BOOKED_MAX: usize = 1_000;
/// Versions of one workflow that are kept: half of what its state may take.
pub const WORKFLOW_VERSIONS_MAX: usize = 256;
/// Environments in which one workflow is released.
pub const WORKFLOW_ENVIRONMENTS_MAX: usize = 16;
/// From looking up which release is in force to the commit of the run that takes it.
pub const RELEASE_TAKEN_MICROS: i64 = 15_000_000;
/// By how much a release may have gone out of force before the commit of a run that took it:
/// [`RELEASE_TAKEN_MICROS`], and the time until whoever looked it up learns of it.
pub const RELEASE_LEFT_MICROS: i64 = 30_000_000;
/// Runs that an error budget counts at most.
pub const RELEASE_WINDOW_RUNS_MAX: u32 = 1_000;
/// People who approve one release.
pub const RELEASE_APPROVERS_MAX: u8 = 4;
/// Workflows for one use case.
pub const USE_CASE_WORKFLOWS_MAX: usize = 64;
/// Types of data that the claims of one step name.
pub const CLAIMED_DATA_TYPES_MAX: usize = 32;
/// Bytes of the target and of the rationale that the claims of one step name.
pub const CLAIM_TEXT_BYTES_MAX: usize = 2_000;
/// Names of events that one trigger takes.
pub const TRIGGER_EVENTS_MAX: usize = 32;
/// Fields of an event that a trigger compares, and that it hands on.
pub const TRIGGER_FIELDS_MAX: usize = 64;
/// Bytes of a JSON pointer.
pub const POINTER_BYTES_MAX: usize = 256;
/// Bytes of an id of Slack's.
pub const SLACK_ID_BYTES_MAX: usize = 32;
/// Bytes of a control catalog.
pub const CATALOG_BYTES_MAX: usize = 256 << 10;
/// Controls of a catalog.
pub const CONTROLS_MAX: usize = 256;
/// What one control requires, and entries of each list of what it requires.
pub const REQUIREMENTS_MAX: usize = 32;
/// Bytes of a text of a catalog.
pub const CONTROL_TEXT_BYTES_MAX: usize = 240;
/// Days in which something is expected again.
pub const CADENCE_DAYS_MAX: u32 = 366;
