//! The routes of the hub, for tests that go through all of them.

use Right::{
    Anyone, ConfigurationWrite, Device, Module, ModuleRead, ModuleWrite, RegistryRead, RegistryWrite, Service,
};

/// What a route asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Right {
    /// Nothing.
    Anyone,
    Service,
    RegistryRead,
    RegistryWrite,
    /// `RegistryWrite` or `Service`.
    ConfigurationWrite,
    /// As `RegistryRead`, and the device itself may.
    ModuleRead,
    /// As `RegistryWrite`, and the device itself may.
    ModuleWrite,
    /// To act as the device in the path.
    Device,
    /// To act as the module in the path.
    Module,
}

/// Every route of the hub: method, path, and what it asks of its caller.
/// `rest_auth` compares it with the source of the router.
pub const ROUTES: &[(&str, &str, Right)] = &[
    ("GET", "/devices", RegistryRead),
    ("POST", "/devices", RegistryWrite),
    ("POST", "/devices/query", Service),
    ("POST", "/devices/keys/regenerate", RegistryWrite),
    ("GET", "/devices/{device}", RegistryRead),
    ("PUT", "/devices/{device}", RegistryWrite),
    ("DELETE", "/devices/{device}", RegistryWrite),
    ("GET", "/devices/{device}/modules", ModuleRead),
    ("GET", "/devices/{device}/modules/{module}", ModuleRead),
    ("PUT", "/devices/{device}/modules/{module}", ModuleWrite),
    ("DELETE", "/devices/{device}/modules/{module}", ModuleWrite),
    ("POST", "/devices/{device}/messages/events", Device),
    (
        "POST",
        "/devices/{device}/modules/{module}/messages/events",
        Module,
    ),
    ("GET", "/devices/{device}/messages/devicebound", Device),
    ("POST", "/devices/{device}/messages/devicebound", Service),
    ("DELETE", "/devices/{device}/messages/devicebound/{token}", Device),
    (
        "POST",
        "/devices/{device}/messages/devicebound/{token}/abandon",
        Device,
    ),
    ("DELETE", "/devices/{device}/commands", Service),
    (
        "POST",
        "/devices/{device}/modules/{module}/messages/devicebound",
        Service,
    ),
    ("DELETE", "/devices/{device}/modules/{module}/commands", Service),
    ("GET", "/messages/servicebound/feedback", Service),
    ("DELETE", "/messages/servicebound/feedback/{token}", Service),
    ("POST", "/messages/servicebound/feedback/{token}/abandon", Service),
    ("GET", "/statistics/devices", RegistryRead),
    ("GET", "/statistics/service", RegistryRead),
    ("GET", "/twins/{device}", Service),
    ("PATCH", "/twins/{device}", Service),
    ("PUT", "/twins/{device}", Service),
    ("POST", "/twins/{device}/methods", Service),
    ("GET", "/twins/{device}/modules/{module}", Service),
    ("PATCH", "/twins/{device}/modules/{module}", Service),
    ("PUT", "/twins/{device}/modules/{module}", Service),
    ("POST", "/twins/{device}/modules/{module}/methods", Service),
    ("POST", "/devices/{device}/files", Device),
    ("POST", "/devices/{device}/files/notifications", Device),
    ("POST", "/devices/{device}/files/notifications/{upload}", Device),
    ("GET", "/jobs", RegistryRead),
    ("POST", "/jobs/create", RegistryWrite),
    ("GET", "/jobs/{job}", RegistryRead),
    ("DELETE", "/jobs/{job}", RegistryWrite),
    ("GET", "/jobs/v2/query", Service),
    ("PUT", "/jobs/v2/{job}", Service),
    ("GET", "/jobs/v2/{job}", Service),
    ("POST", "/jobs/v2/{job}/cancel", Service),
    ("GET", "/configurations", RegistryRead),
    ("POST", "/configurations/testqueries", RegistryRead),
    ("GET", "/configurations/{configuration}", RegistryRead),
    ("PUT", "/configurations/{configuration}", ConfigurationWrite),
    ("DELETE", "/configurations/{configuration}", ConfigurationWrite),
    (
        "POST",
        "/devices/{device}/applyconfigurationcontent",
        ConfigurationWrite,
    ),
    ("GET", "/digitaltwins/{device}", Service),
    ("PATCH", "/digitaltwins/{device}", Service),
    ("POST", "/digitaltwins/{device}/commands/{command}", Service),
    (
        "POST",
        "/digitaltwins/{device}/components/{component}/commands/{command}",
        Service,
    ),
    ("GET", "/_emulator/health", Anyone),
    ("GET", "/_emulator/counters", Anyone),
    ("GET", "/_emulator/telemetry", Anyone),
    ("GET", "/_emulator/events", Anyone),
    ("GET", "/_emulator/events/counters", Anyone),
    ("GET", "/_emulator/events/partitions", Anyone),
    ("PUT", "/_emulator/consumer-groups/{group}", Anyone),
    ("DELETE", "/_emulator/consumer-groups/{group}", Anyone),
    ("GET", "/_emulator/routing", Anyone),
    ("PUT", "/_emulator/routing", Anyone),
    ("POST", "/_emulator/routing/test", Anyone),
    ("GET", "/_emulator/routing/endpoints", Anyone),
    ("POST", "/_emulator/c2d", Anyone),
    ("GET", "/_emulator/file-notifications", Anyone),
    ("POST", "/_emulator/query/explain", Anyone),
    ("GET", "/_emulator/tier", Anyone),
    ("PUT", "/_emulator/containers/{container}", Anyone),
    ("GET", "/_emulator/clock", Anyone),
    ("POST", "/_emulator/clock/advance", Anyone),
    ("DELETE", "/_emulator/state", Anyone),
    ("GET", "/_emulator/ca.pem", Anyone),
    ("GET", "/_emulator/device-cas", Anyone),
    ("POST", "/_emulator/device-cas", Anyone),
    ("DELETE", "/_emulator/device-cas/{thumbprint}", Anyone),
    // Credentials come in CONNECT.
    ("GET", "/$iothub/websocket", Anyone),
    ("GET", "/$servicebus/websocket", Anyone),
];

/// The path of a route with a short id in each place.
pub fn path(template: &str) -> String {
    template
        .replace("{device}", "d")
        .replace("{module}", "m")
        .replace("{job}", "j")
        .replace("{token}", "t")
        .replace("{upload}", "u")
        .replace("{configuration}", "c")
        .replace("{group}", "g")
        .replace("{component}", "k")
        .replace("{command}", "x")
}
