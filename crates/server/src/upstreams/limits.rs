//! Every bound of the registry of MCP servers.

use std::time::Duration;

/// MCP servers of one tenant.
pub(crate) const UPSTREAMS_MAX: usize = 64;
/// Tools of one server that are known, those that are gone among them.
pub(crate) const TOOLS_MAX: usize = 2_000;
/// Bytes of a tool's definition.
pub(crate) const DEFINITION_BYTES_MAX: usize = 256 << 10;
/// Characters of a tool's description in its manifest; the definition keeps all of it.
pub(crate) const DESCRIPTION_CHARS_MAX: usize = 2_000;
/// Labels that an operator gives one tool.
pub(crate) const LABELS_MAX: usize = 16;
/// Bytes of a label.
pub(crate) const LABEL_BYTES_MAX: usize = 64;
/// How long a server that is being added may take to say what it offers.
pub(crate) const CONTACT_TIMEOUT: Duration = Duration::from_secs(60);
/// The rest between two contacts with one server, the first time and at most: it doubles as long
/// as each contact finds something changed, or fails.
pub(crate) const CONTACT_REST_MIN: Duration = Duration::from_secs(1);
/// See [`CONTACT_REST_MIN`].
pub(crate) const CONTACT_REST_MAX: Duration = Duration::from_secs(300);
/// How often a server is asked what it offers where nothing says that it changed.
pub(crate) const CONTACT_EVERY: Duration = Duration::from_secs(300);
/// Changes that a listener may be behind before it misses some.
pub(crate) const CHANGES_KEPT: usize = 256;
/// Refused tools that are named; the rest is counted.
pub(crate) const REFUSED_NAMED_MAX: usize = 100;
/// Characters of a refused tool's name that are shown.
pub(crate) const REFUSED_NAME_CHARS_MAX: usize = 128;
