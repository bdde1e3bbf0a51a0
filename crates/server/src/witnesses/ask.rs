//! One question to one witness, over HTTP.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kernel::cosignature::verify_cosignature;
use kernel::note::{Note, NoteSignature};
use kernel::receipt::LogId;
use kernel::witness::AddCheckpoint;
use ledger::keys::NativeVerifier;
use ledger::{Ledger, proofs};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::Party;

/// How long a witness may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Bytes of an answer: signature lines, or a sentence.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a witness's sentence that are passed on to the log.
const SENTENCE_BYTES_MAX: usize = 300;
/// The type of a conflict's body.
const SIZE_TYPE: &[u8] = b"text/x.tlog.size";

/// Why a witness did not cosign.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    /// It saw more of the log than there is here.
    #[error("it has cosigned {theirs} receipts, the log has {ours}: its end was cut off")]
    CutOff {
        /// What it saw.
        theirs: u64,
        /// What there is.
        ours: u64,
    },
    /// It says that this log is not the one that it saw.
    #[error("it answers {status}: {sentence}")]
    Rewritten {
        /// The HTTP status.
        status: u16,
        /// What it says.
        sentence: String,
    },
    /// It does not know the log, or cannot use the request.
    #[error("it answers {status}: {sentence}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it says.
        sentence: String,
    },
    /// Its signature is not there or not right.
    #[error("its answer has no good signature by its key: {0}")]
    Signature(String),
    /// It does not answer.
    #[error("it does not answer: {0}")]
    Unreachable(String),
    /// The log grew, or another server asked, in between: the next round asks again.
    #[error("the log moved on while it was asked")]
    Moved,
    /// The proof could not be made here.
    #[error("the proof cannot be made: {0}")]
    Ledger(String),
}

impl Trouble {
    /// Whether this stands against the log itself.
    pub(super) fn accuses(&self) -> bool {
        matches!(self, Self::CutOff { .. } | Self::Rewritten { .. })
    }

    /// Its name in metrics.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::CutOff { .. } => "cut_off",
            Self::Rewritten { .. } => "rewritten",
            Self::Refused { .. } => "refused",
            Self::Signature(_) => "bad_signature",
            Self::Unreachable(_) => "unreachable",
            Self::Moved => "moved",
            Self::Ledger(_) => "ledger",
        }
    }
}

/// Whether `url` can be a witness's.
pub(super) fn check_url(url: &str) -> Result<(), &'static str> {
    let uri: Uri = url.parse().map_err(|_| "write it like https://witness.example/w1")?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err("begin it with http:// or https://");
    }
    let user = uri.authority().is_none_or(|authority| authority.as_str().contains('@'));
    if user || uri.query().is_some() {
        return Err("name a host, without user, password or query");
    }
    Ok(())
}

/// The client of all witnesses.
#[derive(Clone)]
pub(super) struct Http(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl Http {
    /// TLS trusts the system's authorities and those that the configuration names.
    pub(super) fn new(config: &crate::Config) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        // Certificates that cannot be read leave their authorities untrusted.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = &config.extra_ca {
            let failed =
                |path: &PathBuf, e: &dyn std::fmt::Display| format!("`{}`: {e}", path.display());
            for der in CertificateDer::pem_file_iter(path).map_err(|e| failed(path, &e))? {
                let der = der.map_err(|e| failed(path, &e))?;
                roots.add(der).map_err(|e| failed(path, &e))?;
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(ANSWER_TIME));
        connector.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(connector);
        Ok(Self(Client::builder(TokioExecutor::new()).build(connector)))
    }

    async fn post(&self, url: &str, body: String) -> Result<Answer, Trouble> {
        let unreachable = |error: &dyn std::fmt::Display| Trouble::Unreachable(error.to_string());
        let request = Request::post(format!("{url}/add-checkpoint"))
            .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| unreachable(&error))?;
        let exchange = async {
            let response = self.0.request(request).await.map_err(|error| unreachable(&error))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| unreachable(&error))?.to_bytes();
            let content_type = head.headers.get(header::CONTENT_TYPE);
            let is_size = content_type.is_some_and(|value| value.as_bytes() == SIZE_TYPE);
            Ok(Answer { status: head.status, is_size, body })
        };
        let answered = tokio::time::timeout(ANSWER_TIME, exchange).await;
        answered.unwrap_or_else(|_| Err(Trouble::Unreachable("it takes too long".to_owned())))
    }
}

struct Answer {
    status: StatusCode,
    is_size: bool,
    body: Bytes,
}

impl Answer {
    /// What it says, for the log of this server.
    fn sentence(&self) -> String {
        let bytes = self.body.get(..SENTENCE_BYTES_MAX).unwrap_or(&self.body);
        let text = String::from_utf8_lossy(bytes);
        text.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }

    fn size(&self) -> Option<u64> {
        str::from_utf8(&self.body).ok()?.strip_suffix('\n')?.parse().ok()
    }
}

/// Has the witness cosign the checkpoint `note` of `size` receipts. `from` is what it cosigned
/// last, where that is known; where it is not, the witness says so itself.
pub(super) async fn ask(
    http: &Http,
    party: &Party,
    ledger: &Ledger,
    log: &LogId,
    note: &Note,
    size: u64,
    from: Option<u64>,
) -> Result<NoteSignature, Trouble> {
    let mut old = from.filter(|from| *from <= size).unwrap_or(0);
    for _ in 0..2 {
        let proof = proofs::consistency(ledger, log, old, size)
            .map_err(|error| Trouble::Ledger(error.to_string()))?;
        let request = AddCheckpoint { old, proof, checkpoint: note.clone() };
        let answer = http.post(&party.url, request.to_string()).await?;
        let status = answer.status.as_u16();
        let theirs = answer.size().filter(|_| answer.is_size);
        match (answer.status, theirs) {
            (StatusCode::OK, _) => return signature(party, note, &answer),
            (StatusCode::CONFLICT, Some(theirs)) if theirs > size => {
                return Err(ahead(ledger, log, theirs));
            }
            (StatusCode::CONFLICT, Some(theirs)) => old = theirs,
            (StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY, _) => {
                return Err(Trouble::Rewritten { status, sentence: answer.sentence() });
            }
            _ if answer.status.is_server_error() => {
                return Err(Trouble::Unreachable(format!("{status} {}", answer.sentence())));
            }
            _ => return Err(Trouble::Refused { status, sentence: answer.sentence() }),
        }
    }
    Err(Trouble::Moved)
}

/// The witness has seen a larger tree than the one that it was shown: either the log has grown
/// since, and another server showed it, or what it saw is gone here.
fn ahead(ledger: &Ledger, log: &LogId, theirs: u64) -> Trouble {
    match ledger.store().head(log) {
        Ok(head) => {
            let ours = head.map_or(0, |head| head.frontier.size());
            if theirs > ours { Trouble::CutOff { theirs, ours } } else { Trouble::Moved }
        }
        Err(error) => Trouble::Ledger(error.to_string()),
    }
}

/// The signature of this witness in its answer; others are passed over.
fn signature(party: &Party, note: &Note, answer: &Answer) -> Result<NoteSignature, Trouble> {
    let text = str::from_utf8(&answer.body).map_err(|e| Trouble::Signature(e.to_string()))?;
    // Read as the protocol has it: as the end of the very note that was shown.
    let whole = format!("{}\n{text}", note.text());
    let whole =
        Note::parse(whole.as_bytes()).map_err(|error| Trouble::Signature(error.to_string()))?;
    verify_cosignature(&whole, &party.key, &NativeVerifier)
        .map_err(|error| Trouble::Signature(error.to_string()))?;
    let (name, id) = (party.key.name(), party.key.key_id());
    let own = whole.signatures().iter().rfind(|s| s.name == name && s.key_id == id);
    own.cloned().ok_or_else(|| Trouble::Signature("it is not there".to_owned()))
}
