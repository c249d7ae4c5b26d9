//! End-to-end tests over the public API: a hub of its own for each test, real
//! connections, free ports, and no sleeping for a result.

// Helpers of tests may unwrap: a failure there is a failure of the test.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod support;

mod admin;
mod amqp_c2d;
mod amqp_device_c2d;
mod amqp_device_sessions;
mod amqp_devices;
mod amqp_events;
mod amqp_robustness;
mod amqp_tokens;
mod blobs;
mod device_sim_x509;
mod events;
mod file_upload;
mod http_telemetry;
mod import;
mod import_export;
mod live_events;
mod live_limits;
mod live_order;
mod mqtt_c2d;
mod mqtt_c2d_sessions;
mod mqtt_connect;
mod mqtt_lifetime;
mod mqtt_methods;
mod mqtt_robustness;
mod mqtt_sessions;
mod mqtt_traffic;
mod mqtt_twins;
mod mqtt_websocket;
mod query_plans;
mod rest_auth;
mod rest_azure_cli;
mod rest_bad_bodies;
mod rest_bad_input;
mod rest_bulk;
mod rest_c2d;
mod rest_configuration_runs;
mod rest_configurations;
mod rest_digital_twins;
mod rest_errors;
mod rest_feedback;
mod rest_identities;
mod rest_job_ends;
mod rest_job_progress;
mod rest_job_records;
mod rest_job_runs;
mod rest_jobs;
mod rest_keys;
mod rest_method_errors;
mod rest_methods;
mod rest_modules;
mod rest_queries;
mod rest_query_pages;
mod rest_twins;
mod routing_config;
mod routing_directories;
mod routing_routes;
mod routing_streams;
mod routing_webhooks;
mod scenario;
mod tap_mosquitto;
mod tap_reading;
mod tap_robustness;
mod tier;
mod x509;
