//! Where a database is, and how it is reached: read from a URL, never shown with its password.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::limits;
use crate::Error;

const HOW: &str = "write it as postgres://USER@HOST:PORT/NAME, with %-escapes for what is special";

/// A database of PostgreSQL.
#[derive(Clone)]
pub struct Database {
    pub(super) config: Config,
    pub(super) tls: Option<MakeRustlsConnect>,
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.config.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        });
        let user = self.config.get_user().unwrap_or_default();
        let name = self.config.get_dbname().unwrap_or(user);
        write!(f, "postgres://{user}@{}/{name}", hosts.collect::<Vec<_>>().join(","))
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({self})")
    }
}

impl Database {
    /// Reads a URL: `postgres://USER:PASSWORD@HOST:PORT/NAME?sslmode=…&sslrootcert=…&passfile=…`.
    ///
    /// `password` is used where the URL has none; `passfile` names a file with nothing but the
    /// password. With `sslmode=require` or `verify-full` the connection is encrypted and the
    /// server's certificate is checked, its name included, against `sslrootcert` or the system's
    /// authorities. A server on another machine is never spoken to in plain text unless the URL
    /// says `sslmode=disable`.
    pub fn parse(url: &str, password: Option<&str>) -> Result<Self, Error> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut mode, mut roots, mut file) = (None, None, None);
        let mut rest = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = form_urlencoded::parse(pair.as_bytes()).next().unwrap_or_default();
            match key.as_ref() {
                "sslmode" => mode = Some(value.into_owned()),
                "sslrootcert" => roots = Some(value.into_owned()),
                "passfile" => file = Some(value.into_owned()),
                _ => rest.push(pair),
            }
        }
        if !base.starts_with("postgres://") && !base.starts_with("postgresql://") {
            return Err(Error::Database(HOW.to_owned()));
        }
        // What the parser says may repeat a piece of a password that was not escaped.
        let mut config: Config = format!("{base}?{}", rest.join("&"))
            .parse()
            .map_err(|_| Error::Database(HOW.to_owned()))?;
        if let (None, Some(path)) = (config.get_password(), &file) {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Error::Database(format!("passfile `{path}`: {error}")))?;
            config.password(text.trim_end_matches(['\r', '\n']));
        }
        if let (None, Some(password)) = (config.get_password(), password) {
            config.password(password);
        }
        if config.get_hosts().is_empty() {
            return Err(Error::Database(HOW.to_owned()));
        }
        let encrypted = match mode.as_deref() {
            Some("require" | "verify-ca" | "verify-full") => true,
            Some("disable") => false,
            None | Some("prefer") if local(&config) => false,
            None | Some("prefer") => {
                let reason = "write sslmode=verify-full, as the server is on another machine; or \
                    sslmode=disable where the network is to be trusted";
                return Err(Error::Database(reason.to_owned()));
            }
            Some(_) => {
                let reason = "sslmode is one of disable, prefer, require and verify-full";
                return Err(Error::Database(reason.to_owned()));
            }
        };
        config.ssl_mode(if encrypted { SslMode::Require } else { SslMode::Disable });
        config.connect_timeout(limits::CONNECT);
        config.tcp_user_timeout(limits::READ);
        config.keepalives_idle(limits::READ);
        config.application_name("tally");
        let tls = if encrypted { Some(connector(roots.as_deref())?) } else { None };
        Ok(Self { config, tls })
    }
}

/// Whether no packet to any of the hosts leaves this machine.
fn local(config: &Config) -> bool {
    let named = config.get_hosts().iter().all(|host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
        }
    });
    named && config.get_hostaddrs().iter().all(IpAddr::is_loopback)
}

fn connector(roots: Option<&str>) -> Result<MakeRustlsConnect, Error> {
    let mut store = RootCertStore::empty();
    match roots {
        Some(path) => {
            let failed =
                |reason: String| Error::Database(format!("sslrootcert `{path}`: {reason}"));
            let read = CertificateDer::pem_file_iter(path).map_err(|e| failed(e.to_string()))?;
            for certificate in read {
                let certificate = certificate.map_err(|error| failed(error.to_string()))?;
                store.add(certificate).map_err(|error| failed(error.to_string()))?;
            }
        }
        // An authority that cannot be used is passed over: what it signed is not trusted.
        None => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Database(error.to_string()))?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

#[cfg(test)]
mod tests {
    use super::Database;

    #[test]
    fn a_password_is_never_shown() {
        let check = |url: &str| {
            let shown = match Database::parse(url, None) {
                Ok(database) => format!("{database} {database:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!shown.contains("geheim"), "{url}: {shown}");
            shown
        };
        let shown = check("postgres://tally:geheim@127.0.0.1:5432/prod");
        assert!(shown.starts_with("postgres://tally@127.0.0.1/prod"), "{shown}");
        check("postgres://tally:geheim@db.example/prod");
        check("postgres://tally:p?geheim@127.0.0.1/prod");
        check("postgres://tally:p#geheim@127.0.0.1:x/prod");
        check("tally:geheim@127.0.0.1/prod");
    }

    #[test]
    fn what_leaves_the_machine_is_encrypted_unless_told_otherwise() {
        let encrypted = |url: &str| Database::parse(url, None).map(|found| found.tls.is_some());
        for local in ["localhost", "127.0.0.1", "[::1]", "%2Fvar%2Frun%2Fpostgresql"] {
            let url = format!("postgres://u@{local}/d");
            assert!(!encrypted(&url).unwrap(), "{url}");
            assert!(encrypted(&format!("{url}?sslmode=require")).unwrap());
        }
        let far = "postgres://u@db.example/d";
        assert!(encrypted(far).is_err());
        assert!(encrypted(&format!("{far}?sslmode=prefer")).is_err());
        assert!(encrypted(&format!("{far}?sslmode=verify-full")).unwrap());
        assert!(!encrypted(&format!("{far}?sslmode=disable")).unwrap());
        assert!(encrypted(&format!("{far}?sslmode=require&hostaddr=10.0.0.1")).unwrap());
        assert!(encrypted("postgres://u@localhost/d?hostaddr=10.0.0.1").is_err());
        assert!(encrypted(&format!("{far}?sslmode=maybe")).is_err());
    }
}
