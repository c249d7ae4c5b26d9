//! `/$iothub/websocket` and `/$servicebus/websocket`: MQTT or AMQP inside a
//! WebSocket, as the sub-protocol says. Credentials come in the protocol or as
//! a client certificate, as on a plain connection; the upgrade itself needs
//! none, and its query string (`?iothub-no-client-cert=true`) means nothing here.

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hub_core::limits;

use super::App;
use crate::tls::ClientCertificate;
use crate::websocket::WebSocketStream;
use crate::{amqp, mqtt};

/// Bytes of a WebSocket frame or message: the largest MQTT packet and some
/// small ones, since a frame may hold several; also several of AMQP's frames.
const FRAME_BYTES: usize = limits::MQTT_PACKET_BYTES as usize + 64 * 1024;

/// The sub-protocol that MQTT clients offer.
const MQTT: &str = "mqtt";

/// The sub-protocol that AMQP clients offer.
const AMQP: &str = "AMQPWSB10";

/// The path of devices' connections, and of Node's service client.
pub(super) async fn upgrade(
    State(app): State<App>,
    certificate: Option<Extension<ClientCertificate>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    serve(app, certificate, upgrade, &[MQTT, AMQP])
}

/// The path that clients of Service Bus use, with a slash behind it or not.
pub(super) async fn upgrade_amqp(
    State(app): State<App>,
    certificate: Option<Extension<ClientCertificate>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    serve(app, certificate, upgrade, &[AMQP])
}

fn serve(
    app: App,
    certificate: Option<Extension<ClientCertificate>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    protocols: &'static [&'static str],
) -> Response {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade.protocols(protocols.iter().copied()),
        Err(rejection) => return rejection.into_response(),
    };
    let is_mqtt = match upgrade.selected_protocol() {
        Some(protocol) => protocol.as_bytes() == MQTT.as_bytes(),
        None => {
            let known = protocols.join(" and ");
            let text = format!("the only sub-protocols at this path: {known}\n");
            return (StatusCode::BAD_REQUEST, text).into_response();
        }
    };
    let certificate = certificate.map(|Extension(certificate)| certificate);
    upgrade
        .max_message_size(FRAME_BYTES)
        .max_frame_size(FRAME_BYTES)
        .on_upgrade(move |socket| async move {
            let (hub, tasks, stop) = (app.hub.clone(), app.tasks.clone(), app.stop.clone());
            drop(app);
            let stream = WebSocketStream::new(socket);
            if is_mqtt {
                let serve = Box::pin(mqtt::serve(stream, hub, certificate));
                tasks.track_future(stop.run_until_cancelled_owned(serve)).await;
            } else {
                let serve = Box::pin(amqp::serve(stream, hub, certificate));
                tasks.track_future(stop.run_until_cancelled_owned(serve)).await;
            }
        })
}
