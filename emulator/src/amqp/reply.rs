//! Requests that come on one link and are answered on another: `$cbs` and
//! `$management`.
//!
//! An answer has the request's message id as correlation id, and says in
//! application properties how it went. It waits on its link for the client's
//! credit, which clients give late.

use std::borrow::Cow;

use amqp_wire::Value;
use amqp_wire::engine::{Engine, Event, Outgoing};
use amqp_wire::message::{Body, Message, Properties};
use amqp_wire::performative::{DeliveryState, Error, condition};
use bytestring::ByteString;

use super::nodes::Ctx;

/// What a request is answered with.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reply {
    /// HTTP's number.
    pub(super) status: i32,
    /// A text for people.
    pub(super) description: Cow<'static, str>,
    /// What clients know an error by, if it is one.
    pub(super) condition: Option<&'static str>,
    pub(super) body: Body,
}

impl Reply {
    /// An answer that is a number and a text.
    pub(super) fn new(status: i32, description: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            description: description.into(),
            condition: None,
            body: Body::Empty,
        }
    }

    /// The answer to `request` as a message.
    pub(super) fn message(self, request: &Message) -> Message {
        let description = match self.description {
            Cow::Borrowed(text) => ByteString::from_static(text),
            Cow::Owned(text) => text.into(),
        };
        let mut application_properties = vec![
            // An int: one client takes nothing else.
            (Value::from("status-code"), Value::Int(self.status)),
            (Value::from("status-description"), Value::String(description)),
        ];
        if let Some(condition) = self.condition {
            let condition = Value::Symbol(ByteString::from_static(condition));
            application_properties.push((Value::from("error-condition"), condition));
        }
        // Of the type that the client gave it, or it does not know it again.
        let message_id = request
            .properties
            .as_ref()
            .map(|properties| &properties.message_id);
        Message {
            properties: Some(Box::new(Properties {
                correlation_id: message_id.cloned().unwrap_or_default(),
                ..Properties::default()
            })),
            application_properties,
            body: self.body,
            ..Message::default()
        }
    }
}

/// Takes a request and sends what `answer` says to it. The request is settled
/// before it is answered: one client takes the other order for a failure.
pub(super) fn on_event(
    event: Event,
    engine: &mut Engine,
    ctx: &mut Ctx<'_>,
    answer: impl FnOnce(&Message, &mut Ctx<'_>) -> Reply,
) {
    let Event::Message {
        link,
        delivery,
        settled,
        payload,
        ..
    } = event
    else {
        return;
    };
    let request = match Message::decode(&payload) {
        Ok(request) => request,
        Err(error) => {
            let error = Some(Error::new(condition::DECODE_ERROR, error.to_string()));
            if !settled {
                let _ = engine.settle(link, delivery, DeliveryState::Rejected { error });
            }
            return;
        }
    };
    let reply = answer(&request, ctx);
    if !settled {
        let _ = engine.settle(link, delivery, DeliveryState::Accepted);
    }
    let properties = request.properties.as_deref();
    let reply_to = properties.and_then(|properties| properties.reply_to.as_deref());
    let Some(replies) = ctx.reply_link(link, reply_to) else {
        return;
    };
    let message = Outgoing::settled(reply.message(&request).to_bytes());
    if engine.send(replies, message).is_err() {
        let error = Error::new(
            condition::RESOURCE_LIMIT_EXCEEDED,
            "too many answers wait to be read",
        );
        ctx.close(replies, Some(error));
    }
}
