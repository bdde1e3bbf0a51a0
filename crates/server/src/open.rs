//! Opening: everything that handlers share, from the stores and the configuration.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use connectors::transform::Worker;
use connectors::{SystemResolver, TenantPrices, Tools, ToolsConfig};
use kernel::ids::ToolId;
use kernel::values::MicroUsd;
use ledger::content::Vault;
use ledger::keys::KeyProvider;
use ledger::store::Store;
use ledger::{Ledger, rebuild};
use tokio_util::task::TaskTracker;

use crate::actions::queue::Bell;
use crate::agents::Presence;
use crate::caps::Caps;
use crate::cards::Cards;
use crate::directory::Directory;
use crate::experience::Experiences;
use crate::follow::{Follower, Followers};
use crate::instances::Instances;
use crate::metrics::Metrics;
use crate::sandbox::registry::Registry;
use crate::sandbox::{self, Sandbox};
use crate::secrets::Secrets;
use crate::shared::{Control, Shared};
use crate::start::Error;
use crate::stores::{Epochs, Stores};
use crate::tokens::Tokens;
use crate::triggers::Triggers;
use crate::upstreams::{MakeParts, Upstreams};
use crate::waiters::Waiters;
use crate::witnesses::Witnesses;
use crate::{Config, ConfigError, clock, factory, policies, runs};

/// Opens keys; loads the control plane.
pub(crate) fn open(
    config: Config,
    tools: Tools,
    issuer: String,
    keys: Arc<dyn KeyProvider>,
    stores: &Stores,
    epochs: Epochs,
    running: TaskTracker,
) -> Result<Shared, Error> {
    let (wall, clock) = clock::of([stores.control.as_ref(), stores.runtime.as_ref()])?;
    let plane = |store: &Arc<dyn Store>, epoch, observer| {
        let (store, keys, clock) = (store.clone(), keys.clone(), clock.clone());
        Ledger::start_observed(store, keys, clock, &config.host, epoch, observer)
    };
    fold_control(stores.control.as_ref(), keys.as_ref(), &config.host)?;
    let control = plane(&stores.control, epochs.control, Arc::new(|_, _| ()))?;
    let (experiences, cards): (Arc<Experiences>, Arc<Cards>) = Default::default();
    let runs = Arc::new(runs::Runs::new(&config.runs, clock.clone()));
    let (caps, watch) = (Arc::new(Caps::new(config.caps.clone())), Arc::default());
    let told = observer(&experiences, &runs, &caps, &watch, &cards);
    let runtime = plane(&stores.runtime, epochs.runtime, told)?;
    let limits = policy_limits(&config);
    let control_key = policies::control_key(keys.as_ref()).map_err(Error::Start)?;
    let directory = Arc::new(Directory::default());
    let (doubt, sealed) = (Arc::default(), Arc::new(Vault::new(control.clone(), keys.clone())));
    let known = (directory.clone(), Arc::clone(&doubt));
    let secrets = Arc::new(Secrets::new(known, (sealed.clone(), control.clone()), clock.clone()));
    let parts = upstream_parts(&config, &secrets)?;
    let upstreams = Arc::new(Upstreams::new(&control, sealed.clone(), parts));
    let registry = Arc::new(Registry::new(&control, config.sandbox.ceiling()));
    let instances = Arc::new(Instances::new(&control, &config.connectors));
    let factory = Arc::new(factory::Factory::new(&control, watch));
    let triggers = Arc::new(Triggers::new(&control));
    let followers =
        follow(&control, &directory, &upstreams, &registry, &instances, &factory, &triggers)?;
    Ok(Shared {
        followers,
        triggers,
        cards,
        secrets,
        registry,
        instances,
        factory,
        upstreams,
        control: Control::new(control, sealed, directory, doubt),
        vault: Vault::new(runtime.clone(), keys),
        spaces: crate::kv::Spaces::default(),
        ledger: runtime,
        policy: policy::PolicyPoint::new(&limits, control_key, clock.clone()),
        tools,
        clock: clock.clone(),
        wall,
        tokens: Tokens::new(issuer),
        metrics: Metrics::new(),
        waiters: Waiters::default(),
        running,
        gateway: crate::mcp::Gateway::default(),
        queue: Bell::default(),
        underway: crate::actions::Underway::default(),
        witnesses: Witnesses::new(&config)?,
        sandbox: Arc::new(Sandbox::open(&config)?),
        runs,
        experiences,
        caps,
        presence: Presence::default(),
        config,
    })
}

fn policy_limits(config: &Config) -> policy::Config {
    policy::Config {
        confirmation_ttl_s: config.policy.ttl_s.into(),
        decision_limit_ms: config.policy.decision_limit_ms,
    }
}

/// Who is told of each commit of the control plane, with what its logs say by now.
fn follow(
    control: &Ledger,
    directory: &Arc<Directory>,
    upstreams: &Arc<Upstreams>,
    registry: &Arc<Registry>,
    instances: &Arc<Instances>,
    factory: &Arc<factory::Factory>,
    triggers: &Arc<Triggers>,
) -> Result<Arc<Followers>, ledger::Error> {
    let followers: Vec<Arc<dyn Follower>> = vec![
        directory.clone(),
        upstreams.clone(),
        registry.clone(),
        instances.clone(),
        factory.clone(),
        triggers.clone(),
    ];
    Ok(Arc::new(Followers::load(control, followers)?))
}

/// Who is told of each commit, before anybody is answered.
fn observer(
    experiences: &Arc<Experiences>,
    runs: &Arc<runs::Runs>,
    caps: &Arc<Caps>,
    watch: &Arc<factory::Watch>,
    cards: &Arc<Cards>,
) -> ledger::Observer {
    let (experiences, runs) = (experiences.clone(), runs.clone());
    let (caps, watch, cards) = (caps.clone(), watch.clone(), cards.clone());
    Arc::new(move |log, committed| {
        experiences.observe(log, committed);
        runs.seen(log, committed);
        caps.observe(log, committed);
        watch.seen(log, &committed.states);
        cards.seen(log, &committed.states);
    })
}

/// Who may do what, and which policy is in force, is believed from receipts that verify alone:
/// states that differ from what these fold to are made anew. Control logs are small.
fn fold_control(store: &dyn Store, keys: &dyn KeyProvider, host: &str) -> Result<(), Error> {
    for log in store.logs()? {
        let report = rebuild::verify_log(store, host, keys, &log)?;
        if let Some(error) = report.errors.first() {
            let log = report.origin;
            return Err(Error::Start(format!("the log `{log}` does not verify: {error}")));
        }
        let differences = rebuild::diff(store, &log)?;
        for difference in &differences {
            let stream = &difference.stream;
            tracing::error!(%stream, log = report.origin, "a state differs from its log");
        }
        if !differences.is_empty() {
            rebuild::rebuild(store, &log)?;
        }
    }
    Ok(())
}

/// What the clients of MCP servers need of their surroundings.
fn upstream_parts(config: &Config, secrets: &Arc<Secrets>) -> Result<MakeParts, Error> {
    let (extra_ca_pem, secrets) = (extra_ca(config)?, secrets.clone());
    let data = config.data.clone();
    Ok(Box::new(move |tenant, spec, logs_in| {
        let parts = connectors::mcp::Parts {
            extra_ca_pem: extra_ca_pem.clone(),
            secrets: Arc::new(secrets.of_tenant(tenant)),
            confine: Some(Arc::new(sandbox::Servers::new(&data, tenant))),
            ..connectors::mcp::Parts::default()
        };
        if logs_in { secrets.authorise(tenant, spec, parts) } else { parts }
    }))
}

/// The text of the file with further certificate authorities.
pub(crate) fn extra_ca(config: &Config) -> Result<Option<String>, ConfigError> {
    let read = |path: &PathBuf| {
        let failed = |source| ConfigError::Read { path: path.clone(), source };
        fs::read_to_string(path).map_err(failed)
    };
    config.extra_ca.as_ref().map(read).transpose()
}

pub(crate) fn tools(config: &Config) -> Result<Tools, Error> {
    let program = std::env::current_exe()
        .map_err(|source| Error::Data { path: PathBuf::from("the program itself"), source })?;
    // The program's allocator: what it would reserve is more than the worker may have.
    let env = vec![("MIMALLOC_ARENA_RESERVE".into(), "0".into())];
    let jq_worker = Worker { program, args: vec!["internal".into(), "jq".into()], env };
    // What runs code knows its own.
    let of_tools = |prices: &BTreeMap<ToolId, MicroUsd>| {
        let prices = prices.clone().into_iter();
        prices.filter(|(tool, _)| !sandbox::is_code(tool)).collect()
    };
    let tenant_prices = config.tenant_prices.iter().map(|(tenant, own)| {
        (tenant.clone(), TenantPrices { tools: of_tools(&own.tools), models: own.models.clone() })
    });
    Ok(Tools::new(ToolsConfig {
        grants: config.grants.clone(),
        prices: of_tools(&config.prices),
        tenant_prices: tenant_prices.collect(),
        models: config.models.clone(),
        jq_worker: Some(jq_worker),
        email: config.email.clone(),
        breaker: config.circuits,
        extra_ca_pem: extra_ca(config)?,
        resolver: Arc::new(SystemResolver),
    })?)
}
