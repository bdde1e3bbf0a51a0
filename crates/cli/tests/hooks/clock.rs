//! A time that comes starts one run, also where the server was away when it came.

use proto::runs::RunState;
use proto::triggers::{CreateTriggerRequest, GetTriggerRequest, TestTriggerRequest, Trigger};
use serde_json::json;
use tokio::time::{Duration, Instant, sleep};

use super::{Place, echo, now};
use crate::common::LOOK_EVERY;
use crate::runs::{reaches, value};

/// A minute and what a busy machine needs.
const MINUTES: Duration = Duration::from_secs(180);

async fn until(place: &Place, is: impl Fn(&Trigger) -> bool) -> Trigger {
    let end = Instant::now() + MINUTES;
    let request = GetTriggerRequest { name: "clock".to_owned() };
    loop {
        let trigger = place.owner().get_trigger(&request).await.unwrap();
        if is(&trigger) {
            return trigger;
        }
        assert!(Instant::now() < end, "it never comes: {trigger:?}");
        sleep(LOOK_EVERY).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missed_time_is_made_up_for_once() {
    let mut place = Place::new().await;
    place.workflow("echo", &echo(&["due"])).await;
    let request = CreateTriggerRequest {
        name: "clock".to_owned(),
        source: "schedule".to_owned(),
        secret: String::new(),
        cron: "* * * * *".to_owned(),
        ..place.trigger("schedule", &[("due", "/due_at_us")])
    };
    let made = place.create(&request).await;
    let due = made.next_at.unwrap();
    assert_eq!((due.seconds % 60, made.path.as_str()), (0, ""));
    let request = TestTriggerRequest { name: "clock".to_owned(), ..Default::default() };
    let tested = place.owner().test_trigger(&request).await.unwrap();
    assert_eq!(tested.due.len(), 5);
    assert!(tested.due.windows(2).all(|pair| pair[1].seconds - pair[0].seconds == 60));
    // Away when the time comes.
    place.server.kill();
    while now() <= due.seconds {
        sleep(LOOK_EVERY).await;
    }
    place.server.restart();
    let fired = until(&place, |trigger| trigger.last.is_some()).await;
    let last = fired.last.unwrap();
    assert_eq!(last.due_at, Some(due));
    assert!(fired.next_at.unwrap().seconds > due.seconds);
    let run = reaches(place.owner(), &last.run_id, RunState::Succeeded).await;
    let given = json!({"due": due.seconds * 1_000_000});
    assert_eq!(value(&run.output)["output"][0], given);
    // A crash does not start it again: only a run of the same due time is given the same.
    place.server.kill();
    place.server.restart();
    let same = |other: &proto::runs::Run| other.input_digest == run.input_digest;
    assert_eq!(place.runs().await.iter().filter(|other| same(other)).count(), 1);
}
