//! Workflows, releases and use cases: what is published stays, two of them agree before prod is
//! touched, and what runs take is said once.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use kernel::ids::{EnvironmentId, PrincipalId, ReleaseId, RunId, StepId, WorkflowId};
use kernel::machine::{self, Applied, Command, Kind, Refusal, State};
use kernel::principal::{ActorChain, PrincipalKind};
use kernel::release::{
    Cause, ErrorBudget, Input, Release, Request, Ring, Status, Window, moves, takes_canary,
};
use kernel::risk::Tier;
use kernel::run::{self, Run, StepSpec, Trigger};
use kernel::use_case::{self, Answers, BlastRadius, DataClass, Reversibility, Volume};
use kernel::values::{Digest, Timestamp};
use kernel::workflow::ModelPin;
use kernel::workflow_registry::{self as registry, InForce, Publication, Workflow};
use proptest::prelude::*;

fn who(id: &str) -> PrincipalId {
    PrincipalId::new(id).unwrap()
}

fn prod() -> EnvironmentId {
    EnvironmentId::new("prod").unwrap()
}

fn publication(version: &str, text: &str, model: Option<&str>) -> Publication {
    let pin = |model: &str| ModelPin {
        provider: "one".to_owned(),
        model: model.to_owned(),
        allow_fallback: false,
    };
    Publication {
        version: version.parse().unwrap(),
        document: Digest::of(text.as_bytes()),
        plan: Digest::of(text.as_bytes()),
        model_pin: model.map(pin),
        risk_tier: Tier::Medium,
        by: who("author"),
    }
}

/// All machines of one control log.
#[derive(Default)]
struct World {
    states: BTreeMap<(Kind, String), State>,
    index: u64,
}

impl World {
    /// All of the commands or none.
    fn commit(&mut self, commands: Vec<Command>) -> Result<(), Refusal> {
        let mut states = self.states.clone();
        for Command { stream, input } in commands {
            let key = (stream.kind, stream.id.to_string());
            let mut state = states.remove(&key);
            for change in machine::step(state.as_ref(), input, Timestamp(0))? {
                let time = Timestamp(i64::try_from(self.index).unwrap());
                let applied = Applied { id: &stream.id, index: self.index, time };
                machine::apply(&mut state, &change, &applied);
            }
            states.extend(state.map(|state| (key, state)));
        }
        (self.states, self.index) = (states, self.index + 1);
        Ok(())
    }

    fn publish(&mut self, publication: Publication) -> Result<(), Refusal> {
        let input = machine::Input::Workflow(registry::Input::Publish(publication));
        self.commit(vec![Command::new(Kind::Workflow, "triage", input)])
    }

    fn ask(&mut self, id: &str, input: Input) -> Result<(), Refusal> {
        self.commit(vec![Command::new(Kind::Release, id, machine::Input::Release(input))])
    }

    fn create(&mut self, id: &str, request: Request) -> Result<(), Refusal> {
        self.ask(id, Input::Create(request.into()))
    }

    fn approve(&mut self, id: &str, by: &str) -> Result<(), Refusal> {
        self.ask(id, Input::Approve { by: who(by), evaluation: None })
    }

    fn workflow(&self) -> Workflow {
        match self.states.get(&(Kind::Workflow, "triage".to_owned())) {
            Some(State::Workflow(workflow)) => workflow.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn release(&self, id: &str) -> Release {
        match self.states.get(&(Kind::Release, id.to_owned())) {
            Some(State::Release(release)) => release.clone(),
            other => panic!("{id}: {other:?}"),
        }
    }

    fn promote(&mut self, id: &str, ring: Ring) -> Result<(), Refusal> {
        let commands = moves::promote(&self.workflow(), &self.release(id), ring, who("op"))?;
        self.commit(commands)
    }

    fn roll_back(&mut self, id: &str) -> Result<(), Refusal> {
        let release = self.release(id);
        let before = release.replaces.as_ref().map(|id| self.release(id.as_str()));
        let cause = Cause::Person { by: who("op") };
        let commands = moves::roll_back(&self.workflow(), &release, before.as_ref(), cause)?;
        self.commit(commands)
    }

    /// A workflow, and so many releases that are approved: `rel_0`, `rel_1` …
    fn with(releases: usize) -> Self {
        let mut world = Self::default();
        world.publish(publication("1.0.0", "a", None)).unwrap();
        for n in 0..releases {
            let id = format!("rel_{n}");
            world.create(&id, request()).unwrap();
            world.approve(&id, "approver").unwrap();
        }
        world
    }

    fn in_force(&self) -> InForce {
        self.workflow().in_force(&prod())
    }
}

fn request() -> Request {
    Request {
        workflow: WorkflowId::new("triage").unwrap(),
        version: "1.0.0".parse().unwrap(),
        document: Digest::of(b"a"),
        policy_revision: 3,
        model_pin: None,
        risk_tier: Tier::Medium,
        environment: prod(),
        error_budget: ErrorBudget::default(),
        use_case: None,
        tier_floor: None,
        approvers: 1,
        separated: true,
        author: who("author"),
        publisher: who("publisher"),
    }
}

#[test]
fn what_is_published_stays_what_it_is() {
    let refused = |version: &str, text: &str, model| {
        let mut world = World::with(0);
        world.publish(publication("1.1.0", "b", Some("m"))).unwrap();
        world.publish(publication(version, text, model)).err()
    };
    for (version, text, model, code) in [
        ("1.1.0", "b", Some("m"), Some("state_conflict")),
        ("1.1.0", "c", Some("m"), Some("invalid_argument")),
        ("1.0.0", "a", None, Some("state_conflict")),
        ("1.0.0", "c", None, Some("invalid_argument")),
        ("1.0.1", "c", Some("m"), Some("invalid_argument")),
        ("1.1.0-rc.1", "c", Some("m"), Some("invalid_argument")),
        ("1.1.0+build", "c", Some("m"), Some("invalid_argument")),
        ("1.1.1", "b", Some("m"), None),
        ("2.0.0", "c", Some("other"), None),
    ] {
        let refusal = refused(version, text, model);
        assert_eq!(refusal.map(|refusal| refusal.code().0), code, "{version} {text}");
    }
    let message = refused("1.1.0-x", "c", Some("other")).unwrap().to_string();
    assert!(message.starts_with("the model pin changed"), "{message}");
}

#[test]
fn who_made_a_release_does_not_approve_it() {
    let mut world = World::with(0);
    world.create("rel_1", Request { approvers: 2, ..request() }).unwrap();
    assert_eq!(world.approve("rel_1", "author"), Err(Refusal::SelfApproval));
    assert_eq!(world.approve("rel_1", "publisher"), Err(Refusal::SelfApproval));
    world.approve("rel_1", "ann").unwrap();
    assert_eq!(world.release("rel_1").status, Status::Candidate);
    assert_eq!(world.approve("rel_1", "ann"), Err(Refusal::AlreadyDecided));
    assert_eq!(world.promote("rel_1", Ring::All {}), Err(Refusal::State("candidate")));
    world.approve("rel_1", "bob").unwrap();
    assert_eq!(world.release("rel_1").status, Status::Approved);
    // Where nothing is at stake, one may do it alone.
    world.create("rel_2", Request { separated: false, ..request() }).unwrap();
    world.approve("rel_2", "author").unwrap();
    assert_eq!(world.release("rel_2").status, Status::Approved);
}

#[test]
fn a_release_is_refused_whole() {
    let budget = |window_runs, failures_max| ErrorBudget { window_runs, failures_max };
    let with_budget = |budget| Request { error_budget: budget, ..request() };
    for request in [
        with_budget(budget(0, 0)),
        with_budget(budget(1_001, 1)),
        with_budget(budget(10, 11)),
        with_budget(budget(10, 0)),
        Request { approvers: 0, ..request() },
        Request { approvers: 5, ..request() },
        Request { tier_floor: Some(Tier::High), ..request() },
    ] {
        let refused = World::with(0).create("rel_1", request.clone());
        assert!(matches!(refused, Err(Refusal::InvalidInput(_))), "{request:?}");
    }
    let fits = Request { tier_floor: Some(Tier::Medium), ..request() };
    World::with(0).create("rel_1", fits).unwrap();
}

#[test]
fn rings_follow_one_another() {
    let canary = |percent| Ring::Canary { percent };
    let mut world = World::with(3);
    assert!(world.promote("rel_0", canary(10)).is_err(), "nothing stands beside it");
    world.promote("rel_0", Ring::All {}).unwrap();
    assert_eq!(world.promote("rel_0", Ring::All {}), Err(Refusal::State("unchanged")));
    assert!(world.promote("rel_1", canary(0)).is_err());
    assert!(world.promote("rel_1", canary(100)).is_err());
    world.promote("rel_1", canary(10)).unwrap();
    assert!(world.promote("rel_2", canary(10)).is_err(), "one canary at a time");
    assert!(world.promote("rel_2", Ring::All {}).is_err(), "nor past it");
    assert!(world.roll_back("rel_0").is_err(), "a canary needs what it stands beside");
    assert!(world.promote("rel_0", canary(50)).is_err(), "for all is for all");
    world.promote("rel_1", canary(50)).unwrap();
    world.promote("rel_1", Ring::All {}).unwrap();
    assert_eq!(world.release("rel_0").status, Status::Superseded);
    // Out of force again: the one before comes back, and what was rolled back never does.
    world.roll_back("rel_1").unwrap();
    assert_eq!(world.release("rel_0").status, Status::Active);
    assert_eq!(world.in_force().stable, Some(ReleaseId::new("rel_0").unwrap()));
    assert_eq!(world.promote("rel_1", Ring::All {}), Err(Refusal::State("rolled_back")));
    assert_eq!(world.roll_back("rel_1"), Err(Refusal::State("rolled_back")));
    // The first has nothing before it: nothing is in force then.
    world.roll_back("rel_0").unwrap();
    assert_eq!(world.in_force(), InForce::default());
}

#[derive(Clone, Debug)]
enum Move {
    Promote(usize, Option<u8>),
    RollBack(usize),
}

fn a_move() -> impl Strategy<Value = Move> {
    let percent = prop::option::of(1_u8..100);
    prop_oneof![
        (0..4_usize, percent).prop_map(|(n, percent)| Move::Promote(n, percent)),
        (0..4_usize).prop_map(Move::RollBack),
    ]
}

proptest! {
    /// Whatever is tried: what the workflow says is in force is what is active, and in that ring.
    #[test]
    fn what_is_in_force_is_active(all in prop::collection::vec(a_move(), 0..40)) {
        let mut world = World::with(4);
        for one in all {
            let _tried = match one {
                Move::Promote(n, percent) => {
                    let ring = percent.map_or(Ring::All {}, |percent| Ring::Canary { percent });
                    world.promote(&format!("rel_{n}"), ring)
                }
                Move::RollBack(n) => world.roll_back(&format!("rel_{n}")),
            };
            let InForce { stable, canary } = world.in_force();
            for n in 0..4 {
                let release = world.release(&format!("rel_{n}"));
                let ring = match (&stable, &canary) {
                    (Some(id), _) if *id == release.id => Some(Ring::All {}),
                    (_, Some(canary)) if canary.release == release.id => {
                        Some(Ring::Canary { percent: canary.percent })
                    }
                    _ => None,
                };
                prop_assert_eq!(release.status == Status::Active, ring.is_some());
                if ring.is_some() {
                    prop_assert_eq!(release.ring, ring);
                }
            }
            prop_assert!(canary.is_none() || stable.is_some());
        }
    }

    /// Who takes a canary keeps taking it as it grows, and the shares are what they say.
    #[test]
    fn a_canary_grows_by_adding(id in "run_[0-9a-z]{26}", percent in 0_u8..100) {
        let id = RunId::new(id).unwrap();
        prop_assert!(!takes_canary(&id, percent) || takes_canary(&id, percent + 1));
        prop_assert!(!takes_canary(&id, 0) && takes_canary(&id, 100));
    }

    /// The budget counts the runs that ended last, whatever came in which order.
    #[test]
    fn a_window_holds_the_last(
        ends in prop::collection::vec((0_u8..20, 0_i64..3, prop::option::of(any::<bool>())), 0..60),
        window_runs in 1_u32..8,
    ) {
        let budget = ErrorBudget { window_runs, failures_max: 1 };
        let mut window = Window::new(budget);
        let mut all: BTreeMap<u8, Run> = BTreeMap::new();
        let (mut stale, mut at) = (false, 0);
        for (n, later, failed) in ends {
            at += later;
            let run = ended(n, at, failed);
            stale |= window.take(&run);
            all.insert(n, run);
            if stale {
                window = Window::new(budget);
                all.values().for_each(|run| window.count(run));
                stale = false;
            }
        }
        let mut last: Vec<&Run> = all.values().filter(|run| run.ended_at.is_some()).collect();
        last.retain(|run| run.status != run::Status::Canceled);
        last.sort_by_key(|run| (run.ended_at, run.id.clone()));
        let skip = last.len().saturating_sub(usize::try_from(window_runs).unwrap());
        let last = last.split_off(skip);
        let failed = last.iter().filter(|run| run.status == run::Status::FailedTerminal).count();
        let runs = u32::try_from(last.len()).unwrap();
        let failures = u32::try_from(failed).unwrap();
        let expect = (failed > 0).then_some(Cause::ErrorBudget { runs, failures });
        prop_assert_eq!(window.spent(), expect);
    }
}

/// The run `n`: ended at `at`, failed or not; without an end it was replayed and goes on.
fn ended(n: u8, at: i64, failed: Option<bool>) -> Run {
    let spec = StepSpec {
        id: StepId::new("one").unwrap(),
        group: None,
        iterations: 1,
        attempts: 1,
        backoff_ms: 0,
    };
    let request = run::Request {
        document: Digest::of(b"document"),
        environment: prod(),
        actors: ActorChain::direct(who("agent"), PrincipalKind::Agent),
        trigger: Trigger::Manual,
        of: None,
        steps: vec![spec],
        account: None,
        payer: None,
        budget: None,
        writes_max: None,
        deadline: None,
        metadata_only: false,
        release: None,
    };
    let id = RunId::new(format!("run_{n:02}")).unwrap();
    let mut run = Run::requested(&id, request.into(), Timestamp(0)).unwrap();
    if let Some(failed) = failed {
        run.status = if failed { run::Status::FailedTerminal } else { run::Status::Succeeded };
        run.ended_at = Some(Timestamp(at));
    }
    run
}

#[test]
fn the_share_of_a_canary_is_that_of_the_hash() {
    let ids = (0..10_000).map(|n| RunId::new(format!("run_{n:026}")).unwrap());
    let ids: Vec<RunId> = ids.collect();
    for percent in [1, 10, 50, 99] {
        let taken = ids.iter().filter(|id| takes_canary(id, percent)).count();
        let expected = usize::from(percent) * 100;
        assert!(taken.abs_diff(expected) < 150, "{percent}: {taken}");
    }
    // So that anybody can say it again.
    let hash = Digest::of(b"run_00000000000000000000000000");
    let first = u64::from_be_bytes(*hash.0.first_chunk().unwrap());
    for percent in 0..=100 {
        assert_eq!(takes_canary(&ids[0], percent), first % 100 < u64::from(percent));
    }
}

#[test]
fn answers_come_to_a_score() {
    use BlastRadius::{Organisation, Outside, Record, Team};
    use DataClass::{Confidential, Internal, Public, Restricted};
    use Reversibility::{Irreversible, Partly, Reversible};
    use Volume::{Constant, Daily, Hourly, Rare};
    for (data_class, reversibility, blast_radius, customer_facing, volume, points, tier) in [
        (Public, Reversible, Record, false, Rare, 0, Tier::Low),
        (Internal, Reversible, Team, false, Daily, 18, Tier::Low),
        (Confidential, Partly, Team, false, Daily, 38, Tier::Low),
        (Confidential, Partly, Team, false, Hourly, 41, Tier::Medium),
        (Internal, Partly, Organisation, true, Hourly, 56, Tier::Medium),
        (Restricted, Irreversible, Record, false, Rare, 55, Tier::High),
        (Restricted, Partly, Outside, true, Rare, 75, Tier::High),
        (Restricted, Irreversible, Outside, true, Constant, 100, Tier::Critical),
    ] {
        let answers = Answers { data_class, reversibility, blast_radius, customer_facing, volume };
        let score = answers.score();
        assert_eq!((score.points, score.tier), (points, tier), "{answers:?}");
    }
    assert_eq!(
        [Tier::Low, Tier::Medium, Tier::High, Tier::Critical].map(use_case::approvers),
        [1, 1, 2, 2]
    );
}

#[test]
fn what_nobody_has_scored_is_critical() {
    let mut world = World::default();
    let command = |input| vec![Command::new(Kind::UseCase, "uc_1", machine::Input::UseCase(input))];
    let (owner, by) = (who("owner"), who("builder"));
    world.commit(command(use_case::Input::Create { owner, by: by.clone() })).unwrap();
    let floor = |world: &World| match &world.states[&(Kind::UseCase, "uc_1".to_owned())] {
        State::UseCase(case) => case.floor(),
        other => panic!("{other:?}"),
    };
    assert_eq!(floor(&world), Tier::Critical);
    let answers = Answers {
        data_class: DataClass::Internal,
        reversibility: Reversibility::Partly,
        blast_radius: BlastRadius::Team,
        customer_facing: true,
        volume: Volume::Rare,
    };
    let score = || command(use_case::Input::Score { answers, by: by.clone() });
    world.commit(score()).unwrap();
    assert_eq!(floor(&world), Tier::Medium);
    assert_eq!(world.commit(score()), Err(Refusal::State("unchanged")));
    let workflow = WorkflowId::new("triage").unwrap();
    let link = || use_case::Input::Link { workflow: workflow.clone(), by: by.clone() };
    world.commit(command(link())).unwrap();
    assert_eq!(world.commit(command(link())), Err(Refusal::State("unchanged")));
}
