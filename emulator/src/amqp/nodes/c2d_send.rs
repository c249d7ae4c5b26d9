//! `/messages/devicebound`: messages from a back end to devices.
//!
//! `to` names the receiver. A message is accepted once it is in the receiver's
//! queue, and rejected with the reason otherwise; the link stays.

use amqp_wire::engine::{Engine, Event};
use amqp_wire::message::{Message, STANDARD_FORMAT};
use amqp_wire::performative::{DeliveryState, Error, condition};
use bytes::Bytes;
use hub_core::c2d::Draft;
use hub_core::error::ServiceError;

use super::Ctx;
use crate::amqp::{address, condition as conditions, properties};

pub(super) fn on_event(event: Event, engine: &mut Engine, ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let Event::Message {
        link,
        delivery,
        settled,
        format,
        payload,
        ..
    } = event
    else {
        return Ok(());
    };
    let outcome = match take(format, &payload, ctx) {
        Ok(()) => DeliveryState::Accepted,
        Err(error) => DeliveryState::Rejected { error: Some(error) },
    };
    if !settled {
        // The link may have been detached in the same read.
        let _ = engine.settle(link, delivery, outcome);
    }
    Ok(())
}

fn take(format: u32, payload: &Bytes, ctx: &Ctx<'_>) -> Result<(), Error> {
    if format != STANDARD_FORMAT {
        return Err(Error::new(
            conditions::NOT_IMPLEMENTED,
            "messages to devices are sent one by one",
        ));
    }
    let message =
        Message::decode(payload).map_err(|error| Error::new(condition::DECODE_ERROR, error.to_string()))?;
    send(&message, ctx).map_err(|error| conditions::of(&error))
}

fn send(message: &Message, ctx: &Ctx<'_>) -> Result<(), ServiceError> {
    let to = message
        .properties
        .as_deref()
        .and_then(|properties| properties.to.as_deref());
    let is_known = |target: &hub_core::ids::Target| ctx.hub.registry.find(&target.device).is_some();
    let target = to.and_then(|to| address::receiver(to, is_known)).ok_or_else(|| {
        ServiceError::invalid("`to` must be /devices/{id}[/modules/{id}]/messages/devicebound")
    })?;
    let body = message
        .body
        .data()
        .ok_or_else(|| ServiceError::invalid("the body must be data sections"))?;
    // Copied: the body is a slice of what was read.
    let draft = Draft::new(properties::from_message(message)?, Bytes::copy_from_slice(&body))?;
    ctx.hub.send_to_device(&target, draft)?;
    Ok(())
}
