//! How the program ends: the exit codes, and which error has which.

use std::process::ExitCode;

use proto::actions::action::State;
use proto::types::error::Category;

/// What `tally help` says about exit codes; docs/guide/cli.md says the same.
pub(crate) const HELP: &str = "\
Exit codes:
   0  done
   1  internal or unexpected error
   2  wrong usage
   3  the server refused the request: malformed, not found, conflict, no permission
   4  the action was denied, failed, was canceled or expired
   5  the action is pending: held for a person, or still running
   6  verification failed
   7  the server cannot be reached
   8  the log was cut off or rewritten since the older checkpoint
   9  too few witnesses cosigned
  64  bad configuration";

/// An exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Done = 0,
    Internal = 1,
    Usage = 2,
    Refused = 3,
    NotExecuted = 4,
    Pending = 5,
    NotVerified = 6,
    Unreachable = 7,
    Inconsistent = 8,
    NotWitnessed = 9,
    Configuration = 64,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What goes wrong on this side, by its exit code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// An argument that cannot be.
    #[error("{0}")]
    Usage(String),
    /// Settings that are missing or wrong.
    #[error("{0}")]
    Configuration(String),
    /// No server where one is looked for.
    #[error("{0}")]
    NoServer(String),
}

impl Exit {
    /// How an action's state ends the command that asked for the action.
    pub(crate) fn of_state(state: State) -> Self {
        match state {
            State::Executed => Self::Done,
            State::Denied | State::Failed | State::Canceled | State::Expired => Self::NotExecuted,
            State::Quarantined
            | State::AwaitingApproval
            | State::Requested
            | State::Approved
            | State::Executing
            | State::Unknown => Self::Pending,
            State::Unspecified => Self::Internal,
        }
    }

    /// `Done` where something verifies.
    pub(crate) fn of_verification(valid: bool) -> Self {
        if valid { Self::Done } else { Self::NotVerified }
    }

    /// The exit code of an error, by its first cause that has one.
    pub(crate) fn of_error(error: &anyhow::Error) -> Self {
        error.chain().find_map(Self::of_cause).unwrap_or(Self::Internal)
    }

    fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Self> {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return Some(match failure {
                Failure::Usage(_) => Self::Usage,
                Failure::Configuration(_) => Self::Configuration,
                Failure::NoServer(_) => Self::Unreachable,
            });
        }
        if let Some(error) = cause.downcast_ref::<client::Error>() {
            return Some(match error {
                client::Error::Transport(_) => Self::Unreachable,
                client::Error::Request(_) => Self::Usage,
                client::Error::Answer { .. } => Self::Internal,
                client::Error::Refused { error, .. } => match error.category() {
                    Category::Internal | Category::Unspecified => Self::Internal,
                    _ => Self::Refused,
                },
            });
        }
        let database = |error: &ledger::Error| {
            matches!(error, ledger::Error::Database(_) | ledger::Error::Schema(_))
        };
        if cause.downcast_ref().is_some_and(database) {
            return Some(Self::Configuration);
        }
        if cause.downcast_ref().is_some_and(server::StartError::is_configuration) {
            return Some(Self::Configuration);
        }
        if cause.downcast_ref().is_some_and(server::witness::Error::is_configuration) {
            return Some(Self::Configuration);
        }
        let is_configuration =
            cause.is::<client::SetupError>() || cause.is::<server::ConfigError>();
        is_configuration.then_some(Self::Configuration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_its_code() {
        let check = |error: anyhow::Error, expected| {
            assert_eq!(Exit::of_error(&error), expected, "{error:#}");
            assert_eq!(Exit::of_error(&error.context("while testing")), expected);
        };
        let refused = |category: Category| {
            let error = Box::new(proto::types::Error::new(category, "code", "message"));
            client::Error::Refused { status: 400, error }
        };
        check(refused(Category::NotFound).into(), Exit::Refused);
        check(refused(Category::Budget).into(), Exit::Refused);
        check(refused(Category::Internal).into(), Exit::Internal);
        check(client::Error::Request("give `id`".to_owned()).into(), Exit::Usage);
        check(client::Client::new("nonsense", "").unwrap_err().into(), Exit::Configuration);
        check(Failure::Usage("x".to_owned()).into(), Exit::Usage);
        check(anyhow::anyhow!("anything else"), Exit::Internal);
    }

    #[test]
    fn the_help_lists_every_code() {
        for code in [
            Exit::Done,
            Exit::Internal,
            Exit::Usage,
            Exit::Refused,
            Exit::NotExecuted,
            Exit::Pending,
            Exit::NotVerified,
            Exit::Unreachable,
            Exit::Inconsistent,
            Exit::NotWitnessed,
            Exit::Configuration,
        ] {
            let line = format!("\n{:>4}  ", code as u8);
            assert!(HELP.contains(&line), "{code:?}");
        }
    }
}
