//! What moves together when a release goes in or out of force: the releases concerned and the
//! workflow, which says what runs take. The workflow's version fences two such moves: whoever
//! commits them names the version that they were made from.

use super::{Cause, Input, Release, Ring, Status};
use crate::ids::{PrincipalId, ReleaseId};
use crate::machine::{self, Command, Kind, Refusal};
use crate::workflow_registry::{self, Canary, InForce, Workflow};

fn of_release(id: &ReleaseId, input: Input) -> Command {
    Command::new(Kind::Release, id.as_str(), machine::Input::Release(input))
}

fn of_workflow(workflow: &Workflow, release: &Release, in_force: InForce) -> Command {
    let environment = release.request.environment.clone();
    let input = workflow_registry::Input::Release { environment, in_force };
    Command::new(Kind::Workflow, workflow.id.as_str(), machine::Input::Workflow(input))
}

/// The commands that have runs take `release`: a share of them, or all.
pub fn promote(
    workflow: &Workflow,
    release: &Release,
    ring: Ring,
    by: PrincipalId,
) -> Result<Vec<Command>, Refusal> {
    let now = workflow.in_force(&release.request.environment);
    if now.canary.as_ref().is_some_and(|canary| canary.release != release.id) {
        return Err(Refusal::InvalidInput(
            "another canary is under way: promote it or roll it back first",
        ));
    }
    let id = release.id.clone();
    let InForce { stable, .. } = now;
    match ring {
        Ring::Canary { percent } => {
            let canary = Some(Canary { release: id, percent });
            Ok(vec![
                of_release(&release.id, Input::Promote { by, ring, replaces: None }),
                of_workflow(workflow, release, InForce { stable, canary }),
            ])
        }
        Ring::All {} => {
            let promote = Input::Promote { by, ring, replaces: stable.clone() };
            let mut commands = vec![of_release(&release.id, promote)];
            if let Some(before) = stable.filter(|before| *before != id) {
                commands.push(of_release(&before, Input::Supersede { with: id.clone() }));
            }
            let in_force = InForce { stable: Some(id), canary: None };
            commands.push(of_workflow(workflow, release, in_force));
            Ok(commands)
        }
    }
}

/// The commands that take `release` out of force. `before` is the release whose place it took: that
/// is in force again, where it was and there is one.
pub fn roll_back(
    workflow: &Workflow,
    release: &Release,
    before: Option<&Release>,
    cause: Cause,
) -> Result<Vec<Command>, Refusal> {
    let now = workflow.in_force(&release.request.environment);
    let mut commands = vec![of_release(&release.id, Input::RollBack { cause })];
    if now.canary.as_ref().is_some_and(|canary| canary.release == release.id) {
        let in_force = InForce { canary: None, ..now };
        commands.push(of_workflow(workflow, release, in_force));
        return Ok(commands);
    }
    if now.stable.as_ref() != Some(&release.id) {
        return Err(Refusal::State(release.status.as_str()));
    }
    if now.canary.is_some() {
        return Err(Refusal::InvalidInput(
            "a canary runs beside this release: promote it or roll it back first",
        ));
    }
    let before = before.filter(|before| before.status == Status::Superseded);
    if let Some(before) = before {
        let after = release.id.clone();
        commands.push(of_release(&before.id, Input::Reinstate { after }));
    }
    let stable = before.map(|before| before.id.clone());
    commands.push(of_workflow(workflow, release, InForce { stable, canary: None }));
    Ok(commands)
}
