//! The definitions that ship with Tally, with their exchanges.

/// A definition that ships with Tally.
#[derive(Clone, Copy, Debug)]
pub struct Shipped {
    /// What it is called.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
    /// Recorded exchanges.
    pub exchanges: &'static str,
}

const SHIPPED: [Shipped; 3] = [
    Shipped {
        name: "github",
        text: include_str!("../../../../catalog/connectors/github.yaml"),
        exchanges: include_str!("../../../../catalog/connectors/github.exchanges.yaml"),
    },
    Shipped {
        name: "servicenow",
        text: include_str!("../../../../catalog/connectors/servicenow.yaml"),
        exchanges: include_str!("../../../../catalog/connectors/servicenow.exchanges.yaml"),
    },
    Shipped {
        name: "slack",
        text: include_str!("../../../../catalog/connectors/slack.yaml"),
        exchanges: include_str!("../../../../catalog/connectors/slack.exchanges.yaml"),
    },
];

/// The definitions that ship with Tally, by name.
pub fn shipped() -> &'static [Shipped] {
    &SHIPPED
}
