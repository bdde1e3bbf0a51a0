//! Triage of incidents: an incident of ServiceNow, a model's proposal, a person's decision on
//! Slack, a write that can be taken back, and the proof of it. The three systems are simulated.

mod desk;
mod incident;
mod install;
mod search;
mod story;

use std::path::PathBuf;

use proto::evidence::ExportEvidenceRequest;

use super::say::{say, step};
use super::{foreign, proof};
use desk::Desk;
use story::Told;

pub(super) const INTRO: &str = "\
Tally stands between AI agents and the world. This demo starts a server of its own and gives it
three neighbours: ServiceNow, Slack and a provider of models. All three are SIMULATORS on this
machine; what they answer comes from a script. Incidents come in, the model proposes, people decide
on Slack. Everything below comes from that server and those simulators.";

/// Tells it.
pub(super) async fn stage(keep: Option<PathBuf>) -> anyhow::Result<()> {
    let desk = Desk::start(keep).await?;
    let told = tell(&desk).await;
    desk.stop().await;
    told
}

async fn tell(desk: &Desk) -> anyhow::Result<()> {
    install::all(desk).await?;
    let approved = story::approved(desk).await?;
    let rejected = story::rejected(desk).await?;
    let injected = story::injected(desk).await?;
    let junk = story::junk(desk).await?;
    let all = [&approved, &rejected, &injected, &junk];
    story::bill(desk, &all).await?;
    prove(desk, &injected).await?;
    search::nothing_is_left(desk)
}

/// The evidence of the run that was attacked, for somebody who trusts nobody here.
async fn prove(desk: &Desk, told: &Told) -> anyhow::Result<()> {
    step("6. The evidence of the attacked run, for somebody who trusts nobody here")?;
    let run_id = told.run.run_id.clone();
    say(&format!("tally evidence export --run {run_id} --out evidence.tar"))?;
    let request = ExportEvidenceRequest { run_id, ..Default::default() };
    let wanted: Vec<_> = told.actions.iter().flat_map(proof::receipts_of).collect();
    let evidence = proof::export(&desk.place, &request, &wanted).await?;
    story::injection_shows(&evidence)?;
    proof::verify(&evidence)?;
    let changed = proof::change_one_byte(&evidence)?;
    step("7. openssl checks a signature of it, without any of our code")?;
    foreign::openssl(&evidence, &changed)
}
