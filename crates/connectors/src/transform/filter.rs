//! Running a jq filter. Only in a worker: nothing here bounds time, memory or stack.

use jaq_core::data::JustLut;
use jaq_core::load::{Arena, File, Loader};
use jaq_core::{Compiler, Ctx, Vars, unwrap_valr};
use jaq_json::{Val, read};
use serde_json::value::RawValue;

use crate::limits;

/// Why a filter has no output.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the filter is not jq as offered here (no env, now, input, debug, halt, import): {0}")]
    Invalid(String),
    #[error("the filter ended with an error: {0}")]
    Failed(String),
    #[error("the filter put out {0}")]
    Limit(String),
}

impl Error {
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "filter_invalid",
            Self::Failed(_) => "filter_failed",
            Self::Limit(_) => "filter_limit",
        }
    }
}

type Data = JustLut<Val>;

/// Functions that read the clock, the environment or the zone, write, or end the process; and
/// what the library defines by them.
const LEFT_OUT: [&str; 10] = [
    "debug",
    "debug_empty",
    "env",
    "halt",
    "halt_error",
    "localtime",
    "now",
    "stderr",
    "stderr_empty",
    "strflocaltime",
];

/// The values that `filter` puts out on `input`.
pub(super) fn run(filter: &str, input: &str) -> Result<Vec<Box<RawValue>>, Error> {
    check_depth(filter)?;
    let input = read::parse_single(input.as_bytes()).map_err(|e| Error::Failed(e.to_string()))?;
    let filter = compile(filter)?;
    let context = Ctx::<Data>::new(&filter.lut, Vars::new([]));
    let mut output = Vec::new();
    let mut bytes = 0;
    for value in filter.id.run((context, input)).map(unwrap_valr) {
        let value = value.map_err(|e| Error::Failed(e.to_string()))?;
        if output.len() == limits::TRANSFORM_OUTPUTS_MAX {
            let most = limits::TRANSFORM_OUTPUTS_MAX;
            return Err(Error::Limit(format!("more than {most} values")));
        }
        let text = value.to_string();
        bytes += text.len();
        if bytes > limits::TRANSFORM_OUTPUT_BYTES_MAX {
            let most = limits::TRANSFORM_OUTPUT_BYTES_MAX;
            return Err(Error::Limit(format!("more than {most} bytes")));
        }
        output.push(RawValue::from_string(text).map_err(|_| {
            Error::Failed("it put out a value that JSON cannot hold, such as nan".to_owned())
        })?);
    }
    Ok(output)
}

fn compile(code: &str) -> Result<jaq_core::Filter<Data>, Error> {
    let offered = |name: &str| !LEFT_OUT.contains(&name);
    let definitions = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
    let functions = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
    let arena = Arena::default();
    // No reader of modules is set, so that import and include find nothing.
    let modules = Loader::new(definitions.filter(|def| offered(def.name)))
        .load(&arena, File { code, path: () })
        .map_err(|_| Error::Invalid("it does not parse".to_owned()))?;
    Compiler::default()
        .with_funs(functions.filter(|(name, ..)| offered(name)))
        .compile(modules)
        .map_err(|errors| {
            let unknown = errors.into_iter().flat_map(|(_, undefined)| undefined);
            let names: Vec<_> = unknown.map(|(name, _)| name).collect();
            Error::Invalid(format!("unknown: {}", names.join(", ")))
        })
}

/// Bounds the recursion of the parser, which would otherwise end the worker without a word.
fn check_depth(filter: &str) -> Result<(), Error> {
    let mut depth = 0_usize;
    for byte in filter.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > limits::FILTER_DEPTH_MAX {
            return Err(Error::Invalid(format!(
                "it nests deeper than {}",
                limits::FILTER_DEPTH_MAX
            )));
        }
    }
    Ok(())
}
