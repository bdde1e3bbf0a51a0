//! Runs: whatever happens to their steps, in whatever order, the rules hold.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail loudly")]

use std::collections::BTreeMap;

use kernel::action::{FailureCode, Status as ActionStatus};
use kernel::failure::Category;
use kernel::ids::{ActionId, EnvironmentId, PrincipalId, RunId, StepId};
use kernel::json::RawJson;
use kernel::machine::{Applied, Refusal};
use kernel::principal::{ActorChain, PrincipalKind};
use kernel::run::{
    self, Change, Input, Next, Report, Request, Run, Status, StepSpec, StepStatus, Trigger,
};
use kernel::values::{Digest, MicroUsd, Timestamp};
use kernel::workflow::{Draft, Plan, Step};
use proptest::prelude::*;
use serde_json::{Value, json};

const START: Timestamp = Timestamp(1_795_226_400_000_000);

fn step_id(index: usize) -> StepId {
    StepId::new(format!("s{index}")).unwrap()
}

fn by() -> PrincipalId {
    PrincipalId::new("u_1").unwrap()
}

/// A step's group and how often it calls, and is tried.
type Shape = (Option<u8>, u32, u32);

fn request(shape: &[Shape], writes_max: Option<u32>) -> Request {
    let spec = |(index, (group, iterations, attempts)): (usize, &Shape)| StepSpec {
        id: step_id(index),
        group: group.map(|group| StepId::new(format!("g{group}")).unwrap()),
        iterations: *iterations,
        attempts: *attempts,
        backoff_ms: 100,
    };
    Request {
        document: Digest::of(b"document"),
        environment: EnvironmentId::new("dev").unwrap(),
        actors: ActorChain::direct(by(), PrincipalKind::Agent),
        trigger: Trigger::Manual,
        of: None,
        steps: shape.iter().enumerate().map(spec).collect(),
        account: None,
        payer: None,
        budget: None,
        writes_max,
        deadline: None,
        release: None,
        metadata_only: false,
    }
}

/// One run, folded from the JSON of its changes as a reader of receipts does.
struct World {
    now: Timestamp,
    run: Run,
    actions: usize,
}

impl World {
    fn new(shape: &[Shape], writes_max: Option<u32>) -> Self {
        let id = RunId::new("run_1").unwrap();
        let request = request(shape, writes_max);
        let run = Run::requested(&id, request.into(), START).unwrap();
        let mut world = Self { now: START, run, actions: 0 };
        world.give(Input::Admit {}).unwrap();
        world
    }

    fn give(&mut self, input: Input) -> Result<Vec<Change>, Refusal> {
        let changes = run::step(Some(&self.run), input, self.now)?;
        let mut state = Some(self.run.clone());
        for change in &changes {
            let text = serde_json::to_string(change).unwrap();
            let read: Change = serde_json::from_str(&text).unwrap();
            assert_eq!(read, *change);
            let applied = Applied { id: "run_1", index: 1, time: self.now };
            run::apply(&mut state, &read, &applied);
        }
        self.run = state.unwrap();
        let stored = serde_json::to_string(&self.run).unwrap();
        assert_eq!(serde_json::from_str::<Run>(&stored).unwrap(), self.run);
        Ok(changes)
    }

    fn report(&self, index: usize, action: ActionId, status: ActionStatus) -> Report {
        let failure =
            (status == ActionStatus::Failed || status == ActionStatus::Denied).then(|| {
                FailureCode { code: "upstream_error".to_owned(), category: Category::Upstream }
            });
        Report {
            step: step_id(index),
            iteration: self.run.steps[index].iteration,
            action,
            status,
            failure,
            cost: MicroUsd::ZERO,
            writes: index.is_multiple_of(2),
            approved: false,
            again: false,
            later_ms: None,
            anew: false,
            output_unknown: false,
        }
    }

    /// A step asks for a new action, which policy allows.
    fn begin(&mut self, index: usize) -> Result<Vec<Change>, Refusal> {
        self.actions += 1;
        let action = ActionId::new(format!("act_{}", self.actions)).unwrap();
        let report = self.report(index, action, ActionStatus::Approved);
        self.give(Input::Follow(Box::new(report)))
    }

    /// The action of a step moves.
    fn moves(&mut self, index: usize, status: ActionStatus) -> Result<Vec<Change>, Refusal> {
        let Some(action) = self.run.steps[index].action.clone() else { return Ok(Vec::new()) };
        let report = self.report(index, action, status);
        self.give(Input::Follow(Box::new(report)))
    }

    fn fails(&mut self, index: usize, again: bool) {
        let action = self.run.steps[index].action.clone().unwrap();
        let report = Report { again, ..self.report(index, action, ActionStatus::Failed) };
        self.give(Input::Follow(Box::new(report))).unwrap();
    }

    fn states(&self) -> Vec<StepStatus> {
        self.run.steps.iter().map(|step| step.status).collect()
    }
}

const ONE: Shape = (None, 1, 1);

#[test]
fn steps_follow_their_actions_one_after_the_other() {
    let mut world = World::new(&[ONE, (None, 2, 1)], None);
    assert_eq!(world.run.due(), Some(START));
    assert!(matches!(world.begin(1), Err(Refusal::State("ready"))), "not before the first");
    world.begin(0).unwrap();
    assert_eq!(world.run.due(), None, "its action is under way, and due itself");
    assert!(world.begin(0).is_err(), "two workers never run one step");
    world.moves(0, ActionStatus::Executed).unwrap();
    for iteration in [1, 2] {
        assert_eq!(world.run.steps[1].iteration, iteration);
        assert!(world.run.due().is_some());
        world.begin(1).unwrap();
        world.moves(1, ActionStatus::Executed).unwrap();
    }
    assert_eq!(world.run.status, Status::Succeeded);
    assert_eq!(world.run.due(), None);
    // What is still heard of its actions changes nothing.
    assert_eq!(world.moves(1, ActionStatus::Failed).unwrap(), []);
}

#[test]
fn a_run_that_waits_for_people_costs_nothing() {
    let mut world = World::new(&[(Some(0), 1, 1), (Some(0), 1, 1)], None);
    world.begin(0).unwrap();
    world.moves(0, ActionStatus::AwaitingApproval).unwrap();
    assert_eq!(world.run.status, Status::WaitingApproval);
    assert!(world.run.due().is_some(), "its neighbour may start");
    world.begin(1).unwrap();
    assert_eq!(world.run.status, Status::Running);
    world.moves(1, ActionStatus::Executed).unwrap();
    assert_eq!((world.run.status, world.run.due()), (Status::WaitingApproval, None));
    world.moves(0, ActionStatus::Unknown).unwrap();
    assert_eq!((world.run.status, world.run.due()), (Status::WaitingApproval, None));
    world.moves(0, ActionStatus::Executed).unwrap();
    assert_eq!(world.run.status, Status::Succeeded);
}

#[test]
fn what_surely_failed_is_tried_again_as_often_as_is_said() {
    let mut world = World::new(&[(None, 1, 2)], None);
    world.begin(0).unwrap();
    world.fails(0, true);
    assert_eq!(world.states(), [StepStatus::Ready]);
    let due = world.run.due().unwrap();
    assert!(due > world.now && due <= world.now.plus_millis(110));
    assert_eq!(world.begin(0), Err(Refusal::NotDue));
    world.now = due;
    world.begin(0).unwrap();
    world.fails(0, true);
    assert_eq!(world.run.status, Status::FailedRetryable);
    world.give(Input::Replay { by: by(), from: None }).unwrap();
    assert_eq!((world.run.status, world.run.replays), (Status::Queued, 1));
    world.give(Input::Admit {}).unwrap();
    world.begin(0).unwrap();
    world.fails(0, false);
    world.give(Input::Discard { by: by() }).unwrap();
    assert_eq!(world.run.status, Status::FailedTerminal);
    assert!(world.give(Input::Replay { by: by(), from: None }).is_err());
}

#[test]
fn what_policy_puts_off_is_no_attempt() {
    let mut world = World::new(&[ONE], None);
    for _ in 0..3 {
        world.actions += 1;
        let action = ActionId::new(format!("act_{}", world.actions)).unwrap();
        let denied = world.report(0, action, ActionStatus::Denied);
        let report = Report { later_ms: Some(500), ..denied };
        world.give(Input::Follow(Box::new(report))).unwrap();
        assert_eq!((world.states()[0], world.run.steps[0].tries), (StepStatus::Ready, 0));
        world.now = world.run.due().unwrap();
    }
    assert_eq!(world.now.0 - START.0, 7_000_000, "one second, two, four");
    world.begin(0).unwrap();
}

#[test]
fn a_run_that_ends_lets_what_is_under_way_end() {
    let shape = [(Some(0), 1, 1), (Some(0), 1, 1), (Some(0), 1, 1), ONE];
    let mut world = World::new(&shape, None);
    for index in 0..3 {
        world.begin(index).unwrap();
    }
    world.moves(1, ActionStatus::AwaitingApproval).unwrap();
    world.moves(2, ActionStatus::Unknown).unwrap();
    world.give(Input::Cancel { by: by() }).unwrap();
    assert_eq!(world.run.status, Status::Running);
    assert!(world.run.due().is_some(), "what waits for people is to be withdrawn");
    assert_eq!(world.run.waiting().count(), 1);
    world.moves(1, ActionStatus::Canceled).unwrap();
    assert_eq!(world.run.due(), None);
    world.moves(0, ActionStatus::Executed).unwrap();
    assert_eq!(world.run.status, Status::Canceled);
    let ended = [StepStatus::Succeeded, StepStatus::Canceled, StepStatus::Canceled];
    assert_eq!(world.states()[..3], ended);
    // It is found out later how the unknown one ended: that moves its action alone, but the run has
    // cost what it cost.
    assert_eq!(world.moves(2, ActionStatus::Executed).unwrap(), []);
    let action = world.run.steps[2].action.clone().unwrap();
    let known = world.report(2, action, ActionStatus::Executed);
    let known = Input::Follow(Box::new(Report { cost: MicroUsd(5), ..known }));
    assert_eq!(world.give(known.clone()).unwrap().len(), 1);
    assert_eq!((world.run.cost, world.run.status), (MicroUsd(5), Status::Canceled));
    assert_eq!(world.states()[..3], ended);
    assert_eq!(world.give(known).unwrap(), [], "once");
}

#[test]
fn only_so_many_calls_write() {
    let mut world = World::new(&[ONE, ONE, ONE], Some(1));
    for index in 0..2 {
        world.begin(index).unwrap();
        world.moves(index, ActionStatus::Executed).unwrap();
    }
    assert_eq!(world.begin(2), Err(Refusal::WritesExceeded));
}

#[test]
fn an_output_that_is_not_accepted_fails_its_step() {
    let mut world = World::new(&[ONE], None);
    world.begin(0).unwrap();
    let failure =
        FailureCode { code: "output_schema_mismatch".to_owned(), category: Category::Validation };
    let other = ActionId::new("act_9").unwrap();
    let refuse = |output_of| Input::Refuse {
        step: step_id(0),
        failure: failure.clone(),
        output_of: Some(output_of),
    };
    assert_eq!(world.give(refuse(other)), Err(Refusal::Fenced));
    world.give(refuse(ActionId::new("act_1").unwrap())).unwrap();
    world.moves(0, ActionStatus::Executed).unwrap();
    assert_eq!(world.run.status, Status::FailedTerminal);
    assert_eq!(world.run.steps[0].failure, Some(failure));
}

fn plan(steps: &[(&str, Value, Option<&str>)]) -> Plan {
    let step = |(index, (tool, params, when)): (usize, &(&str, Value, Option<&str>))| Step {
        id: step_id(index),
        tool: tool.parse_tool(),
        params: RawJson::parse(&params.to_string()).unwrap(),
        iterations: 1,
        when: when.map(|when| kernel::workflow::condition::Condition::parse(when).unwrap()),
        output_schema: None,
        retry: None,
        timeout_ms: None,
        group: None,
        approval: None,
        claims: None,
    };
    Plan::new(Draft {
        name: "plan".to_owned(),
        version: None,
        risk_tier: None,
        model_pin: None,
        triggers: Vec::new(),
        content_retention: None,
        steps: steps.iter().enumerate().map(step).collect(),
    })
    .unwrap()
}

trait ParseTool {
    fn parse_tool(&self) -> kernel::ids::ToolId;
}

impl ParseTool for &str {
    fn parse_tool(&self) -> kernel::ids::ToolId {
        kernel::ids::ToolId::new(self).unwrap()
    }
}

/// Nothing has left: it is no attempt, and policy decides once more.
#[test]
fn what_was_overtaken_is_decided_anew_once() {
    for code in ["permit_expired", "permit_overtaken"] {
        let mut world = World::new(&[ONE, ONE], None);
        for (anew, then) in [(true, StepStatus::Ready), (true, StepStatus::FailedTerminal)] {
            world.begin(0).unwrap();
            let action = world.run.steps[0].action.clone().unwrap();
            let failure = FailureCode { code: code.to_owned(), category: Category::Permission };
            let failed = world.report(0, action, ActionStatus::Failed);
            let report = Report { anew, failure: Some(failure), ..failed };
            world.give(Input::Follow(Box::new(report))).unwrap();
            assert_eq!(world.states()[0], then, "{code}");
        }
        assert_eq!(world.run.status, Status::FailedTerminal);
    }
}

#[test]
fn what_nobody_knows_is_not_read() {
    let check = |params: Value, when: Option<&str>, refused: bool| {
        let plan = plan(&[
            ("core.fs_read", json!({"path": "/a"}), None),
            ("core.fs_read", json!({"path": "/b"}), None),
            ("core.fs_read", params.clone(), when),
        ]);
        let mut world = World::new(&[(None, 2, 1), ONE, ONE], None);
        for index in [0, 0, 1] {
            world.begin(index).unwrap();
            world.moves(index, ActionStatus::Unknown).unwrap();
            let action = world.run.steps[index].action.clone().unwrap();
            let known = world.report(index, action, ActionStatus::Executed);
            // Of the first step, the last call was heard by nobody; of the other, all was.
            let output_unknown = index == 0;
            let known = Report { output_unknown, ..known };
            world.give(Input::Follow(Box::new(known))).unwrap();
        }
        let unknown: Vec<bool> = world.run.steps.iter().map(|step| step.output_unknown).collect();
        assert_eq!(unknown, [true, false, false]);
        // What an earlier call of it gave is not what it gave.
        let outputs = [(step_id(0), json!({"n": 1})), (step_id(1), json!({"n": 1}))].into();
        let next = run::next(&world.run, &plan, &json!({}), &outputs, world.now);
        let reads = run::reads_unknown(&world.run, &plan, 2);
        match &next[..] {
            [Next::Refuse { index: 2, failure }] if refused => {
                assert_eq!((failure.code.as_str(), reads), ("output_unknown", Some(step_id(0))));
            }
            [Next::Start { index: 2, .. }] if !refused => assert_eq!(reads, None),
            other => panic!("{params} {when:?}: {other:?}"),
        }
    };
    check(json!({"path": "/c"}), None, false);
    check(json!({"path": "/{{previous_output.n}}"}), None, false);
    check(json!({"path": "/{{steps.s0.output.n}}"}), None, true);
    check(json!({"path": ["/", {"deep": "{{steps.s0.output}}"}]}), None, true);
    check(json!({"path": "/c"}), Some("{{steps.s1.output.n}} == 1"), false);
    check(json!({"path": "/c"}), Some("{{steps.s0.output.n}} == 1"), true);
    check(json!({"path": "/c"}), Some("{{steps.s0.output.n}} != 1"), true);
}

#[test]
fn what_comes_next_follows_from_plan_state_and_outputs() {
    let plan = plan(&[
        ("core.fs_read", json!({"path": "{{input.path}}"}), None),
        ("core.fs_read", json!({"path": "/b"}), Some("{{previous_output.ok}} == true")),
        ("time.wait", json!({"seconds": 60}), None),
        ("core.fs_read", json!({"path": "{{steps.s0.output.missing}}"}), None),
    ]);
    let mut world = World::new(&[ONE; 4], None);
    let input = json!({"path": "/a"});
    let mut outputs = BTreeMap::new();
    let next = |world: &World, outputs: &BTreeMap<StepId, Value>| {
        run::next(&world.run, &plan, &input, outputs, world.now)
    };
    let [Next::Start { index: 0, params, .. }] = &next(&world, &outputs)[..] else {
        panic!("start")
    };
    assert_eq!(params.as_str(), r#"{"path":"/a"}"#);
    world.begin(0).unwrap();
    assert_eq!(next(&world, &outputs), []);
    world.moves(0, ActionStatus::Executed).unwrap();
    outputs.insert(step_id(0), json!({"ok": false}));
    assert_eq!(next(&world, &outputs), [Next::Skip { index: 1 }]);
    world.give(Input::Skip { step: step_id(1) }).unwrap();
    outputs.insert(step_id(1), Value::Null);
    let until = world.now.plus_millis(60_000);
    assert_eq!(next(&world, &outputs), [Next::Wait { index: 2, until }]);
    world.give(Input::Wait { step: step_id(2), until, timer: true }).unwrap();
    assert_eq!((next(&world, &outputs), world.run.due()), (Vec::new(), Some(until)));
    // A clock that goes back lets nobody through early; one that jumps on lets it through.
    world.now = START.plus_millis(-3_600_000);
    assert_eq!(next(&world, &outputs), []);
    world.now = until.plus_millis(3_600_000);
    assert!(matches!(&next(&world, &outputs)[..], [Next::Start { index: 2, .. }]));
    world.begin(2).unwrap();
    world.moves(2, ActionStatus::Executed).unwrap();
    outputs.insert(step_id(2), json!({}));
    let [Next::Refuse { index: 3, failure }] = &next(&world, &outputs)[..] else { panic!("no") };
    assert_eq!(failure.code, "template_missing");
}

/// What may happen to a run.
#[derive(Clone, Debug)]
enum Op {
    Begin(usize),
    Move(usize, ActionStatus),
    Fail(usize),
    Skip(usize),
    Wait(usize, u16),
    Pass(u16),
    Pause,
    Resume,
    Admit,
    Cancel,
    TimeOut,
    Replay(Option<usize>),
    Discard,
}

fn op() -> impl Strategy<Value = Op> {
    let status = prop_oneof![
        4 => Just(ActionStatus::Executed),
        1 => Just(ActionStatus::Executing),
        1 => Just(ActionStatus::AwaitingApproval),
        1 => Just(ActionStatus::Quarantined),
        1 => Just(ActionStatus::Failed),
        1 => Just(ActionStatus::Denied),
        1 => Just(ActionStatus::Unknown),
        1 => Just(ActionStatus::Canceled),
        1 => Just(ActionStatus::Expired),
    ];
    let index = 0..6_usize;
    prop_oneof![
        8 => index.clone().prop_map(Op::Begin),
        8 => (index.clone(), status).prop_map(|(index, status)| Op::Move(index, status)),
        2 => index.clone().prop_map(Op::Fail),
        1 => index.clone().prop_map(Op::Skip),
        1 => (index.clone(), any::<u16>()).prop_map(|(index, ms)| Op::Wait(index, ms)),
        3 => any::<u16>().prop_map(Op::Pass),
        1 => Just(Op::Pause),
        2 => Just(Op::Resume),
        2 => Just(Op::Admit),
        1 => prop_oneof![Just(Op::Cancel), Just(Op::TimeOut), Just(Op::Discard)],
        2 => proptest::option::of(index).prop_map(Op::Replay),
    ]
}

impl World {
    /// Whether the machine took it. Not every refusal is wrong; every acceptance is checked.
    fn play(&mut self, op: &Op) -> bool {
        let steps = self.run.steps.len();
        let ended = match op {
            Op::Begin(index) => self.begin(index % steps),
            Op::Move(index, status) => self.moves(index % steps, *status),
            Op::Fail(index) => {
                let index = index % steps;
                let Some(action) = self.run.steps[index].action.clone() else { return false };
                let failed = self.report(index, action, ActionStatus::Failed);
                self.give(Input::Follow(Box::new(Report { again: true, ..failed })))
            }
            Op::Skip(index) => self.give(Input::Skip { step: step_id(index % steps) }),
            Op::Wait(index, ms) => {
                let until = self.now.plus_millis(i64::from(*ms));
                let step = step_id(index % steps);
                self.give(Input::Wait { step, until, timer: true })
            }
            Op::Pass(ms) => {
                self.now = self.now.plus_millis(i64::from(*ms));
                return true;
            }
            Op::Pause => self.give(Input::Pause { by: by() }),
            Op::Resume => self.give(Input::Resume { by: by() }),
            Op::Admit => self.give(Input::Admit {}),
            Op::Cancel => self.give(Input::Cancel { by: by() }),
            Op::TimeOut => {
                let code = "run_timeout".to_owned();
                let failure = FailureCode { code, category: Category::Timeout };
                self.give(Input::Fail { failure })
            }
            Op::Replay(from) => self
                .give(Input::Replay { by: by(), from: from.map(|index| step_id(index % steps)) }),
            Op::Discard => self.give(Input::Discard { by: by() }),
        };
        ended.is_ok()
    }

    fn check(&self, before: &Run) {
        let run = &self.run;
        let done = |status: StepStatus| status == StepStatus::Succeeded;
        let all = self.states().into_iter().all(done);
        assert_eq!(run.status == Status::Succeeded, all, "{run:?}");
        for (index, (spec, step)) in run.each().enumerate() {
            assert!(step.iteration <= spec.iterations && step.tries <= spec.attempts, "{step:?}");
            if step.status == StepStatus::Ready || step.status == StepStatus::Canceled {
                continue;
            }
            // What has begun comes after everything that is not its neighbour.
            for (earlier, state) in run.each().take(index) {
                let neighbour = spec.group.is_some() && earlier.group == spec.group;
                assert!(neighbour || done(state.status), "{run:?}");
            }
        }
        if let Some(max) = run.request.writes_max {
            assert!(run.writes <= max, "{run:?}");
        }
        let open = |status| matches!(status, StepStatus::Running | StepStatus::WaitingApproval);
        let under_way = run.steps.iter().any(|step| open(step.status));
        let goes_on = matches!(run.status, Status::Running | Status::WaitingApproval);
        if run.status.has_ended() {
            assert!(!under_way, "{run:?}");
            assert_eq!(run.due(), None);
        } else if goes_on && run.ending.is_none() && !under_way {
            assert!(run.due().is_some(), "nobody will look at it again: {run:?}");
        }
        let finals = [Status::Succeeded, Status::FailedTerminal, Status::Canceled];
        if finals.contains(&before.status) {
            assert_eq!(before.status, run.status);
            assert_eq!(before.steps, run.steps);
        }
    }
}

fn shapes() -> impl Strategy<Value = Vec<Shape>> {
    // Groups stand next to each other.
    let one = (0..3_u8, 1..3_u32, 1..3_u32);
    proptest::collection::vec(one, 1..6).prop_map(|mut shapes| {
        shapes.sort_by_key(|(group, ..)| *group);
        let grouped = |(group, iterations, attempts): (u8, u32, u32)| {
            ((group > 0).then_some(group), iterations, attempts)
        };
        shapes.into_iter().map(grouped).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_hold_whatever_happens(
        shape in shapes(),
        writes_max in proptest::option::of(0..4_u32),
        ops in proptest::collection::vec(op(), 1..60),
    ) {
        let mut world = World::new(&shape, writes_max);
        for op in &ops {
            let before = world.run.clone();
            if !world.play(op) {
                prop_assert_eq!(&before, &world.run, "a refusal changes nothing");
            }
            world.check(&before);
        }
    }
}
