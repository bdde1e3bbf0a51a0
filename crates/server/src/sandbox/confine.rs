//! MCP servers that are commands, under LIGHT: each with a folder of its own, none of our
//! environment, and bounded means.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use connectors::mcp::{Confine, Confined};
use kernel::failure::{Category, Failure};
use kernel::ids::TenantId;

use super::limits;
use ::sandbox::Confinement;

/// The mode of a folder that is its owner's alone.
const PRIVATE: u32 = 0o700;

/// Where the servers of a data folder work: a folder for each tenant, and in it one for each.
fn folder_of(data: &Path) -> PathBuf {
    data.join("sandbox").join("upstreams")
}

/// Starts the servers of one tenant.
pub(crate) struct Servers {
    data: PathBuf,
    tenant: TenantId,
}

impl Servers {
    pub(crate) fn new(data: &Path, tenant: &TenantId) -> Self {
        Self { data: data.to_owned(), tenant: tenant.clone() }
    }

    /// The server's folder, made where it is not there.
    fn folder(&self, name: &str) -> io::Result<PathBuf> {
        let mut folder = std::path::absolute(folder_of(&self.data))?;
        DirBuilder::new().recursive(true).mode(PRIVATE).create(&folder)?;
        for part in [self.tenant.as_str(), name] {
            folder.push(part);
            match DirBuilder::new().mode(PRIVATE).create(&folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made?,
            }
        }
        // What the server itself may have let others see.
        fs::set_permissions(&folder, fs::Permissions::from_mode(PRIVATE))?;
        Ok(folder)
    }
}

impl Confine for Servers {
    fn confine(
        &self,
        name: &str,
        program: &Path,
        args: Vec<OsString>,
    ) -> Result<Confined, Failure> {
        let failed = |error: io::Error| {
            let message = format!("the MCP server `{name}` has no folder of its own: {error}");
            Failure::new(Category::Permanent, "start_failed", message)
        };
        let folder = self.folder(name).map_err(failed)?;
        let own = std::env::current_exe().map_err(failed)?;
        // What its command names it is meant to have: a script, a folder to serve.
        let named = args.iter().map(PathBuf::from).filter(|path| path.is_absolute());
        let confinement = Confinement {
            memory_bytes: limits::UPSTREAM_MEMORY_BYTES,
            cpu_seconds: None,
            file_bytes: limits::UPSTREAM_FILE_BYTES,
            open_files: limits::UPSTREAM_OPEN_FILES,
            read: named.chain(SYSTEM.map(PathBuf::from)).collect(),
            folder: folder.clone(),
            network: true,
            processes: true,
        };
        let mut all: Vec<OsString> = vec!["internal".into(), "sandbox-light".into()];
        all.extend(confinement.arguments(program, args));
        Ok(Confined { program: own, args: all, folder })
    }
}

/// What programs that speak to hosts read besides the system's programs: names, certificates,
/// time zones.
const SYSTEM: [&str; 8] = [
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/hosts",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/pki",
    "/etc/resolv.conf",
    "/etc/ssl",
];

/// Removes the folder of a server: another one of that name must not find it.
pub(crate) fn forget_folder(data: &Path, tenant: &TenantId, name: &str) -> io::Result<()> {
    match fs::remove_dir_all(folder_of(data).join(tenant.as_str()).join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        ended => ended,
    }
}
