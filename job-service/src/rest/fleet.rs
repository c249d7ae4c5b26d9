//! The devices of a hub, reached through its service API.

use std::sync::Arc;

use hub_core::error::ServiceError;
use hub_core::ids::Target;
use hub_core::job::TwinUpdate;
use hub_core::method::{MethodCall, MethodResponse};

use super::ServiceClient;
use super::error::ClientError;
use crate::Fleet;

/// A hub's devices, for a [`JobEngine`](crate::JobEngine) outside the hub.
#[derive(Debug, Clone)]
pub struct RestFleet {
    client: Arc<ServiceClient>,
}

impl RestFleet {
    /// The devices of the client's hub.
    #[must_use]
    pub fn new(client: Arc<ServiceClient>) -> Self {
        Self { client }
    }
}

impl Fleet for RestFleet {
    async fn query(&self, condition: &str) -> Result<Vec<Target>, ServiceError> {
        self.client
            .query_devices(condition)
            .await
            .map_err(ClientError::into_service_error)
    }

    async fn update_twin(&self, target: &Target, update: &TwinUpdate) -> Result<(), ServiceError> {
        let twin = self.client.update_twin(target, update).await;
        twin.map(drop).map_err(ClientError::into_service_error)
    }

    async fn invoke_method(
        &self,
        target: &Target,
        call: &MethodCall,
    ) -> Result<MethodResponse, ServiceError> {
        self.client
            .invoke_method(target, call)
            .await
            .map_err(ClientError::into_service_error)
    }
}
