//! Tools the checks need that no `Cargo.toml` names; installed on first use, which is said.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::repo;

/// `@bufbuild/buf` of npm: it checks the protobuf files.
const BUF_VERSION: &str = "1.75.0";

const CARGO_DENY_VERSION: &str = "0.20.2";

/// The path of `buf`.
pub(crate) fn buf() -> Result<PathBuf> {
    let folder = repo::cache()?.join(format!("buf-{BUF_VERSION}"));
    let program = folder.join("node_modules/.bin/buf");
    if !program.is_file() {
        say_installing("buf", BUF_VERSION, &folder);
        let mut npm = repo::command("npm");
        npm.args(["install", "--no-save", "--no-audit", "--no-fund", "--silent", "--prefix"]);
        npm.arg(&folder).arg(format!("@bufbuild/buf@{BUF_VERSION}"));
        repo::run(&mut npm).context("buf comes from npm: install Node.js, or pass --fast")?;
    }
    Ok(program)
}

/// The path of `cargo-deny`.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    let folder = repo::cache()?.join(format!("cargo-deny-{CARGO_DENY_VERSION}"));
    let program = folder.join("bin/cargo-deny");
    if !program.is_file() {
        say_installing("cargo-deny", CARGO_DENY_VERSION, &folder);
        let mut cargo = repo::cargo();
        cargo.args(["install", "cargo-deny", "--locked", "--version", CARGO_DENY_VERSION]);
        cargo.arg("--root").arg(&folder);
        repo::run(&mut cargo)?;
    }
    Ok(program)
}

/// Sees to it that `openssl` is there: the tests check our signatures with it.
pub(crate) fn openssl() -> Result<()> {
    if starts("openssl", "version") {
        return Ok(());
    }
    apt("openssl", "openssl is missing: install it, or pass --fast")
}

/// Sees to it that SoftHSM is there: the tests keep keys in it as in a hardware module.
pub(crate) fn softhsm() -> Result<()> {
    if starts("softhsm2-util", "--version") {
        return Ok(());
    }
    apt("softhsm2", "SoftHSM is missing: install softhsm2")
}

/// Sees to it that PostgreSQL is there: the tests start clusters of their own.
pub(crate) fn postgres() -> Result<()> {
    let debian = Path::new("/usr/lib/postgresql").read_dir().into_iter().flatten().flatten();
    let debian = debian.map(|version| version.path().join("bin/initdb"));
    if debian.into_iter().any(|initdb| initdb.is_file()) || starts("pg_config", "--bindir") {
        return Ok(());
    }
    apt("postgresql", "PostgreSQL 15 or later is missing: install it")
}

/// Installs a package where we may; else says what is missing.
fn apt(package: &str, missing: &str) -> Result<()> {
    if !starts("apt-get", "--version") || repo::output(Command::new("id").arg("-u"))?.trim() != "0"
    {
        bail!("{missing}");
    }
    println!("installing {package} with apt-get");
    repo::run(repo::command("apt-get").args(["-qq", "update"]))?;
    repo::run(repo::command("apt-get").args(["-qq", "-y", "install", package]))
}

/// Whether the toolchain can build for `target`.
pub(crate) fn has_target(target: &str) -> Result<bool> {
    let sysroot = repo::output(repo::command("rustc").args(["--print", "sysroot"]))?;
    Ok(Path::new(sysroot.trim()).join("lib/rustlib").join(target).join("lib").is_dir())
}

fn starts(program: &str, argument: &str) -> bool {
    let mut command = repo::command(program);
    command.arg(argument).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn say_installing(tool: &str, version: &str, folder: &Path) {
    println!("installing {tool} {version} into {}", folder.display());
}
