//! Every bound of the verifier, in one place.

/// Bytes of one question: of a bundle of up to 384 MB, base64 and all. The memory of WebAssembly
/// has 4 GiB, and a question takes twice its own size while it is answered.
pub const QUESTION_BYTES_MAX: usize = 512 << 20;
/// Receipt keys of one question.
pub(crate) const KEYS_MAX: usize = 1024;
/// Keys of a published list, which has each receipt key once for each log.
pub(crate) const PUBLISHED_KEYS_MAX: usize = 1 << 16;
