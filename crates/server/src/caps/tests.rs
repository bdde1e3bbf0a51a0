//! Places for writes: taken, given back, and read back from the log.

use kernel::ids::WorkspaceId;

use super::*;

fn at(ms: i64) -> Timestamp {
    Timestamp(ms * 1_000)
}

fn write(workspace: &str, workflow: Option<&str>) -> Bounded {
    let tenant = TenantId::new("acme").unwrap();
    let log = LogId::Workspace(tenant, WorkspaceId::new(workspace).unwrap());
    let workflow = workflow.map(str::to_owned);
    Bounded { log, write: Some(Write { workflow }), operation: None }
}

/// The same as a call of an operation that may be called so often.
fn of_operation(per_minute: u32, call: Bounded) -> Bounded {
    Bounded { operation: Some((ToolId::new("chat.post").unwrap(), per_minute)), ..call }
}

fn caps(workflow: u32, tenant: u32) -> Arc<Caps> {
    Arc::new(Caps::new(CapsConfig {
        writes_per_min_workflow: workflow,
        writes_per_min_tenant: tenant,
        ..CapsConfig::default()
    }))
}

struct Desk {
    caps: Arc<Caps>,
    count: usize,
}

impl Desk {
    /// Asks for a place; what gets one happens at once.
    fn ask(&mut self, of: &Bounded, ticket: Option<&str>, now: Timestamp) -> Result<(), Wait> {
        self.count += 1;
        let id = ActionId::new(format!("act_{}", self.count)).unwrap();
        let place = self.caps.enter(of, &id, ticket, now)?;
        let scopes = self.caps.inner.lock().pending.remove(&place.key).unwrap();
        for scope in scopes {
            self.caps.inner.lock().windows.get_mut(&scope).unwrap().took(now);
        }
        Ok(())
    }
}

#[test]
fn workflows_are_bounded_one_by_one_and_all_of_a_tenant_together() {
    let mut desk = Desk { caps: caps(2, 5), count: 0 };
    let triage = write("ops", Some("triage"));
    let (elsewhere, bare) = (write("lab", Some("triage")), write("ops", None));
    for ms in [0, 1] {
        desk.ask(&triage, None, at(ms)).unwrap();
        desk.ask(&elsewhere, None, at(ms)).unwrap();
    }
    let full = Err(Wait { ms: 59_990, bound: Bound::Workflow });
    assert_eq!(desk.ask(&triage, None, at(10)), full);
    assert_eq!(desk.ask(&bare, None, at(10)), Ok(()));
    assert_eq!(desk.ask(&bare, None, at(10)), Err(Wait { ms: 59_990, bound: Bound::Tenant }));
    assert!(!desk.caps.within(&bare, at(59_999)) && desk.caps.within(&bare, at(60_000)));
}

#[test]
fn an_operation_is_bounded_for_all_of_a_tenant_whether_it_writes_or_reads() {
    let mut desk = Desk { caps: caps(10, 10), count: 0 };
    let (triage, lab) = (write("ops", Some("triage")), write("lab", None));
    let reads = Bounded { write: None, ..triage.clone() };
    desk.ask(&of_operation(2, triage.clone()), None, at(0)).unwrap();
    desk.ask(&of_operation(2, Bounded { write: None, ..lab }), None, at(1)).unwrap();
    let full = Err(Wait { ms: 59_990, bound: Bound::Operation });
    assert_eq!(desk.ask(&of_operation(2, reads.clone()), None, at(10)), full);
    assert_eq!(desk.ask(&of_operation(2, triage.clone()), None, at(10)), full);
    // What is another operation has its own bound, and a read is no write.
    assert_eq!(desk.ask(&triage, None, at(10)), Ok(()));
    let scope = Scope::Tenant(TenantId::new("acme").unwrap());
    let windows = &mut desk.caps.inner.lock().windows;
    let window = windows.get_mut(&scope).unwrap();
    (0..8).for_each(|_| window.enter());
    assert!(!window.has_room(at(10)));
    window.leave();
    assert!(window.has_room(at(10)), "two were writes");
}

#[test]
fn another_bound_of_an_operation_gives_no_second_allowance() {
    let mut desk = Desk { caps: caps(10, 10), count: 0 };
    let reads = Bounded { write: None, ..write("ops", None) };
    for _ in 0..2 {
        desk.ask(&of_operation(2, reads.clone()), None, at(0)).unwrap();
    }
    desk.ask(&of_operation(3, reads.clone()), None, at(1)).unwrap();
    let wait = |ms| Err(Wait { ms, bound: Bound::Operation });
    assert_eq!(desk.ask(&of_operation(3, reads.clone()), None, at(10)), wait(59_990));
    // With a lower one the third has to leave the minute as well.
    assert_eq!(desk.ask(&of_operation(1, reads.clone()), None, at(60_000)), wait(1));
    assert_eq!(desk.ask(&of_operation(1, reads), None, at(60_001)), Ok(()));
}

#[test]
fn one_workflow_with_a_long_queue_does_not_hold_up_the_others() {
    let mut desk = Desk { caps: caps(1, 10), count: 0 };
    let (slow, quick) = (write("ops", Some("slow")), write("ops", Some("quick")));
    desk.ask(&slow, Some("run_0"), at(0)).unwrap();
    for n in 1..9 {
        let wait = desk.ask(&slow, Some(&format!("run_{n}")), at(0)).unwrap_err();
        assert_eq!(wait.ms, 60_000 * n, "one after the other");
    }
    assert_eq!(desk.ask(&quick, Some("run_q"), at(1)), Ok(()));
    assert_eq!(desk.ask(&slow, Some("run_1"), at(60_000)), Ok(()));
}

#[test]
fn a_place_that_is_given_up_is_free_again() {
    let caps = caps(1, 1);
    let (of, id) = (write("ops", Some("triage")), ActionId::new("act_1").unwrap());
    let place = caps.enter(&of, &id, None, at(0)).ok().unwrap();
    assert!(!caps.within(&of, at(0)));
    drop(place);
    assert!(caps.within(&of, at(0)));
    caps.restore(&of, at(0));
    assert!(!caps.within(&of, at(59_999)), "what the log says counts");
}
