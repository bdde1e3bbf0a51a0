//! `core.http_call`: HTTP/1.1 to granted hosts, at addresses that were checked.

pub(crate) mod answer;
mod redirect;
pub(crate) mod request;
pub(crate) mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kernel::failure::{Category, Failure};
use kernel::json::RawJson;

use crate::address::{self, Refused, Resolver};
use crate::grants::Rule;
use crate::limits;
use crate::tools::{Context, Done, EffectChange, Fault};
use http::response::Parts;
use request::{Request, Target};
use wire::Exchange;

/// Checks what the schema cannot say of the parameters.
pub(crate) fn check(params: &RawJson) -> Result<(), Failure> {
    Request::parse(params).map(|_| ())
}

/// The HTTP client.
pub(crate) struct Http {
    rules: Vec<Rule>,
    resolver: Arc<dyn Resolver>,
    tls: tokio_rustls::TlsConnector,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// How far a call got: whether an unanswered request may have reached its host.
#[derive(Debug, Default)]
pub(crate) struct Progress(AtomicBool);

impl Progress {
    /// From here on the host may have the request.
    pub(crate) fn sending(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// The host answered that it did not act on the request but points elsewhere.
    fn redirected(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Http {
    pub(crate) fn new(
        rules: Vec<Rule>,
        resolver: Arc<dyn Resolver>,
        tls: tokio_rustls::TlsConnector,
    ) -> Self {
        Self { rules, resolver, tls }
    }

    /// One call, its redirects included, within its time.
    pub(crate) async fn call(
        &self,
        params: &RawJson,
        idempotent: bool,
        context: &Context<'_>,
    ) -> Result<Done, Fault> {
        let mut request = Request::parse(params)?;
        request.set_idempotency_key(&context.idempotency_key)?;
        self.send(request, idempotent, context).await
    }

    /// The same with a request that is made already.
    pub(crate) async fn send(
        &self,
        request: Request,
        idempotent: bool,
        context: &Context<'_>,
    ) -> Result<Done, Fault> {
        let progress = Progress::default();
        let within = request.timeout;
        let ended = tokio::time::timeout(within, self.follow(request, context, &progress)).await;
        let fault = match ended {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(fault)) => fault,
            Err(_) => timed_out(within, progress.sent()),
        };
        Err(match fault {
            // Repeating such a call changes nothing more, so there is nothing to reconcile.
            Fault::Unknown(failure) if idempotent => Fault::Failed(failure),
            fault => fault,
        })
    }

    /// One request and its answer, whatever its status; no redirect is followed. The body comes
    /// with whether there was more of it.
    pub(crate) async fn once(
        &self,
        request: &Request,
        progress: &Progress,
    ) -> Result<(Parts, Vec<u8>, bool), Fault> {
        let rule = self.granted(&request.target)?;
        let addresses = self.addresses(&request.target, rule).await?;
        let exchange = wire::exchange(&self.tls, request, &addresses, progress).await?;
        let Exchange { response, connection } = exchange;
        let (head, body) = response.into_parts();
        let (bytes, cut) = answer::collect(body, request.max_bytes).await?;
        drop(connection);
        Ok((head, bytes, cut))
    }

    async fn follow(
        &self,
        mut request: Request,
        context: &Context<'_>,
        progress: &Progress,
    ) -> Result<Done, Fault> {
        let mut redirects = 0;
        self.granted(&request.target)?;
        loop {
            let rule = self.granted(&request.target)?;
            let addresses = self.addresses(&request.target, rule).await?;
            let exchange = wire::exchange(&self.tls, &request, &addresses, progress).await?;
            let Some(next) = redirect::next(&request, &exchange.response)? else {
                return answer::read(&request, exchange, context.now, redirects).await;
            };
            progress.redirected();
            if usize::from(redirects) == limits::REDIRECTS_MAX {
                let message = format!("more than {} redirects", limits::REDIRECTS_MAX);
                return Err(permanent("too_many_redirects", message).into());
            }
            redirects += 1;
            self.granted(&next.target)?;
            if next.target.origin() != request.target.origin() {
                context.redirect.allow(&EffectChange {
                    method: next.method.to_string(),
                    from: request.target.origin(),
                    to: next.target.origin(),
                })?;
            }
            request = next;
        }
    }

    /// The grant for `target`; one that allows private addresses counts first.
    fn granted(&self, target: &Target) -> Result<&Rule, Failure> {
        let covering =
            self.rules.iter().filter(|r| r.covers(&target.host, target.port, target.scheme.port()));
        covering.max_by_key(|rule| rule.private).ok_or_else(|| {
            let (host, port) = (&target.host, target.port);
            let message = format!("no grant covers {host} port {port}: add it to grants.http");
            Failure::new(Category::Permission, "host_not_granted", message)
        })
    }

    /// The addresses of `target`, every one of them allowed by `rule`.
    async fn addresses(&self, target: &Target, rule: &Rule) -> Result<Vec<SocketAddr>, Failure> {
        let Target { host, port, .. } = target;
        let found = address::allowed(self.resolver.as_ref(), host, *port, rule.private).await;
        found.map_err(|refused| match refused {
            Refused::Address => address_refused(target),
            Refused::LookUp(why) => {
                let message = format!("no address found for {host}: {why}");
                Failure::new(Category::Network, "dns_failed", message)
            }
        })
    }
}

/// Names no address: what a private name resolves to is not for an agent to learn.
pub(crate) fn address_refused(target: &Target) -> Failure {
    let (host, port) = (&target.host, target.port);
    let message = format!(
        "{host} has an address that is not public: only a grant for this host and port {port} \
         with private: true allows it (a link-local address must be granted as an address)"
    );
    Failure::new(Category::Permission, "address_not_granted", message)
}

fn permanent(code: &str, message: String) -> Failure {
    Failure::new(Category::Permanent, code, message)
}

fn timed_out(within: std::time::Duration, sent: bool) -> Fault {
    let message = format!("no full answer within {} ms", within.as_millis());
    let failure = Failure::new(Category::Timeout, "timeout", message);
    if sent { Fault::Unknown(failure) } else { Fault::Failed(failure) }
}
