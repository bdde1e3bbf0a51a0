//! Deliveries that start no run: what will go at another time is delivered again, what will not is
//! kept until somebody sees to it.

use client::Client;
use proto::identity::principal::Kind;
use proto::identity::{DisablePrincipalRequest, EnablePrincipalRequest};
use proto::runs::RunState;
use proto::triggers::{
    CreateTriggerRequest, Delivery, DiscardDeliveryRequest, EnableTriggerRequest,
    ListDeliveriesRequest, ReplayDeliveryRequest,
};
use proto::workflows::PublishWorkflowRequest;
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{Place, echo, incident, pull_request, run_id};
use crate::common::release::in_force;
use crate::common::{allow_all, assert_code, json as printed, refusal, text};
use crate::runs::{reaches, value};

impl Place {
    async fn deliveries(&self, state: &str) -> Vec<Delivery> {
        let request = ListDeliveriesRequest { state: state.to_owned(), ..Default::default() };
        self.owner().list_deliveries(&request).await.unwrap().deliveries
    }

    /// The one delivery that is dead.
    async fn dead(&self) -> Delivery {
        let mut dead = self.deliveries("dead").await;
        assert_eq!(dead.len(), 1, "{dead:?}");
        dead.remove(0)
    }

    async fn replay(&self, id: &str) -> Result<Delivery, client::Error> {
        let request = ReplayDeliveryRequest { delivery_id: id.to_owned() };
        self.owner().replay_delivery(&request, None).await
    }

    fn kept(&self) -> i64 {
        let store = Connection::open(self.server.data.join("runtime.sqlite")).unwrap();
        let count = "SELECT count(*) FROM content WHERE part = 'event'";
        store.query_row(count, [], |row| row.get(0)).unwrap()
    }

    /// Whether the service of all triggers is there.
    async fn service_is(&self, there: bool) {
        let principal_id = self.service.clone();
        let owner = self.owner();
        match there {
            true => owner.enable_principal(&EnablePrincipalRequest { principal_id }, None).await,
            false => owner.disable_principal(&DisablePrincipalRequest { principal_id }, None).await,
        }
        .unwrap();
    }
}

fn code(delivery: &Delivery) -> &str {
    &delivery.error.as_ref().unwrap().code
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_kept_until_it_is_given_up() {
    let place = Place::new().await.with_events().await;
    let bare = json!({"action": "opened"}).to_string();
    for _ in 0..2 {
        let reply = place.github("pull_request", &bare).send().await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "event_lacks_field"));
        let dead = place.dead().await;
        assert!(reply.text().contains(&dead.delivery_id), "{}", reply.text());
        assert_eq!((dead.trigger.as_str(), code(&dead)), ("github", "event_lacks_field"));
    }
    // What a trigger does not take, or nobody signed, is nothing to it.
    place.github("push", &json!({"ref": "x"}).to_string()).send().await.good();
    place.post("github").header("x-hub-signature-256", "sha256=00").bytes(bare).send().await;
    let dead = place.dead().await;
    let again = place.replay(&dead.delivery_id).await;
    assert_eq!(refusal(again), (400, "event_lacks_field".to_owned()));
    assert_eq!(place.kept(), 1);
    let discard = DiscardDeliveryRequest { delivery_id: dead.delivery_id.clone() };
    let discarded = place.owner().discard_delivery(&discard, None).await.unwrap();
    assert_eq!((discarded.state.as_str(), place.kept()), ("discarded", 0));
    assert_eq!(refusal(place.replay(&dead.delivery_id).await).1, "delivery_over");
    assert_eq!(refusal(place.replay("dlv_none").await), (404, "not_found".to_owned()));
    assert!(place.deliveries("dead").await.is_empty() && place.runs().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_delivery_is_started_again_once() {
    let mut place = Place::new().await.with_events().await;
    place.service_is(false).await;
    let event = incident("evt-1", "9c573169c611228700193229fff72400");
    let reply = place.servicenow(&event).send().await;
    assert_eq!((reply.status, reply.code().as_str()), (403, "principal_disabled"));
    // What was said is sealed.
    let stored = std::fs::read(place.server.data.join("runtime.sqlite")).unwrap();
    let said = b"9c573169c611228700193229fff72400";
    assert!(!stored.windows(said.len()).any(|window| window == said));
    place.server.kill();
    place.server.restart();
    let dead = place.dead().await;
    assert_eq!(code(&dead), "principal_disabled");
    place.service_is(true).await;
    let key = place.server.owner_key();
    let listed = place.server.tally(&key, &["trigger", "deliveries", "--state", "dead"]);
    assert_code(&listed, 0);
    assert!(text(&listed).contains(&dead.delivery_id), "{}", text(&listed));
    let replay = ["trigger", "replay", &dead.delivery_id, "--json"];
    let replayed = place.server.tally(&key, &replay);
    assert_code(&replayed, 0);
    let replayed = printed(&replayed);
    assert_eq!(replayed["state"], "started");
    let id = replayed["run_id"].as_str().unwrap();
    let run = reaches(place.owner(), id, RunState::Succeeded).await;
    let given = json!({"sys_id": "9c573169c611228700193229fff72400"});
    assert_eq!(value(&run.output)["output"][0], given);
    assert_eq!(run.actor_chain[0].id, place.service, "it acts as its own service");
    // Whoever tries it once more, it has its run.
    assert_eq!(place.replay(&dead.delivery_id).await.unwrap().run_id, id);
    assert_eq!(run_id(&place.servicenow(&event).send().await.good()), id);
    assert_eq!((place.runs().await.len(), place.kept()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redelivery_by_the_source_settles_it_too() {
    let place = Place::new().await.with_events().await;
    place.service_is(false).await;
    let body = pull_request("opened", 3);
    assert_eq!(place.github("pull_request", &body).send().await.status, 403);
    let dead = place.dead().await;
    place.service_is(true).await;
    let id = run_id(&place.github("pull_request", &body).send().await.good());
    let all = place.deliveries("").await;
    let [started] = all.as_slice() else { panic!("{all:?}") };
    let is = (started.delivery_id.as_str(), started.state.as_str(), started.run_id.as_str());
    assert_eq!(is, (dead.delivery_id.as_str(), "started", id.as_str()));
    assert_eq!(place.runs().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_at_another_time_is_to_be_delivered_again() {
    let runs = "runs: {per_minute_per_tenant: 1, queued_per_tenant: 1}";
    let place = Place::configured(&allow_all(), None, runs).await.with_events().await;
    let mut busy = None;
    for number in 0..8 {
        let reply = place.github("pull_request", &pull_request("opened", number)).send().await;
        if reply.status != 200 {
            busy = Some(reply);
            break;
        }
    }
    let busy = busy.expect("there was room for all");
    assert_eq!((busy.status, busy.code().as_str()), (503, "runs_queue_full"));
    assert!(busy.header("retry-after").parse::<u64>().is_ok_and(|wait| wait > 0));
    assert!(place.deliveries("").await.is_empty(), "its source has it still");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_needs_a_workflow_that_can_start() {
    let place = Place::new().await;
    let request = place.trigger("github", &[("number", "/number")]);
    let create = async |request: &CreateTriggerRequest| {
        refusal(place.owner().create_trigger(request, None).await)
    };
    assert_eq!(create(&request).await, (404, "workflow_not_found".to_owned()));
    let mut document = echo(&["number"]);
    document["metadata"]["name"] = json!("echo");
    let publish = PublishWorkflowRequest { yaml: document.to_string() };
    place.owner().publish_workflow(&publish, None).await.unwrap();
    assert_eq!(create(&request).await, (409, "release_missing".to_owned()));
    // Released here, and not there.
    let place = Place::new().await.with_events().await;
    let elsewhere = CreateTriggerRequest {
        name: "prod".to_owned(),
        environment: "prod".to_owned(),
        ..place.trigger("github", &[("number", "/number")])
    };
    let refused = refusal(place.owner().create_trigger(&elsewhere, None).await);
    assert_eq!(refused, (409, "release_missing".to_owned()));
}

/// Has a workflow in force in prod.
async fn in_prod(place: &Place, document: &Value) {
    let server = &place.server;
    let as_a = async |role: &str| {
        let key = server.key(Kind::User, &[role], "prod").await;
        Client::new(&server.url, &key).unwrap()
    };
    let (builder, approver, operator) =
        (as_a("builder").await, as_a("approver").await, as_a("operator").await);
    in_force((&builder, &approver, &operator), document).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_prod_a_trigger_is_the_word_of_two() {
    let place = Place::new().await;
    in_prod(&place, &echo(&["number"])).await;
    let request = CreateTriggerRequest {
        environment: "prod".to_owned(),
        ..place.trigger("github", &[("number", "/number")])
    };
    let made = place.create(&request).await;
    assert_eq!((made.state.as_str(), made.reviewed), ("enabled", false));
    let body = pull_request("opened", 1);
    let reply = place.github("pull_request", &body).send().await;
    assert_eq!((reply.status, reply.code().as_str()), (403, "trigger_unreviewed"));
    let dead = place.dead().await;
    // Who set it up cannot be the second person.
    let enable = EnableTriggerRequest { name: "github".to_owned() };
    let own = refusal(place.owner().enable_trigger(&enable, None).await);
    assert_eq!(own.0, 409, "{own:?}");
    assert_eq!(refusal(place.replay(&dead.delivery_id).await).1, "trigger_unreviewed");
    let other = place.server.principal(Kind::User, &["admin"]).await;
    assert!(other.enable_trigger(&enable, None).await.unwrap().reviewed);
    let replayed = place.replay(&dead.delivery_id).await.unwrap();
    assert_eq!(run_id(&place.github("pull_request", &body).send().await.good()), replayed.run_id);
    // Made anew it is looked at anew.
    let remove = proto::triggers::RemoveTriggerRequest { name: "github".to_owned() };
    place.owner().remove_trigger(&remove, None).await.unwrap();
    assert!(!place.create(&request).await.reviewed);
}
