//! TLS, and whom to trust.
//!
//! The machine's own certificates are used, not a copy in the binary: those of
//! a company are among them, and they are renewed with the machine. Their file
//! is opened when the worker begins and read when a guest first asks for
//! `https`: a worker that never does spends two system calls on it, and one
//! that may open no file any more needs none.

use std::fs::File;
use std::io::{self, BufReader, Read as _};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, OnceLock};

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use skep_core::egress::Host;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::OutboundError;

/// Bytes of certificates that are read. A machine has about 200 KiB.
const MAX_ROOTS: u64 = 16 << 20;

/// Sessions of TLS that one worker can take up again, of all its apps; a
/// kilobyte each.
const SESSIONS: usize = 64;

/// Certificates that those of others are compared with; not read yet.
#[derive(Debug, Default)]
pub struct Roots {
    file: Option<File>,
    extra: Vec<u8>,
}

/// There is no certificate to compare with.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RootsError {
    /// None was found where machines have them.
    #[error("this machine has no file of root certificates; install its package 'ca-certificates'")]
    Missing,
    /// The file cannot be read.
    #[error("the root certificates cannot be read")]
    Unreadable(#[source] Arc<io::Error>),
    /// There is no valid certificate in it.
    #[error("no valid certificate is among the roots")]
    Invalid,
}

impl Roots {
    /// Opens the machine's certificates, where it has some.
    #[must_use]
    pub fn open() -> Self {
        let path = openssl_probe::probe().cert_file;
        Self {
            file: path.and_then(|path| File::open(path).ok()),
            extra: Vec::new(),
        }
    }

    /// Trusts these certificates, as PEM, as well.
    #[must_use]
    pub fn with(mut self, pem: &[u8]) -> Self {
        self.extra.extend(pem);
        self
    }

    fn read(&self) -> Result<RootCertStore, RootsError> {
        let unreadable = |error| RootsError::Unreadable(Arc::new(error));
        let mut pem = self.extra.clone();
        if let Some(file) = &self.file {
            let reader = FromStart { file, at: 0 }.take(MAX_ROOTS);
            BufReader::new(reader)
                .read_to_end(&mut pem)
                .map_err(unreadable)?;
        } else if pem.is_empty() {
            return Err(RootsError::Missing);
        }
        let mut store = RootCertStore::empty();
        // A machine's store may have old or odd ones beside those that count.
        store.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
        if store.is_empty() {
            return Err(RootsError::Invalid);
        }
        Ok(store)
    }
}

/// Reads a file from its start, wherever its position is.
struct FromStart<'a> {
    file: &'a File,
    at: u64,
}

impl io::Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// TLS for all apps of a worker.
pub(super) struct Tls {
    roots: Roots,
    config: OnceLock<Result<Arc<ClientConfig>, RootsError>>,
}

impl Tls {
    pub(super) fn new(roots: Roots) -> Self {
        Self {
            roots,
            config: OnceLock::new(),
        }
    }

    /// Speaks TLS over a connection to `host`, who must prove that name.
    pub(super) async fn connect(
        &self,
        host: &Host,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, OutboundError> {
        let config = self.config().map_err(OutboundError::Roots)?;
        let name = match host {
            Host::Address(address) => ServerName::from(*address),
            Host::Name(name) => {
                ServerName::try_from(name.to_string()).map_err(|_| OutboundError::Uri)?
            }
        };
        TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(OutboundError::from_tls)
    }

    fn config(&self) -> Result<Arc<ClientConfig>, RootsError> {
        self.config
            .get_or_init(|| {
                let roots = self.roots.read()?;
                let provider = Arc::new(rustls::crypto::ring::default_provider());
                let mut config = ClientConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()
                    .expect("ring speaks the default versions")
                    .with_root_certificates(roots)
                    .with_no_client_auth();
                config.alpn_protocols = vec![b"http/1.1".to_vec()];
                config.resumption = Resumption::in_memory_sessions(SESSIONS);
                Ok(Arc::new(config))
            })
            .clone()
    }
}
