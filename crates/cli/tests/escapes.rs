//! The escape corpus, through the real program: what hostile code and hostile requests try, what
//! comes of it, that it is receipted, and that the host is unharmed.
//!
//! Each case names what must come of it ([`case::Want`]). What ran has an action whose outcome
//! receipt attests how it ended, verified here as a stranger does, without the server. What the
//! operator does not let be, and what is no agent, has an action that was denied or failed before
//! anything ran, with a receipt that has the code. A request that does not read (a path that is
//! relative, an address range for a host) is answered 400 like any other and is no action: there is
//! nothing that could have been decided. Handles of another tenant answer as absent ones do, and
//! leave no receipt: that would tell that there is something. At the end the whole log verifies
//! offline.
//!
//! After each case the same is looked at ([`host::Host::unharmed`]): the server answers and runs a
//! control, its memory and handles are what they were before the first case within named bounds, no
//! process of it is left, and neither in the watched folder nor in the data folder did a file
//! appear, change or go (but for the stores, which have the receipts).
//!
//! Names are looked up by the system's resolver, as the program always does: it is started where
//! that asks a name server of the test ([`rebinding`]).
//!
//! What stays with the crates: other tampering with the cache of compiled code, and what the
//! compiler's process has given up, are in `sandbox/tests/escape/cache.rs`; executions that are
//! canceled are in its `limits.rs`.

mod asked;
mod case;
mod door;
mod files;
mod forged;
#[path = "../../sandbox/tests/support/wat.rs"]
mod guests;
mod host;
pub(crate) mod light;
mod limits;
mod network;
mod rebinding;
mod tenants;
mod vitals;
mod world;

use std::sync::Arc;
use std::time::Duration;

use self::host::Host;
use self::network::Targets;
use self::rebinding::Pair;
use crate::common::target::Target;

/// Cases of the first table: none is lost unseen.
const CASES: usize = 134;

#[tokio::test(flavor = "multi_thread")]
async fn code_does_not_escape() {
    let (targets, slow) = (Targets::start().await, Target::slow(Duration::from_secs(3)).await);
    let http = format!("{}, {}", slow.grant(), targets.granted.grant());
    let host = Arc::new(Host::new("", &targets.ceiling(), &http).await);
    let mut cases = files::cases(&host);
    cases.extend(limits::cases(&slow));
    cases.extend(world::cases());
    cases.extend(network::cases(&targets));
    cases.extend(door::cases(&host));
    assert!(cases.len() >= CASES, "{}", cases.len());
    host.run(cases).await;
    assert_eq!(targets.hidden.seen(), [], "what was not granted was spoken to");
    let paths: Vec<_> = targets.granted.seen().into_iter().map(|seen| seen.path).collect();
    assert!(paths.iter().all(|path| path.starts_with("/to/")), "{paths:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_do_not_lead_out() {
    let pair = Pair::start().await;
    let host = Arc::new(rebinding::host(&pair).await);
    host.run(rebinding::cases(&pair)).await;
    rebinding::looked_up_once(&host, &pair);
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_processes_nor_requests_escape() {
    let host = Arc::new(Host::new(&light::enabled(), "", "").await);
    let mut cases = asked::cases(&host);
    cases.extend(light::cases());
    host.run(cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_another_tenant_is_reached() {
    let mut host = Host::new("", "", "").await;
    let stranger = tenants::Stranger::new(&host).await;
    host.warm_up().await;
    let host = Arc::new(host);
    host.run(tenants::cases(&stranger)).await;
    tenants::handles(&host, &stranger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_forged_is_believed() {
    let host = Host::new("", "", "").await;
    forged::attestations(&host).await;
    forged::source_of_a_tool(&host).await;
    forged::compiled_code(&host).await;
    host.log_verifies();
}
