//! Reading what the kernel holds in memory: without a wait, and so without another thread.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use cap_std::fs::Dir;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags, openat2, statx};
use rustix::io::{ReadWriteFlags, preadv2};

use crate::limits;

/// The whole content of a small file whose path and content are in the kernel's caches.
///
/// None where that is not so, and also where the path leaves the folder, is no file, or may not be
/// read: the reader that may wait finds out which, and says so.
pub(super) fn content(dir: &Dir, path: &Path) -> Option<Vec<u8>> {
    // As there: looked at before it is opened, and again after.
    length(&open(dir, path, OFlags::PATH)?)?;
    let file = open(dir, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
    let length = length(&file)?;
    // One more, to see that it has not grown.
    let mut bytes = vec![0; length + 1];
    let buffers = &mut [IoSliceMut::new(&mut bytes)];
    let read = preadv2(&file, buffers, 0, ReadWriteFlags::NOWAIT).ok()?;
    bytes.truncate(read);
    (read == length).then_some(bytes)
}

/// Opens as `cap_std` does, but only what takes no wait to find.
fn open(dir: &Dir, path: &Path, flags: OFlags) -> Option<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::CACHED;
    openat2(dir.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), resolve).ok()
}

/// The length of a small file; none of anything else.
fn length(file: &OwnedFd) -> Option<usize> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(file, "", flags, StatxFlags::TYPE | StatxFlags::SIZE).ok()?;
    let length = usize::try_from(stat.stx_size).ok()?;
    let file = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::RegularFile;
    (file && length <= limits::FILE_CACHED_BYTES_MAX).then_some(length)
}
