//! A webhook: events are posted to an address, as a JSON array.
//!
//! A status of the 200s means that the events were taken. Anything else, a
//! connection that fails and an answer that does not come in time are failures,
//! after which the same events are posted again: every event arrives at least
//! once, unless it is lost in the log before or is itself what the other side
//! does not accept ([`REFUSALS`]).

use std::sync::Arc;
use std::time::Duration;

use hub_core::events::Event;
use hub_core::routing::WebhookSettings;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt as _;
use serde_json::Value;

use super::{Failure, Sink};
use crate::hub::events::json::event_json;

/// The header by which a hub knows its own requests again.
pub(crate) const ORIGIN: &str = "iothub-emulator-origin";

/// Statuses that speak about the events: posted again as they are, they would
/// be refused again. Others of the 400s, such as 401 and 404, speak about the
/// address, which somebody can put right while the events wait.
const REFUSALS: [StatusCode; 4] = [
    StatusCode::BAD_REQUEST,
    StatusCode::CONFLICT,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::UNPROCESSABLE_ENTITY,
];

/// Bytes of an answer that are read; the connection is used again if that was all.
const ANSWER_BYTES: usize = 16 * 1024;
/// Characters of an answer that become part of an error.
const ANSWER_CHARS: usize = 400;

/// The address and how to reach it.
pub(super) struct Webhook {
    settings: WebhookSettings,
    /// What the hub is called in [`ORIGIN`].
    instance: String,
    /// Made with the first request.
    client: Option<Client>,
}

impl Webhook {
    pub(super) fn new(settings: WebhookSettings, instance: String) -> Self {
        Self {
            settings,
            instance,
            client: None,
        }
    }

    fn client(&mut self) -> Result<Client, Failure> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let client = client(&self.settings.url).map_err(|error| Failure::new(chain(&*error)))?;
        Ok(self.client.insert(client).clone())
    }
}

impl Sink for Webhook {
    fn batch(&self) -> (usize, Duration) {
        (self.settings.batch_count, self.settings.batch_wait)
    }

    async fn put(&mut self, events: &[Event]) -> Result<(), Failure> {
        let body: Vec<Value> = events.iter().map(event_json).collect();
        let body = serde_json::to_vec(&body).map_err(|error| Failure::new(error.to_string()))?;
        let request = self
            .client()?
            .post(&*self.settings.url)
            .header(CONTENT_TYPE, "application/json; charset=utf-8")
            .header(ORIGIN, &self.instance)
            .timeout(self.settings.timeout)
            .body(body);
        let response = request.send().await.map_err(|error| match error.is_timeout() {
            true => Failure::new(format!("no answer within {:?}", self.settings.timeout)),
            false => Failure::new(chain(&error.without_url())),
        })?;
        judge(response).await
    }
}

/// What an answer means.
async fn judge(mut response: Response) -> Result<(), Failure> {
    let status = response.status();
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map(Duration::from_secs);
    let mut answer = Vec::new();
    while answer.len() < ANSWER_BYTES
        && let Ok(Some(chunk)) = response.chunk().await
    {
        answer.extend_from_slice(&chunk);
    }
    if status.is_success() {
        return Ok(());
    }
    let text: String = String::from_utf8_lossy(&answer)
        .chars()
        .take(ANSWER_CHARS)
        .collect();
    let reason = match text.trim() {
        "" => format!("the answer was {status}"),
        text => format!("the answer was {status}: {text}"),
    };
    Err(Failure {
        retry_after,
        is_final: REFUSALS.contains(&status),
        ..Failure::new(reason)
    })
}

/// A client that goes where the address says: through no proxy, and after no
/// redirection, which could lead back into the hub.
fn client(url: &str) -> Result<Client, Box<dyn std::error::Error + Send + Sync>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    // Reading the machine's certificates takes time, and fails where there are
    // none: only for those who need them.
    let tls = if url
        .get(..6)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"))
    {
        tls.with_platform_verifier()?.with_no_client_auth()
    } else {
        tls.with_root_certificates(RootCertStore::empty())
            .with_no_client_auth()
    };
    let client = Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .redirect(Policy::none())
        .user_agent(concat!("iothub-emulator/", env!("CARGO_PKG_VERSION")));
    Ok(client.build()?)
}

/// An error with what is behind it: the outermost says little.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
