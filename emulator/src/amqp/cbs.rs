//! `$cbs`: tokens while the connection is open (claims-based security, working
//! draft 5, as the service has it).
//!
//! A client sends `put-token` on one link and reads the answer on another. What
//! a token is for is what it says of itself; the request's `name` means nothing.

use amqp_wire::Value;
use amqp_wire::engine::{Engine, Event};
use amqp_wire::message::{Body, Message};

use super::caller::PutError;
use super::nodes::Ctx;
use super::reply::{self, Reply};

/// The one type of token. Clients of Azure AD send `jwt` or `bearer`.
const SAS_TOKEN: &str = "servicebus.windows.net:sastoken";

/// An answer: HTTP's number, and a text for people.
type Answer = (i32, &'static str);

/// Takes a request and answers it.
pub(super) fn on_event(event: Event, engine: &mut Engine, ctx: &mut Ctx<'_>) {
    reply::on_event(event, engine, ctx, |request, ctx| {
        let (status, description) = answer(request, ctx);
        Reply::new(status, description)
    });
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
