//! One session with the mail server: connect, secure, log in, hand over.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use kernel::failure::{Category, Failure};
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, AsyncTokioStream};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use url::Host;
use zeroize::Zeroizing;

use super::message::Made;
use super::{Email, Progress, Security};
use crate::http::wire;
use crate::tools::Fault;

/// Lines of one answer before TLS, and bytes of one.
const LINES_MAX: usize = 64;
const LINE_BYTES_MAX: usize = 2_048;

impl Email {
    /// Hands the mail over, to all of its recipients or to none.
    pub(super) async fn hand_over(
        &self,
        made: &Made,
        login: Option<(&str, Zeroizing<String>)>,
        progress: &Progress,
    ) -> Result<(), Fault> {
        let stream = wire::connect(&self.addresses().await?).await?;
        let mut smtp = self.open(stream).await?;
        let ended = self.talk(&mut smtp, made, login, progress).await;
        match ended {
            // The mail is taken: how the session ends changes nothing more.
            Ok(()) => drop(smtp.quit().await),
            Err(_) => smtp.abort().await,
        }
        ended
    }

    async fn talk(
        &self,
        smtp: &mut AsyncSmtpConnection,
        made: &Made,
        login: Option<(&str, Zeroizing<String>)>,
        progress: &Progress,
    ) -> Result<(), Fault> {
        if let Some((user, password)) = login {
            let credentials = Credentials::new(user.to_owned(), password.as_str().to_owned());
            smtp.auth(DEFAULT_MECHANISMS, &credentials).await.map_err(|e| not_admitted(&e))?;
        }
        let from = Mail::new(made.envelope.from().cloned(), Vec::new());
        smtp.command(from).await.map_err(|e| refused("the sender", &e))?;
        for address in made.envelope.to() {
            let recipient = Rcpt::new(address.clone(), Vec::new());
            smtp.command(recipient).await.map_err(|e| refused("a recipient", &e))?;
        }
        smtp.command(Data).await.map_err(|e| refused("the mail", &e))?;
        progress.sending();
        match smtp.message(&made.bytes).await {
            Ok(_) => Ok(()),
            // It has answered that it did not take the mail.
            Err(error) if error.status().is_some() => Err(refused("the mail", &error).into()),
            Err(_) => {
                let message = "the mail was sent, and the server's answer is not known";
                let failure = Failure::new(Category::Upstream, "smtp_unanswered", message);
                Err(Fault::Unknown(failure.retryable(false)))
            }
        }
    }

    /// A session that is secured as it has to be.
    async fn open(&self, stream: TcpStream) -> Result<AsyncSmtpConnection, Failure> {
        let local = stream.local_addr().map_err(|e| broke(&e))?;
        let peer = stream.peer_addr().map_err(|e| broke(&e))?;
        let hello = match local.ip() {
            IpAddr::V4(ip) => ClientId::Ipv4(ip),
            IpAddr::V6(ip) => ClientId::Ipv6(ip),
        };
        let stream: Box<dyn AsyncTokioStream> = match self.security {
            Security::None => Box::new(stream),
            Security::Tls => Box::new(self.secure(stream, peer, b"").await?),
            Security::Starttls => {
                let stream = start_tls(stream, &hello).await?;
                // The server greets once, before TLS; the session expects to be greeted.
                Box::new(self.secure(stream, peer, b"220 ready\r\n").await?)
            }
        };
        AsyncSmtpConnection::connect_with_transport(stream, &hello)
            .await
            .map_err(|e| refused("the session", &e))
    }

    async fn secure(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        greeting: &'static [u8],
    ) -> Result<Secured, Failure> {
        let failed = |why: &dyn std::fmt::Display| {
            let message = format!("no TLS connection to {}: {why}", self.host);
            Failure::new(Category::Network, "tls_failed", message)
        };
        let name = match &self.host {
            Host::Domain(name) => ServerName::try_from(name.clone()).map_err(|e| failed(&e))?,
            Host::Ipv4(ip) => ServerName::IpAddress(IpAddr::V4(*ip).into()),
            Host::Ipv6(ip) => ServerName::IpAddress(IpAddr::V6(*ip).into()),
        };
        let stream = self.tls.connect(name, stream).await.map_err(|e| failed(&e))?;
        Ok(Secured { stream: Box::new(stream), peer, greeting })
    }
}

/// Asks for TLS. Nothing beyond the answer is read: what somebody put behind it in the clear ends
/// the handshake and is not taken for an answer later.
async fn start_tls(mut stream: TcpStream, hello: &ClientId) -> Result<TcpStream, Failure> {
    answer(&mut stream, "220").await?;
    let asked = |e: std::io::Error| broke(&e);
    stream.write_all(format!("EHLO {hello}\r\n").as_bytes()).await.map_err(asked)?;
    let offered = answer(&mut stream, "250").await?;
    if !offered.iter().any(|line| line.eq_ignore_ascii_case("STARTTLS")) {
        let message = "the mail server offers no STARTTLS, so nothing is sent to it";
        return Err(Failure::new(Category::Network, "tls_failed", message));
    }
    stream.write_all(b"STARTTLS\r\n").await.map_err(asked)?;
    answer(&mut stream, "220").await?;
    Ok(stream)
}

/// The lines of one answer without their code, which has to be `code`.
async fn answer(stream: &mut TcpStream, code: &str) -> Result<Vec<String>, Failure> {
    let mut lines = Vec::new();
    while lines.len() < LINES_MAX {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            if line.len() == LINE_BYTES_MAX {
                return Err(broke(&"its answer is too long"));
            }
            line.push(stream.read_u8().await.map_err(|e| broke(&e))?);
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let (given, rest) = line.split_at_checked(3).ok_or_else(|| broke(&"no SMTP"))?;
        if given != code {
            let later = given.starts_with('4');
            return Err(told("the session", given, later));
        }
        lines.push(rest.get(1..).unwrap_or_default().to_owned());
        if !rest.starts_with('-') {
            return Ok(lines);
        }
    }
    Err(broke(&"its answer is too long"))
}

/// A connection under TLS that is greeted by `greeting` first.
#[derive(Debug)]
struct Secured {
    stream: Box<TlsStream<TcpStream>>,
    peer: SocketAddr,
    greeting: &'static [u8],
}

impl AsyncTokioStream for Secured {
    fn peer_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.greeting.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let (now, later) = self.greeting.split_at(self.greeting.len().min(buf.remaining()));
        buf.put_slice(now);
        self.greeting = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

type SmtpError = lettre::transport::smtp::Error;

/// The server's no to `what`, before it has the mail. Its own words are not said again: they may
/// have addresses in them.
fn refused(what: &str, error: &SmtpError) -> Failure {
    match error.status() {
        Some(code) => told(what, &code.to_string(), error.is_transient()),
        None => broke(&"the connection broke, or its answer is no SMTP"),
    }
}

fn told(what: &str, code: &str, later: bool) -> Failure {
    let message = format!("the mail server answers {code} to {what}");
    match later {
        true => Failure::new(Category::Upstream, "smtp_deferred", message),
        false => Failure::new(Category::Permanent, "smtp_refused", message),
    }
}

fn not_admitted(error: &SmtpError) -> Failure {
    match error.status() {
        Some(code) if error.is_permanent() => {
            let message = format!("the mail server answers {code} to user and password");
            Failure::new(Category::Auth, "smtp_auth_failed", message)
        }
        None if error.is_client() => {
            let message = "the mail server offers no login that Tally knows";
            Failure::new(Category::Auth, "smtp_auth_failed", message)
        }
        _ => refused("user and password", error),
    }
}

fn broke(why: &dyn std::fmt::Display) -> Failure {
    let message = format!("the mail server broke off before it was sent the mail: {why}");
    Failure::new(Category::Upstream, "smtp_failed", message)
}
