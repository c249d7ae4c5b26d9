//! The calls of the service API.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hub_core::connection_string::{ConnectionString, ServiceConnection};
use hub_core::ids::{DeviceId, JobId, ModuleId, Target};
use hub_core::job::{JobRequest, TwinUpdate, query_text, selects_modules};
use hub_core::json::JsonText;
use hub_core::limits;
use hub_core::method::{MethodCall, MethodResponse};
use hub_core::sas;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, HeaderMap};
use serde_json::{Value, json};

use super::error::ClientError;
use super::tls::{self, Trust};
use crate::Clock;

/// The version of the service API whose behaviour this client expects.
const API_VERSION: &str = "2021-04-12";
/// How long a token is valid.
const TOKEN_TTL: u64 = 3600;
/// How long before its end a token is replaced.
const TOKEN_RENEWAL: u64 = 600;
/// How long a call may take, apart from what a method's own timeouts allow.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of a reply: a page of 100 twins of greatest size.
const REPLY_BYTES: usize = 16 * 1024 * 1024;
/// How often a call is repeated that the hub throttles, and the first pause,
/// which doubles up to the last.
const THROTTLED_TRIES: u32 = 10;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(8);

/// Everything but the characters that RFC 3986 never needs encoded.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// How to reach a hub, where the connection string does not say it all.
#[derive(Debug, Clone, Default)]
pub struct ClientOptions {
    /// Where the hub listens, such as `http://localhost:8080`, in place of
    /// `https://` and the connection string's host.
    pub endpoint: Option<String>,
    /// Certificates in PEM form to trust instead of the machine's own.
    pub ca_pem: Option<Vec<u8>>,
}

/// A client of one hub's service API.
///
/// Signs its own tokens and renews them before they expire. Typed calls that
/// the hub throttles are repeated after a pause, up to about a minute.
pub struct ServiceClient {
    http: reqwest::Client,
    base: String,
    connection: ServiceConnection,
    token: Mutex<Token>,
}

#[derive(Default)]
struct Token {
    text: String,
    /// In seconds since 1970-01-01; zero when there is no token yet.
    expiry: u64,
}

/// What a hub answered, whatever its status.
#[derive(Debug, Clone)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// HTTP headers.
    pub headers: HeaderMap,
    /// The body: `null` when empty, a string when it is not JSON.
    pub body: Value,
}

impl Reply {
    /// A header's value, when it is there and is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The reply, if its status is a success.
    ///
    /// # Errors
    /// The hub's error otherwise.
    pub fn success(self) -> Result<Self, ClientError> {
        if (200..300).contains(&self.status) {
            Ok(self)
        } else {
            Err(ClientError::of(&self))
        }
    }
}

/// A page of rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The rows.
    pub rows: Vec<Value>,
    /// What to ask for the next page with; `None` when this is the last.
    pub continuation: Option<String>,
}

impl ServiceClient {
    /// A client for the hub of a service connection string. Nothing is sent yet.
    ///
    /// # Errors
    /// When the connection string or an option cannot be used.
    pub fn new(connection_string: &str, options: &ClientOptions) -> Result<Self, ClientError> {
        let connection = match ConnectionString::parse(connection_string) {
            Ok(ConnectionString::Service(connection)) => connection,
            Ok(ConnectionString::Device(_)) => return Err(ClientError::NotForServices),
            Err(error) => return Err(ClientError::ConnectionString(error)),
        };
        let base = match &options.endpoint {
            None => format!("https://{}", connection.host),
            Some(endpoint) => check_endpoint(endpoint)?,
        };
        let trust = match &options.ca_pem {
            _ if base.starts_with("http://") => Trust::Nobody,
            Some(pem) => Trust::Pem(pem),
            None => Trust::System,
        };
        let mut http = reqwest::Client::builder().tls_backend_preconfigured(tls::config(&trust)?);
        if options.endpoint.is_some() {
            // Whoever names an address means that address, not a proxy.
            http = http.no_proxy();
        }
        Ok(Self {
            http: http.build().map_err(ClientError::Transport)?,
            base,
            connection,
            token: Mutex::default(),
        })
    }

    /// Makes any call: `path_and_query` begins with `/` and has its segments
    /// encoded; the `api-version` is added unless it is there. Never repeats.
    ///
    /// # Errors
    /// When the hub cannot be reached; a refusal is a [`Reply`] like any other.
    pub async fn request(
        &self,
        method: Method,
        path_and_query: &str,
        body: Option<&Value>,
    ) -> Result<Reply, ClientError> {
        self.request_with(method, path_and_query, &[], body).await
    }

    /// Like [`ServiceClient::request`], with headers such as `If-Match`.
    ///
    /// # Errors
    /// As [`ServiceClient::request`].
    pub async fn request_with(
        &self,
        method: Method,
        path_and_query: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Reply, ClientError> {
        let call = Call {
            method,
            path_and_query,
            headers,
            body,
            timeout: CALL_TIMEOUT,
        };
        self.send(&call).await
    }

    /// Registers devices, in requests of at most 100. Each value is an entry
    /// of the bulk request; `importMode` is `create` where it is missing.
    ///
    /// Returns the entries' errors as the hub gave them: none when every
    /// device was registered.
    ///
    /// # Errors
    /// When a request as a whole fails; earlier ones remain in effect.
    pub async fn create_devices(&self, devices: &[Value]) -> Result<Vec<Value>, ClientError> {
        let mut errors = Vec::new();
        for chunk in devices.chunks(limits::BULK_ENTRIES) {
            let entries: Vec<Value> = chunk
                .iter()
                .map(|entry| {
                    let mut entry = entry.clone();
                    if let Some(members) = entry.as_object_mut() {
                        members.entry("importMode").or_insert_with(|| "create".into());
                    }
                    entry
                })
                .collect();
            let body = Value::Array(entries);
            let reply = self
                .patiently(&Call::new(Method::POST, "/devices", Some(&body)))
                .await?;
            // A refusal of single entries is a 400 with the result as its body.
            if reply.status == 400
                && let Some(entries) = reply.body["errors"].as_array()
            {
                errors.extend_from_slice(entries);
            } else {
                reply.success()?;
            }
        }
        Ok(errors)
    }

    /// The devices or modules that a job's condition selects.
    ///
    /// # Errors
    /// When the hub refuses the query or cannot be reached.
    pub async fn query_devices(&self, condition: &str) -> Result<Vec<Target>, ClientError> {
        // Ids only: whole twins are up to a thousand times larger.
        let columns = if selects_modules(condition) {
            "deviceId, moduleId"
        } else {
            "deviceId"
        };
        let rows = self.query(&query_text(columns, condition)).await?;
        rows.iter()
            .map(|row| target_of(row).ok_or(ClientError::Form { call: "a query" }))
            .collect()
    }

    /// Every row of a query.
    ///
    /// # Errors
    /// When the hub refuses the query or cannot be reached.
    pub async fn query(&self, query: &str) -> Result<Vec<Value>, ClientError> {
        let mut rows = Vec::new();
        let mut continuation = None;
        loop {
            let page = self.query_page(query, continuation.as_deref()).await?;
            rows.extend(page.rows);
            continuation = page.continuation;
            if continuation.is_none() || rows.len() >= limits::JOB_RECORDS {
                return Ok(rows);
            }
        }
    }

    /// One page of a query, the first without `continuation`.
    ///
    /// # Errors
    /// When the hub refuses the query or cannot be reached.
    pub async fn query_page(&self, query: &str, continuation: Option<&str>) -> Result<Page, ClientError> {
        let body = json!({ "query": query });
        self.page(Method::POST, "/devices/query", Some(&body), continuation)
            .await
    }

    /// Patches a twin without regard to its ETag and returns it as it is then.
    ///
    /// # Errors
    /// When the hub refuses the patch or cannot be reached.
    pub async fn update_twin(&self, target: &Target, update: &TwinUpdate) -> Result<Value, ClientError> {
        let path = twin_path(target);
        let call = Call {
            headers: &[("If-Match", "*")],
            ..Call::new(Method::PATCH, &path, Some(&update.body))
        };
        Ok(self.patiently(&call).await?.success()?.body)
    }

    /// Invokes a direct method and returns what the device answered, whatever
    /// its status.
    ///
    /// # Errors
    /// When the device is unknown, not online or silent, or the hub cannot be
    /// reached.
    pub async fn invoke_method(
        &self,
        target: &Target,
        method: &MethodCall,
    ) -> Result<MethodResponse, ClientError> {
        let path = format!("{}/methods", twin_path(target));
        let body = method.to_json();
        let call = Call {
            timeout: CALL_TIMEOUT + method.connect_timeout + method.response_timeout,
            ..Call::new(Method::POST, &path, Some(&body))
        };
        let reply = self.patiently(&call).await?.success()?;
        let status = reply.body["status"].as_i64().and_then(|s| i32::try_from(s).ok());
        Ok(MethodResponse {
            status: status.ok_or(ClientError::Form {
                call: "a method call",
            })?,
            payload: JsonText::from_value(&reply.body["payload"]),
        })
    }

    /// Creates a job on the hub; returns its first, short description.
    ///
    /// # Errors
    /// When the hub refuses the job or cannot be reached.
    pub async fn create_job(&self, job: &JobRequest) -> Result<Value, ClientError> {
        let path = job_path(&job.id);
        let call = Call::new(Method::PUT, &path, Some(&job.to_json()))
            .run(self)
            .await?;
        Ok(call.body)
    }

    /// A job on the hub; `None` when the hub does not know the id.
    ///
    /// # Errors
    /// When the hub refuses or cannot be reached.
    pub async fn job(&self, id: &JobId) -> Result<Option<Value>, ClientError> {
        let job = Call::new(Method::GET, &job_path(id), None).run(self).await?.body;
        // Unknown ids are a success with that type.
        Ok(Some(job).filter(|job| job["type"] != "unknown"))
    }

    /// Cancels a job on the hub.
    ///
    /// # Errors
    /// When the job is unknown or can no longer be cancelled, or the hub
    /// cannot be reached.
    pub async fn cancel_job(&self, id: &JobId) -> Result<Value, ClientError> {
        let path = format!("{}/cancel", job_path(id));
        Ok(Call::new(Method::POST, &path, None).run(self).await?.body)
    }

    /// One page of the hub's jobs, optionally of one type (`scheduleDeviceMethod`,
    /// `scheduleUpdateTwin`) and status only.
    ///
    /// # Errors
    /// When the hub refuses or cannot be reached.
    pub async fn jobs_page(
        &self,
        job_type: Option<&str>,
        status: Option<&str>,
        continuation: Option<&str>,
    ) -> Result<Page, ClientError> {
        let mut path = "/jobs/v2/query?".to_owned();
        for (name, value) in [("jobType", job_type), ("jobStatus", status)] {
            if let Some(value) = value {
                path.push_str(&format!("{name}={}&", encoded(value)));
            }
        }
        path.pop();
        self.page(Method::GET, &path, None, continuation).await
    }

    /// What became of each device of a job; with `status`, only of the devices
    /// with that one.
    ///
    /// # Errors
    /// When the hub refuses or cannot be reached.
    pub async fn job_records(&self, id: &JobId, status: Option<&str>) -> Result<Vec<Value>, ClientError> {
        let mut query = format!("SELECT * FROM devices.jobs WHERE devices.jobs.jobId = '{id}'");
        if let Some(status) = status {
            query.push_str(&format!(
                " AND devices.jobs.status = '{}'",
                status.replace('\'', "\\'")
            ));
        }
        self.query(&query).await
    }

    async fn page(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        continuation: Option<&str>,
    ) -> Result<Page, ClientError> {
        let size = limits::PAGE_ROWS.to_string();
        let mut headers = vec![("x-ms-max-item-count", size.as_str())];
        headers.extend(continuation.map(|token| ("x-ms-continuation", token)));
        let call = Call {
            headers: &headers,
            ..Call::new(method, path, body)
        };
        let reply = self.patiently(&call).await?.success()?;
        let continuation = reply.header("x-ms-continuation").map(str::to_owned);
        match reply.body {
            Value::Array(rows) => Ok(Page { rows, continuation }),
            _ => Err(ClientError::Form { call: "a query" }),
        }
    }

    /// Sends a call, again and again while the hub throttles it.
    async fn patiently(&self, call: &Call<'_>) -> Result<Reply, ClientError> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..THROTTLED_TRIES {
            let reply = self.send(call).await?;
            if reply.status != 429 || !ClientError::of(&reply).is_throttling() {
                return Ok(reply);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
        self.send(call).await
    }

    async fn send(&self, call: &Call<'_>) -> Result<Reply, ClientError> {
        let path = call.path_and_query;
        let url = match path {
            _ if path.contains("api-version=") => format!("{}{path}", self.base),
            _ if path.contains('?') => format!("{}{path}&api-version={API_VERSION}", self.base),
            _ => format!("{}{path}?api-version={API_VERSION}", self.base),
        };
        let mut request = self
            .http
            .request(call.method.clone(), url)
            .timeout(call.timeout)
            .header(AUTHORIZATION, self.token());
        for (name, value) in call.headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = call.body {
            request = request.json(body);
        }
        let mut response = request.send().await.map_err(ClientError::Transport)?;
        let (status, headers) = (response.status().as_u16(), std::mem::take(response.headers_mut()));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(ClientError::Transport)? {
            if body.len() + chunk.len() > REPLY_BYTES {
                return Err(ClientError::TooLarge { limit: REPLY_BYTES });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply {
            status,
            headers,
            body: read_body(&body),
        })
    }

    /// A token that is valid for a while, made only when the last one is not.
    fn token(&self) -> String {
        let now = u64::try_from(Clock::system().now().unix_seconds()).unwrap_or(0);
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if token.expiry < now + TOKEN_RENEWAL {
            let ServiceConnection { host, policy, key } = &self.connection;
            token.expiry = now + TOKEN_TTL;
            token.text = sas::sign(host.name(), key, token.expiry, Some(policy));
        }
        token.text.clone()
    }
}

/// Leaves out the token and the key.
impl fmt::Debug for ServiceClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceClient")
            .field("base", &self.base)
            .field("policy", &self.connection.policy)
            .finish_non_exhaustive()
    }
}

/// One HTTP call.
struct Call<'a> {
    method: Method,
    path_and_query: &'a str,
    headers: &'a [(&'a str, &'a str)],
    body: Option<&'a Value>,
    timeout: Duration,
}

impl<'a> Call<'a> {
    fn new(method: Method, path_and_query: &'a str, body: Option<&'a Value>) -> Self {
        Self {
            method,
            path_and_query,
            headers: &[],
            body,
            timeout: CALL_TIMEOUT,
        }
    }

    async fn run(self, client: &ServiceClient) -> Result<Reply, ClientError> {
        client.patiently(&self).await?.success()
    }
}

fn check_endpoint(endpoint: &str) -> Result<String, ClientError> {
    let trimmed = endpoint.trim_end_matches('/');
    let legal = reqwest::Url::parse(trimmed)
        .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if legal {
        Ok(trimmed.to_owned())
    } else {
        Err(ClientError::Endpoint {
            endpoint: endpoint.to_owned(),
        })
    }
}

fn read_body(body: &[u8]) -> Value {
    if body.is_empty() {
        return Value::Null;
    }
    serde_json::from_slice(body).unwrap_or_else(|_| String::from_utf8_lossy(body).into())
}

fn twin_path(target: &Target) -> String {
    let device = encoded(target.device.as_str());
    match &target.module {
        None => format!("/twins/{device}"),
        Some(module) => format!("/twins/{device}/modules/{}", encoded(module.as_str())),
    }
}

fn job_path(id: &JobId) -> String {
    format!("/jobs/v2/{id}")
}

fn encoded(text: &str) -> impl fmt::Display + '_ {
    utf8_percent_encode(text, SEGMENT)
}

fn target_of(row: &Value) -> Option<Target> {
    Some(Target {
        device: DeviceId::parse(row["deviceId"].as_str()?).ok()?,
        module: match row.get("moduleId").and_then(Value::as_str) {
            Some(module) => Some(ModuleId::parse(module).ok()?),
            None => None,
        },
    })
}
