//! The way out to granted hosts.

use std::sync::Arc;

use async_trait::async_trait;
use connectors::{GuardedEgress, SystemResolver};
use kernel::capability::Network;

use crate::open::extra_ca;
use crate::{Config, StartError};
use ::sandbox::{Egress, EgressBody, EgressFailure};

/// Speaks to granted hosts, behind the guard that all connectors have.
#[derive(Debug)]
pub(crate) struct Hosts(GuardedEgress);

impl Hosts {
    pub(super) fn new(config: &Config) -> Result<Self, StartError> {
        let extra_ca = extra_ca(config)?;
        Ok(Self(GuardedEgress::new(Arc::new(SystemResolver), extra_ca.as_deref())?))
    }
}

#[async_trait]
impl Egress for Hosts {
    async fn send(
        &self,
        network: &Network,
        request: http::Request<EgressBody>,
    ) -> Result<http::Response<EgressBody>, EgressFailure> {
        let sent = self.0.send(network, request).await;
        sent.map_err(|error| EgressFailure {
            code: error.code,
            message: error.message,
            denied: error.denied,
        })
    }
}
