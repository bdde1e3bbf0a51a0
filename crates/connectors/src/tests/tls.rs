//! HTTPS with an authority of our own.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{Names, failed, grant, result, run};
use crate::{Grants, Tools, ToolsConfig};

/// Serves one fixed answer over TLS for `name`; returns where, and the certificate in PEM.
pub(super) async fn serve(name: &str, answer: &'static str) -> (SocketAddr, String) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (address, made.cert.pem())
}

fn tools(port: u16, extra_ca_pem: Option<String>) -> Tools {
    let names = ["good.test", "other.test"];
    let http = names.iter().map(|name| grant(name, Some(port), true)).collect();
    let grants = Grants { http, ..Grants::default() };
    let resolver = Names::of(&[("good.test", &["127.0.0.1"]), ("other.test", &["127.0.0.1"])]);
    Tools::new(ToolsConfig { grants, extra_ca_pem, resolver, ..ToolsConfig::default() }).unwrap()
}

#[tokio::test]
async fn a_trusted_name_and_no_other() {
    let (at, pem) = serve("good.test", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
    let call = |name: &str| json!({"url": format!("https://{name}:{}/", at.port())});
    let trusting = tools(at.port(), Some(pem));
    assert_eq!(result(run(&trusting, "core.http_call", call("good.test")).await)["body"], "hi");
    // The certificate is not for this name.
    let failure = failed(run(&trusting, "core.http_call", call("other.test")).await);
    assert_eq!(failure.code, "tls_failed");
    // Without the authority nobody vouches for it.
    let failure = failed(run(&tools(at.port(), None), "core.http_call", call("good.test")).await);
    assert_eq!(failure.code, "tls_failed");
}

#[tokio::test]
async fn https_is_never_given_up() {
    let (at, pem) = serve(
        "good.test",
        "HTTP/1.1 302 Found\r\nlocation: http://good.test/\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    let call = json!({"url": format!("https://good.test:{}/", at.port())});
    let failure = failed(run(&tools(at.port(), Some(pem)), "core.http_call", call).await);
    assert_eq!(failure.code, "redirect_refused");
}

#[test]
fn a_broken_authority_is_refused_at_the_start() {
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let config = ToolsConfig { extra_ca_pem: Some(broken.to_owned()), ..ToolsConfig::default() };
    assert!(Tools::new(config).is_err());
}
