//! Every bound of the connectors, in one place.

use std::time::Duration;

/// Bytes of a URL.
pub const URL_BYTES_MAX: usize = 8_192;
/// Headers that a call may set, and that an answer may have.
pub const HEADERS_MAX: usize = 64;
/// Bytes of the names and values of the headers that a call sets.
pub const HEADER_BYTES_MAX: usize = 16 << 10;
/// Bytes of the head of an answer.
pub const RESPONSE_HEAD_BYTES_MAX: usize = 64 << 10;
/// Bytes of a content in a result, written as JSON. With the headers of an answer (64 KiB, which
/// JSON at most doubles) it fits the kernel's 1 MiB for one JSON text.
pub const CONTENT_JSON_BYTES_MAX: usize = 896 << 10;
/// Bytes of an answer's body that are kept, unless a call asks for fewer.
pub const RESPONSE_BYTES_MAX: usize = CONTENT_JSON_BYTES_MAX;
/// Redirects followed in one call.
pub const REDIRECTS_MAX: usize = 5;
/// How long one call of `core.http_call` may take, all its hops together.
pub const HTTP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one address may take to accept a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses of one host that are tried.
pub const ADDRESSES_MAX: usize = 8;
/// The longest wait that an answer's `Retry-After` can ask of us.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Bytes of a path.
pub const PATH_BYTES_MAX: usize = 4_096;
/// Bytes of a file that are read, unless a call asks for fewer.
pub const FILE_READ_BYTES_MAX: usize = CONTENT_JSON_BYTES_MAX;
/// Bytes of a file that are copied on the spot where the kernel has them in memory: the copy takes
/// less than to have another thread make it.
pub const FILE_CACHED_BYTES_MAX: usize = 64 << 10;
/// How long one call on a file may take.
pub const FILE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a jq filter.
pub const FILTER_BYTES_MAX: usize = 16 << 10;
/// Values that a jq filter may put out.
pub const TRANSFORM_OUTPUTS_MAX: usize = 10_000;
/// Bytes of all the values that a jq filter puts out.
pub const TRANSFORM_OUTPUT_BYTES_MAX: usize = CONTENT_JSON_BYTES_MAX;
/// Bytes of a jq worker's request: the parameters and what carries them.
pub const TRANSFORM_REQUEST_BYTES_MAX: u64 = 4 << 20;
/// How long a jq filter may run.
pub const TRANSFORM_TIMEOUT: Duration = Duration::from_secs(5);
/// Seconds of processor time of a jq worker, in case that whoever started it is gone.
pub const TRANSFORM_CPU_SECONDS: u64 = 6;
/// Bytes of address space of a jq worker.
pub const TRANSFORM_MEMORY_BYTES: u64 = 512 << 20;
/// jq workers that run at once.
pub const TRANSFORM_WORKERS_MAX: usize = 4;
/// Depth of nested brackets in a jq filter; its parser is recursive.
pub const FILTER_DEPTH_MAX: usize = 200;
/// Steps back that one pattern of a stranger's schema may take on one text.
pub const PATTERN_BACKTRACKS_MAX: usize = 100_000;
/// References in a stranger's schema.
pub const SCHEMA_REFERENCES_MAX: usize = 2_000;
/// Parts of a stranger's schema within each other, references followed: compiling it recurses.
pub const SCHEMA_DEPTH_MAX: usize = 200;
/// Evaluations of parts of a stranger's schema that one value may take: about a second.
pub const SCHEMA_WORK_MAX: u64 = 5_000_000;
/// Bytes of such a pattern once it is compiled.
pub const PATTERN_BYTES_MAX: usize = 1 << 20;

/// Providers of models.
pub const LLM_PROVIDERS_MAX: usize = 64;
/// Models of one provider.
pub const LLM_MODELS_MAX: usize = 256;
/// Bytes of the name of a model.
pub const LLM_MODEL_NAME_BYTES_MAX: usize = 256;
/// Micro-USD that a million tokens may cost.
pub const LLM_PRICE_MAX: i64 = 1_000_000_000_000;
/// Tokens of a model's context, and of an answer.
pub const LLM_TOKENS_MAX: u64 = 1_000_000_000;
/// Tokens that a provider may say were used in one request; what it says beyond is taken as this.
pub const LLM_TOKENS_REPORTED_MAX: u64 = 1_000_000_000_000;
/// Tokens of an answer where neither the call nor the model's settings say.
pub const LLM_MAX_TOKENS: u64 = 4_096;
/// Messages of one conversation.
pub const LLM_MESSAGES_MAX: usize = 1_024;
/// Bytes that one token stands for at most: the longest of the published vocabularies are runs of
/// 128 spaces.
pub const LLM_TOKEN_BYTES_MAX: usize = 128;
/// Tokens that a provider may add to a request itself: how it marks the messages, and what it
/// tells the model of a schema.
pub const LLM_OVERHEAD_TOKENS: u64 = 1_024;
/// How often a model is shown its error unless a call says otherwise.
pub const LLM_REPAIRS: u32 = 2;
/// How often it may be shown.
pub const LLM_REPAIRS_MAX: u32 = 5;
/// The least that a key has to have so that answers are looked through for it.
pub const LLM_KEY_BYTES_MIN: usize = 8;
/// Schemas of answers that are kept compiled.
pub const LLM_SCHEMAS_KEPT: usize = 32;
/// Bytes of what a model is told is wrong with its answer.
pub const LLM_REPAIR_BYTES_MAX: usize = 1_024;
/// Tokens of that, with the words around it.
pub const LLM_REPAIR_TOKENS: u64 = 2_048;
/// Bytes of a provider's answer, or of all events of its stream.
pub const LLM_ANSWER_BYTES_MAX: usize = 16 << 20;
/// Bytes of one event of a stream.
pub const LLM_EVENT_BYTES_MAX: usize = 2 << 20;
/// Bytes of a result: an answer and the JSON that was read from it.
pub const LLM_RESULT_BYTES_MAX: usize = 2 << 20;
/// How long an answer may take to begin, in milliseconds, unless the operator says otherwise: a
/// model that thinks says nothing meanwhile.
pub const LLM_FIRST_BYTE_MS: u64 = 120_000;
/// How long an answer may pause, in milliseconds, unless the operator says otherwise.
pub const LLM_IDLE_MS: u64 = 60_000;
/// How long one call may take, in milliseconds, unless the operator says otherwise.
pub const LLM_TOTAL_MS: u64 = 600_000;
/// How long one call may take, in milliseconds.
pub const LLM_TOTAL_MS_MAX: u64 = 3_600_000;

/// Bytes of a webhook's body.
pub const WEBHOOK_BYTES_MAX: usize = 512 << 10;
/// Bytes of the answer to a webhook that are read.
pub const WEBHOOK_ANSWER_BYTES_MAX: usize = 4 << 10;

/// How long one attempt at sending an e-mail may take.
pub const EMAIL_TIMEOUT: Duration = Duration::from_secs(60);
/// Recipients of one e-mail, copies included.
pub const RECIPIENTS_MAX: usize = 50;
/// Bytes of an address with its name.
pub const MAILBOX_BYTES_MAX: usize = 320;
/// Bytes of a subject.
pub const SUBJECT_BYTES_MAX: usize = 512;
/// Bytes of the texts of one e-mail together.
pub const EMAIL_BYTES_MAX: usize = 512 << 10;
/// Addresses that mail may be from.
pub const SENDERS_MAX: usize = 256;

/// Bytes of a key of the key-value store.
pub const KV_KEY_BYTES_MAX: usize = 256;
/// Bytes of a value of the key-value store, written as JSON.
pub const KV_VALUE_BYTES_MAX: usize = 256 << 10;
/// How long one call on the key-value store may take.
pub const KV_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of an MCP upstream's name.
pub const MCP_NAME_BYTES_MAX: usize = 32;
/// Bytes of the name of a secret.
pub const MCP_SECRET_NAME_BYTES_MAX: usize = 128;
/// How long one call of an MCP upstream takes unless the operator says otherwise.
pub const MCP_TIMEOUT_MS: u64 = 60_000;
/// How long one call of an MCP upstream may take.
pub const MCP_TIMEOUT_MS_MAX: u64 = 600_000;
/// How long a call may last together with the time that people take to answer.
pub const MCP_CALL_MAX: Duration = Duration::from_secs(1_200);
/// Arguments of an upstream's process.
pub const MCP_ARGS_MAX: usize = 256;
/// Variables of an upstream's process.
pub const MCP_ENV_MAX: usize = 256;
/// Calls in flight at one upstream.
pub const MCP_IN_FLIGHT_MAX: usize = 256;
/// Connections of sessions of one upstream.
pub const MCP_LANES_MAX: usize = 256;
/// Bytes of one message of an upstream: a result of the kernel's most and what carries it.
pub const MCP_MESSAGE_BYTES_MAX: usize = kernel::limits::RESULT_BYTES_MAX + (64 << 10);
/// Bytes of a failed HTTP answer's body that are looked at.
pub const MCP_ERROR_BODY_BYTES_MAX: usize = 64 << 10;
/// Bytes of one definition of a tool, resource or prompt.
pub const MCP_DEFINITION_BYTES_MAX: usize = 256 << 10;
/// Entries of one list of an upstream.
pub const MCP_LIST_MAX: usize = 5_000;
/// Bytes of one list of an upstream.
pub const MCP_LIST_BYTES_MAX: usize = 16 << 20;
/// Pages of one list of an upstream.
pub const MCP_PAGES_MAX: usize = 200;
/// Bytes of a cursor, a session id or an event id that is sent back.
pub const MCP_TOKEN_BYTES_MAX: usize = 4 << 10;
/// How long a list is kept at most.
pub const MCP_LIST_TTL_MAX: Duration = Duration::from_secs(300);
/// How long one request that is no action may take.
pub const MCP_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may take to be made, a package's download included.
pub const MCP_CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an upstream may be silent on `server/discover` before `initialize` is tried as well.
pub const MCP_PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long opening a connection waits for the stream of what belongs to no request.
pub const MCP_LISTEN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a subscription may take to come into force.
pub const MCP_SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a message that needs no answer may take to be delivered.
pub const MCP_NOTIFY_TIMEOUT: Duration = Duration::from_secs(5);
/// The first wait after a failed connection; it doubles with each.
pub const MCP_BACKOFF_MIN: Duration = Duration::from_millis(250);
/// The longest wait after a failed connection.
pub const MCP_BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How long an idle HTTP connection is kept: servers close theirs from 5 s on.
pub const MCP_IDLE_MAX: Duration = Duration::from_secs(4);
/// Idle HTTP connections that one upstream keeps.
pub const MCP_IDLE_CONNECTIONS_MAX: usize = 64;
/// Times that a broken stream of answers is taken up again without an event in between.
pub const MCP_RESUMES_MAX: u32 = 5;
/// The wait before a stream is taken up again where the upstream does not say.
pub const MCP_RETRY: Duration = Duration::from_secs(1);
/// The longest wait that an upstream can ask for.
pub const MCP_RETRY_MAX: Duration = Duration::from_secs(30);
/// Rounds of `input_required` in one call.
pub const MCP_ROUNDS_MAX: usize = 8;
/// Questions of an upstream in one call, and those that wait at once.
pub const MCP_ASKS_MAX: usize = 32;
/// Times that one request may be refused for its authorisation.
pub const MCP_CHALLENGES_MAX: usize = 3;
/// Notifications of one connection in a second; the rest is dropped.
pub const MCP_NOTIFICATIONS_PER_SECOND: u32 = 1_000;
/// Messages that wait for a child to read them.
pub const MCP_STDIN_QUEUE: usize = 64;
/// Bytes of a child's standard error that are kept.
pub const MCP_STDERR_BYTES_MAX: usize = 64 << 10;
/// How long a child may take to end after its input was closed, and again after SIGTERM.
pub const MCP_STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Events that wait for a slow receiver.
pub const MCP_EVENTS: usize = 256;
/// Resources that one lane subscribes to.
pub const MCP_SUBSCRIPTIONS_MAX: usize = 256;
/// Parameters of a tool that are mirrored in headers.
pub const MCP_MIRRORS_MAX: usize = 32;
/// Characters of a name that is shown because it is refused.
pub const MCP_SHOWN_CHARS_MAX: usize = 128;
/// How long one request to an authorization server may take.
pub const OAUTH_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of an authorization server's answer.
pub const OAUTH_ANSWER_BYTES_MAX: usize = 256 << 10;
/// The longest that a token is taken to be good for, in seconds.
pub const OAUTH_TOKEN_S_MAX: u64 = 365 * 24 * 3_600;
/// How much earlier a token ends here than there.
pub const OAUTH_TOKEN_MARGIN: Duration = Duration::from_secs(30);
/// How long after it was issued a token's first refusal is taken to be about the one before it.
pub const OAUTH_TOKEN_FRESH: Duration = Duration::from_secs(30);
/// Actor chains whose tokens one upstream keeps.
pub const OAUTH_SUBJECTS_MAX: usize = 10_000;
/// Logins at one upstream that have begun and not ended.
pub const OAUTH_LOGINS_MAX: usize = 16;
/// How long a login at an upstream may take.
pub const OAUTH_LOGIN_MAX: Duration = Duration::from_secs(600);

/// How long a host that a sandbox speaks to may take to be looked up.
pub const EGRESS_LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long such a host may take to accept a connection, to take a request and to begin its answer.
/// The sandbox's own limit of time counts as well.
pub const EGRESS_HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the body of an answer to a sandbox may not go on.
pub const EGRESS_SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of the body of a sandbox's request.
pub const EGRESS_REQUEST_BYTES_MAX: u64 = 16 << 20;
/// Bytes of the body of an answer to a sandbox.
pub const EGRESS_ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Circuits that are kept.
pub const CIRCUITS_MAX: usize = 10_000;
/// Calls that a setting of circuits can ask for.
pub const CIRCUIT_CALLS_MAX: u32 = 10_000;
/// The longest time that a setting of circuits can name, in milliseconds.
pub const CIRCUIT_MS_MAX: u64 = 3_600_000;

/// Bytes of the definition of a connector, or of a file of exchanges.
pub const CONNECTOR_BYTES_MAX: usize = 256 << 10;
/// Bytes of the name of a connector or of an instance.
pub const CONNECTOR_NAME_BYTES_MAX: usize = 32;
/// Operations of a connector.
pub const CONNECTOR_OPERATIONS_MAX: usize = 64;
/// Ways of authorising that a connector has.
pub const CONNECTOR_SCHEMES_MAX: usize = 8;
/// Rules that one operation's answers are judged by.
pub const CONNECTOR_RULES_MAX: usize = 64;
/// How long one attempt takes, in milliseconds: unless a definition says otherwise, and at most.
pub const CONNECTOR_TIMEOUT_MS: (u64, u64) = (15_000, 120_000);
/// Calls of one instance under way at once: unless a definition says otherwise, and at most.
pub const CONNECTOR_IN_FLIGHT: (u64, u64) = (8, 256);
/// Calls of one operation in a minute that a definition can ask for.
pub const CONNECTOR_CALLS_PER_MINUTE_MAX: u32 = 1_000_000;
/// Calls of one instance that wait for their turn.
pub const CONNECTOR_WAITING_MAX: usize = 256;
/// When a call comes back that found no turn, in milliseconds.
pub const CONNECTOR_TURN_RETRY_MS: u64 = 1_000;
/// Bytes of the body of a connector's request.
pub const CONNECTOR_REQUEST_BYTES_MAX: usize = 1 << 20;
/// Bytes of an answer to a connector.
pub const CONNECTOR_ANSWER_BYTES_MAX: usize = 4 << 20;
/// By how much clocks of other systems may be behind ours.
pub const CONNECTOR_CLOCK_SKEW: Duration = Duration::from_secs(300);
/// Tokens of connectors that are kept.
pub const CONNECTOR_TOKENS_MAX: usize = 10_000;
/// Bytes of a token.
pub const CONNECTOR_TOKEN_BYTES_MAX: usize = 16 << 10;
/// How long a token is taken to be good for where its issuer does not say, in seconds.
pub const CONNECTOR_TOKEN_S: u64 = 300;
/// Bytes of a template.
pub const TEMPLATE_BYTES_MAX: usize = 8 << 10;
/// Bytes of the text that a template gives.
pub const TEMPLATE_OUTPUT_BYTES_MAX: usize = 1 << 20;
/// Instructions that one expression may take.
pub const TEMPLATE_FUEL: u64 = 10_000;
