//! The generated packages, nested as in the .proto files.

/// Includes one generated package: its types and services, then their JSON.
macro_rules! package {
    ($name:literal) => {
        include!(concat!(env!("OUT_DIR"), "/", $name, ".rs"));
        include!(concat!(env!("OUT_DIR"), "/", $name, ".serde.rs"));
    };
}

pub(crate) mod google {
    pub(crate) mod api {
        include!(concat!(env!("OUT_DIR"), "/google.api.rs"));
    }
}

pub(crate) mod tally {
    pub(crate) mod actions {
        pub mod v1 {
            package!("tally.actions.v1");
        }
    }
    pub(crate) mod agents {
        pub mod v1 {
            package!("tally.agents.v1");
        }
    }
    pub(crate) mod approvals {
        pub mod v1 {
            package!("tally.approvals.v1");
        }
    }
    pub(crate) mod connectors {
        pub mod v1 {
            package!("tally.connectors.v1");
        }
    }
    pub(crate) mod receipts {
        pub mod v1 {
            package!("tally.receipts.v1");
        }
    }
    pub(crate) mod ledger {
        pub mod v1 {
            package!("tally.ledger.v1");
        }
    }
    pub(crate) mod policies {
        pub mod v1 {
            package!("tally.policies.v1");
        }
    }
    pub(crate) mod evidence {
        pub mod v1 {
            package!("tally.evidence.v1");
        }
    }
    pub(crate) mod identity {
        pub mod v1 {
            package!("tally.identity.v1");
        }
    }
    pub(crate) mod me {
        pub mod v1 {
            package!("tally.me.v1");
        }
    }
    pub(crate) mod recovery {
        pub mod v1 {
            package!("tally.recovery.v1");
        }
    }
    pub(crate) mod runs {
        pub mod v1 {
            package!("tally.runs.v1");
        }
    }
    pub(crate) mod runtime {
        pub mod v1 {
            package!("tally.runtime.v1");
        }
    }
    pub(crate) mod sandboxes {
        pub mod v1 {
            package!("tally.sandboxes.v1");
        }
    }
    pub(crate) mod secrets {
        pub mod v1 {
            package!("tally.secrets.v1");
        }
    }
    pub(crate) mod tools {
        pub mod v1 {
            package!("tally.tools.v1");
        }
    }
    pub(crate) mod triggers {
        pub mod v1 {
            package!("tally.triggers.v1");
        }
    }
    pub(crate) mod upstreams {
        pub mod v1 {
            package!("tally.upstreams.v1");
        }
    }
    pub(crate) mod accounts {
        pub mod v1 {
            package!("tally.accounts.v1");
        }
    }
    pub(crate) mod metering {
        pub mod v1 {
            package!("tally.metering.v1");
        }
    }
    pub(crate) mod releases {
        pub mod v1 {
            package!("tally.releases.v1");
        }
    }
    pub(crate) mod usecases {
        pub mod v1 {
            package!("tally.usecases.v1");
        }
    }
    pub(crate) mod workflows {
        pub mod v1 {
            package!("tally.workflows.v1");
        }
    }
    pub(crate) mod system {
        pub mod v1 {
            package!("tally.system.v1");
        }
    }
    pub(crate) mod r#type {
        pub mod v1 {
            pub use crate::wire::{Json, Timestamp};

            package!("tally.r#type.v1");
        }
    }
}
