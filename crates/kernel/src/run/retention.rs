//! What becomes of a run's content when it has ended.
//!
//! What a run was given and what its steps gave is kept sealed beside the log while it goes on. A
//! run that keeps metadata alone leaves none of it behind: that its content was deleted is a change
//! like any other, so that a crash in between is made up for.

use super::{Run, Status};

impl Run {
    /// Whether nothing can follow any more, not even a replay of a dead letter.
    pub fn is_over(&self) -> bool {
        self.status.has_ended() && self.status != Status::FailedRetryable
    }

    /// Whether content is still to be deleted.
    pub fn leaves_content(&self) -> bool {
        self.is_over() && self.request.metadata_only && !self.content_dropped
    }
}
