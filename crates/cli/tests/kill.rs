//! kill -9 at random moments under load: nothing acknowledged is lost, nothing is done twice.
//!
//! TALLY_KILL_ROUNDS says how often (`cargo xtask kill`), TALLY_KILL_SEED where the random choices
//! begin; what the operating system makes of them differs from run to run.

mod check;
mod load;
mod postgres;
pub(crate) mod tree;

use std::ffi::OsStr;
use std::fs;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use client::Client;
use ledger::rebuild;
use proto::actions::action::State;
use proto::identity::principal::Kind;
use tempfile::TempDir;

use crate::common::target::Target;
use crate::common::{Server, allow_all, assert_code, command, rego, tally};
use load::Op;
use tree::Tree;

/// What one call costs, in micro-USD.
const PRICE: i64 = 3;
/// What the poor agent gets for each round: less than it would like to spend.
const POCKET: i64 = 5 * PRICE;
const ROUNDS: u32 = 6;

/// Allows everything; a person has to agree to what is below `/held/`.
const RULES: &str = r#"
decisions contains {"effect": "ALLOW", "rule": "R-ALL", "reason": "all"} if true

decisions contains {"effect": "REQUIRE_APPROVAL", "rule": "R-HELD", "reason": "held"} if {
    is_string(input.params.url)
    contains(input.params.url, "/held/")
}"#;

/// SplitMix64.
struct Random(u64);

impl Random {
    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % end
    }

    fn pause(&mut self, longest_ms: u64) -> Duration {
        Duration::from_millis(self.below(longest_ms))
    }
}

/// Everything that outlives a crash: the clients and their memory, the target, the files.
struct World {
    target: Target,
    files: TempDir,
    owner: Client,
    rich: Client,
    poor: Client,
    approver: Client,
    /// What the clients asked for, and what they were told.
    ops: Mutex<Vec<Op>>,
    /// The ids of the principals that were made.
    principals: Mutex<Vec<Option<String>>>,
}

impl World {
    /// A server on files, or on a database, and everybody who deals with it.
    async fn start(database: Option<&testkit::Database>) -> (Server, Arc<Self>) {
        let target = Target::slow(Duration::from_millis(30)).await;
        let files = tempfile::tempdir().unwrap();
        let yaml = format!(
            "grants: {{http: [{}], fs_write: [{:?}]}}\nprices: {{core.http_call: {PRICE}}}",
            target.grant(),
            files.path(),
        );
        let server = match database {
            None => Server::start(&yaml),
            Some(database) => Server::start_on(database, &yaml),
        };
        server.publish(&rego(RULES)).await;
        let rich = server.paying_agent("rich", 1_000_000_000).await;
        let poor = server.paying_agent("poor", POCKET).await;
        let approver = server.principal(Kind::User, &["approver"]).await;
        let owner = server.owner.clone();
        let (ops, principals) = (Mutex::default(), Mutex::default());
        let world = Self { target, files, owner, rich, poor, approver, ops, principals };
        (server, Arc::new(world))
    }
}

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}: `{value}` is not a number")))
}

fn new_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_micros()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_loses_nothing_and_repeats_nothing() {
    let (server, world) = World::start(None).await;
    let server = rounds(server, &world, ROUNDS, async |server, world, random| {
        crash(server, world, random).await;
    });
    offline(server.await);
}

/// Lets `crash` happen again and again, and checks everything after each. Returns the server.
async fn rounds(
    mut server: Server,
    world: &Arc<World>,
    rounds: u32,
    crash: impl AsyncFn(&mut Server, &Arc<World>, &mut Random),
) -> Server {
    let rounds = setting("TALLY_KILL_ROUNDS").unwrap_or(rounds.into());
    let seed = setting("TALLY_KILL_SEED").unwrap_or_else(new_seed);
    println!("{rounds} rounds, TALLY_KILL_SEED={seed}");
    let mut random = Random(seed);
    let mut tree = Tree::default();
    for round in 1..=rounds {
        server.fund("poor", POCKET).await;
        crash(&mut server, world, &mut random).await;
        load::answer_all(world).await;
        check::rest(world).await;
        println!("round {round}: {}", check::all(&server, world, &mut tree).await);
    }
    load::approve_all(world).await;
    check::rest(world).await;
    println!("in the end: {}", check::all(&server, world, &mut tree).await);
    let held = check::actions(world, State::AwaitingApproval).await;
    assert!(held.is_empty(), "{held:?}");
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_that_is_killed_is_done_again() {
    // Killed as soon as this file is there. Each is made later than the one before.
    for file in ["lock", "keys/master.key", "control.sqlite", "runtime.sqlite", "credentials.json"]
    {
        let folder = tempfile::tempdir().unwrap();
        let (data, config) = (folder.path().join("data"), folder.path().join("tally.yaml"));
        fs::write(&config, "host: tally.test\n").unwrap();
        let mut first = command(&["serve", "--listen", "127.0.0.1:0"])
            .args([OsStr::new("--data"), data.as_os_str()])
            .args([OsStr::new("--config"), config.as_os_str()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while !data.join(file).exists() && first.try_wait().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        first.kill().unwrap();
        first.wait().unwrap();

        let mut server = Server::start_in(folder, "");
        server.publish(&allow_all()).await;
        server.principal(Kind::Agent, &["agent"]).await;
        assert!(server.terminate().success());
        let data = server.data.to_str().unwrap();
        let verify = ["ledger", "verify", "--data", data, "--host", "tally.test"];
        assert_code(&tally(&verify), 0);
    }
}

/// Puts load on the server, kills it in the middle, and starts it again; now and then it is killed
/// while it recovers, too.
async fn crash(server: &mut Server, world: &Arc<World>, random: &mut Random) {
    let load = load::start(world, random);
    tokio::time::sleep(random.pause(1_000)).await;
    load.stop();
    server.kill();
    server.restart();
    while random.below(3) == 0 {
        tokio::time::sleep(random.pause(100)).await;
        server.kill();
        server.restart();
    }
    load.end().await;
}

/// Stops the server; then its logs verify and its states are what the logs say.
fn offline(mut server: Server) {
    assert!(server.terminate().success());
    server.offline("verify");
    assert_same_rebuilt(&server);
    server.offline("rebuild");
    assert_same_rebuilt(&server);
}

/// Checks that every stored state of every log is what its receipts fold to.
fn assert_same_rebuilt(server: &Server) {
    let mut logs = Vec::new();
    for store in server.stores() {
        let store = store.as_ref();
        for log in store.logs().unwrap() {
            assert_eq!(rebuild::diff(store, &log).unwrap(), [], "{log:?}");
            logs.push(log);
        }
    }
    assert_eq!(logs.len(), 3, "{logs:?}");
}
