//! `$cbs`: tokens while the connection is open (claims-based security, working
//! draft 5, as the service has it).
//!
//! A client sends `put-token` on one link and reads the answer on another. What
//! a token is for is what it says of itself; the request's `name` means nothing.

use amqp_wire::Value;
use amqp_wire::engine::{Engine, Event, LinkId, Outgoing};
use amqp_wire::message::{Body, Message, Properties};
use amqp_wire::performative::{DeliveryState, Error, condition};

use super::caller::PutError;
use super::nodes::Ctx;

/// The one type of token. Clients of Azure AD send `jwt` or `bearer`.
const SAS_TOKEN: &str = "servicebus.windows.net:sastoken";

/// An answer: HTTP's number, and a text for people.
type Answer = (i32, &'static str);

/// Takes a request. It is settled before it is answered: one client takes the
/// other order for a failure.
pub(super) fn on_event(event: Event, engine: &mut Engine, ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let Event::Message {
        link,
        delivery,
        settled,
        payload,
        ..
    } = event
    else {
        return Ok(());
    };
    let message = match Message::decode(&payload) {
        Ok(message) => message,
        Err(error) => {
            let error = Some(Error::new(condition::DECODE_ERROR, error.to_string()));
            if !settled {
                let _ = engine.settle(link, delivery, DeliveryState::Rejected { error });
            }
            return Ok(());
        }
    };
    let (status, description) = answer(&message, ctx);
    if !settled {
        let _ = engine.settle(link, delivery, DeliveryState::Accepted);
    }
    reply(link, &message, status, description, engine, ctx);
    Ok(())
}

fn answer(message: &Message, ctx: &mut Ctx<'_>) -> Answer {
    let property = |name| message.application_property(name).and_then(Value::as_str);
    match property("operation") {
        Some("put-token") => {}
        Some(_) => return (400, "the only operation is put-token"),
        None => return (400, "the operation is missing"),
    }
    if property("type") != Some(SAS_TOKEN) {
        return (401, "the only type of token is servicebus.windows.net:sastoken");
    }
    let token = match &message.body {
        Body::Value(value) => value.as_str(),
        _ => None,
    };
    let Some(token) = token else {
        return (400, "the body is not a token");
    };
    match ctx.put_token(token) {
        Ok(()) => (200, "OK"),
        Err(PutError::Denied(denied)) => {
            tracing::debug!(%denied, "token refused");
            (401, "Unauthorized")
        }
        Err(PutError::TooMany) => (403, "the connection has as many tokens as it may"),
    }
}

/// Answers on the link that the client reads answers from; it waits there for
/// the client's credit.
fn reply(
    request: LinkId,
    message: &Message,
    status: i32,
    description: &'static str,
    engine: &mut Engine,
    ctx: &mut Ctx<'_>,
) {
    let properties = message.properties.as_deref();
    let reply_to = properties.and_then(|properties| properties.reply_to.as_deref());
    let Some(link) = ctx.reply_link(request, reply_to) else {
        return;
    };
    let text = |name: &'static str| Value::String(name.into());
    let answer = Message {
        properties: Some(Box::new(Properties {
            // Of the type that the client gave it, or it does not know it again.
            correlation_id: properties.map_or(Value::Null, |properties| properties.message_id.clone()),
            ..Properties::default()
        })),
        application_properties: vec![
            (text("status-code"), Value::Int(status)),
            (text("status-description"), text(description)),
        ],
        ..Message::default()
    };
    if engine.send(link, Outgoing::settled(answer.to_bytes())).is_err() {
        let error = Error::new(
            condition::RESOURCE_LIMIT_EXCEEDED,
            "too many answers wait to be read",
        );
        ctx.close(link, Some(error));
    }
}
