//! The telemetry that devices send: counted, and put where it is routed to.

use std::sync::Arc;

use bytes::Bytes;
use hub_core::error::ServiceError;
use hub_core::events::{AuthMethod, AuthScope, Event, Origin, Sender, Source};
use hub_core::ids::Target;
use hub_core::property_bag::{Bag, MessageProperties};
use hub_core::registry::Authentication;
use hub_core::time::Timestamp;

use super::HubState;
use super::events::journal::Kind;
use super::twins::LiveTwin;

/// Messages that one look at the kept telemetry gives at most; the emulator's own.
const LISTED: usize = 10_000;

/// One device-to-cloud message.
#[derive(Debug, Clone)]
pub struct TelemetryMessage {
    /// Position in all events since the hub started or was reset, from 1.
    /// Without other sources than telemetry, positions have no gaps.
    pub sequence: u64,
    /// The device or module that sent it.
    pub source: Target,
    /// When the hub accepted it.
    pub enqueued: Timestamp,
    /// System and application properties.
    pub properties: MessageProperties,
    /// The message's body.
    pub body: Bytes,
}

impl From<Event> for TelemetryMessage {
    fn from(event: Event) -> Self {
        Self {
            sequence: event.position,
            source: event.origin.target.clone(),
            enqueued: event.enqueued,
            properties: event.properties,
            body: event.body,
        }
    }
}

impl HubState {
    /// Accepts messages of a device or module that is not connected for them:
    /// over HTTP, each request stands for itself. Its connection state stays
    /// as it is.
    ///
    /// # Errors
    /// `DeviceNotFound`, `ModuleNotFound`, `IotHubQuotaExceeded`; nothing is
    /// kept then.
    pub(crate) fn accept_telemetry(
        &self,
        source: &Target,
        auth: AuthMethod,
        messages: &[(MessageProperties, Bytes)],
    ) -> Result<(), ServiceError> {
        let now = self.clock.now();
        let origin = {
            let cell = self.registry.cell(&source.device)?;
            let mut state = cell.lock();
            let origin = state.origin(source, auth, None)?;
            let sizes = messages
                .iter()
                .map(|(properties, body)| properties.size() + body.len());
            self.take_quota(now, sizes)?;
            state.endpoint(source.module.as_ref())?.connection.last_activity = now;
            self.count(&mut state, Kind::Telemetry, messages.len());
            origin
        };
        for (properties, body) in messages {
            self.keep_telemetry(&origin, now, &Bag::from(properties), body);
        }
        Ok(())
    }

    /// Keeps, shows and counts a message that was accepted, in this order: what
    /// is counted can be read.
    pub(super) fn keep_telemetry(&self, origin: &Arc<Origin>, now: Timestamp, bag: &Bag<'_>, body: &[u8]) {
        let twin = LiveTwin {
            hub: self,
            target: &origin.target,
        };
        self.events
            .append(Source::Telemetry, origin, bag, body, now, &twin);
        self.counters.telemetry_messages.add(1);
        self.counters.telemetry_bytes.add(body.len() as u64);
    }

    /// Whom a message of a device or module would be from now, if it came with its
    /// own credentials and announced the model that it has announced last.
    ///
    /// # Errors
    /// `DeviceNotFound`, `ModuleNotFound`.
    pub(crate) fn expected_origin(&self, target: &Target) -> Result<Origin, ServiceError> {
        let cell = self.registry.cell(&target.device)?;
        let mut state = cell.lock();
        let model_id = state
            .endpoint(target.module.as_ref())?
            .twin
            .model_id()
            .map(Arc::from);
        let own = match target.module.as_ref().and_then(|id| state.modules.get(id)) {
            Some(module) => (
                AuthScope::Module,
                &module.identity.authentication,
                &module.identity.generation_id,
            ),
            None => (
                AuthScope::Device,
                &state.identity.authentication,
                &state.identity.generation_id,
            ),
        };
        let (scope, authentication, generation_id) = own;
        let auth = match authentication {
            Authentication::SelfSigned(_) | Authentication::CertificateAuthority => AuthMethod::X509(scope),
            Authentication::Sas(_) | Authentication::None => AuthMethod::Sas(scope),
        };
        Ok(Origin {
            target: target.clone(),
            sender: Some(Sender {
                generation_id: generation_id.clone(),
                auth,
                model_id,
            }),
        })
    }

    /// The device-to-cloud messages that the built-in endpoint keeps after a
    /// position, oldest first.
    pub(crate) fn telemetry_after(&self, position: u64) -> Vec<TelemetryMessage> {
        self.events
            .built_in()
            .after_position(Source::Telemetry, position, LISTED)
            .into_iter()
            .map(TelemetryMessage::from)
            .collect()
    }
}
