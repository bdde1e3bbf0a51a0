//! kill -9 in the middle of deliveries: each event has one run.

use std::collections::BTreeMap;

use proto::runs::RunState;

use super::{Place, incident, run_id};
use crate::runs::reaches;

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_delivery_and_answer_starts_no_second_run() {
    let mut place = Place::new().await.with_events().await;
    let mut runs: BTreeMap<String, String> = BTreeMap::new();
    for round in 0..5 {
        let events: Vec<String> = (0..8).map(|n| format!("evt-{round}-{n}")).collect();
        let asks: Vec<_> = events
            .iter()
            .map(|id| tokio::spawn(place.servicenow(&incident(id, id)).try_send()))
            .collect();
        // The first answer is there, the others are under way.
        let mut asks = asks.into_iter().zip(&events);
        let (first, id) = asks.next().unwrap();
        runs.insert(id.clone(), run_id(&first.await.unwrap().unwrap().good()));
        place.server.kill();
        for (ask, id) in asks {
            if let Ok(reply) = ask.await.unwrap() {
                runs.insert(id.clone(), run_id(&reply.good()));
            }
        }
        place.server.restart();
        // Whoever got no answer delivers again, and so does who did.
        for id in &events {
            let again = run_id(&place.servicenow(&incident(id, id)).send().await.good());
            assert_eq!(*runs.entry(id.clone()).or_insert(again.clone()), again, "{id}");
        }
        // A step has few attempts: no run is there for two kills.
        for id in &events {
            reaches(place.owner(), &runs[id], RunState::Succeeded).await;
        }
    }
    assert_eq!(place.runs().await.len(), runs.len(), "one run for each event");
}
