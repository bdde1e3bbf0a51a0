//! Where the circuits of connectors are, as of the last scrape.

use connectors::breaker::{Position, Seen};
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByState {
    tenant: String,
    instance: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByInstance {
    tenant: String,
    instance: String,
}

pub(super) struct Circuits {
    states: Family<ByState, Gauge>,
    opened: Family<ByInstance, Gauge>,
    refused: Family<ByInstance, Gauge>,
    /// One scrape at a time.
    setting: Mutex<()>,
}

impl Circuits {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let states = Family::<ByState, Gauge>::default();
        let help = "Where the circuit of a connector is: 1 for the state that it has";
        registry.register("connector_circuit", help, states.clone());
        let opened = Family::<ByInstance, Gauge>::default();
        let help = "How often the circuit of a connector opened since the server started";
        registry.register("connector_circuit_openings", help, opened.clone());
        let refused = Family::<ByInstance, Gauge>::default();
        let help = "Calls that the circuit of a connector refused since the server started";
        registry.register("connector_circuit_refusals", help, refused.clone());
        Self { states, opened, refused, setting: Mutex::default() }
    }

    /// Shows these, and no others.
    pub(super) fn set(&self, circuits: &[Seen]) {
        let _one_at_a_time = self.setting.lock();
        self.states.clear();
        self.opened.clear();
        self.refused.clear();
        for seen in circuits {
            let Some((tenant, instance)) = seen.key.split_once('/') else { continue };
            let of = ByInstance { tenant: tenant.to_owned(), instance: instance.to_owned() };
            let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
            self.opened.get_or_create(&of).set(count(seen.opened));
            self.refused.get_or_create(&of).set(count(seen.refused));
            for position in Position::ALL {
                let ByInstance { tenant, instance } = of.clone();
                let label = ByState { tenant, instance, state: position.as_str() };
                self.states.get_or_create(&label).set((position == seen.position).into());
            }
        }
    }
}
