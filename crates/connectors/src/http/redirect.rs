//! Redirects, followed by hand so that each hop is checked like the first.

use http::{Response, StatusCode, header};
use kernel::failure::Failure;
use url::Url;

use super::permanent;
use super::request::{Request, Scheme, Target};

/// The request that `response` redirects to; none where the response is the answer.
///
/// A reading request follows 301, 302, 303, 307 and 308. One that changes something follows only
/// 307 and 308, which say that nothing was changed yet, and only within its origin; after another
/// redirect the change may have been made, so that response is the answer.
pub(crate) fn next<B>(
    request: &Request,
    response: &Response<B>,
) -> Result<Option<Request>, Failure> {
    let follows = match response.status() {
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => request.safe(),
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
        _ => false,
    };
    let Some(location) = response.headers().get(header::LOCATION).filter(|_| follows) else {
        return Ok(None);
    };
    let target = location
        .to_str()
        .ok()
        .and_then(|text| request.target.url.join(text).ok())
        .ok_or_else(|| refused("its location is malformed"))?;
    hop(request, target).map(Some)
}

fn hop(request: &Request, url: Url) -> Result<Request, Failure> {
    let target = Target::new(url)
        .map_err(|failure| refused(&format!("its location is refused: {}", failure.message)))?;
    if request.target.scheme == Scheme::Https && target.scheme == Scheme::Http {
        return Err(refused("it leads from https to http"));
    }
    let mut next = Request { target, ..request.clone() };
    if next.target.origin() != request.target.origin() {
        if !request.safe() {
            return Err(refused("it takes a change to another origin: call that one instead"));
        }
        // These are for the host that they were given for.
        next.headers.remove(header::AUTHORIZATION);
        next.headers.remove(header::COOKIE);
    }
    Ok(next)
}

fn refused(reason: &str) -> Failure {
    permanent("redirect_refused", format!("the redirect is not followed: {reason}"))
}
