//! Executions through the server: what it takes to have one decided, attested and receipted.

use std::path::Path;
use std::sync::Arc;

use anyhow::ensure;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::runtime::Runtime;

use super::guests::{Gate, Guest, Host};
use super::{ROUNDS, SIDE};
use crate::cpu::Cpu;
use crate::load::{self, Target, Until};
use crate::metrics::Metrics;
use crate::report::{Report, Table};
use crate::server::{self, Server, Setup};
use crate::stats::{self, Times, figure};

/// Fewer than a tenant may have sandboxes at once.
const CLIENTS: usize = 8;
/// What an agent is taken to compute, in microseconds.
const AGENT_US: f64 = 10_000.0;
/// The most that all else may take, as a share of that.
const SHARE: f64 = 0.05;

/// Executions of `guest`, a component, over HTTP and by the sandbox alone, by turns.
pub(super) fn run(
    report: &mut Report,
    runtime: &Runtime,
    host: &Host,
    (guest, dir): (&Guest, &Path),
) -> anyhow::Result<()> {
    let program = server::build()?;
    let server = Server::start(&program, &dir.join("served"), &Setup::default())?;
    let component = STANDARD.encode(&guest.wasm);
    let body = json!({"component": component, "input": {"n": 1}, "attestation": "full"});
    let path = "/v1/sandboxes/executions";
    let target = Target::post(server.address, path, &server.key, &body.to_string());
    // The first one has the component compiled.
    load::run(&target, 1, Until::Sent(1))?.all_ok()?;
    let (gate, code) = (Arc::new(Gate::default()), Host::code(guest));
    let [mut rates, mut whole, mut alone] = [Vec::new(), Vec::new(), Vec::new()];
    let mut times = Times::default();
    for _ in 0..ROUNDS {
        let (before, metrics) = (server.cpu()?, Metrics::read(server.address)?);
        let load = load::run(&target, CLIENTS, Until::Over(SIDE))?.all_ok()?;
        let taken: f64 = server.cpu()?.since(&before).values().sum();
        let executed = Metrics::read(server.address)?.executed() - metrics.executed();
        let count = figure(load.count());
        ensure!((executed - count).abs() < 0.5, "{count} answers, but {executed} executions");
        rates.push(load.per_second());
        whole.push(taken / count);
        times.extend(load.times);
        let before = Cpu::of(std::process::id())?;
        let job = async || host.run(code.clone(), guest.input, &gate).await;
        let ran = runtime.block_on(super::timed(job))?;
        let taken: f64 = Cpu::of(std::process::id())?.since(&before).values().sum();
        alone.push(taken / figure(ran.count()));
    }
    let [rate, whole, alone] = [rates, whole, alone].map(stats::median);
    let all_else = (whole - alone).max(0.0);
    let share = all_else / AGENT_US;
    let title = format!("executions of a {} over HTTP, {CLIENTS} clients", guest.name);
    let columns = ["", "1/s", "p50 us", "p99 us", "server us", "sandbox us", "of 10 ms"];
    let mut table = Table::new(title, &columns);
    let [p50, p99] = [50, 99].map(|percent| times.percentile(percent).into());
    table.row(["governed".into(), rate.into(), p50, p99, whole.into(), alone.into(), share.into()]);
    report.table(table);
    report.at_most("decision, attestation and receipts, of an agent of 10 ms", share, SHARE);
    report.note(
        "Over HTTP each execution is decided by the baseline policy in dev, attested in full, \
         signed twice and durable twice. `of 10 ms`: what the server takes besides the sandbox, \
         as a share of 10 ms that an agent computes.",
    );
    Ok(())
}
