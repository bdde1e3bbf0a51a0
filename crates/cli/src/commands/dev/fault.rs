//! What goes wrong on purpose: rules of a script, of which the first that fits and is not used up
//! counts.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use serde::Deserialize;

use super::locked;
use super::site::Asked;

/// What fits, and what then happens.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Fault {
    /// The method; any where absent.
    method: Option<String>,
    /// What the path contains.
    path: Option<String>,
    /// For how many requests it counts.
    times: Option<u32>,
    #[serde(skip)]
    used: AtomicU32,
    /// Milliseconds before the answer.
    pub(super) delay_ms: u64,
    /// A status of HTTP in place of an answer.
    pub(super) status: Option<u16>,
    /// An error of the system's own, in its form.
    pub(super) error: Option<String>,
    /// `Retry-After`.
    pub(super) retry_after_s: Option<u32>,
    /// The request is taken and never answered.
    pub(super) hang: bool,
    /// The connection breaks.
    pub(super) drop: bool,
    /// What is asked is done before it goes wrong, so that nobody knows of it.
    pub(super) after: bool,
}

impl Fault {
    fn fits(&self, asked: &Asked) -> bool {
        self.method.as_ref().is_none_or(|method| asked.method.as_str() == method)
            && self.path.as_ref().is_none_or(|path| asked.path.contains(path))
    }

    /// Whether nothing but time is lost.
    pub(super) fn only_slow(&self) -> bool {
        !self.hang && !self.drop && self.status.is_none() && self.error.is_none()
    }

    fn take(&self) -> bool {
        let more = |used: u32| self.times.is_none_or(|times| used < times).then(|| used + 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<Vec<Arc<Fault>>>);

impl Faults {
    /// The rule for a request, which is used by that.
    pub(super) fn rule(&self, asked: &Asked) -> Option<Arc<Fault>> {
        locked(&self.0).iter().find(|fault| fault.fits(asked) && fault.take()).cloned()
    }

    /// Puts rules in place of those that there are.
    pub(super) fn replace(&self, faults: Vec<Fault>) {
        *locked(&self.0) = faults.into_iter().map(Arc::new).collect();
    }
}
