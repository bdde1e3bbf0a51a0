//! Lists: the newest first, a page at a time.

use kernel::machine::{Kind, State};
use kernel::receipt::LogId;
use ledger::Ledger;
use ledger::store::Page;

use crate::limits;

/// The page that a request asks for. A token is the id of the last item seen.
pub(crate) fn page(size: u32, token: &str, status: Option<&str>) -> Page {
    let size = if size == 0 { limits::PAGE_SIZE_DEFAULT } else { size };
    Page {
        before: (!token.is_empty()).then(|| token.to_owned()),
        status: status.map(str::to_owned),
        limit: size.min(limits::PAGE_SIZE_MAX),
    }
}

/// A page of the actions or approvals that the caller may see, and the token of the next. Of what
/// may not be seen only so much is passed over: beyond, the page is short and its token goes on.
pub(crate) fn visible(
    ledger: &Ledger,
    log: &LogId,
    kind: Kind,
    mut page: Page,
    sees: impl Fn(&State) -> bool,
) -> Result<(Vec<State>, String), ledger::Error> {
    let size = usize::try_from(page.limit).unwrap_or(usize::MAX);
    let mut found = Vec::new();
    for _ in 0..limits::PAGES_PASSED_OVER_MAX {
        let states = ledger.list(log, kind, &page)?;
        let mut token = next(&page, states.len(), || last_id(&states));
        found.extend(states.into_iter().filter(&sees));
        if found.len() > size {
            found.truncate(size);
            token = last_id(&found);
        }
        if found.len() == size || token.is_empty() {
            return Ok((found, token));
        }
        page = Page { before: Some(token), limit: limits::PAGE_SIZE_MAX, ..page };
    }
    Ok((found, page.before.unwrap_or_default()))
}

fn last_id(states: &[State]) -> String {
    match states.last() {
        Some(State::Action(action)) => action.id.to_string(),
        Some(State::Approval(approval)) => approval.id.to_string(),
        Some(State::Run(run)) => run.id.to_string(),
        Some(State::Session(session)) => session.id.clone(),
        Some(State::Delivery(delivery)) => delivery.id.clone(),
        _ => String::new(),
    }
}

/// The token of the next page: none where this one was not full.
pub(crate) fn next(page: &Page, got: usize, last: impl FnOnce() -> String) -> String {
    let full = u32::try_from(got).is_ok_and(|got| got >= page.limit);
    if full { last() } else { String::new() }
}

/// A page of what is in memory in the order of its names: what follows the name `token`. Also the
/// token of the next page.
pub(crate) fn by_name<T>(
    items: Vec<T>,
    size: u32,
    token: &str,
    name: impl Fn(&T) -> &str,
) -> (Vec<T>, String) {
    let limit = usize::try_from(page(size, token, None).limit).unwrap_or(usize::MAX);
    let mut rest = items.into_iter().filter(|item| token.is_empty() || name(item) > token);
    let found: Vec<T> = rest.by_ref().take(limit).collect();
    let more = rest.next().is_some();
    let next = found.last().filter(|_| more).map(|item| name(item).to_owned());
    (found, next.unwrap_or_default())
}
