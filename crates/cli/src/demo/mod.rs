//! `tally demo`: the whole story on one machine. Everything printed comes from real answers, and
//! the first expectation that does not hold ends it with exit code 1.

mod foreign;
mod proof;
mod say;
mod story;
mod target;
mod world;

use std::path::PathBuf;

use crate::exit::Exit;
use crate::output::print;
use world::World;

const INTRO: &str = "\
Tally stands between AI agents and the world. This demo starts a server of its own, gives an agent
a key, and lets it try things. Everything below comes from that server.";

const END: &str = "\
Every expectation held.

To use Tally for real:
  tally init              a folder with configuration, keys, an agent, an approver and the policy
  tally serve --config tally/tally.yaml
  TALLY_CREDENTIALS=tally/data/agent.json tally submit core.fs_read --params '{\"path\": \"/…\"}'
  TALLY_CREDENTIALS=tally/data/approver.json tally approvals list
  tally help              everything else";

/// Tells the story. `keep` names a new folder for what it leaves; without it nothing is left.
pub(crate) async fn run(keep: Option<PathBuf>) -> anyhow::Result<Exit> {
    print(INTRO)?;
    match stage(keep).await {
        Ok(()) => {
            print(&format!("\n{END}"))?;
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
    let evidence = proof::export(world, &[&read, &denied, &executed]).await?;
    proof::verify(&evidence)?;
    let changed = proof::change_one_byte(&evidence)?;
    foreign::openssl(&evidence, &changed)
}
