//! Every bound of the server, in one place.

use std::time::Duration;

/// Bytes of a JSON request body: parameters of 1 MiB as a JSON string and what is around them.
pub const BODY_BYTES_MAX: usize = 2 << 20;
/// Bytes of a raw request body: an evidence bundle of 10,000 receipts is about 40 MB.
pub const RAW_BODY_BYTES_MAX: usize = 64 << 20;
/// Tenants that have prices of their own.
pub const TENANT_PRICES_MAX: usize = 1_000;
/// How long a submit waits for its action where the request does not say.
pub const WAIT_MS_DEFAULT: u32 = 10_000;
/// How long a submit may wait.
pub const WAIT_MS_MAX: u32 = 60_000;
/// Bytes of an idempotency key.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// Bytes of a reason or a name.
pub const TEXT_BYTES_MAX: usize = 2_000;
/// Types of data that a claim may name.
pub const DATA_TYPES_MAX: usize = 32;
/// Items on a page of a list where the request does not say.
pub const PAGE_SIZE_DEFAULT: u32 = 50;
/// Items on a page of a list.
pub const PAGE_SIZE_MAX: u32 = 200;
/// Pages that a list reads to fill one with what its caller may see.
pub const PAGES_PASSED_OVER_MAX: u32 = 8;
/// States that are read at once while control logs are folded.
pub const FOLLOW_PAGE: u32 = 1_000;
/// Requests a minute where a key does not say.
pub const RATE_PER_MIN_DEFAULT: u32 = 60_000;
/// Requests a minute that a key may have.
pub const RATE_PER_MIN_MAX: u32 = 6_000_000;
/// Actions from the queue that run at once.
pub const QUEUE_CONCURRENCY: usize = 64;
/// How long the queue rests where nothing is due and nothing wakes it.
pub const QUEUE_IDLE: Duration = Duration::from_secs(1);
/// How long the queue leaves alone what it could not handle.
pub const QUEUE_REST: Duration = Duration::from_secs(1);
/// How often a submit decides anew because policy changed under it.
pub const DECIDE_AGAIN_MAX: u32 = 4;
/// How often keys of old content are destroyed.
pub const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// How long a stopping server waits for requests under way, and then for actions.
pub const STOP_WAIT: Duration = Duration::from_secs(10);
/// When a client of a server that stands by may ask again.
pub const STANDBY_RETRY_MS: u64 = 1_000;
/// Bytes of an access token.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;
/// How long an access token is good for where the request does not say.
pub const TOKEN_MICROS_DEFAULT: i64 = 900 * 1_000_000;
/// Verified tokens kept, so that each is verified once: about 1 KiB each.
pub const TOKENS_KNOWN_MAX: usize = 10_000;
/// How often the credential of a request that is under way is looked at again.
pub const CREDENTIAL_LOOK_EVERY: Duration = Duration::from_millis(400);
/// Requests a minute that one credential may make for tokens.
pub const TOKENS_PER_MIN: u32 = 600;
/// Requests for tokens a minute whose credentials are none.
pub const TOKENS_REFUSED_PER_MIN: u32 = 6_000;
/// Bytes of the body of a request for a token: two tokens and what is around them.
pub const TOKEN_BODY_BYTES_MAX: usize = 64 << 10;
/// Bytes of the audience of a token.
pub const AUDIENCE_BYTES_MAX: usize = 255;
/// How long a login may take, from its begin to the provider's answer, in seconds.
pub const LOGIN_S_MAX: i64 = 600;
/// How long a program may take to fetch what its login came to, in seconds.
pub const CLI_CODE_S_MAX: i64 = 60;
/// How far a provider's clock may be off, in seconds.
pub const ID_TOKEN_LEEWAY_S: i64 = 60;
/// Bytes of an ID token.
pub const ID_TOKEN_BYTES_MAX: usize = 64 << 10;
/// Bytes of a provider's answer.
pub const PROVIDER_ANSWER_BYTES_MAX: usize = 1 << 20;
/// How long a provider may take to answer.
pub const PROVIDER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long what a provider says of itself is believed without being read again.
pub const PROVIDER_KNOWN: Duration = Duration::from_secs(3_600);
/// How long a provider that did not answer is left alone.
pub const PROVIDER_REST: Duration = Duration::from_secs(1);
/// Keys read of a provider's key set.
pub const PROVIDER_KEYS_MAX: usize = 64;
/// How often a minute a provider's keys are read again because a token names another.
pub const PROVIDER_KEYS_PER_MIN: u32 = 6;
/// Logins begun, and answers taken, a minute.
pub const LOGINS_PER_MIN: u32 = 6_000;
/// Bytes of where a login returns to.
pub const RETURN_TO_BYTES_MAX: usize = 1_024;
/// Bytes of a request about a login.
pub const LOGIN_BODY_BYTES_MAX: usize = 16 << 10;
/// Bytes of a provider's name for a person, by OpenID Connect.
pub const SUBJECT_BYTES_MAX: usize = 255;
/// Characters kept of a person's name.
pub const PERSON_NAME_CHARS_MAX: usize = 200;
/// Groups read of a person.
pub const GROUPS_MAX: usize = 1_000;
/// The shortest session by login, in seconds.
pub const SESSION_S_MIN: u32 = 60;
/// A session by login where the configuration does not say, in seconds.
pub const SESSION_S_DEFAULT: u32 = 8 * 3_600;
/// The longest session by login, in seconds.
pub const SESSION_S_MAX: u32 = 30 * 24 * 3_600;
/// How long to wait before control states that could not be read are read again.
pub const DOUBT_REST: Duration = Duration::from_millis(200);
/// How often to look whether control states are in doubt where nothing says so.
pub const DOUBT_IDLE: Duration = Duration::from_secs(60);
/// When a client may ask again while they are.
pub const DOUBT_RETRY_MS: u64 = 500;
/// Between two looks whether policies are to be confirmed again.
pub const CONFIRM_LOOK: Duration = Duration::from_millis(500);
/// How long an outcome is kept in hand while the store fails.
pub const OUTCOME_PATIENCE: Duration = Duration::from_secs(20);
/// Between two tries.
pub const OUTCOME_REST: Duration = Duration::from_millis(200);
/// How long the name of a held call is reserved: as long as an approval may take, and the result
/// of what was approved may be asked for.
pub const HELD_MICROS_MAX: i64 = 33 * 24 * 3_600 * 1_000_000;
/// Held calls of one caller that are remembered in memory.
pub const HELD_PER_CALLER_MAX: usize = 10_000;
/// Bytes of a request state that a client brings back: an upstream's own and what is around it.
pub const REQUEST_STATE_BYTES_MAX: usize = 256 << 10;
/// How often a submit is tried anew because the name of its call is somebody else's.
pub const ADOPT_AGAIN_MAX: u32 = 4;
/// How long a repeat waits for an action that was approved and is about to run, or runs.
pub const HELD_WORK_WAIT: Duration = Duration::from_secs(10);
/// Approvals that are remembered because a client was asked about them.
pub const TASKS_TOLD_MAX: usize = 10_000;
/// How long a request for the result of a task waits for it.
pub const TASK_RESULT_WAIT: Duration = Duration::from_secs(3_600);
/// Bytes of what a form of a page sends: a reason in percent-encoding and what is around it.
pub const PAGE_FORM_BYTES_MAX: usize = 16 << 10;
/// Bytes of a secret's value.
pub const SECRET_BYTES_MAX: usize = 64 << 10;
/// Secrets of one tenant that have a value.
pub const SECRETS_MAX: usize = 1_000;
/// Instances of connectors that a tenant has.
pub const CONNECTORS_MAX: usize = 100;
/// How long the server of a data folder may take to accept a connection.
pub const HOLDER_CONNECT: Duration = Duration::from_secs(2);
/// How often the lock of a data folder is tried.
pub const LOCK_TRIES: u32 = 10;
/// Between two tries.
pub const LOCK_REST: Duration = Duration::from_millis(20);
/// How long clients may take to answer what a server asks in the middle of a call: the lease of an
/// attempt is so much longer than the call itself.
pub const ANSWERS_MS_MAX: u64 = 10 * 60 * 1_000;
/// How long a token is good for that is made to be exchanged at once.
pub const UPSTREAM_TOKEN_MICROS: i64 = 120 * 1_000_000;
/// Scopes that a login at an upstream may ask for besides.
pub const LOGIN_SCOPES_MAX: usize = 64;
/// Bytes of the URL that a person is sent back to from an upstream.
pub const CALLBACK_BYTES_MAX: usize = 16 << 10;
/// Days that usage is summed up over where nobody says otherwise.
pub const USAGE_DAYS_DEFAULT: i64 = 30;
/// Days that usage is summed up over at most.
pub const USAGE_DAYS_MAX: i64 = 366;
/// Rows of one answer about usage.
pub const USAGE_ROWS_MAX: usize = 10_000;
/// Meters that are read at once: about 400 bytes each.
pub const METERS_PAGE: u32 = 1_000;
/// Moves of a run in one commit, such as steps that are skipped: a receipt has room for 64.
pub const RUN_MOVES_PER_COMMIT: usize = 32;
/// Moves of a run by one look at it: 100 steps, each called 100 times, and some more.
pub const RUN_MOVES_MAX: usize = 10_500;
/// Receipts from the first to the last of a run that are read to compare each of its calls.
pub const RUN_HISTORY_RECEIPTS: u64 = 50_000;
/// How many of them are read at once.
pub const RUN_HISTORY_PAGE: u32 = 500;
/// Locks of runs from which on those that nobody holds are forgotten.
pub const RUN_LOCKS_SWEPT: usize = 1_024;
/// When a run may be asked for again where too many wait.
pub const RUNS_FULL_RETRY_MS: u64 = 1_000;
/// Differences between two runs that are told.
pub const DIFFERENCES_MAX: usize = 100;

/// Keys of the key-value store of one workspace.
pub const KV_KEYS_MAX: u64 = 10_000;
/// Bytes of its keys and values together.
pub const KV_BYTES_MAX: u64 = 64 << 20;

/// Receipts after which what earlier attempts came to is kept anew. A start reads at most about so
/// many: less than a second.
pub(crate) const EXPERIENCE_KEEP_RECEIPTS: u64 = 20_000;
/// How long it is not kept at most.
pub(crate) const EXPERIENCE_KEEP_EVERY: Duration = Duration::from_secs(30);
/// Receipts that are read at once.
pub(crate) const EXPERIENCE_PAGE: u32 = 512;
/// Failures of a tool that an agent is told of: those that happened most often.
pub(crate) const FAILURE_PATTERNS_MAX: usize = 10;
/// How often an agent says that it is there.
pub(crate) const HEARTBEAT_EVERY_S: u32 = 30;
/// Heartbeats that may be missed before an agent is stale.
pub(crate) const HEARTBEATS_MISSED_MAX: u32 = 3;
/// How often the heartbeats of one agent are kept: more often they are only remembered.
pub(crate) const HEARTBEAT_KEEP_EVERY: Duration = Duration::from_secs(15);
/// Bytes of what an agent says of its program.
pub(crate) const BUILD_BYTES_MAX: usize = 128;
/// Entries of an answer to a query where nothing is said.
pub(crate) const QUERY_LIMIT_DEFAULT: usize = 20;
/// Entries of an answer to a query.
pub(crate) const QUERY_LIMIT_MAX: usize = 100;
/// Actions that a query looks through, the newest first.
pub(crate) const QUERY_ACTIONS_MAX: usize = 10_000;

/// The longest that the queue lets something be that is put off.
pub const PUT_OFF_MAX: Duration = Duration::from_secs(30);
/// How long the queue rests where all that is due is held.
pub const QUEUE_HELD_REST: Duration = Duration::from_millis(25);
/// Bounds on writes that are kept although nothing happened of late.
pub const CAP_WINDOWS_KEPT: usize = 10_000;
/// Receipts that are read back at once to count what began in the last minute.
pub const REFILL_PAGE: u32 = 1_000;
/// Workflows of one tenant that are kept.
pub const WORKFLOWS_MAX: usize = 1_000;
/// Plans of kept workflows that stay compiled: at most 1 MiB each, and mostly a few KiB.
pub const PLANS_KNOWN_MAX: usize = 256;
/// How long a key is remembered under which the server itself makes something once: a century.
pub(crate) const ONCE_MICROS: i64 = 100 * 366 * 24 * 3_600 * 1_000_000;
/// Triggers of one tenant.
pub(crate) const TRIGGERS_MAX: usize = 200;
/// Bytes of what is delivered to a trigger.
pub(crate) const HOOK_BYTES_MAX: usize = 1 << 20;
/// How long a delivery may take to come in.
pub(crate) const HOOK_READ: Duration = Duration::from_secs(10);
/// Signed deliveries to one trigger a minute.
pub(crate) const HOOKS_PER_MIN: u32 = 6_000;
/// Deliveries a minute, to all triggers together, that are refused one by one.
pub(crate) const HOOKS_REFUSED_PER_MIN: u32 = 6_000;
/// How far the time of a signed delivery may be off, in seconds: Slack's five minutes.
pub(crate) const HOOK_WINDOW_S: i64 = 300;
/// Bytes of the name that its source gives an event.
pub(crate) const EVENT_ID_BYTES_MAX: usize = 128;
/// Due times that a test of a schedule tells.
pub(crate) const DUE_TIMES_SHOWN: usize = 5;
/// Cards that are worked on at once.
pub(crate) const CARDS_CONCURRENCY: usize = 16;
/// Moves of a card by one look at it.
pub(crate) const CARD_MOVES_MAX: usize = 16;
/// How often in a row a card is tried before it is given up.
pub(crate) const CARD_TRIES_MAX: u32 = 8;
/// Before a card is tried again; it doubles with each try.
pub(crate) const CARD_RETRY_MS: i64 = 2_000;
/// Characters of a value that a card shows.
pub(crate) const CARD_VALUE_CHARS: usize = 50;
/// Characters of why something is to be done that a card shows.
pub(crate) const CARD_TEXT_CHARS: usize = 1_200;
/// Changes that a card shows one by one.
pub(crate) const CARD_ROWS_MAX: usize = 20;
/// After how long a delivery that may go at another time is to be tried again, where nothing else
/// is known of when.
pub(crate) const HOOK_RETRY_MS: u64 = 5_000;
/// Rows of content that are deleted in one commit.
pub(crate) const CONTENT_DROPPED_AT_ONCE: usize = 1_000;
/// Receipts that one look at the coverage of controls reads: about five seconds.
pub(crate) const COVERAGE_RECEIPTS_MAX: u64 = 250_000;
/// Days that it looks at where nothing is said.
pub(crate) const COVERAGE_DAYS_DEFAULT: i64 = 90;
/// Days that it looks at.
pub(crate) const COVERAGE_DAYS_MAX: i64 = 3_660;
/// Runs of one report.
pub(crate) const REPORT_RUNS_MAX: usize = 100_000;
/// Runs that are read at once.
pub(crate) const REPORT_PAGE: u32 = 500;
