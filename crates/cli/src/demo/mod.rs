//! `tally demo`: whole stories on one machine. Everything printed comes from real answers, and the
//! first expectation that does not hold ends it with exit code 1.

mod foreign;
mod itsm;
mod proof;
mod say;
mod story;
mod target;
mod world;

use std::path::PathBuf;

use clap::ValueEnum;
use proto::evidence::ExportEvidenceRequest;

use self::say::step;
use crate::exit::Exit;
use crate::output::print;
use world::World;

/// Which story is told.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Story {
    /// Triage of incidents: ServiceNow, a model and Slack (simulated), four incidents.
    #[default]
    Itsm,
    /// An agent with a key: what is allowed, denied and held, and how to prove it.
    Agent,
}

const AGENT: &str = "\
Tally stands between AI agents and the world. This demo starts a server of its own, gives an agent
a key, and lets it try things. Everything below comes from that server.";

const END: &str = "\
Every expectation held.

There is another story: OTHER

To use Tally for real:
  tally init              a folder with configuration, keys, an agent, an approver and the policy
  tally serve --config tally/tally.yaml
  TALLY_CREDENTIALS=tally/data/agent.json tally submit core.fs_read --params '{\"path\": \"/…\"}'
  TALLY_CREDENTIALS=tally/data/approver.json tally approvals list
  tally help              everything else";

/// Tells a story. `keep` names a new folder for what it leaves; without it nothing is left.
pub(crate) async fn run(story: Story, keep: Option<PathBuf>) -> anyhow::Result<Exit> {
    let (told, other) = match story {
        Story::Itsm => {
            print(itsm::INTRO)?;
            (itsm::stage(keep).await, "tally demo agent        an agent tries things")
        }
        Story::Agent => {
            print(AGENT)?;
            (stage(keep).await, "tally demo itsm         triage of incidents")
        }
    };
    match told {
        Ok(()) => {
            print(&format!("\n{}", END.replace("OTHER", other)))?;
            Ok(Exit::Done)
        }
        Err(error) => {
            eprintln!("tally: the demo failed: {error:#}");
            Ok(Exit::Internal)
        }
    }
}

async fn stage(keep: Option<PathBuf>) -> anyhow::Result<()> {
    let world = World::start(keep).await?;
    let told = tell(&world).await;
    world.stop().await;
    told
}

async fn tell(world: &World) -> anyhow::Result<()> {
    story::nothing_without_policy(world).await?;
    story::policy(world).await?;
    let read = story::allowed_read(world).await?;
    let denied = story::denied_call(world).await?;
    let held = story::held_write(world).await?;
    story::no_self_approval(world, &held).await?;
    let executed = story::approved_write(world, &held).await?;
    story::repeated_write(world, &executed).await?;
    step("4. The owner exports the evidence, for somebody who trusts nobody here")?;
    let request = ExportEvidenceRequest { full_log: true, ..Default::default() };
    let wanted: Vec<_> =
        [&read, &denied, &executed].into_iter().flat_map(proof::receipts_of).collect();
    let evidence = proof::export(&world.place, &request, &wanted).await?;
    proof::verify(&evidence)?;
    let changed = proof::change_one_byte(&evidence)?;
    step("5. openssl checks the signature, without any of our code")?;
    foreign::openssl(&evidence, &changed)
}
