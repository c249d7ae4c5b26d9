//! A back end that works on the devices of a test, through the REST API.

use emulator::Hub;
use hub_core::error::ErrorCode;
use hub_core::ids::Target;
use hub_core::method::{MethodCall, MethodResponse};
use job_service::rest::{ClientOptions, Method, ServiceClient};
use serde_json::{Value, json};

/// A back end of one hub. Paths are ids, `d` or `d/modules/m`.
pub struct BackEnd(ServiceClient);

impl BackEnd {
    pub fn of(hub: &Hub) -> Self {
        let options = ClientOptions {
            endpoint: Some(format!("http://{}", hub.http_address().unwrap())),
            ca_pem: None,
        };
        Self(ServiceClient::new(&hub.service_connection_string(), &options).unwrap())
    }

    pub async fn twin(&self, path: &str) -> Value {
        self.succeed(Method::GET, &format!("/twins/{path}"), None).await
    }

    /// Merges tags and desired properties.
    pub async fn patch_twin(&self, path: &str, body: Value) -> Value {
        self.succeed(Method::PATCH, &format!("/twins/{path}"), Some(body))
            .await
    }

    /// Merges desired properties and gives their new version.
    pub async fn patch_desired(&self, path: &str, desired: Value) -> u64 {
        let body = json!({ "properties": { "desired": desired } });
        let twin = self.patch_twin(path, body).await;
        twin["properties"]["desired"]["$version"].as_u64().unwrap()
    }

    /// Replaces tags and desired properties.
    pub async fn put_twin(&self, path: &str, body: Value) -> Value {
        self.succeed(Method::PUT, &format!("/twins/{path}"), Some(body))
            .await
    }

    /// Calls the method `name` with `payload`; gives up connecting at once.
    pub async fn call(
        &self,
        target: &Target,
        name: &str,
        payload: Value,
    ) -> Result<MethodResponse, ErrorCode> {
        self.call_with(target, json!({ "methodName": name, "payload": payload }))
            .await
    }

    /// Calls a method as `body` says.
    pub async fn call_with(&self, target: &Target, body: Value) -> Result<MethodResponse, ErrorCode> {
        let call = MethodCall::from_json(&body).unwrap();
        match self.0.invoke_method(target, &call).await {
            Ok(response) => Ok(response),
            Err(error) => Err(error.into_service_error().code),
        }
    }

    /// Enables or disables a device.
    pub async fn set_status(&self, device: &str, status: &str) {
        let mut identity = self
            .succeed(Method::GET, &format!("/devices/{device}"), None)
            .await;
        identity["status"] = status.into();
        self.send(Method::PUT, &format!("/devices/{device}"), Some(identity))
            .await;
    }

    /// Deletes a device or module.
    pub async fn delete(&self, path: &str) {
        self.send(Method::DELETE, &format!("/devices/{path}"), None).await;
    }

    async fn succeed(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let reply = self.0.request(method, path, body.as_ref()).await.unwrap();
        reply.success().unwrap().body
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) {
        let headers = [("If-Match", "*")];
        let reply = self.0.request_with(method, path, &headers, body.as_ref()).await;
        reply.unwrap().success().unwrap();
    }
}
