//! Which server serves a data folder: one at a time, and others on this machine find it.
//!
//! The lock file says where its holder listens. An address is believed only while somebody holds
//! the lock and the port answers: a port that a dead server left may be anybody's.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::thread;

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::start::Error;

/// The file of the lock.
const LOCK: &str = "lock";

/// What the holder of the lock writes into it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    pid: u32,
    url: String,
}

/// Whether a server serves a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serving {
    /// None does.
    Nobody,
    /// One does, and does not answer: it has just started, or it ends.
    Silent,
    /// One listens at this URL.
    At(String),
}

/// Looks for the server of a data folder.
///
/// # Errors
/// The lock file cannot be read.
pub fn serving(data: &Path) -> io::Result<Serving> {
    let holder = match holder(data)? {
        None => return Ok(Serving::Nobody),
        Some(text) => text,
    };
    let Ok(Holder { url, .. }) = serde_json::from_slice(&holder) else {
        return Ok(Serving::Silent);
    };
    let address = url.split("://").nth(1).and_then(|rest| rest.parse::<SocketAddr>().ok());
    let answers = address.is_some_and(|address| {
        TcpStream::connect_timeout(&address, limits::HOLDER_CONNECT).is_ok()
    });
    // The same holder still: so the port that answered is its own.
    let same = self::holder(data)?.is_some_and(|text| text == holder);
    Ok(if answers && same { Serving::At(url) } else { Serving::Silent })
}

/// What is in the lock file, where somebody holds the lock.
fn holder(data: &Path) -> io::Result<Option<Vec<u8>>> {
    let path = data.join(LOCK);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => fs::read(&path).map(Some),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Locks the folder for a server that listens at `url`. The lock lives as long as the process.
pub(crate) fn lock(data: &Path, url: &str) -> Result<(), Error> {
    let path = data.join(LOCK);
    let failed = |source| Error::Data { path: path.clone(), source };
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    if !taken(&file).map_err(failed)? {
        return Err(Error::InUse { path });
    }
    let holder = Holder { pid: std::process::id(), url: url.to_owned() };
    let text = serde_json::to_vec(&holder).map_err(|error| Error::Start(error.to_string()))?;
    file.set_len(0).and_then(|()| file.write_all(&text)).map_err(failed)?;
    // Kept open on purpose: closing it would give up the lock.
    std::mem::forget(file);
    Ok(())
}

/// Whether the lock is ours now. Who looks whether somebody serves holds it for a moment, so one
/// refusal says nothing.
fn taken(file: &File) -> io::Result<bool> {
    for _ in 0..limits::LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => thread::sleep(limits::LOCK_REST),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn an_address_counts_while_its_holder_lives_and_listens() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        assert_eq!(serving(data).unwrap(), Serving::Nobody);

        // A server that is gone: its file says where it was, and nobody holds the lock.
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", socket.local_addr().unwrap());
        let holder = Holder { pid: 1, url: url.clone() };
        fs::write(data.join(LOCK), serde_json::to_vec(&holder).unwrap()).unwrap();
        assert_eq!(serving(data).unwrap(), Serving::Nobody);

        lock(data, &url).unwrap();
        assert_eq!(serving(data).unwrap(), Serving::At(url.clone()));
        assert!(matches!(lock(data, &url), Err(Error::InUse { .. })));
        drop(socket);
        assert_eq!(serving(data).unwrap(), Serving::Silent);
    }
}
