//! What is refused before it runs: grants and limits beyond what the operator lets be, sandboxes
//! that there are none of, and bytes that are no agent.

use super::case::{Case, Want, With as _, failed, invalid, python, refused, source, wat};
use super::guests;
use super::host::Host;
use crate::sandbox::place::component;

pub(crate) fn cases(host: &Host) -> Vec<Case> {
    let mut cases = grants(host);
    cases.extend(types_and_limits());
    cases.extend(code());
    cases
}

fn grants(host: &Host) -> Vec<Case> {
    let reads = |name, glob: &str, want| Case {
        name,
        request: wat(&guests::echo()).grants(|grants| grants.file_read.push(glob.to_owned())),
        want,
    };
    let beyond = |what: &str| refused("capability_not_grantable", what);
    let beside = host.whole("data2/**");
    let through = host.whole("data/../secret.json");
    vec![
        reads("grant /etc/passwd", "/etc/passwd", beyond("file_read `/etc/passwd`")),
        reads("grant everything", "/**", beyond("file_read `/**`")),
        reads("grant a folder with a longer name", &beside, beyond(&beside)),
        reads("grant through ..", &through, invalid("capability_invalid", "..")),
        reads("grant a relative path", "etc/*", invalid("capability_invalid", "etc/*")),
        Case {
            name: "grant writing to what may only be read",
            request: wat(&guests::echo())
                .grants(|grants| grants.file_write.push(host.whole("secret.json"))),
            want: beyond("secret.json"),
        },
        Case {
            name: "grant an address range",
            request: wat(&guests::echo()).hosts(&["127.0.0.0/8"], &[]),
            want: invalid("capability_invalid", "127.0.0.0/8"),
        },
    ]
}

fn types_and_limits() -> Vec<Case> {
    let of_type = |name, of: &str, says: &str| Case {
        name,
        request: wat(&guests::echo()).of_type(of),
        want: refused("sandbox_type_unavailable", says),
    };
    vec![
        of_type("a sandbox that is not built", "hardened", "hardened"),
        of_type("an enclave that is not there", "tee", "trusted execution environment"),
        of_type("a component in a process", "light", "standard"),
        Case {
            name: "more fuel than there is",
            request: wat(&guests::forever()).limits(|limits| limits.fuel = Some(1 << 52)),
            want: refused("limit_not_grantable", "limits.fuel"),
        },
        Case {
            name: "more memory than there is",
            request: wat(&guests::memory_bomb())
                .limits(|limits| limits.memory_bytes = Some(64 << 30)),
            want: refused("limit_not_grantable", "limits.memory_bytes"),
        },
        Case {
            name: "all the time in the world",
            request: wat(&guests::forever()).limits(|limits| limits.wall_ms = Some((1 << 53) - 1)),
            want: refused("limit_not_grantable", "limits.wall_ms"),
        },
    ]
}

fn code() -> Vec<Case> {
    let bytes = |name, bytes: Vec<u8>, want: Want| Case { name, request: component(bytes), want };
    let world = |says| failed("component_world_mismatch", says);
    let takes = guests::echo().replace("(param \"input\" string)", "(param \"input\" (list u8))");
    let exec = guests::echo().replace("(import \"call-tool\"", "(import \"exec\"");
    let stranger = r#"(component
        (import "wasi:nn/inference@0.2.0" (instance (export "infer" (func)))))"#;
    let mut cut = guests::component(&guests::echo());
    cut.truncate(cut.len() - 10);
    let module = guests::component("(module (func (export \"run\")))");
    vec![
        Case {
            name: "oversized source",
            request: source("python", &"#".repeat((512 << 10) + 1)),
            want: refused("source_too_long", "at most 524288 bytes"),
        },
        bytes("a script", b"#!/bin/sh\nid\n".to_vec(), failed("component_invalid", "component")),
        bytes("machine code", b"\x7fELF\x02\x01\x01".to_vec(), failed("component_invalid", "")),
        bytes("a core module", module, failed("component_invalid", "component")),
        bytes("a component that is cut off", cut, failed("component_invalid", "")),
        bytes("an import of the host's", guests::component(&exec), world("exec")),
        bytes("an import of a stranger's", guests::component(stranger), world("run")),
        bytes("a function of another type", guests::component(&takes), world("another type")),
        Case {
            name: "code that is none in its language",
            request: python("return (").of_type("standard"),
            want: super::case::crash("raised", "SyntaxError"),
        },
    ]
}
