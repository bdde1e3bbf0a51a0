//! What Prometheus scrapes.

mod circuits;

use std::time::Duration;

use axum::response::IntoResponse as _;
use connectors::breaker::Seen;
use kernel::ids::TenantId;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Buckets of a duration: from 50 µs to about 26 s, each twice the one before.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.000_05, 2.0, 20))
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    rpc: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByStatus {
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByStage {
    stage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByEffect {
    effect: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByMeasure {
    measure: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByWitness {
    witness: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByUpstream {
    tenant: String,
    server: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByBound {
    bound: &'static str,
}

/// A part of an action's way through the server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stage {
    /// Reading, checking and digesting the request.
    Prepare,
    /// Asking policy.
    Decide,
    /// Making the permit durable.
    Permit,
    /// The tool.
    Execute,
    /// Making the outcome durable.
    Outcome,
}

impl Stage {
    fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Decide => "decide",
            Self::Permit => "permit",
            Self::Execute => "execute",
            Self::Outcome => "outcome",
        }
    }
}

/// Every metric.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    seconds: Family<ByStage, Histogram, fn() -> Histogram>,
    actions: Family<ByStatus, Counter>,
    decisions: Family<ByEffect, Counter>,
    latency: Histogram,
    escalations: Counter,
    broken_glass: Counter,
    witnesses: Family<ByWitness, Counter>,
    upstreams: Family<ByUpstream, Gauge>,
    contacts: Family<ByStatus, Counter>,
    budget_alerts: Family<ByMeasure, Counter>,
    put_off: Family<ByBound, Counter>,
    circuits: circuits::Circuits,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("tally");
        let requests = Family::<Request, Counter>::default();
        registry.register("requests", "Requests by rpc and HTTP status", requests.clone());
        let latency = durations();
        registry.register_with_unit(
            "request_duration",
            "Time to answer a request",
            Unit::Seconds,
            latency.clone(),
        );
        let seconds: Family<ByStage, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(durations);
        registry.register_with_unit(
            "action_stage_duration",
            "Time of each stage of an action",
            Unit::Seconds,
            seconds.clone(),
        );
        let actions = Family::<ByStatus, Counter>::default();
        registry.register("actions", "Actions by the state that they reached", actions.clone());
        let decisions = Family::<ByEffect, Counter>::default();
        registry.register("decisions", "Decisions by effect", decisions.clone());
        let escalations = Counter::default();
        let help = "Stages of approvals that took too long";
        registry.register("approval_escalations", help, escalations.clone());
        let broken_glass = Counter::default();
        let help = "Actions that an emergency let run without those who must approve";
        registry.register("break_glass", help, broken_glass.clone());
        let witnesses = Family::<ByWitness, Counter>::default();
        let help = "Checkpoints shown to witnesses, by what came of it";
        registry.register("witness_answers", help, witnesses.clone());
        let upstreams = Family::<ByUpstream, Gauge>::default();
        let help = "Whether an MCP server can be called";
        registry.register("mcp_server_up", help, upstreams.clone());
        let contacts = Family::<ByStatus, Counter>::default();
        let help = "How often MCP servers were asked what they offer, by what came of it";
        registry.register("mcp_server_contacts", help, contacts.clone());
        let budget_alerts = Family::<ByMeasure, Counter>::default();
        let help = "Shares of budgets that were passed, by what runs low";
        registry.register("budget_alerts", help, budget_alerts.clone());
        let put_off = Family::<ByBound, Counter>::default();
        let help = "Times that a call was told to wait, by the bound that it met";
        registry.register("writes_put_off", help, put_off.clone());
        let circuits = circuits::Circuits::new(&mut registry);
        Self {
            registry,
            requests,
            seconds,
            actions,
            decisions,
            latency,
            escalations,
            broken_glass,
            witnesses,
            upstreams,
            contacts,
            budget_alerts,
            put_off,
            circuits,
        }
    }

    pub(crate) fn request(&self, rpc: &'static str, status: u16, took: Duration) {
        self.requests.get_or_create(&Request { rpc, status }).inc();
        self.latency.observe(took.as_secs_f64());
    }

    pub(crate) fn stage(&self, stage: Stage, took: Duration) {
        let label = ByStage { stage: stage.as_str() };
        self.seconds.get_or_create(&label).observe(took.as_secs_f64());
    }

    pub(crate) fn action(&self, status: &'static str) {
        self.actions.get_or_create(&ByStatus { status }).inc();
    }

    pub(crate) fn decision(&self, effect: kernel::decision::Effect) {
        let effect = format!("{effect:?}").to_ascii_lowercase();
        self.decisions.get_or_create(&ByEffect { effect }).inc();
    }

    pub(crate) fn escalated(&self, stages: usize) {
        self.escalations.inc_by(u64::try_from(stages).unwrap_or(u64::MAX));
    }

    pub(crate) fn break_glass(&self) {
        self.broken_glass.inc();
    }

    pub(crate) fn witness(&self, name: &str, outcome: &'static str) {
        let label = ByWitness { witness: name.to_owned(), outcome };
        self.witnesses.get_or_create(&label).inc();
    }

    /// Whether an MCP server can be called.
    pub(crate) fn upstream(&self, tenant: &TenantId, server: &str, up: bool) {
        let label = ByUpstream { tenant: tenant.to_string(), server: server.to_owned() };
        self.upstreams.get_or_create(&label).set(up.into());
    }

    /// An MCP server is none any more.
    pub(crate) fn upstream_gone(&self, tenant: &TenantId, server: &str) {
        let label = ByUpstream { tenant: tenant.to_string(), server: server.to_owned() };
        self.upstreams.remove(&label);
    }

    /// An MCP server was asked what it offers.
    pub(crate) fn contact(&self, answered: bool) {
        let status = if answered { "answered" } else { "failed" };
        self.contacts.get_or_create(&ByStatus { status }).inc();
    }

    /// A budget passed a share at which somebody wants to know.
    pub(crate) fn budget_alert(&self, measure: &'static str) {
        self.budget_alerts.get_or_create(&ByMeasure { measure }).inc();
    }

    /// A call was told to wait.
    pub(crate) fn put_off(&self, bound: &'static str) {
        self.put_off.get_or_create(&ByBound { bound }).inc();
    }

    /// What a scrape is answered by. `circuits`: where those of connectors are.
    pub(crate) fn show(&self, circuits: &[Seen]) -> axum::response::Response {
        self.circuits.set(circuits);
        const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        match self.text() {
            Ok(text) => ([(http::header::CONTENT_TYPE, TYPE)], text).into_response(),
            Err(error) => {
                tracing::error!(%error, "metrics");
                http::StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }

    /// The text that Prometheus reads.
    fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
