//! The wire's face of the instances of connectors.

use std::collections::BTreeMap;
use std::sync::Arc;

use connectors::declared::{Definition, Instance, InstanceConfig};
use kernel::connector::{self, Input, Installation, Status};
use kernel::failure::{Category, Failure};
use kernel::machine::{self, Command, Kind, Stream};
use kernel::values::Digest;
use ledger::Batch;
use ledger::store::SideRow;
use prost::Message;
use proto::connectors::connector::State as WireState;
use proto::connectors::connectors_service_server::ConnectorsService;
use proto::connectors::{
    ConfigureConnectorRequest, Connector, ConnectorConfig, ConnectorCredential,
    DisableConnectorRequest, EnableConnectorRequest, GetConnectorRequest, InstallConnectorRequest,
    ListConnectorsRequest, ListConnectorsResponse,
};
use proto::wire::Timestamp;
use tonic::{Request, Response, Status as Answer};

use super::PROD;
use crate::error::{Refused, Result};
use crate::shared::{Caller, Shared};
use crate::{limits, paging};

/// What idempotency keys are for.
const INSTALL: &str = "connector_install";
const CONFIGURE: &str = "connector_configure";
const ENABLE: &str = "connector_enable";
const DISABLE: &str = "connector_disable";

/// Serves the instances of connectors.
pub(crate) struct ConnectorsApi(pub(crate) Arc<Shared>);

type Reply<T> = std::result::Result<Response<T>, Answer>;

fn absent() -> Refused {
    Refused::not_found("connector")
}

fn conflict(code: &str, message: String) -> Refused {
    Refused::new(Category::Conflict, code, message)
}

impl ConnectorsApi {
    fn known(&self, caller: &Caller, name: &str) -> Result<connector::Connector> {
        self.0.instances.state(&caller.tenant, name).ok_or_else(absent)
    }

    async fn install(&self, caller: &Caller, wire: InstallConnectorRequest) -> Result<Connector> {
        let body = Digest::of(&wire.encode_to_vec());
        let definition = Definition::parse(&wire.definition).map_err(Failure::from)?;
        let name = match wire.name.as_str() {
            "" => definition.name.as_str(),
            name => name,
        };
        if !connector::is_name(name) {
            let message = "name: 1 to 32 of a-z, 0-9, `_` and `-`, beginning with a letter, and \
                           no vendor of Tally's own tools";
            return Err(Refused::invalid(message));
        }
        if !self.0.config.connectors.allows(&caller.tenant, &definition) {
            return Err(super::not_allowed("install").into());
        }
        if self.0.repeats(caller, INSTALL, body)? {
            return self.show(caller, name, true);
        }
        let known = self.0.instances.state(&caller.tenant, name);
        let taken = |id: &kernel::ids::ToolId| {
            id.as_str().split_once('.').is_some_and(|(vendor, _)| vendor == name)
        };
        if self.0.registry.ids(&caller.tenant).iter().any(taken) {
            let message = format!("`{name}` names tools that were registered as code");
            return Err(conflict("name_taken", message));
        }
        if known.is_none() && self.0.instances.names(&caller.tenant).len() >= limits::CONNECTORS_MAX
        {
            let message = format!("at most {} connectors can be installed", limits::CONNECTORS_MAX);
            return Err(Refused::new(Category::Validation, "too_many_connectors", message));
        }
        let installation = Installation {
            definition: definition.digest,
            version: definition.version.clone(),
            by: caller.id.clone(),
        };
        if let Some(known) = &known
            && known.installation.definition == installation.definition
        {
            return self.unchanged(caller, INSTALL, body, name).await;
        }
        let blob = SideRow::Blob {
            tenant: caller.tenant.to_string(),
            digest: definition.digest,
            bytes: wire.definition.clone().into_bytes(),
        };
        let revision = known.map_or(0, |known| known.revision);
        let input = Input::Install(installation);
        self.mutate(caller, (INSTALL, body), (name, revision), input, vec![blob]).await
    }

    async fn configure(
        &self,
        caller: &Caller,
        wire: ConfigureConnectorRequest,
    ) -> Result<Connector> {
        let body = Digest::of(&wire.encode_to_vec());
        let known = self.known(caller, &wire.name)?;
        if self.0.repeats(caller, CONFIGURE, body)? {
            return self.show(caller, &wire.name, true);
        }
        let definition = looked_at(&known, &wire.definition_digest)?;
        let config = read(wire.config.unwrap_or_default())?;
        let text = self.0.instances.definition(&caller.tenant, definition);
        let parsed = text.map_err(|why| {
            let message = "the definition that was installed cannot be read any more";
            Refused::new(Category::Conflict, why.as_str(), message)
        })?;
        let fits = Instance::new(&wire.name, Arc::new(parsed), config.clone());
        fits.map_err(Failure::from)?;
        for secret in config.credentials.values() {
            if self.0.secrets.live(&caller.tenant, secret).is_none() {
                let message = format!("there is no secret `{secret}`: tally secret put {secret}");
                return Err(Refused::new(Category::Validation, "secret_missing", message));
            }
        }
        let bytes = kernel::json::canonical(&config).map_err(Refused::internal)?;
        let digest = Digest::of(&bytes);
        let (revision, by) = (known.revision, caller.id.clone());
        let input = Input::Configure { definition, config: digest, by };
        if connector::step(Some(&known), input.clone()) == Err(machine::Refusal::State("unchanged"))
        {
            return self.unchanged(caller, CONFIGURE, body, &wire.name).await;
        }
        let blob = SideRow::Blob { tenant: caller.tenant.to_string(), digest, bytes };
        let name = (wire.name.as_str(), revision);
        self.mutate(caller, (CONFIGURE, body), name, input, vec![blob]).await
    }

    async fn enable(&self, caller: &Caller, wire: EnableConnectorRequest) -> Result<Connector> {
        let body = Digest::of(&wire.encode_to_vec());
        let known = self.known(caller, &wire.name)?;
        if self.0.repeats(caller, ENABLE, body)? {
            return self.show(caller, &wire.name, true);
        }
        let definition = looked_at(&known, &wire.definition_digest)?;
        if caller.environment.as_str() == PROD && caller.actors().contains(&known.installation.by) {
            let message = "in prod, who installed a connector does not enable it";
            return Err(Refused::new(Category::Permission, "installer_enables", message));
        }
        let input = Input::Enable { definition, by: caller.id.clone() };
        let name = (wire.name.as_str(), known.revision);
        self.mutate(caller, (ENABLE, body), name, input, Vec::new()).await
    }

    async fn disable(&self, caller: &Caller, wire: DisableConnectorRequest) -> Result<Connector> {
        let body = Digest::of(&wire.encode_to_vec());
        let known = self.known(caller, &wire.name)?;
        if self.0.repeats(caller, DISABLE, body)? {
            return self.show(caller, &wire.name, true);
        }
        let input = Input::Disable { by: caller.id.clone() };
        let name = (wire.name.as_str(), known.revision);
        self.mutate(caller, (DISABLE, body), name, input, Vec::new()).await
    }

    /// The answer to what is so already. Its idempotency key is taken all the same.
    async fn unchanged(
        &self,
        caller: &Caller,
        endpoint: &str,
        body: Digest,
        name: &str,
    ) -> Result<Connector> {
        let nothing = Batch::new(caller.control_log(), Vec::new());
        self.0.mutate(caller, endpoint, body, name, nothing).await?;
        self.show(caller, name, true)
    }

    async fn mutate(
        &self,
        caller: &Caller,
        (endpoint, body): (&str, Digest),
        (name, revision): (&str, u64),
        input: Input,
        side: Vec<SideRow>,
    ) -> Result<Connector> {
        let command = Command::new(Kind::Connector, name, machine::Input::Connector(input));
        // Not over what came in meanwhile.
        let expect = vec![(Stream::new(Kind::Connector, name), revision)];
        let batch = Batch { side, expect, ..Batch::new(caller.control_log(), vec![command]) };
        self.0.mutate(caller, endpoint, body, name, batch).await?;
        // It may be another system from now on.
        let key = format!("{}/{name}", caller.tenant);
        self.0.tools.declared().breakers().forget(&key);
        self.show(caller, name, true)
    }

    fn list(
        &self,
        caller: &Caller,
        wire: &ListConnectorsRequest,
    ) -> Result<ListConnectorsResponse> {
        let names = self.0.instances.names(&caller.tenant);
        let (names, next_page_token) =
            paging::by_name(names, wire.page_size, &wire.page_token, |name| name.as_str());
        let shown = names.iter().map(|name| self.show(caller, name, false));
        Ok(ListConnectorsResponse { connectors: shown.collect::<Result<_>>()?, next_page_token })
    }

    fn show(&self, caller: &Caller, name: &str, whole: bool) -> Result<Connector> {
        let (instances, tenant) = (&self.0.instances, &caller.tenant);
        let known = self.known(caller, name)?;
        let text = instances.text(tenant, known.installation.definition);
        let definition = text.as_ref().and_then(|text| Definition::parse(text).ok());
        let configuration = known.configuration.as_ref();
        let config = configuration.and_then(|one| instances.config(tenant, one.config).ok());
        let (tools, unusable) = instances.shown(tenant, name);
        let state = match known.status() {
            Status::Installed => WireState::Installed,
            Status::Enabled => WireState::Enabled,
            Status::Disabled => WireState::Disabled,
        };
        Ok(Connector {
            name: name.to_owned(),
            state: state.into(),
            definition: definition.map(|definition| definition.name).unwrap_or_default(),
            version: known.installation.version.as_str().to_owned(),
            definition_digest: known.installation.definition.to_string(),
            installed_by: known.installation.by.to_string(),
            config: config.map(wire_config),
            configured_by: configuration.map(|one| one.by.to_string()).unwrap_or_default(),
            enabled_by: known.enabled_by.as_ref().map(ToString::to_string).unwrap_or_default(),
            reviewed: known.reviewed(),
            tools,
            unusable: unusable.map(|why| why.as_str().to_owned()).unwrap_or_default(),
            text: text.filter(|_| whole).unwrap_or_default(),
            created_at: Some(Timestamp::from_micros(known.created_at.0)),
            changed_at: Some(Timestamp::from_micros(known.changed_at.0)),
        })
    }
}

/// The definition that was looked at must be the present one.
fn looked_at(known: &connector::Connector, digest: &str) -> Result<Digest> {
    let present = known.installation.definition;
    if digest.is_empty() || Digest::parse(digest) == Some(present) {
        return Ok(present);
    }
    let message = format!("the definition is {present} by now: look at it");
    Err(conflict("digest_mismatch", message))
}

fn read(wire: ConnectorConfig) -> Result<InstanceConfig> {
    let ConnectorConfig { base_url, auth, credentials, in_flight } = wire;
    let mut by_role = BTreeMap::new();
    for ConnectorCredential { role, secret } in credentials {
        if by_role.insert(role.clone(), secret).is_some() {
            return Err(Refused::invalid(format!("credentials: `{role}` is there twice")));
        }
    }
    let in_flight = usize::try_from(in_flight).map_err(Refused::internal)?;
    Ok(InstanceConfig { base_url, auth, credentials: by_role, in_flight })
}

fn wire_config(config: InstanceConfig) -> ConnectorConfig {
    let InstanceConfig { base_url, auth, credentials, in_flight } = config;
    let credentials = credentials.into_iter();
    let credentials = credentials.map(|(role, secret)| ConnectorCredential { role, secret });
    let in_flight = u32::try_from(in_flight).unwrap_or(u32::MAX);
    ConnectorConfig { base_url, auth, credentials: credentials.collect(), in_flight }
}

#[tonic::async_trait]
impl ConnectorsService for ConnectorsApi {
    async fn install_connector(
        &self,
        request: Request<InstallConnectorRequest>,
    ) -> Reply<Connector> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.install(&caller, request.into_inner()).await?))
    }

    async fn list_connectors(
        &self,
        request: Request<ListConnectorsRequest>,
    ) -> Reply<ListConnectorsResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.list(&caller, request.get_ref())?))
    }

    async fn get_connector(&self, request: Request<GetConnectorRequest>) -> Reply<Connector> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.show(&caller, &request.get_ref().name, true)?))
    }

    async fn configure_connector(
        &self,
        request: Request<ConfigureConnectorRequest>,
    ) -> Reply<Connector> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.configure(&caller, request.into_inner()).await?))
    }

    async fn enable_connector(&self, request: Request<EnableConnectorRequest>) -> Reply<Connector> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.enable(&caller, request.into_inner()).await?))
    }

    async fn disable_connector(
        &self,
        request: Request<DisableConnectorRequest>,
    ) -> Reply<Connector> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.disable(&caller, request.into_inner()).await?))
    }
}
