//! Connection strings of services, devices and modules.
