//! Protocol headers, the SASL layer and `open`.

use bytes::{Buf as _, Bytes, BytesMut};

use super::{CommandError, Engine, Event, Fault, Side};
use crate::frame::{self, Protocol};
use crate::performative::{Error, Open, Performative, SaslCode, SaslFrame, SaslInit, SaslOutcome, condition};

/// How far a connection is.
#[derive(Debug)]
pub(super) enum Phase {
    /// A server waits for the client's first header.
    ServerHeader,
    /// A server waits for `sasl-init`.
    ServerSaslInit,
    /// A server waits for its caller's decision.
    ServerSaslDecision,
    /// A server waits for the header behind the SASL layer.
    ServerAmqpHeader,
    /// A client waits for the answer to this header, with its login for later.
    ClientHeader(Option<SaslInit>),
    /// A client waits for the mechanisms.
    ClientMechanisms(SaslInit),
    /// A client waits for the outcome.
    ClientSaslOutcome,
    /// The peer's `open` is due.
    Opening,
    /// Both are open.
    Open,
    /// We have closed; the peer's `close` is due.
    Closing,
    /// It is over.
    Closed,
}

impl Phase {
    /// Whether a `close` means something to the peer.
    pub(super) fn may_send_close(&self) -> bool {
        matches!(self, Self::Opening | Self::Open)
    }
}

impl Engine {
    pub(super) fn start_client(&mut self, login: Option<SaslInit>) {
        if login.is_some() {
            self.sasl = true;
            self.put_header(Protocol::Sasl);
        } else {
            self.put_header(Protocol::Amqp);
            self.put_open();
        }
        self.phase = Phase::ClientHeader(login);
    }

    fn put_header(&mut self, protocol: Protocol) {
        self.output.extend_from_slice(&protocol.header());
    }

    fn put_sasl(&mut self, frame: &SaslFrame) {
        frame::put_sasl_frame(frame, &mut self.output);
    }

    fn put_open(&mut self) {
        let config = &self.config;
        let open = Open {
            container_id: config.container_id.clone(),
            hostname: config.hostname.clone(),
            max_frame_size: config.max_frame_size,
            channel_max: config.limits.sessions.saturating_sub(1),
            idle_time_out: config
                .idle_time_out
                .map(|time| u32::try_from(time.as_millis()).unwrap_or(u32::MAX)),
            properties: config.properties.clone(),
            ..Open::default()
        };
        // Not bounded by the peer's greatest frame, which is not known to a client yet.
        frame::put_amqp_frame(0, &Performative::Open(Box::new(open)), &[], &mut self.output);
        self.open_sent = true;
        self.idle.wrote = true;
    }

    pub(super) fn put_open_once(&mut self) {
        if !self.open_sent {
            self.put_open();
        }
    }

    /// Consumes a protocol header; false if it is not there yet.
    pub(super) fn step_header(&mut self) -> bool {
        let Some(&header) = self.input.first_chunk::<{ frame::HEADER_BYTES }>() else {
            return false;
        };
        self.input.advance(frame::HEADER_BYTES);
        match (
            std::mem::replace(&mut self.phase, Phase::Closed),
            Protocol::of(header),
        ) {
            (Phase::ServerHeader, Some(Protocol::Sasl)) => {
                self.sasl = true;
                self.put_header(Protocol::Sasl);
                self.put_sasl(&SaslFrame::Mechanisms(self.config.mechanisms.clone()));
                self.phase = Phase::ServerSaslInit;
            }
            (Phase::ServerHeader | Phase::ServerAmqpHeader, Some(Protocol::Amqp)) => {
                self.put_header(Protocol::Amqp);
                self.phase = Phase::Opening;
            }
            (Phase::ClientHeader(Some(login)), Some(Protocol::Sasl)) => {
                self.phase = Phase::ClientMechanisms(login);
            }
            (Phase::ClientHeader(None), Some(Protocol::Amqp)) => self.phase = Phase::Opening,
            (phase, _) => {
                // The standard's answer to a header that is not supported is one that is.
                if matches!(phase, Phase::ServerHeader | Phase::ServerAmqpHeader) {
                    self.put_header(Protocol::Amqp);
                }
                self.fail(Error::new(
                    condition::FRAMING_ERROR,
                    "an unexpected protocol header",
                ));
            }
        }
        true
    }

    pub(super) fn handle_sasl(&mut self, body: &Bytes) -> Result<(), Fault> {
        let frame = SaslFrame::decode(body)
            .map_err(|error| Fault::Connection(Error::new(condition::DECODE_ERROR, error.to_string())))?;
        match (std::mem::replace(&mut self.phase, Phase::Closed), frame) {
            (Phase::ServerSaslInit, SaslFrame::Init(init)) => {
                self.phase = Phase::ServerSaslDecision;
                self.events.push_back(Event::Sasl {
                    mechanism: init.mechanism,
                    response: init.initial_response.unwrap_or_default(),
                    hostname: init.hostname,
                });
            }
            (Phase::ClientMechanisms(login), SaslFrame::Mechanisms(_)) => {
                self.put_sasl(&SaslFrame::Init(login));
                self.phase = Phase::ClientSaslOutcome;
            }
            (Phase::ClientSaslOutcome, SaslFrame::Outcome(outcome)) => match outcome.code {
                SaslCode::Ok => {
                    self.put_header(Protocol::Amqp);
                    self.put_open();
                    self.phase = Phase::ClientHeader(None);
                }
                code => {
                    let error = Error::new(
                        "amqp:unauthorized-access",
                        format!("the server refused the login: {code:?}"),
                    );
                    self.finish(Side::Peer, Some(error));
                }
            },
            _ => {
                return Err(Fault::Connection(Error::new(
                    condition::ILLEGAL_STATE,
                    "a SASL frame out of turn",
                )));
            }
        }
        Ok(())
    }

    /// Decides on [`Event::Sasl`]. With any code but [`SaslCode::Ok`] the
    /// connection is over.
    ///
    /// # Errors
    /// When nothing is to be decided.
    pub fn sasl_outcome(&mut self, code: SaslCode) -> Result<(), CommandError> {
        if !matches!(self.phase, Phase::ServerSaslDecision) {
            return Err(CommandError::State);
        }
        self.put_sasl(&SaslFrame::Outcome(SaslOutcome {
            code,
            additional_data: None,
        }));
        self.phase = if code == SaslCode::Ok {
            Phase::ServerAmqpHeader
        } else {
            self.input = BytesMut::new();
            Phase::Closed
        };
        Ok(())
    }

    pub(super) fn handle_open(&mut self, open: Box<Open>) -> Result<(), Fault> {
        self.put_open_once();
        if open.max_frame_size < frame::MIN_MAX_FRAME_SIZE {
            return Err(Fault::Connection(Error::new(
                condition::INVALID_FIELD,
                format!("max-frame-size is less than {}", frame::MIN_MAX_FRAME_SIZE),
            )));
        }
        self.peer.max_frame_size = open.max_frame_size;
        self.peer.channel_max = open.channel_max;
        self.idle.set_peer(open.idle_time_out);
        self.phase = Phase::Open;
        self.events.push_back(Event::Open(open));
        Ok(())
    }
}
