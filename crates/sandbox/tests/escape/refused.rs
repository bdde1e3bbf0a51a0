//! What is refused before anything runs.

use kernel::attestation::{CodeKind, SandboxType};
use kernel::capability::Capabilities;
use kernel::permit::Permit;
use kernel::values::{Digest, Timestamp};
use sandbox::Code;
use sandbox::limits;

use super::unharmed;
use crate::support::{Host, Job, permit, source, tenant, wat};

#[tokio::test]
async fn executions_are_refused() {
    let host = Host::with(|config| {
        config.ceiling =
            Capabilities { file_read: vec!["/data/**".to_owned()], ..Capabilities::default() };
    });
    let digest = host.bind(&tenant("acme"), &wat::echo()).await;
    let code = || Code::Component { digest };
    let read = |glob: &str| Job {
        capabilities: Capabilities { file_read: vec![glob.to_owned()], ..Capabilities::default() },
        ..Job::default()
    };
    let id = |id: &str| Job { sandbox_id: id.to_owned(), ..Job::default() };
    let of = |sandbox_type| Job { sandbox_type, ..Job::default() };
    let high = |change: fn(&mut kernel::attestation::Limits)| {
        let mut job = Job::default();
        change(&mut job.limits);
        job
    };
    let python = source(CodeKind::Python, "def run(i): return 1");
    let long = "x".repeat(limits::SOURCE_BYTES_MAX + 1);
    let input = format!("\"{}\"", "x".repeat(limits::INPUT_BYTES_MAX));
    let strange = Job { tenant: tenant("globex"), ..Job::default() };
    let none = Code::Component { digest: Digest::of(b"none") };
    let hardened = of(SandboxType::Hardened);
    let cases: Vec<(&str, Job, Code, &str, &str)> = vec![
        ("another tenant's", strange, code(), "component_unknown", "no component"),
        ("unknown", Job::default(), none, "component_unknown", "register"),
        ("hardened", hardened, code(), "sandbox_type_unavailable", "HARDENED"),
        ("tee", of(SandboxType::Tee), code(), "sandbox_type_unavailable", "hardware"),
        ("light", of(SandboxType::Light), code(), "sandbox_type_unavailable", "LIGHT is off"),
        ("no interpreter", Job::default(), python, "runtime_missing", "cargo xtask runtimes"),
        ("long source", Job::default(), source(CodeKind::Python, &long), "code_too_long", "bytes"),
        ("long input", Job::of(&input), code(), "code_too_long", "the input"),
        ("no JSON", Job::of("{"), code(), "input_not_json", "JSON"),
        ("id leads out", id("../../../../etc/cron.d/00000000"), code(), "sandbox_id_invalid", "32"),
        ("id is empty", id(""), code(), "sandbox_id_invalid", "32"),
        ("beyond the ceiling", read("/etc/*"), code(), "capability_not_grantable", "/etc/*"),
        ("all files", read("/**"), code(), "capability_not_grantable", "/**"),
        ("beside the ceiling", read("/data2/x"), code(), "capability_not_grantable", "/data2"),
        ("glob with ..", read("/data/../etc/*"), code(), "capability_invalid", ".."),
        ("glob that is relative", read("etc/*"), code(), "capability_invalid", "etc/*"),
        ("much memory", high(|l| l.memory_bytes = u64::MAX), code(), "limit_too_high", "memory"),
        ("much fuel", high(|l| l.fuel = u64::MAX), code(), "limit_too_high", "fuel"),
        ("much time", high(|l| l.wall_ms = u64::MAX), code(), "limit_too_high", "wall_ms"),
        ("much output", high(|l| l.output_bytes = u64::MAX), code(), "limit_too_high", "output"),
    ];
    for (name, job, code, want, says) in cases {
        let failure = job.run(&host.boxes, code).await.expect_err(name);
        assert_eq!(failure.code, want, "{name}: {failure}");
        assert!(failure.message.contains(says), "{name}: {failure}");
        unharmed(&host, name);
    }
}

#[tokio::test]
async fn permits_are_checked() {
    let host = Host::new();
    let digest = host.bind(&tenant("acme"), &wat::echo()).await;
    let plan = Digest::of(b"plan");
    let other: Permit = permit(Digest::of(b"another plan"));
    let failure = Job::default()
        .run_with(&host.boxes, Code::Component { digest }, &other, plan)
        .await
        .expect_err("another plan");
    assert_eq!(failure.code, "permit_invalid");
    assert!(failure.message.contains("another plan"), "{failure}");
    let late = Timestamp(permit(plan).not_after().0 + 1);
    let job = Job { now: late, ..Job::default() };
    let failure = job.run(&host.boxes, Code::Component { digest }).await.expect_err("too late");
    assert!(failure.message.contains("expired"), "{failure}");
    unharmed(&host, "permits");
}

#[tokio::test]
async fn components_are_refused() {
    let host = Host::new();
    let world = "component_world_mismatch";
    let takes = wat::echo().replace("(param \"input\" string)", "(param \"input\" (list u8))");
    let exec = wat::echo().replace("(import \"call-tool\"", "(import \"exec\"");
    let stranger = r#"(component
        (import "wasi:nn/inference@0.2.0" (instance (export "infer" (func)))))"#;
    let module = wat::component("(module (func (export \"run\")))");
    let text = |text: &str| wat::component(text);
    let long = vec![0; limits::COMPONENT_BYTES_MAX + 1];
    let mut cut = text(&wat::echo());
    cut.truncate(cut.len() - 10);
    let cases: Vec<(&str, Vec<u8>, &str, &str)> = vec![
        ("unknown import", text(stranger), world, "run"),
        ("unknown function", text(&exec), world, "exec"),
        ("exports nothing", text("(component)"), world, "no function `run`"),
        ("takes something else", text(&takes), world, "another type"),
        ("core module", module, "component_invalid", "component"),
        ("no code at all", b"#!/bin/sh\nid\n".to_vec(), "component_invalid", ""),
        ("nothing", Vec::new(), "component_invalid", ""),
        ("cut off", cut, "component_invalid", ""),
        ("too long", long, "code_too_long", "33554433 bytes"),
    ];
    for (name, wasm, code, says) in cases {
        let error = host.boxes.bind(&tenant("acme"), &wasm).await.expect_err(name);
        assert_eq!(error.code(), code, "{name}: {error}");
        assert!(error.to_string().contains(says), "{name}: {error}");
        assert!(error.is_invalid(), "{name}");
        let digest = Digest::of(&wasm);
        let run = Job::default().run(&host.boxes, Code::Component { digest }).await;
        assert_eq!(run.expect_err(name).code, "component_unknown", "{name}");
        unharmed(&host, name);
    }
}
