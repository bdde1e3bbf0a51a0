//! What goes wrong before anything runs.

use kernel::failure::{Category, Failure};

/// What goes wrong before anything runs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder cannot be made or read.
    #[error("{what}: {error}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        error: std::io::Error,
    },
    /// Others could put code into a folder that we load code from.
    #[error("{folder} can be written by others than its owner: chmod 700 it, or name another")]
    Writable {
        /// Which folder.
        folder: String,
    },
    /// The engine refuses its settings: this machine lacks what it needs.
    #[error("the WebAssembly engine does not start: {0}")]
    Engine(String),
    /// Too many bytes.
    #[error("{what} has {bytes} bytes; at most {most} are taken")]
    TooLong {
        /// Of what.
        what: &'static str,
        /// How many it has.
        bytes: usize,
        /// How many it may have.
        most: usize,
    },
    /// No component, or one that is not well-formed.
    #[error("this is no component that can be compiled: {0}")]
    Invalid(String),
    /// The component does not fit the world.
    #[error("the component does not fit the world `tally:agent/{world}`: {why}")]
    World {
        /// Which world.
        world: &'static str,
        /// What does not fit.
        why: String,
    },
    /// The compiler failed.
    #[error("the compiler failed: {0}")]
    Compiler(String),
    /// The compiled code is another than was bound.
    #[error("the component compiles to {now}, but {bound} was bound: register it again")]
    Changed {
        /// What was bound.
        bound: String,
        /// What it is now.
        now: String,
    },
    /// A tenant has too many components.
    #[error("{most} components are loaded for this tenant: revoke one")]
    TooMany {
        /// How many it may have.
        most: usize,
    },
    /// There is no interpreter.
    #[error("{0}")]
    RuntimeMissing(String),
    /// The interpreter is another than was pinned.
    #[error("the interpreter `{name}` has the digest {now}, but {pinned} is pinned in {by}")]
    RuntimeChanged {
        /// Which.
        name: String,
        /// What it is.
        now: String,
        /// What it should be.
        pinned: String,
        /// Where that is said.
        by: &'static str,
    },
}

impl Error {
    /// Stable, lower-case.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "sandbox_io_failed",
            Self::Writable { .. } => "sandbox_folder_writable",
            Self::Engine(_) => "sandbox_engine_failed",
            Self::TooLong { .. } => "code_too_long",
            Self::Invalid(_) => "component_invalid",
            Self::World { .. } => "component_world_mismatch",
            Self::Compiler(_) => "compile_failed",
            Self::Changed { .. } => "compiled_code_changed",
            Self::TooMany { .. } => "too_many_components",
            Self::RuntimeMissing(_) => "runtime_missing",
            Self::RuntimeChanged { .. } => "runtime_changed",
        }
    }

    /// Whether whoever sent the component can set it right.
    pub fn is_invalid(&self) -> bool {
        matches!(self, Self::TooLong { .. } | Self::Invalid(_) | Self::World { .. })
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |error| Self::Io { what, error }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let category = match &error {
            Error::Io { .. } | Error::Engine(_) => Category::Internal,
            error if error.is_invalid() => Category::Validation,
            _ => Category::Sandbox,
        };
        Self::new(category, error.code(), error.to_string())
    }
}

/// Why an execution is refused before anything runs.
pub(crate) fn refused(code: &str, message: impl Into<String>) -> Failure {
    Failure::new(Category::Sandbox, code, message)
}
