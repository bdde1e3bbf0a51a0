//! Reading a file.

use std::io::Read as _;

use cap_std::fs::{OpenOptions, OpenOptionsExt as _};
use kernel::failure::{Category, Failure};
use rustix::fs::OFlags;
use serde::Deserialize;
use serde_json::json;

use super::{Encoding, Root, failure, locate, not_a_file};
use crate::limits;
use crate::text;
use crate::tools::{Done, Meta};

const LIST: &str = "fs_read";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    path: String,
    #[serde(default)]
    encoding: Encoding,
    max_bytes: Option<usize>,
}

pub(super) fn read(roots: &[Root], params: &Params) -> Result<Done, Failure> {
    let (dir, path) = locate(roots, LIST, &params.path)?;
    let io = |e: std::io::Error| failure(LIST, &e);
    // Before it is opened, since opening a device or pipe can already do something; and after,
    // since it may have been exchanged. NONBLOCK: opening a pipe must not wait for its writer.
    if !dir.metadata(path).map_err(io)?.is_file() {
        return Err(not_a_file());
    }
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags(OFlags::NONBLOCK | OFlags::NOCTTY));
    let file = dir.open_with(path, &options).map_err(io)?;
    if !file.metadata().map_err(io)?.is_file() {
        return Err(not_a_file());
    }
    let max = max_bytes(params);
    let mut bytes = Vec::new();
    let one_more = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    file.take(one_more).read_to_end(&mut bytes).map_err(io)?;
    done(bytes, params)
}

/// Reads what takes no wait. None where it might, or where there is anything to complain of.
#[cfg(target_os = "linux")]
pub(super) fn read_cached(roots: &[Root], params: &Params) -> Option<Result<Done, Failure>> {
    let (dir, path) = locate(roots, LIST, &params.path).ok()?;
    let bytes = super::cached::content(dir, path)?;
    Some(done(bytes, params))
}

fn max_bytes(params: &Params) -> usize {
    params.max_bytes.unwrap_or(usize::MAX).min(limits::FILE_READ_BYTES_MAX)
}

/// The result for the first bytes of a file: all of them, or more than are wanted.
fn done(mut bytes: Vec<u8>, params: &Params) -> Result<Done, Failure> {
    let max = max_bytes(params);
    let cut = bytes.len() > max;
    bytes.truncate(max);
    let (content, cut) = match params.encoding {
        Encoding::Base64 => text::base64(&bytes, cut),
        Encoding::Utf8 => text::utf8(&bytes, cut).ok_or_else(not_utf8)?,
    };
    let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let result = json!({"content": content, "bytes": count, "truncated": cut});
    Ok(Done { result: result.to_string(), meta: Meta { bytes_in: count, ..Meta::default() } })
}

fn not_utf8() -> Failure {
    let message = "the file is not UTF-8 text: read it with encoding base64";
    Failure::new(Category::Validation, "not_utf8", message)
}

/// As the standard library's options take them.
pub(super) fn flags(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}
