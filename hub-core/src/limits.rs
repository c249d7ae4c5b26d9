//! Every bound of the hub by name, with the real service's value and its source.
//!
//! "Quotas" stands for Azure's article on IoT Hub quotas and throttling,
//! "identity", "twins", "methods", "query" and "MQTT" for the developer
//! guide's pages of those names. A bound that the service does not document is
//! marked as the emulator's own.

use std::time::Duration;

/// Characters in a device or module id (identity).
pub const IDENTITY_ID_CHARS: usize = 128;
/// Characters in a job id (jobs guide).
pub const JOB_ID_CHARS: usize = 64;
/// Characters in a status reason (identity).
pub const STATUS_REASON_CHARS: usize = 128;
/// Characters in a module's `managedBy`; the emulator's own.
pub const MANAGED_BY_CHARS: usize = 128;
/// Modules of one device (quotas).
pub const MODULES_PER_DEVICE: usize = 50;
/// Devices and modules of one hub (quotas).
pub const IDENTITIES_PER_HUB: usize = 1_000_000;
/// Entries of one bulk registry request (identity).
pub const BULK_ENTRIES: usize = 100;
/// Greatest `top` of a device listing; anything outside 1..=1000 means 1000 (identity).
pub const LIST_TOP: usize = 1_000;
/// Bytes of a symmetric key before base64, smallest and greatest (identity).
pub const SYMMETRIC_KEY_BYTES: std::ops::RangeInclusive<usize> = 16..=64;

/// Size of a twin's tags in characters, as the twin guide counts them (quotas: 8 KB).
pub const TWIN_TAGS_SIZE: usize = 8 * 1024;
/// Size of a twin's desired or reported properties (quotas: 32 KB each).
pub const TWIN_PROPERTIES_SIZE: usize = 32 * 1024;
/// Bytes of a property key (twins).
pub const TWIN_KEY_BYTES: usize = 1024;
/// Bytes of a string value (quotas: 4 KB per property).
pub const TWIN_STRING_BYTES: usize = 4096;
/// Objects below a section's root (twins).
pub const TWIN_DEPTH: usize = 10;
/// Smallest and greatest integer in a twin (twins: -2^52 to 2^52 - 1).
pub const TWIN_INTEGERS: std::ops::RangeInclusive<i64> = -4_503_599_627_370_496..=4_503_599_627_370_495;

/// Characters of a direct method's name (methods).
pub const METHOD_NAME_CHARS: usize = 100;
/// Bytes of a direct method's request or response payload (quotas: 128 KB each way).
pub const METHOD_PAYLOAD_BYTES: usize = 128 * 1024;
/// Seconds a caller may wait for a method's response (methods).
pub const METHOD_RESPONSE_SECONDS: std::ops::RangeInclusive<u64> = 5..=300;
/// Seconds a caller may wait for a device to connect (methods).
pub const METHOD_CONNECT_SECONDS: std::ops::RangeInclusive<u64> = 0..=300;
/// Response timeout when the caller gives none (methods).
pub const METHOD_RESPONSE_DEFAULT: Duration = Duration::from_secs(30);
/// Calls in flight to one device. The service has such a cap
/// (`DeviceMaximumInflightMethodExceeded`) but does not document the number:
/// this one is the emulator's own.
pub const METHODS_IN_FLIGHT: usize = 10;
/// Callers that may wait for one offline device to connect; the emulator's own.
pub const METHODS_WAITING: usize = 100;

/// Characters of a query (query).
pub const QUERY_CHARS: usize = 8192;
/// Nesting of a query's expression; the emulator's own, so that no text can
/// exhaust the stack.
pub const QUERY_DEPTH: usize = 64;
/// Rows of one page, also the default (query).
pub const PAGE_ROWS: usize = 100;

/// Job run time when the request gives none (the SDKs' default).
pub const JOB_MAX_EXECUTION_DEFAULT: Duration = Duration::from_secs(3600);
/// How long finished jobs are kept (jobs guide: 30 days).
pub const JOB_RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);
/// Jobs that are waiting or running at once; the emulator's own.
pub const JOBS_ACTIVE: usize = 10_000;
/// Operations of one job in flight at once; the emulator's own. Waiting for an
/// offline device counts, so it is large: devices that are online must not
/// queue behind thousands that are not.
pub const JOB_FAN_OUT: usize = 20_000;
/// Per-device records kept over all jobs, oldest finished jobs go first; the
/// emulator's own.
pub const JOB_RECORDS: usize = 2_000_000;

/// Characters in a configuration's id (automatic device management).
pub const CONFIGURATION_ID_CHARS: usize = 128;
/// Configurations of devices and modules of one hub; Edge deployments are
/// counted apart and may be as many (quotas).
pub const CONFIGURATIONS_PER_HUB: usize = 100;
/// Custom metrics of a configuration (quotas).
pub const CONFIGURATION_METRICS: usize = 5;
/// Characters of a custom metric's name; the emulator's own.
pub const CONFIGURATION_METRIC_NAME_CHARS: usize = 128;
/// Characters of a configuration's labels, names and values; the emulator's own.
pub const CONFIGURATION_LABELS_CHARS: usize = 8 * 1024;
/// Operations of one patch of a digital twin; the emulator's own.
pub const DIGITAL_TWIN_OPERATIONS: usize = 100;
/// Characters of a component's or property's name in a digital twin (DTDL 2).
pub const DIGITAL_TWIN_NAME_CHARS: usize = 64;

/// Bytes of an MQTT packet: body and properties (MQTT, quotas: 256 KB), plus
/// room for the topic that the guide does not count.
pub const MQTT_PACKET_BYTES: u32 = 256 * 1024 + 8 * 1024;
/// Bytes of a device-to-cloud message (quotas: 256 KB).
pub const D2C_MESSAGE_BYTES: usize = 256 * 1024;
/// Bytes of a CONNECT packet; the emulator's own, so that peers who have not
/// proved who they are cannot make the hub reserve much.
pub const MQTT_CONNECT_BYTES: u32 = 16 * 1024;
/// How long a peer may take from opening a connection to CONNECT; the
/// service's guides name 30 s for MQTT 5.
pub const MQTT_CONNECT_DEADLINE: Duration = Duration::from_secs(30);
/// Longest delay of a CONNACK that can be asked for; the emulator's own, well
/// within the time that SDKs wait for it.
pub const MQTT_CONNACK_DELAY: Duration = Duration::from_secs(20);
/// Greatest keep-alive that the hub grants, also used when a client asks for
/// none (MQTT: 1.5 times the client's value, at most 1767 s).
pub const MQTT_KEEP_ALIVE_MAX: Duration = Duration::from_secs(1767);
/// Filters of one session. The service names five but does not enforce it
/// visibly; the emulator takes the number of its MQTT 5 preview.
pub const MQTT_SUBSCRIPTIONS: usize = 50;

/// How long a peer may take from opening a connection to having opened it in
/// AMQP; the emulator's own, that of MQTT.
pub const AMQP_OPEN_DEADLINE: Duration = MQTT_CONNECT_DEADLINE;
/// Tokens that one AMQP connection holds at once, for as many devices that share
/// it. The service has such a cap but does not document the number: this one is
/// the emulator's own.
pub const AMQP_TOKENS: usize = 1_000;
/// Bytes of a message that brings a token; the emulator's own, because whoever
/// sends it is not known yet.
pub const AMQP_TOKEN_MESSAGE_BYTES: u64 = 32 * 1024;
/// Bytes that an AMQP connection has yet to write above which it takes no more
/// work; the emulator's own.
pub const AMQP_UNWRITTEN_BYTES: usize = 256 * 1024;
/// Messages that a peer may send on a link before the hub has dealt with them;
/// the emulator's own, more than any client sends at once.
pub const AMQP_CREDIT: u32 = 250;

/// Messages of one device or module that wait or are held (quotas: 50).
pub const C2D_QUEUE_DEPTH: usize = 50;
/// Bytes of a cloud-to-device message (quotas: 64 KB).
pub const C2D_MESSAGE_BYTES: usize = 64 * 1024;
/// Bytes of a cloud-to-device message's properties as a property bag; the
/// emulator's own, so that the topic stays below MQTT's 65,535 bytes.
pub const C2D_BAG_BYTES: usize = 64_000;
/// Characters of a message id (message format guide).
pub const MESSAGE_ID_CHARS: usize = 128;
/// How long a receiver may hold a message before it is delivered again
/// (cloud-to-device guide: one minute, not configurable).
pub const C2D_LOCK: Duration = Duration::from_secs(60);
/// How long messages and feedback wait when nothing else is said
/// (cloud-to-device guide: one hour).
pub const C2D_TTL_DEFAULT: Duration = Duration::from_secs(3600);
/// Farthest expiry of a message (cloud-to-device guide: two days).
pub const C2D_TTL_MAX: Duration = Duration::from_secs(2 * 24 * 3600);
/// Deliveries of a message or feedback batch when nothing else is said
/// (cloud-to-device guide: 10).
pub const C2D_DELIVERIES_DEFAULT: u32 = 10;
/// Messages that a connection may hold at once; the number that the Edge hub
/// uses.
pub const C2D_IN_FLIGHT: usize = 16;
/// Bytes that a connection may hold at once, beyond its first message; the
/// emulator's own, well below what may wait in a device's outbox.
pub const C2D_IN_FLIGHT_BYTES: usize = 256 * 1024;
/// Records of one feedback batch (cloud-to-device guide: 64).
pub const FEEDBACK_BATCH_RECORDS: usize = 64;
/// Feedback batches that wait for a reader; the emulator's own.
pub const FEEDBACK_BATCHES: usize = 256;
/// Authorities that may sign certificates of devices (quotas: 25).
pub const DEVICE_AUTHORITIES: usize = 25;
/// Certificates of a chain that a device presents; the emulator's own.
pub const CERTIFICATE_CHAIN: usize = 8;
/// Bytes of such a chain; the emulator's own. A chain becomes part of the
/// session tickets of TLS, whose length is limited.
pub const CERTIFICATE_CHAIN_BYTES: usize = 16 * 1024;
/// Characters of a blob's name (storage naming guide).
pub const BLOB_NAME_CHARS: usize = 1024;
/// Bytes of a blob in the hub's own storage; the emulator's own.
pub const BLOB_BYTES: u64 = 256 * 1024 * 1024;
/// Blocks of a blob (storage guide).
pub const BLOB_BLOCKS: usize = 50_000;
/// Blobs that have blocks but were not committed; the emulator's own. The
/// blocks of the one that waits longest go first.
pub const BLOBS_UNCOMMITTED: usize = 64;
/// Characters of a block's id in base64: 64 bytes (storage guide).
pub const BLOCK_ID_CHARS: usize = 88;
/// Containers of the hub's own storage; the emulator's own.
pub const BLOB_CONTAINERS: usize = 1000;
/// Blobs of one page of a listing (storage guide).
pub const BLOB_LIST_PAGE: usize = 5000;
/// File uploads in flight from one device (file upload guide).
pub const UPLOADS_IN_FLIGHT: usize = 10;
/// How long a device may take for an upload: the default of the hub's setting
/// (file upload guide).
pub const UPLOAD_TTL: Duration = Duration::from_secs(3600);
/// File notifications kept, oldest go first; the emulator's own.
pub const FILE_NOTIFICATIONS: usize = 10_000;
/// Import and export jobs kept, oldest go first; the emulator's own.
pub const REGISTRY_JOBS: usize = 100;
/// Bytes of one line of an import file; the emulator's own, above the largest
/// identity with a full twin.
pub const IMPORT_LINE_BYTES: usize = 1024 * 1024;

/// Partitions of the event stream (quotas: 2 to 32, fixed when a hub is made);
/// one is the emulator's own, for those who want one order over all devices.
pub const EVENT_PARTITIONS: std::ops::RangeInclusive<usize> = 1..=32;
/// Partitions when nothing else is said (quotas: 4).
pub const EVENT_PARTITIONS_DEFAULT: usize = 4;
/// How long events are kept when nothing else is said (guide on the built-in
/// endpoint: one day).
pub const EVENT_RETENTION: Duration = Duration::from_secs(24 * 3600);
/// Longest time that events may be kept (guide on the built-in endpoint: seven days).
pub const EVENT_RETENTION_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Bytes of memory for the events of one partition when nothing else is said;
/// the emulator's own.
pub const EVENT_PARTITION_BYTES: usize = 64 * 1024 * 1024;
/// Events that one read of a partition gives at most; the emulator's own, so
/// that a reader holds up writers for microseconds only.
pub const EVENTS_PER_READ: usize = 1024;
/// Consumer groups beside `$Default` (quotas: 20).
pub const CONSUMER_GROUPS: usize = 20;
/// Characters of a consumer group's name (Event Hubs quotas: 50).
pub const CONSUMER_GROUP_CHARS: usize = 50;
/// Readers without an epoch of one partition in one consumer group (Event Hubs
/// quotas: 5).
pub const READERS_PER_PARTITION: usize = 5;

/// Entries that the journal of what happens in the hub keeps while somebody
/// watches; the emulator's own.
pub const JOURNAL_ENTRIES: usize = 32 * 1024;
/// Bytes of memory for them; the emulator's own.
pub const JOURNAL_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of a body that the journal keeps; the emulator's own. Most messages
/// are smaller, and the journal is to be looked at, not to be processed.
pub const JOURNAL_BODY_BYTES: usize = 64 * 1024;
/// Watchers of the journal at once; the emulator's own.
pub const JOURNAL_WATCHERS: usize = 64;
/// How long the journal goes on after its last watcher has left, so that one
/// that comes back misses nothing; the emulator's own.
pub const JOURNAL_LINGER: Duration = Duration::from_secs(5 * 60);

/// Endpoints of message routing beside the built-in one (quotas: 10).
pub const ROUTING_ENDPOINTS: usize = 10;
/// Routes of message routing (quotas: 100).
pub const ROUTES: usize = 100;
/// Message enrichments (quotas: 10).
pub const ENRICHMENTS: usize = 10;
/// Characters of a route's or an endpoint's name (REST reference of the hub's
/// resource: 64).
pub const ROUTING_NAME_CHARS: usize = 64;
/// Characters of a route's condition; the emulator's own, that of a query.
pub const ROUTE_CONDITION_CHARS: usize = QUERY_CHARS;
/// Bytes of a file of a directory endpoint; the emulator's own. The service's files have 10 MB to 500 MB.
pub const ROUTING_FILE_BYTES: std::ops::RangeInclusive<u64> = 1024..=1024 * 1024 * 1024;
/// Bytes of a file of a directory endpoint when nothing else is said; the
/// emulator's own.
pub const ROUTING_FILE_BYTES_DEFAULT: u64 = 10 * 1024 * 1024;
/// Files that a directory endpoint keeps; the emulator's own.
pub const ROUTING_FILES: std::ops::RangeInclusive<usize> = 1..=100_000;
/// Files that a directory endpoint keeps when nothing else is said; the
/// emulator's own.
pub const ROUTING_FILES_DEFAULT: usize = 100;
/// Messages of one request to a webhook; the emulator's own.
pub const WEBHOOK_BATCH: std::ops::RangeInclusive<usize> = 1..=1000;
/// Messages of one request to a webhook when nothing else is said; the
/// emulator's own.
pub const WEBHOOK_BATCH_DEFAULT: usize = 100;
/// Longest time that a message may wait for others to go with it to a webhook;
/// the emulator's own.
pub const WEBHOOK_WAIT_MAX: Duration = Duration::from_secs(60);
/// How long a webhook may take to answer; the emulator's own.
pub const WEBHOOK_TIMEOUT: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(300);
/// How long a webhook may take to answer when nothing else is said; the
/// emulator's own.
pub const WEBHOOK_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Bytes of memory for events that wait for a directory or a webhook; the
/// emulator's own. The oldest go first.
pub const SINK_LOG_BYTES: usize = 16 * 1024 * 1024;
/// Events that wait for a directory or a webhook at most; the emulator's own.
pub const SINK_LOG_EVENTS: usize = 100_000;
/// Characters of an enrichment's key; the emulator's own.
pub const ENRICHMENT_KEY_CHARS: usize = 128;
/// Characters of an enrichment's value; the emulator's own.
pub const ENRICHMENT_VALUE_CHARS: usize = 1024;

/// Devices that have topics of their own at the event tap; the others share
/// one per kind. The emulator's own: each topic takes memory for good.
pub const EVENT_TAP_DEVICES: usize = 1000;
/// Clients of the event tap at once; the emulator's own.
pub const EVENT_TAP_CLIENTS: usize = 32;
/// Different topic filters that the event tap takes, over all clients since its
/// broker started; the emulator's own, because each keeps a log.
pub const EVENT_TAP_FILTERS: usize = 64;

/// Bytes of an HTTP request body (bulk registration of 100 devices with full
/// twins is the largest legal one); the emulator's own.
pub const HTTP_BODY_BYTES: usize = 8 * 1024 * 1024;
/// Nesting of JSON in a request; the emulator's own, below the parser's own
/// guard of 128.
pub const JSON_DEPTH: usize = 100;
