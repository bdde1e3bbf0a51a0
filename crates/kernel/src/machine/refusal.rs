//! Why machines refuse inputs.

use crate::account;
use crate::failure::{Category, Failure};
use crate::ids::{AccountId, ActionId};
use crate::units::Unit;

/// Why a machine refuses an input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such thing.
    #[error("there is no such thing")]
    Absent,
    /// There is one already.
    #[error("it exists already")]
    Exists,
    /// Its present state does not allow it.
    #[error("its state is `{0}`, which does not allow this")]
    State(&'static str),
    /// The input itself is wrong.
    #[error("{0}")]
    InvalidInput(&'static str),
    /// The action was retried: this outcome is of an earlier attempt.
    #[error("a later attempt has replaced this one")]
    Fenced,
    /// The attempt is still under way.
    #[error("the attempt is still under way")]
    LeaseHeld,
    /// Too early.
    #[error("it is not due yet")]
    NotDue,
    /// A revision changed or time passed since the decision.
    #[error("the decision is no longer fresh: decide again")]
    DecisionStale,
    /// Another release may be in force by now.
    #[error("the release was looked up too long ago: start the run again")]
    ReleaseStale,
    /// The approval that the decision demands is not used in this commit.
    #[error("the approval that the decision demands is missing")]
    ApprovalMissing,
    /// The action waits for another approval.
    #[error("the action waits for another approval")]
    OtherApproval,
    /// The run may not write any more.
    #[error("the run has made as many writing calls as it may")]
    WritesExceeded,
    /// Nothing was held for an action that costs something.
    #[error("the worst case of the cost is not held")]
    HoldMissing,
    /// The requester may not approve.
    #[error("who asked for an action may not approve it")]
    SelfApproval,
    /// Not among those who may approve this.
    #[error("this principal is not among those who may approve this")]
    NotAnApprover,
    /// Nobody speaks twice.
    #[error("this principal has already decided")]
    AlreadyDecided,
    /// A second factor must be proven.
    #[error("approving this takes a second factor")]
    StepUpRequired,
    /// A second factor must be taken into use first.
    #[error("this principal has no confirmed second factor: enroll one")]
    StepUpNotEnrolled,
    /// A code is good once.
    #[error("this code, or a later one, has been used: wait for the next")]
    StepUpReplayed,
    /// Too many wrong codes.
    #[error("too many wrong codes: the second factor is locked for some minutes")]
    StepUpLocked,
    /// The stage is complete, or waits for one before it.
    #[error("the stage in which this principal may speak is not open")]
    StageNotOpen,
    /// The say is somebody else's now.
    #[error("this principal has handed over their say")]
    SayDelegated,
    /// A say cannot be handed over like this.
    #[error("{0}")]
    DelegationRefused(&'static str),
    /// Approving less must be less.
    #[error("narrow: only a shorter time and fewer attempts than the approval would allow")]
    NarrowWidens,
    /// The approver must sign.
    #[error("approving this takes a signature by a registered key of the approver's own")]
    SignatureRequired,
    /// Policy lets no emergency take the place of this approval.
    #[error("policy lets nobody break glass here")]
    GlassForbidden,
    /// An approval is used once.
    #[error("the approval has been used")]
    ApprovalUsed,
    /// An approval ends.
    #[error("the approval has expired")]
    ApprovalExpired,
    /// The digest is not that of the plan.
    #[error("the plan digest is not the one that was requested: read the approval again")]
    OtherPlan,
    /// The budget does not cover it.
    #[error("account `{account}` has {available} {measure} left, {needed} are needed")]
    BudgetExceeded {
        /// Which account.
        account: AccountId,
        /// Of what there is not enough.
        measure: account::Measure,
        /// What it has left.
        available: i64,
        /// What was needed.
        needed: i64,
    },
    /// The account pays for nothing.
    #[error("account `{account}` is frozen after a charge beyond its hold: thaw it")]
    AccountFrozen {
        /// Which account.
        account: AccountId,
    },
    /// The account never pays again.
    #[error("account `{account}` is closed")]
    AccountClosed {
        /// Which account.
        account: AccountId,
    },
    /// Whoever gets money of an account must be bounded as it is.
    #[error("account `{account}` bounds {unit}: allot some of them too")]
    UnitNotAllotted {
        /// Which account.
        account: AccountId,
        /// Which unit it bounds.
        unit: Unit,
    },
    /// Accounts lie so deep under one another and no deeper.
    #[error("accounts lie at most 8 deep under one another, and a run's allots no further")]
    AccountsTooDeep,
    /// Too many actions hold money of one account.
    #[error("the account has too many open holds")]
    TooManyHolds,
    /// A sum would leave the range.
    #[error("the amount is out of range: 1 to 10^15 micro-USD, sums below 2^63")]
    Overflow,
    /// The same request came before.
    #[error("the same request came before and made `{target}`")]
    Duplicate {
        /// What it made.
        target: String,
    },
    /// The same key came before with another body.
    #[error("the idempotency key came before with another body: use a new key")]
    KeyReused,
    /// Somebody else was faster.
    #[error("it has changed since it was read: read it again")]
    Moved,
    /// Nothing was kept that would undo it.
    #[error("it cannot be undone: it had no effect, or its tool keeps nothing to undo it with")]
    NotReversible,
    /// An action is undone once.
    #[error("`{by}` has undone it")]
    AlreadyReversed {
        /// The action that did.
        by: ActionId,
    },
    /// One action at a time undoes another.
    #[error("`{by}` is about to undo it")]
    ReversalPending {
        /// The action that does.
        by: ActionId,
    },
    /// An input for one kind of thing was sent to another.
    #[error("the input does not fit the kind of thing")]
    KindMismatch,
}

impl Refusal {
    /// Its stable code and category.
    pub fn code(&self) -> (&'static str, Category) {
        match self {
            Self::Absent => ("not_found", Category::NotFound),
            Self::Exists => ("already_exists", Category::Conflict),
            Self::State(_) => ("state_conflict", Category::Conflict),
            Self::InvalidInput(_) => ("invalid_argument", Category::Validation),
            Self::Fenced => ("attempt_fenced", Category::Conflict),
            Self::LeaseHeld => ("lease_held", Category::Conflict),
            Self::NotDue => ("not_due", Category::Conflict),
            Self::DecisionStale => ("decision_stale", Category::Conflict),
            Self::ReleaseStale => ("release_stale", Category::Conflict),
            Self::ApprovalMissing => ("approval_missing", Category::Conflict),
            Self::OtherApproval => ("other_approval", Category::Conflict),
            Self::WritesExceeded => ("writes_exceeded", Category::Budget),
            Self::HoldMissing => ("hold_missing", Category::Budget),
            Self::SelfApproval => ("self_approval", Category::Permission),
            Self::NotAnApprover => ("not_an_approver", Category::Permission),
            Self::AlreadyDecided => ("already_decided", Category::Conflict),
            Self::StepUpRequired => ("step_up_required", Category::Permission),
            Self::StepUpNotEnrolled => ("step_up_not_enrolled", Category::Permission),
            Self::StepUpReplayed => ("step_up_replayed", Category::Permission),
            Self::StepUpLocked => ("step_up_locked", Category::Permission),
            Self::StageNotOpen => ("stage_not_open", Category::Conflict),
            Self::SayDelegated => ("say_delegated", Category::Conflict),
            Self::DelegationRefused(_) => ("delegation_refused", Category::Permission),
            Self::NarrowWidens => ("narrow_widens", Category::Validation),
            Self::SignatureRequired => ("signature_required", Category::Permission),
            Self::GlassForbidden => ("break_glass_forbidden", Category::Permission),
            Self::ApprovalUsed => ("approval_used", Category::Conflict),
            Self::ApprovalExpired => ("approval_expired", Category::Conflict),
            Self::OtherPlan => ("plan_digest_mismatch", Category::Conflict),
            Self::BudgetExceeded { .. } => ("budget_exceeded", Category::Budget),
            Self::AccountFrozen { .. } => ("account_frozen", Category::Budget),
            Self::AccountClosed { .. } => ("account_closed", Category::Budget),
            Self::UnitNotAllotted { .. } => ("unit_not_allotted", Category::Budget),
            Self::AccountsTooDeep => ("accounts_too_deep", Category::Validation),
            Self::TooManyHolds => ("too_many_holds", Category::RateLimited),
            Self::Overflow => ("amount_out_of_range", Category::Validation),
            Self::Duplicate { .. } => ("duplicate", Category::Conflict),
            Self::KeyReused => ("idempotency_conflict", Category::Conflict),
            Self::Moved => ("version_conflict", Category::Conflict),
            Self::NotReversible => ("not_reversible", Category::Conflict),
            Self::AlreadyReversed { .. } => ("already_reversed", Category::Conflict),
            Self::ReversalPending { .. } => ("reversal_pending", Category::Conflict),
            Self::KindMismatch => ("kind_mismatch", Category::Internal),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let (code, category) = refusal.code();
        let again = refusal == Refusal::ReleaseStale;
        Self::new(category, code, refusal.to_string()).retryable(again)
    }
}
