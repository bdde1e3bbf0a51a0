//! Tar archives in one fixed form: plain ustar files, sorted by name, with no owner and no time.
//! The same files are always the same bytes, and a reader accepts nothing else.

use super::{Error, Files};

const BLOCK: usize = 512;
const NAME_MAX: usize = 100;
const NAME_AT: std::ops::Range<usize> = 0..NAME_MAX;
const SIZE_AT: std::ops::Range<usize> = 124..135;
const CHECKSUM_AT: std::ops::Range<usize> = 148..156;
const MAGIC_AT: usize = 257;
/// Sizes have eleven octal digits.
const SIZE_MAX: u64 = (1 << 33) - 1;

/// The archive of `files`; none where a name is longer than 100 bytes or a file than 8 GB.
pub fn write(files: &Files<'_>) -> Option<Vec<u8>> {
    let total: usize = files.values().map(|file| file.len().next_multiple_of(BLOCK) + BLOCK).sum();
    let mut out = Vec::with_capacity(total + 2 * BLOCK);
    for (name, file) in files {
        out.extend(header(name, file.len())?);
        out.extend_from_slice(file);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
    out.resize(out.len() + 2 * BLOCK, 0);
    Some(out)
}

/// The files of an archive that [`write`] could have made.
pub fn read(bytes: &[u8]) -> Result<Files<'_>, Error> {
    let mut files = Files::new();
    let mut rest = bytes;
    loop {
        let at = bytes.len() - rest.len();
        let form = || Error::Archive(at);
        let (block, after) = rest.split_at_checked(BLOCK).ok_or_else(form)?;
        if block.iter().all(|byte| *byte == 0) {
            let end = after.len() == BLOCK && after.iter().all(|byte| *byte == 0);
            return if end { Ok(files) } else { Err(form()) };
        }
        let (name, size) = name_and_size(block).ok_or_else(form)?;
        if header(name, size).as_deref() != Some(block) {
            return Err(form());
        }
        let (file, after) = after.split_at_checked(size).ok_or_else(form)?;
        let padding = size.next_multiple_of(BLOCK) - size;
        let (padding, after) = after.split_at_checked(padding).ok_or_else(form)?;
        let sorted = files.last_key_value().is_none_or(|(last, _)| *last < name);
        if !sorted || padding.iter().any(|byte| *byte != 0) {
            return Err(form());
        }
        files.insert(name, file);
        rest = after;
    }
}

fn name_and_size(block: &[u8]) -> Option<(&str, usize)> {
    let name = block.get(NAME_AT)?.split(|byte| *byte == 0).next()?;
    let size = str::from_utf8(block.get(SIZE_AT)?).ok()?;
    Some((str::from_utf8(name).ok()?, usize::from_str_radix(size, 8).ok()?))
}

fn header(name: &str, size: usize) -> Option<Vec<u8>> {
    let fits = u64::try_from(size).is_ok_and(|size| size <= SIZE_MAX);
    if name.is_empty() || name.len() > NAME_MAX || !fits {
        return None;
    }
    let mut block = Vec::with_capacity(BLOCK);
    block.extend_from_slice(name.as_bytes());
    block.resize(NAME_MAX, 0);
    // Mode, owner, group, size and time.
    block.extend_from_slice(b"0000644\x000000000\x000000000\x00");
    block.extend_from_slice(format!("{size:011o}\0{:011o}\0", 0).as_bytes());
    // The checksum counts as spaces in its own sum; `0` is the type of a plain file.
    block.extend_from_slice(b"        0");
    block.resize(MAGIC_AT, 0);
    block.extend_from_slice(b"ustar\x0000");
    block.resize(BLOCK, 0);
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let sum = format!("{sum:06o}\0 ");
    block.get_mut(CHECKSUM_AT)?.copy_from_slice(sum.as_bytes());
    Some(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_come_back_and_nothing_else_is_read() {
        let files = Files::from([("a", &b""[..]), ("b/c", &[7; 513]), ("d", &[1; 512])]);
        let bytes = write(&files).unwrap();
        assert_eq!(read(&bytes).unwrap(), files);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_ne!(read(&changed).ok(), Some(files.clone()), "byte {at}");
            assert!(read(&bytes[..at]).is_err(), "cut at {at}");
        }
        assert!(read(&[bytes, vec![0]].concat()).is_err());
        assert_eq!(write(&Files::from([(&*"x".repeat(101), &b""[..])])), None);
    }
}
