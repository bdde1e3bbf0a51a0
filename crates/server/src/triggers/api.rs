//! The triggers service.

use std::collections::BTreeMap;
use std::sync::Arc;

use kernel::delivery::{Delivery, Status as DeliveryStatus};
use kernel::failure::{Category, Failure};
use kernel::ids::{self, EnvironmentId, PrincipalId, WorkflowId, WorkspaceId};
use kernel::json;
use kernel::machine::{self, Command, Kind, State};
use kernel::principal::PrincipalKind;
use kernel::receipt::LogId;
use kernel::trigger::definition::{Definition, Shown, Slack};
use kernel::trigger::{self, Binding, Input, Source};
use kernel::values::{self, Digest};
use ledger::Batch;
use ledger::store::SideRow;
use prost::Message;
use proto::triggers::triggers_service_server::TriggersService;
use proto::triggers::{
    CreateTriggerRequest, Delivery as WireDelivery, DisableTriggerRequest, DiscardDeliveryRequest,
    EnableTriggerRequest, Fired, GetTriggerRequest, ListDeliveriesRequest, ListDeliveriesResponse,
    ListTriggersRequest, ListTriggersResponse, Mapping, Match, RemoveTriggerRequest,
    ReplayDeliveryRequest, Slack as WireSlack, TestTriggerRequest, TestTriggerResponse,
    Trigger as WireTrigger,
};
use proto::wire::{Json, Timestamp};
use serde_json::Value;
use tonic::{Request, Response, Status};

use super::{Known, clock, dead, door, launch};
use crate::actions::sentence;
use crate::cards;
use crate::error::{self, Refused, Result};
use crate::identity::{Identity, may_have_key_of};
use crate::limits;
use crate::paging;
use crate::shared::{Caller, Shared};

/// The connector that posts where nobody says.
const INSTANCE: &str = "slack";

/// Serves triggers.
pub(crate) struct TriggersApi(pub(crate) Arc<Shared>);

type Reply<T> = std::result::Result<Response<T>, Status>;

fn unknown() -> Refused {
    Refused::not_found("trigger")
}

fn at(time: values::Timestamp) -> Timestamp {
    Timestamp::from_micros(time.0)
}

impl TriggersApi {
    fn find(&self, caller: &Caller, name: &str) -> Result<Arc<Known>> {
        self.0.triggers.find(&caller.tenant, name).ok_or_else(unknown)
    }

    async fn create(&self, caller: &Caller, wire: CreateTriggerRequest) -> Result<WireTrigger> {
        let body = Digest::of(&wire.encode_to_vec());
        let name = wire.name.clone();
        if self.0.repeats(caller, "trigger_create", body)? {
            return self.show(caller, &name);
        }
        if !ids::is_server_name(&name) {
            let message = "name: 1 to 32 of a-z, 0-9, `-` and `_`, a letter or digit first";
            return Err(Refused::invalid(message));
        }
        let definition = definition(caller, wire)?;
        definition.check().map_err(door::unfit)?;
        self.check_place(caller, &definition)?;
        let next_at = definition.cron.as_deref().and_then(|c| clock::next_of(c, self.0.now()));
        let digest = definition.digest().map_err(Refused::internal)?;
        let bytes = json::canonical(&definition).map_err(Refused::internal)?;
        let binding = Binding {
            source: definition.source,
            definition: digest,
            workspace: definition.workspace,
            environment: definition.environment,
            principal: definition.principal,
            by: caller.id.clone(),
            next_at,
        };
        let tenant = caller.tenant.to_string();
        let side = vec![SideRow::Blob { tenant, digest, bytes }];
        let input = Input::Create(Box::new(binding));
        self.change(caller, ("trigger_create", body), &name, input, side).await
    }

    /// Whether runs of the workflow would take a release where the trigger starts them.
    fn check_workflow(&self, caller: &Caller, definition: &Definition) -> Result<()> {
        let Some(name) = &definition.workflow else { return Ok(()) };
        let (tenant, factory) = (&caller.tenant, &self.0.factory);
        let known = WorkflowId::new(name).ok().filter(|id| factory.workflow(tenant, id).is_some());
        let known = known.ok_or_else(|| {
            let message =
                format!("workflow: there is no `{name}`: `tally workflow publish` it first");
            Refused::new(Category::NotFound, "workflow_not_found", message)
        })?;
        let place = &definition.environment;
        if factory.is_released(tenant, &known, place) {
            return Ok(());
        }
        let message = format!(
            "no release of `{name}` is in force in `{place}`: create, approve and promote one \
             first (`tally release`)"
        );
        Err(Refused::new(Category::Conflict, "release_missing", message))
    }

    /// Whether all that a definition names is there, and is the caller's to give.
    fn check_place(&self, caller: &Caller, definition: &Definition) -> Result<()> {
        let shared = &self.0;
        let identity = Identity(shared.clone());
        let principal = identity.find_principal(caller, definition.principal.as_str())?;
        may_have_key_of(caller, &principal)?;
        if principal.kind != PrincipalKind::Service {
            return Err(Refused::invalid("principal_id: a service acts for a trigger"));
        }
        let place = shared.control.directory.workspace(&caller.tenant, &definition.workspace);
        let place = place.ok_or_else(|| Refused::not_found("workspace"))?;
        if !place.environments.contains(&definition.environment) {
            return Err(Refused::not_found("environment of this workspace"));
        }
        if let Some(name) = &definition.secret
            && shared.secrets.live(&caller.tenant, name).is_none()
        {
            return Err(Refused::not_found("secret"));
        }
        self.check_workflow(caller, definition)?;
        let all = shared.triggers.all(&caller.tenant);
        if all.len() >= limits::TRIGGERS_MAX {
            let message = "this tenant has as many triggers as it may: remove one";
            return Err(Refused::new(Category::Conflict, "too_many_triggers", message));
        }
        let asks = |known: &Arc<Known>| {
            let binding = &known.state.binding;
            binding.source == Source::Slack && binding.workspace == definition.workspace
        };
        if definition.source == Source::Slack && all.iter().any(asks) {
            let message = "people of this workspace are asked by another trigger: remove that one";
            return Err(Refused::new(Category::Conflict, "slack_taken", message));
        }
        Ok(())
    }

    async fn change(
        &self,
        caller: &Caller,
        (endpoint, body): (&str, Digest),
        name: &str,
        input: Input,
        side: Vec<SideRow>,
    ) -> Result<WireTrigger> {
        let command = Command::new(Kind::Trigger, name, machine::Input::Trigger(input));
        let batch = Batch { side, ..Batch::new(caller.control_log(), vec![command]) };
        self.0.mutate(caller, endpoint, body, name, batch).await?;
        let known = self.0.triggers.known(&caller.tenant, name).ok_or_else(unknown)?;
        if known.state.binding.source == Source::Slack && known.state.enabled {
            // What waits for people already, they are asked about too.
            let workspace = known.state.binding.workspace.clone();
            cards::find(&self.0, &LogId::Workspace(caller.tenant.clone(), workspace))?;
        }
        Ok(wire(caller, &known))
    }

    /// A trigger as the log has it, removed ones too.
    fn show(&self, caller: &Caller, name: &str) -> Result<WireTrigger> {
        let known = self.0.triggers.known(&caller.tenant, name).ok_or_else(unknown)?;
        Ok(wire(caller, &known))
    }

    async fn enable(&self, caller: &Caller, wire: &EnableTriggerRequest) -> Result<WireTrigger> {
        let body = Digest::of(&wire.encode_to_vec());
        let known = self.find(caller, &wire.name)?;
        self.check_workflow(caller, known.definition()?)?;
        let cron = known.definition()?.cron.as_deref();
        let next_at = cron.and_then(|cron| clock::next_of(cron, self.0.now()));
        let input = Input::Enable { by: caller.id.clone(), next_at };
        self.change(caller, ("trigger_enable", body), &wire.name, input, Vec::new()).await
    }

    fn list(&self, caller: &Caller, request: &ListTriggersRequest) -> ListTriggersResponse {
        let ListTriggersRequest { page_size, page_token } = request;
        let all = self.0.triggers.all(&caller.tenant);
        let (page, next_page_token) =
            paging::by_name(all, *page_size, page_token, |known| &known.state.name);
        let triggers = page.iter().map(|known| wire(caller, known)).collect();
        ListTriggersResponse { triggers, next_page_token }
    }

    fn test(&self, caller: &Caller, request: TestTriggerRequest) -> Result<TestTriggerResponse> {
        let TestTriggerRequest { name, event, event_name } = request;
        let known = self.find(caller, &name)?;
        let definition = known.definition()?;
        let mut shown = TestTriggerResponse::default();
        if let Some(cron) = definition.cron.as_deref() {
            let after = |time: &values::Timestamp| clock::next_of(cron, *time);
            let times = std::iter::successors(clock::next_of(cron, self.0.now()), after);
            shown.due = times.take(limits::DUE_TIMES_SHOWN).map(at).collect();
        }
        let text = match (event, shown.due.first()) {
            (Some(event), _) => event.text,
            (None, Some(_)) => {
                let due = known.state.next_at.unwrap_or_else(|| self.0.now());
                serde_json::json!({"due_at_us": due.0}).to_string()
            }
            (None, None) => return Err(Refused::invalid("event: the body of an event")),
        };
        let event = door::sample(definition.source, &event_name, &text)?;
        shown.takes = definition.takes(&event.name, &event.body);
        match definition.input_of(&event.body) {
            Ok(input) => shown.input = Some(Json { text: input.as_str().to_owned() }),
            Err(error) => shown.error = Some(error::wire(door::unfit(error))),
        }
        shown.event_name = event.name;
        let acts = launch::service(&self.0, &caller.tenant, definition);
        if let (None, Err(Refused(failure))) = (&shown.error, acts) {
            shown.error = Some(error::wire(failure));
        }
        Ok(shown)
    }
}

/// What a request says.
fn definition(caller: &Caller, wire: CreateTriggerRequest) -> Result<Definition> {
    let bad_id = |error: ids::InvalidId| Refused::invalid(error.to_string());
    let source = Source::parse(&wire.source)
        .ok_or_else(|| Refused::invalid("source: `servicenow`, `github`, `slack` or `schedule`"))?;
    let workspace = match wire.workspace.as_str() {
        "" => caller.workspace.clone(),
        id => WorkspaceId::new(id).map_err(bad_id)?,
    };
    let environment = match wire.environment.as_str() {
        "" => caller.environment.clone(),
        id => EnvironmentId::new(id).map_err(bad_id)?,
    };
    let twice = |field: &str| Refused::invalid(format!("{field}: the same is there twice"));
    let mut equals = BTreeMap::new();
    for Match { pointer, value } in wire.equals {
        let value: Value = match value {
            Some(json) => json.decode().map_err(|error| Refused::invalid(error.to_string()))?,
            None => Value::Null,
        };
        if equals.insert(pointer, value).is_some() {
            return Err(twice("equals"));
        }
    }
    let mut input = BTreeMap::new();
    for Mapping { name, pointer } in wire.input {
        if input.insert(name, pointer).is_some() {
            return Err(twice("input"));
        }
    }
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(Definition {
        source,
        workspace,
        environment,
        principal: PrincipalId::new(&wire.principal_id).map_err(bad_id)?,
        secret: some(wire.secret),
        workflow: some(wire.workflow),
        events: wire.events,
        equals,
        input,
        cron: some(wire.cron),
        slack: wire.slack.map(slack).transpose()?,
    })
}

fn slack(wire: WireSlack) -> Result<Slack> {
    let cards = match wire.cards.as_str() {
        "" | "full" => Shown::Full,
        "metadata" => Shown::Metadata,
        _ => return Err(Refused::invalid("slack.cards: `full` or `metadata`")),
    };
    let instance = if wire.instance.is_empty() { INSTANCE.to_owned() } else { wire.instance };
    Ok(Slack { team: wire.team, channel: wire.channel, instance, cards })
}

fn wire(caller: &Caller, known: &Known) -> WireTrigger {
    let trigger::Trigger { name, binding, next_at, last, created_at, changed_at, .. } =
        &known.state;
    let shown = WireTrigger {
        name: name.clone(),
        source: binding.source.as_str().to_owned(),
        state: known.state.status().to_owned(),
        workspace: binding.workspace.to_string(),
        environment: binding.environment.to_string(),
        principal_id: binding.principal.to_string(),
        path: match binding.source {
            Source::Schedule => String::new(),
            _ => format!("/hooks/{}/{name}", caller.tenant),
        },
        next_at: next_at.filter(|_| known.state.due().is_some()).map(at),
        last: last.as_ref().map(fired),
        definition_digest: binding.definition.to_string(),
        created_by: binding.by.to_string(),
        created_at: Some(at(*created_at)),
        changed_at: Some(at(*changed_at)),
        reviewed: known.state.reviewed,
        ..WireTrigger::default()
    };
    let Ok(told) = known.definition() else { return shown };
    let equals = told.equals.iter().map(|(pointer, value)| Match {
        pointer: pointer.clone(),
        value: Some(Json { text: value.to_string() }),
    });
    let input = told.input.iter();
    let input = input.map(|(name, at)| Mapping { name: name.clone(), pointer: at.clone() });
    let slack = told.slack.as_ref().map(|slack| WireSlack {
        team: slack.team.clone(),
        channel: slack.channel.clone(),
        instance: slack.instance.clone(),
        cards: slack.cards.as_str().to_owned(),
    });
    WireTrigger {
        secret: told.secret.clone().unwrap_or_default(),
        workflow: told.workflow.clone().unwrap_or_default(),
        events: told.events.clone(),
        equals: equals.collect(),
        input: input.collect(),
        cron: told.cron.clone().unwrap_or_default(),
        slack,
        ..shown
    }
}

fn delivery(delivery: Delivery) -> WireDelivery {
    let code = &delivery.failure;
    let failure = Failure::new(code.category, &code.code, sentence(&code.code));
    WireDelivery {
        delivery_id: delivery.id,
        trigger: delivery.trigger,
        state: delivery.status.as_str().to_owned(),
        error: Some(error::wire(failure)),
        run_id: delivery.run.map(|run| run.to_string()).unwrap_or_default(),
        died_at: Some(at(delivery.died_at)),
        changed_at: Some(at(delivery.changed_at)),
    }
}

fn fired(fired: &trigger::Fired) -> Fired {
    let error = fired
        .failure
        .as_ref()
        .map(|code| error::wire(Failure::new(code.category, &code.code, sentence(&code.code))));
    Fired {
        due_at: Some(at(fired.due_at)),
        run_id: fired.run.as_ref().map(ToString::to_string).unwrap_or_default(),
        error,
    }
}

#[tonic::async_trait]
impl TriggersService for TriggersApi {
    async fn create_trigger(&self, request: Request<CreateTriggerRequest>) -> Reply<WireTrigger> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.create(&caller, request.into_inner()).await?))
    }

    async fn list_triggers(
        &self,
        request: Request<ListTriggersRequest>,
    ) -> Reply<ListTriggersResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.list(&caller, request.get_ref())))
    }

    async fn get_trigger(&self, request: Request<GetTriggerRequest>) -> Reply<WireTrigger> {
        let caller = crate::caller(&request)?;
        let known = self.find(&caller, &request.get_ref().name)?;
        Ok(Response::new(wire(&caller, &known)))
    }

    async fn enable_trigger(&self, request: Request<EnableTriggerRequest>) -> Reply<WireTrigger> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.enable(&caller, request.get_ref()).await?))
    }

    async fn disable_trigger(&self, request: Request<DisableTriggerRequest>) -> Reply<WireTrigger> {
        let caller = crate::caller(&request)?;
        let wire = request.into_inner();
        let about = ("trigger_disable", Digest::of(&wire.encode_to_vec()));
        let input = Input::Disable { by: caller.id.clone() };
        let changed = self.change(&caller, about, &wire.name, input, Vec::new());
        Ok(Response::new(changed.await?))
    }

    async fn remove_trigger(&self, request: Request<RemoveTriggerRequest>) -> Reply<WireTrigger> {
        let caller = crate::caller(&request)?;
        let wire = request.into_inner();
        let about = ("trigger_remove", Digest::of(&wire.encode_to_vec()));
        let input = Input::Remove { by: caller.id.clone() };
        let changed = self.change(&caller, about, &wire.name, input, Vec::new());
        Ok(Response::new(changed.await?))
    }

    async fn list_deliveries(
        &self,
        request: Request<ListDeliveriesRequest>,
    ) -> Reply<ListDeliveriesResponse> {
        let caller = crate::caller(&request)?;
        let ListDeliveriesRequest { state, page_size, page_token } = request.get_ref();
        let states = [DeliveryStatus::Dead, DeliveryStatus::Started, DeliveryStatus::Discarded];
        let states = states.map(DeliveryStatus::as_str);
        if !state.is_empty() && !states.contains(&state.as_str()) {
            return Err(Refused::invalid("state: `dead`, `started` or `discarded`").into());
        }
        let status = Some(state.as_str()).filter(|state| !state.is_empty());
        let page = paging::page(*page_size, page_token, status);
        let (log, all) = (caller.log(), |_: &State| true);
        let listed = paging::visible(&self.0.ledger, &log, Kind::Delivery, page, all);
        let (states, next_page_token) = listed.map_err(Refused::from)?;
        let of = |state| match state {
            State::Delivery(known) => Some(delivery(known)),
            _ => None,
        };
        let deliveries = states.into_iter().filter_map(of).collect();
        Ok(Response::new(ListDeliveriesResponse { deliveries, next_page_token }))
    }

    async fn replay_delivery(
        &self,
        request: Request<ReplayDeliveryRequest>,
    ) -> Reply<WireDelivery> {
        let (caller, wire) = (crate::caller(&request)?, request.into_inner());
        let replayed = dead::replay(&self.0, &caller, &wire.delivery_id).await?;
        Ok(Response::new(delivery(replayed)))
    }

    async fn discard_delivery(
        &self,
        request: Request<DiscardDeliveryRequest>,
    ) -> Reply<WireDelivery> {
        let (caller, wire) = (crate::caller(&request)?, request.into_inner());
        let discarded = dead::discard(&self.0, &caller, &wire.delivery_id).await?;
        Ok(Response::new(delivery(discarded)))
    }

    async fn test_trigger(
        &self,
        request: Request<TestTriggerRequest>,
    ) -> Reply<TestTriggerResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.test(&caller, request.into_inner())?))
    }
}
