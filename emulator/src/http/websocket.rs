//! `/$iothub/websocket`: MQTT inside a WebSocket. Credentials come in CONNECT
//! or as a client certificate, as on a plain connection; the upgrade itself
//! needs none, and its query string (`?iothub-no-client-cert=true`) means
//! nothing here.

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hub_core::limits;

use super::App;
use crate::mqtt::{self, websocket::WebSocketStream};
use crate::tls::ClientCertificate;

/// Bytes of a WebSocket frame or message: the largest packet and some small
/// ones, since a frame may hold several.
const FRAME_BYTES: usize = limits::MQTT_PACKET_BYTES as usize + 64 * 1024;

/// The sub-protocol that MQTT clients offer.
const MQTT: &str = "mqtt";

pub(super) async fn upgrade(
    State(app): State<App>,
    certificate: Option<Extension<ClientCertificate>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade.protocols([MQTT]),
        Err(rejection) => return rejection.into_response(),
    };
    if upgrade.selected_protocol().is_none() {
        return (
            StatusCode::BAD_REQUEST,
            "the only sub-protocol at this path is mqtt\n",
        )
            .into_response();
    }
    let certificate = certificate.map(|Extension(certificate)| certificate);
    let limit = FRAME_BYTES;
    upgrade
        .max_message_size(limit)
        .max_frame_size(limit)
        .on_upgrade(move |socket| async move {
            let App { hub, tasks, stop, .. } = app;
            let serve = Box::pin(mqtt::serve(WebSocketStream::new(socket), hub, certificate));
            tasks.track_future(stop.run_until_cancelled_owned(serve)).await;
        })
}
