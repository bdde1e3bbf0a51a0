//! Compiled code and interpreters that were tampered with.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use kernel::attestation::{CodeKind, Ending};
use kernel::values::Digest;
use sandbox::{Code, Sandboxes};

use crate::support::{Host, Job, config, source, tenant, wat};

/// The compiled code in a cache, and what says its digest.
fn compiled(folder: &Path) -> (PathBuf, PathBuf) {
    let entries = std::fs::read_dir(folder.join("sandbox/compiled")).expect("the cache");
    let code = entries
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.extension().is_some_and(|end| end == "cwasm"))
        .expect("compiled code");
    let digest = code.with_extension("sha256");
    (code, digest)
}

fn overwrite(path: &Path, bytes: &[u8]) {
    std::fs::remove_file(path).expect("it is there");
    std::fs::write(path, bytes).expect("it is written");
}

/// What is done to the cache, given the code and the file that says its digest.
type Tamper = fn(&Path, &Path);

const TAMPERED: [(&str, Tamper); 6] = [
    ("changed code", |code, _| {
        let mut bytes = std::fs::read(code).expect("code");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        overwrite(code, &bytes);
    }),
    ("cut code", |code, _| {
        let bytes = std::fs::read(code).expect("code");
        overwrite(code, &bytes[..bytes.len() / 2]);
    }),
    ("forged digest", |_, digest| {
        overwrite(digest, Digest::of(b"forged").hex().as_bytes());
    }),
    ("no digest", |_, digest| overwrite(digest, b"")),
    ("another engine's code with its digest", |code, digest| {
        let bytes = b"\x7fELF, compiled by another engine".to_vec();
        overwrite(digest, Digest::of(&bytes).hex().as_bytes());
        overwrite(code, &bytes);
    }),
    ("a component in place of code", |code, digest| {
        let bytes = wat::component(&wat::forever());
        overwrite(digest, Digest::of(&bytes).hex().as_bytes());
        overwrite(code, &bytes);
    }),
];

#[tokio::test]
async fn tampered_code_is_compiled_anew() {
    for (name, tamper) in TAMPERED {
        let host = Host::new();
        let wasm = wat::component(&wat::echo());
        let bound = host.boxes.bind(&tenant("acme"), &wasm).await.expect("it binds");
        let (code, digest) = compiled(host.folder.path());
        tamper(&code, &digest);
        let boxes = Sandboxes::new(config(host.folder.path())).expect("sandboxes");
        let again = boxes.bind_pinned(&tenant("acme"), &wasm, bound.compiled).await;
        assert_eq!(again.expect(name), bound, "{name}");
        let code = Code::Component { digest: bound.digest };
        let report = Job::of("[7]").run(&boxes, code).await.expect("a report");
        assert_eq!(report.ending, Ending::Success, "{name}");
        assert_eq!(report.output.as_deref(), Ok("[7]"), "{name}");
    }
}

/// Code of another component, with the right digest beside it: only the pin tells.
#[tokio::test]
async fn swapped_code_is_not_what_was_bound() {
    let host = Host::new();
    let wasm = wat::component(&wat::echo());
    let bound = host.boxes.bind(&tenant("acme"), &wasm).await.expect("it binds");
    let (code, digest) = compiled(host.folder.path());
    let other = Host::new();
    other.bind(&tenant("acme"), &wat::forever()).await;
    let (foreign, foreign_digest) = compiled(other.folder.path());
    overwrite(&code, &std::fs::read(foreign).expect("code"));
    overwrite(&digest, &std::fs::read(foreign_digest).expect("a digest"));
    let boxes = Sandboxes::new(config(host.folder.path())).expect("sandboxes");
    let again = boxes.bind_pinned(&tenant("acme"), &wasm, bound.compiled).await;
    assert_eq!(again.expect("it is compiled anew"), bound);
    let code = Code::Component { digest: bound.digest };
    let report = Job::of("[7]").run(&boxes, code).await.expect("a report");
    assert_eq!(report.output.as_deref(), Ok("[7]"));
    // And a pin of something that it never was is refused.
    let pin = Digest::of(b"never");
    let error = boxes.bind_pinned(&tenant("acme"), &wasm, pin).await.expect_err("changed");
    assert_eq!(error.code(), "compiled_code_changed");
}

#[tokio::test]
async fn a_folder_that_others_can_write_is_refused() {
    let host = Host::new();
    let cache = host.folder.path().join("sandbox/compiled");
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(&cache, open).expect("a mode");
    let wasm = wat::component(&wat::echo());
    let error = host.boxes.bind(&tenant("acme"), &wasm).await.expect_err("now");
    assert_eq!(error.code(), "sandbox_folder_writable");
    let error = Sandboxes::new(config(host.folder.path())).expect_err("at the start");
    assert_eq!(error.code(), "sandbox_folder_writable");
    assert!(error.to_string().contains("chmod 700"), "{error}");
}

#[tokio::test]
async fn an_interpreter_must_be_the_listed_one() {
    let listed = |file: &str, digest: &str| {
        serde_json::json!({ "python": { "file": file, "sha256": digest } }).to_string()
    };
    let wasm = wat::component(&wat::echo());
    let digest = Digest::of(&wasm).hex();
    let other = Digest::of(b"other");
    let cases = [
        ("changed", listed("python.wasm", &other.hex()), None, "runtime_changed", "runtimes.json"),
        ("pinned", listed("python.wasm", &digest), Some(other), "runtime_changed", "digests"),
        ("leads out", listed("../python.wasm", &digest), None, "runtime_missing", "beside"),
        ("absent", listed("none.wasm", &digest), None, "runtime_missing", "none.wasm"),
        ("no list", "{".to_owned(), None, "runtime_missing", "runtimes.json"),
        ("not listed", "{}".to_owned(), None, "runtime_missing", "python"),
        (
            "no interpreter",
            listed("python.wasm", &digest),
            None,
            "component_world_mismatch",
            "interpreter",
        ),
    ];
    for (name, list, pin, code, says) in cases {
        let host = Host::with(|config| {
            let folder = config.folder.with_file_name("runtimes");
            std::fs::create_dir(&folder).expect("a folder");
            std::fs::write(folder.join("python.wasm"), &wasm).expect("an interpreter");
            std::fs::write(folder.join("runtimes.json"), list).expect("a list");
            config.runtime_digests =
                pin.map(|pin| ("python".to_owned(), pin)).into_iter().collect();
            config.runtimes = Some(folder);
        });
        let run = Job::default().run(&host.boxes, source(CodeKind::Python, "1")).await;
        let failure = run.expect_err(name);
        assert_eq!(failure.code, code, "{name}: {failure}");
        assert!(failure.message.contains(says), "{name}: {failure}");
    }
}

/// What the kernel says of a process that waits for its component.
#[test]
fn the_compiler_has_given_up_everything_before_it_reads() {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_sandbox-child"))
        .arg("sandbox-compile")
        .env_clear()
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the compiler starts");
    let pid = child.id();
    let of =
        |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).expect("it is there");
    let began = std::time::Instant::now();
    // It is confined before it reads, and reading it sleeps.
    let status = loop {
        let status = of("status");
        if status.contains("Seccomp:\t2") && status.contains("State:\tS") {
            break status;
        }
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "{status}");
        std::thread::yield_now();
    };
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let limits = of("limits");
    let limit = |name: &str| {
        let rest = limits.lines().find_map(|line| line.strip_prefix(name)).expect("a limit");
        rest.split_whitespace().next().expect("a number").to_owned()
    };
    assert_eq!(limit("Max core file size"), "0");
    assert_eq!(limit("Max file size"), "0");
    assert_eq!(limit("Max cpu time"), sandbox::limits::COMPILE_CPU_SECONDS.to_string());
    assert_eq!(limit("Max address space"), sandbox::limits::COMPILE_MEMORY_BYTES.to_string());
    assert_eq!(of("environ"), "");
    drop(child.stdin.take());
    assert!(!child.wait().expect("it ends").success(), "nothing is no component");
}
