//! What JavaScript calls. No pointer is ever read here: the caller writes its question into a
//! buffer of ours, and reads the answer out of another.
#![expect(
    unsafe_code,
    reason = "an export needs a fixed name, and the attribute for it counts as unsafe"
)]

use std::cell::RefCell;

use crate::QUESTION_BYTES_MAX;
use crate::answer::answer;

thread_local! {
    static QUESTION: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static ANSWER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Makes room for a question of `length` bytes and says where; null where that is too long. What
/// was asked and answered before is gone then.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn tally_question(length: usize) -> *mut u8 {
    ANSWER.take();
    QUESTION.with_borrow_mut(|question| {
        *question = Vec::new();
        if length > QUESTION_BYTES_MAX || question.try_reserve_exact(length).is_err() {
            return std::ptr::null_mut();
        }
        question.resize(length, 0);
        question.as_mut_ptr()
    })
}

/// Answers the question and returns how many bytes the answer has.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn tally_verify() -> usize {
    let answered = answer(&QUESTION.take());
    ANSWER.with_borrow_mut(|answer| {
        *answer = answered;
        answer.len()
    })
}

/// Where the answer is.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn tally_answer() -> *const u8 {
    ANSWER.with_borrow(|answer| answer.as_ptr())
}
