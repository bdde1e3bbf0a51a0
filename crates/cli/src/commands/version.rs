//! `tally version`.

use proto::system::{GetVersionRequest, Version};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Exit;
use crate::output::fields;

/// This program.
#[derive(Serialize)]
struct Program {
    version: &'static str,
}

/// Prints the version of this program or, where a server is named, what that server says.
pub(crate) async fn run(context: &Context) -> anyhow::Result<Exit> {
    let output = context.output();
    if context.names_server() {
        let version = context.public_client()?.get_version(&GetVersionRequest {}).await?;
        output.show(&version, describe)?;
    } else {
        let program = Program { version: env!("CARGO_PKG_VERSION") };
        output.show(&program, |program| format!("tally {}", program.version))?;
    }
    Ok(Exit::Done)
}

fn describe(version: &Version) -> String {
    fields([
        ("server", version.version.clone()),
        ("commit", version.commit.clone()),
        ("protocol", version.protocol_version.to_string()),
        ("receipts", version.schema_version.to_string()),
    ])
}
