//! Files: only granted ones, no link followed, nothing put in place but after success.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kernel::attestation::Ending;
use kernel::capability::{Capabilities, Capability};
use sandbox::{Door, DoorAnswer};
use tokio::sync::Barrier;

use super::{Want, check, denied, ends, leftovers, succeeds, unharmed};
use crate::support::{Host, Job, tenant, wat};

/// More often than there are places of sandboxes.
const ROUNDS: usize = 100;
/// Why a link is not there.
const LINK: &str = "a symbolic link, which is not followed";
/// How long the one waits for the other.
const PATIENCE: Duration = Duration::from_secs(60);

/// A host with files: `data/` is what grants are about, `secret.json` is not.
struct World {
    host: Host,
    root: PathBuf,
}

impl World {
    fn new() -> Self {
        let host = Host::new();
        let root = host.folder.path().canonicalize().expect("a folder").join("files");
        for folder in ["data/sub", "data2", "vault"] {
            std::fs::create_dir_all(root.join(folder)).expect("a folder");
        }
        for (file, text) in [
            ("data/a.json", "\"granted\""),
            ("data/ab.json", "\"granted\""),
            ("data/sub/c.json", "\"deeper\""),
            ("data2/a.json", "\"beside\""),
            ("vault/a.json", "\"secret\""),
            ("secret.json", "\"secret\""),
        ] {
            std::fs::write(root.join(file), text).expect("a file");
        }
        symlink("../secret.json", root.join("data/link.json")).expect("a link");
        symlink("/etc", root.join("data/etc")).expect("a link");
        symlink(root.join("vault"), root.join("data/vault")).expect("a link");
        symlink(root.join("secret.json"), root.join("data/out.json")).expect("a link");
        Self { host, root }
    }

    /// A path as the code says it: without the slash in front.
    fn said(&self, path: &str) -> String {
        self.whole(path).trim_start_matches('/').to_owned()
    }

    fn whole(&self, path: &str) -> String {
        self.root.join(path).display().to_string()
    }

    fn job(&self, op: char, path: &str, read: &[&str], write: &[&str]) -> Job {
        let globs = |list: &[&str]| list.iter().map(|glob| self.whole(glob)).collect();
        Job {
            capabilities: Capabilities {
                file_read: globs(read),
                file_write: globs(write),
                ..Capabilities::default()
            },
            ..Job::of(&format!("\"{op}{path}\""))
        }
    }

    fn text(&self, path: &str) -> String {
        std::fs::read_to_string(self.root.join(path)).expect("a file")
    }
}

/// The name, what is done, to which path, with which grants, and what must come of it.
type Case<'a> = (&'a str, char, String, &'a [&'a str], &'a [&'a str], Want);

#[tokio::test]
async fn paths_lead_nowhere_else() {
    let world = World::new();
    let json: &[&str] = &["data/*.json"];
    let all: &[&str] = &["data/**"];
    let none: &[&str] = &[];
    let read = |path: &str| denied(Capability::FileRead, &world.whole(path));
    let write = |path: &str| denied(Capability::FileWrite, &world.whole(path));
    let link = |path: &str| Want {
        says: LINK.to_owned(),
        ..denied(Capability::FileRead, &world.whole(path))
    };
    let etc = || denied(Capability::FileRead, "/etc/passwd");
    let up = "../../../../../../../../etc/passwd";
    let said = |path: &str| world.said(path);
    let cases: Vec<Case<'_>> = vec![
        ("granted", 'r', said("data/a.json"), json, none, succeeds("\"granted\"")),
        ("not granted", 'r', said("secret.json"), json, none, read("secret.json")),
        ("through ..", 'r', said("data/../secret.json"), json, none, read("secret.json")),
        ("through . and //", 'r', said("data/.//../secret.json"), json, none, read("secret.json")),
        ("out of the root", 'r', up.to_owned(), json, none, denied(Capability::FileRead, up)),
        ("etc", 'r', "etc/passwd".to_owned(), json, none, etc()),
        ("absolute", 'r', "/etc/passwd".to_owned(), json, none, etc()),
        ("without any grant", 'r', "etc/passwd".to_owned(), none, none, etc()),
        ("a link to a file", 'r', said("data/link.json"), json, none, link("data/link.json")),
        ("a link to a folder", 'r', said("data/etc/passwd"), all, none, link("data/etc/passwd")),
        ("a link out of it", 'r', said("data/vault/a.json"), all, none, link("data/vault/a.json")),
        ("* and folders", 'r', said("data/sub/c.json"), json, none, read("data/sub/c.json")),
        ("** and folders", 'r', said("data/sub/c.json"), all, none, succeeds("\"deeper\"")),
        ("? is one", 'r', said("data/ab.json"), &["data/?.json"], none, read("data/ab.json")),
        ("a longer name", 'r', said("data2/a.json"), all, none, read("data2/a.json")),
        ("upper case", 'r', said("DATA/a.json"), all, none, read("DATA/a.json")),
        (
            "own memory",
            'r',
            "proc/self/mem".to_owned(),
            json,
            none,
            denied(Capability::FileRead, "/proc/self/mem"),
        ),
        ("write without", 'w', said("data/n.json"), json, none, write("data/n.json")),
        ("write beside", 'w', said("n.json"), none, all, write("n.json")),
        ("write through ..", 'w', said("data/../n.json"), none, all, write("n.json")),
        ("write what is read", 'w', said("data/a.json"), json, &["data2/*"], write("data/a.json")),
        ("write far out", 'W', said("data/n.json"), none, all, ends(Ending::Crash, "raised", "8")),
        ("unlink", 'u', said("data/a.json"), json, &["data2/*"], write("data/a.json")),
        ("rename", 'n', said("data/a.json"), json, none, write("data/a.json")),
        ("make a folder", 'd', said("evil"), none, all, write("evil")),
        ("read a link", 'k', said("data/link.json"), json, none, link("data/link.json")),
        (
            "open without end",
            'o',
            said("data/a.json"),
            json,
            none,
            ends(Ending::Crash, "raised", "denied 22"),
        ),
    ];
    for (name, op, path, read, write, want) in &cases {
        let job = world.job(*op, path, read, write);
        check(&world.host, name, &wat::files(), job, want).await;
    }
    assert_eq!(world.text("data/a.json"), "\"granted\"");
    assert_eq!(world.text("secret.json"), "\"secret\"");
    assert!(!world.root.join("n.json").exists() && !world.root.join("data/n.json").exists());
    assert!(!world.root.join("evil").exists());
}

#[tokio::test]
async fn links_cannot_be_made() {
    let world = World::new();
    for op in ['s', 'l'] {
        let path = world.said("data/new.json");
        let job = world.job(op, &path, &["data/*"], &["data/**"]);
        let report = world.host.run(&wat::files(), job).await.expect("a report");
        assert_eq!(report.ending, Ending::PermissionDenied, "{report:?}");
        assert_eq!(report.denied.get(&Capability::FileWrite), Some(&1), "{report:?}");
        assert!(std::fs::symlink_metadata(world.root.join("data/new.json")).is_err());
    }
    unharmed(&world.host, "links");
}

#[tokio::test]
async fn files_are_put_in_place_after_success_alone() {
    let world = World::new();
    let path = world.said("data/made.json");
    let write: &[&str] = &["data/*.json"];
    let job = world.job('w', &path, &[], write);
    let input = job.input.clone();
    let job = Job { rehearsal: true, ..job };
    let report = check(&world.host, "rehearsal", &wat::files(), job, &succeeds("true")).await;
    assert_eq!(report.written.len(), 1, "{report:?}");
    assert!(!world.root.join("data/made.json").exists());
    let job = world.job('w', &path, &[], write);
    let report = check(&world.host, "for real", &wat::files(), job, &succeeds("true")).await;
    assert_eq!(world.text("data/made.json"), input);
    let written = &report.written[0];
    assert_eq!(written.path, world.whole("data/made.json"));
    assert_eq!(written.digest, kernel::values::Digest::of(input.as_bytes()));
    // The same where the code fails after it has written.
    let job = world.job('x', &world.said("data/failed.json"), &[], write);
    let report = world.host.run(&wat::files(), job).await.expect("a report");
    assert_eq!(report.code, Some("trap"), "{report:?}");
    assert!(!world.root.join("data/failed.json").exists());
}

#[tokio::test]
async fn no_link_is_followed_when_files_are_put_in_place() {
    let world = World::new();
    let cases = [
        ("the file is a link", "data/out.json", "data/out.json"),
        ("its folder is a link", "data/vault/a.json", "data/vault/*"),
    ];
    for (name, path, grant) in cases {
        let job = world.job('w', &world.said(path), &[], &[grant]);
        let want = ends(Ending::Crash, "write_failed", &world.whole(path));
        check(&world.host, name, &wat::files(), job, &want).await;
    }
    assert_eq!(world.text("secret.json"), "\"secret\"");
    assert_eq!(world.text("vault/a.json"), "\"secret\"");
    let parts = std::fs::read_dir(world.root.join("data")).expect("a folder");
    let left: Vec<_> = parts
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .filter(|name| name.starts_with(".tally"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
}

#[tokio::test]
async fn what_is_staged_is_bounded_and_regular() {
    let world = World::new();
    let fifo = world.root.join("data/pipe.json");
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0)
        .expect("a pipe");
    let job = world.job('r', &world.said("data/pipe.json"), &["data/*.json"], &[]);
    let want = denied(Capability::FileRead, &world.whole("data/pipe.json"));
    check(&world.host, "a pipe", &wat::files(), job, &want).await;

    let huge = std::fs::File::create(world.root.join("data/huge.json")).expect("a file");
    huge.set_len(sandbox::limits::STAGED_BYTES_MAX + 1).expect("a long file");
    let job = world.job('r', &world.said("data/a.json"), &["data/*.json"], &[]);
    let failure = world.host.run(&wat::files(), job).await.expect_err("too much");
    assert_eq!(failure.code, "too_many_files");
    assert!(failure.message.contains("bytes"), "{failure}");
    unharmed(&world.host, "a huge file");
}

#[tokio::test]
async fn folders_of_earlier_servers_are_removed() {
    let world = World::new();
    let left = world.host.folder.path().join("sandbox/runs/acme/0f");
    std::fs::create_dir_all(&left).expect("a folder");
    symlink("/etc", left.join("link")).expect("a link");
    assert_eq!(leftovers(&world.host).len(), 1);
    let config = crate::support::config(world.host.folder.path());
    let boxes = sandbox::Sandboxes::new(config).expect("sandboxes");
    assert!(!left.exists() && std::path::Path::new("/etc/passwd").exists());
    drop(boxes);
}

/// Lets nobody go on before both are here.
#[derive(Debug)]
struct Meeting(Barrier);

#[async_trait]
impl Door for Meeting {
    async fn call(&self, _seq: u32, _tool: &str, _args: &str) -> DoorAnswer {
        self.0.wait().await;
        DoorAnswer { result: Ok("1".to_owned()), held_ms: 0 }
    }
}

/// What code of two tenants reads, each having written, while both live. Their sandboxes have the
/// same id.
async fn meet(world: &World, paths: [[&str; 2]; 2]) -> [Result<String, String>; 2] {
    let wasm = wat::component(&wat::files());
    let door: Arc<dyn Door> = Arc::new(Meeting(Barrier::new(2)));
    let run = async |name: &str, [own, other]: [&str; 2]| {
        let tenant = tenant(name);
        let digest = world.host.boxes.bind(&tenant, &wasm).await.expect("it binds").digest;
        let both = format!("{}{}", world.said(own), world.said(other));
        let job = world.job('m', &both, &[], &["data/x/*"]);
        let job = Job { tenant, rehearsal: true, door: Arc::clone(&door), ..job };
        let ran = job.run(&world.host.boxes, sandbox::Code::Component { digest });
        let ran = tokio::time::timeout(PATIENCE, ran).await.expect("the other one comes");
        ran.expect("a report").output
    };
    let [acme, globex] = paths;
    let (acme, globex) = tokio::join!(run("acme", acme), run("globex", globex));
    [acme, globex]
}

#[tokio::test]
async fn tenants_have_folders_of_their_own() {
    let world = World::new();
    // Each reads what it wrote itself, though both wrote it there.
    let (plain, odd) = ("data/x/mine.json", "data/x/./mine.json");
    let own = meet(&world, [[plain, plain], [odd, odd]]).await;
    for (output, path) in own.iter().zip([plain, odd]) {
        let said = world.said(path);
        assert_eq!(output.as_deref(), Ok(format!("\"m{said}{said}\"").as_str()));
    }
    // What only the other one wrote is not there.
    let (one, two) = ("data/x/one.json", "data/x/two.json");
    for output in meet(&world, [[one, two], [two, one]]).await {
        assert!(output.as_ref().is_err_and(|text| text.contains("denied 20")), "{output:?}");
    }
    unharmed(&world.host, "two tenants");
}

/// Gives the number that the one before it left in its memory, and leaves 7777, also in memory that
/// it takes.
fn remembers() -> String {
    wat::agent(
        "(local $was i64) (local $more i32)
        (local.set $more (i32.shl (memory.grow (i32.const 2)) (i32.const 16)))
        (local.set $was (i64.or (i64.load (i32.const 60000)) (i64.load (local.get $more))))
        (i64.store (i32.const 60000) (i64.const 7777))
        (i64.store (local.get $more) (i64.const 7777))
        (call $number (local.get $was))",
    )
}

/// A sandbox that takes the place of one of another tenant has nothing of it.
#[tokio::test]
async fn nothing_is_left_to_the_next_tenant() {
    let host = Host::new();
    let wasm = wat::component(&remembers());
    for round in 0..ROUNDS {
        for name in ["acme", "globex"] {
            let digest = host.boxes.bind(&tenant(name), &wasm).await.expect("it binds").digest;
            let job = Job { tenant: tenant(name), ..Job::default() };
            let report = job.run(&host.boxes, sandbox::Code::Component { digest }).await;
            let output = report.expect("a report").output;
            assert_eq!(output.as_deref(), Ok("0"), "{name}, round {round}");
        }
    }
    unharmed(&host, "one tenant after the other");
}
