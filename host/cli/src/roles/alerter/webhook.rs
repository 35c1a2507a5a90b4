//! One webhook: how an alert is posted to it, and how often.
//!
//! Responsible for what of an answer means delivered, later or never. Knows
//! nothing of the primary. Its words name no path of the webhook's address,
//! which is often the secret.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ureq::Agent;
use ureq::http::Uri;
use ureq::tls::{RootCerts, TlsConfig};

/// How often one alert is posted. With the pauses between, a receiver may be
/// gone for two minutes, which is a slow restart; the log has the alert anyway.
const ATTEMPTS: u32 = 8;

/// Wall time of one attempt, from looking the name up to the answer's head.
/// What takes alerts queues them and answers at once; ten seconds is broken.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause after the first attempt: longer than a hiccup.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause: an alert that is minutes late is still one.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

const USER_AGENT: &str = concat!("skep/", env!("CARGO_PKG_VERSION"));

/// Where alerts go.
pub(super) struct Webhook {
    agent: Agent,
    uri: Uri,
}

/// What came of one attempt.
enum Verdict {
    /// It was taken.
    Delivered,
    /// It was not, and may be the next time.
    Later(String),
    /// It was not, and will not be.
    Never(String),
}

impl Webhook {
    /// The webhook at an `http` or `https` URL. Certificates are checked as the
    /// system's other programs do. Nothing is sent yet.
    pub(super) fn new(url: &str) -> anyhow::Result<Self> {
        Self::with_timeout(url, ATTEMPT_TIMEOUT)
    }

    fn with_timeout(url: &str, timeout: Duration) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().context("the webhook is no URL")?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
            bail!("the webhook is no http or https URL");
        }
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .timeout_global(Some(timeout))
            .user_agent(USER_AGENT)
            // What an answer means is said here, not there; and a POST that is
            // sent on as a GET is not delivered.
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .build()
            .new_agent();
        Ok(Self { agent, uri })
    }

    /// The TCP port that it is called at.
    pub(super) fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or_else(|| {
            if self.uri.scheme_str() == Some("https") {
                443
            } else {
                80
            }
        })
    }

    /// Posts an event, a JSON text, until it is taken; returns how often it was
    /// posted. `chance` gives numbers from 0 to 1, `pause` waits.
    ///
    /// # Errors
    ///
    /// Why it was not taken, in words for the log.
    pub(super) fn deliver(
        &self,
        event: &str,
        chance: impl Fn() -> f64,
        pause: impl Fn(Duration),
    ) -> Result<u32, String> {
        let mut attempt = 1;
        loop {
            match self.post(event) {
                Verdict::Delivered => return Ok(attempt),
                Verdict::Never(reason) => return Err(reason),
                Verdict::Later(reason) if attempt == ATTEMPTS => {
                    return Err(format!("{reason}, the last of {ATTEMPTS} times"));
                }
                Verdict::Later(_) => pause(pause_after(attempt, chance())),
            }
            attempt += 1;
        }
    }

    fn post(&self, event: &str) -> Verdict {
        let answer = self
            .agent
            .post(&self.uri)
            .content_type("application/json")
            .send(event);
        match answer {
            Ok(answer) => verdict(answer.status().as_u16()),
            Err(error) => Verdict::Later(error.to_string()),
        }
    }
}

fn verdict(status: u16) -> Verdict {
    match status {
        200..=299 => Verdict::Delivered,
        408 | 429 | 500.. => Verdict::Later(format!("the webhook answers {status}")),
        300..=399 => Verdict::Never(format!(
            "the webhook answers {status}; set `alert.webhook` to where that leads"
        )),
        _ => Verdict::Never(format!("the webhook answers {status}")),
    }
}

/// Twice as long after each attempt, less up to a half, so that many who were
/// refused together do not come back together.
fn pause_after(attempt: u32, chance: f64) -> Duration {
    let doubled = 2_u32.saturating_pow(attempt.saturating_sub(1));
    let whole = FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE);
    whole.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
pub(super) mod tests;
