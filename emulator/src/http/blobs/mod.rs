//! `/{container}/{blob…}`: the hub's own blob storage, as far as storage
//! clients need it to upload, download and list files.
//!
//! These paths are whatever is no route of the hub. A request is opened by a
//! token of the hub's own in its query string (`hub_core::sas::blob`); bodies
//! stream to and from files. Source: the storage service's REST reference.

mod error;
mod xml;

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt as _;
use hub_core::blob::{BlobName, ContainerName};
use hub_core::limits;
use hub_core::sas::blob::check;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use self::error::BlobError;
use super::App;
use super::request::{query_parameter, text};
use crate::blobs::{BlobInfo, Condition, Staged};

/// How long a client may pause in the middle of a body; the emulator's own.
const BODY_PAUSE: Duration = Duration::from_secs(120);

/// The version of the storage protocol that is answered when a client names none.
const VERSION: &str = "2021-12-02";

/// Bytes read from a file at a time.
const READ_BYTES: usize = 64 * 1024;

/// Serves the request if its path is in one of the hub's containers; gives it
/// back otherwise.
pub(super) async fn serve(app: &App, request: Request) -> Result<Response, Request> {
    let path = request.uri().path().trim_start_matches('/');
    let (container, blob) = match path.split_once('/') {
        Some((container, blob)) => (container, Some(blob).filter(|blob| !blob.is_empty())),
        None => (path, None),
    };
    let Ok(container) = ContainerName::parse(container) else {
        return Err(request);
    };
    if !app.hub.blobs.has_container(&container).await {
        return Err(request);
    }
    let blob = blob.map(BlobName::from_path).transpose();
    let (parts, body) = request.into_parts();
    let mut body = Content::new(body);
    let answer = match blob {
        Ok(Some(blob)) => of_blob(app, &container, &blob, &parts, &mut body).await,
        Ok(None) => of_container(app, &container, &parts).await,
        Err(error) => Err(error.into()),
    };
    let mut response = match answer {
        Ok(response) => response,
        Err(error) => {
            body.discard().await;
            error.into_response()
        }
    };
    let headers = response.headers_mut();
    for name in ["x-ms-version", "x-ms-client-request-id"] {
        if let Some(value) = parts.headers.get(name) {
            headers.insert(HeaderName::from_static(name), value.clone());
        }
    }
    headers
        .entry("x-ms-version")
        .or_insert(HeaderValue::from_static(VERSION));
    Ok(response)
}

/// A request's body, piece by piece.
struct Content {
    pieces: BodyDataStream,
    /// Bytes so far.
    taken: u64,
}

impl Content {
    fn new(body: Body) -> Self {
        Self {
            pieces: body.into_data_stream(),
            taken: 0,
        }
    }

    /// The next piece; none at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        match tokio::time::timeout(BODY_PAUSE, self.pieces.next()).await {
            Ok(Some(Ok(piece))) => {
                self.taken += piece.len() as u64;
                Ok(Some(piece))
            }
            Ok(None) => Ok(None),
            Ok(Some(Err(_))) | Err(_) => Err(BlobError::incomplete()),
        }
    }

    /// Reads what a refused request still sends, for a while: storage clients
    /// look for the answer only when they have sent everything, and see a
    /// broken connection otherwise.
    async fn discard(&mut self) {
        let rest =
            async { while self.taken <= limits::BLOB_BYTES && matches!(self.next().await, Ok(Some(_))) {} };
        let _ = tokio::time::timeout(BODY_PAUSE, rest).await;
    }
}

/// What a request of one blob works with.
struct Blob<'a> {
    app: &'a App,
    container: &'a ContainerName,
    name: &'a BlobName,
    parts: &'a Parts,
}

async fn of_blob(
    app: &App,
    container: &ContainerName,
    name: &BlobName,
    parts: &Parts,
    body: &mut Content,
) -> Result<Response, BlobError> {
    let blob = Blob {
        app,
        container,
        name,
        parts,
    };
    let comp = query_parameter(parts.uri.query(), "comp");
    match (&parts.method, comp.as_deref()) {
        (&Method::PUT, None) => blob.put(body).await,
        (&Method::PUT, Some("block")) => blob.put_block(body).await,
        (&Method::PUT, Some("blocklist")) => blob.put_block_list(body).await,
        (&Method::GET | &Method::HEAD, None) => blob.get().await,
        (&Method::DELETE, None) => blob.delete().await,
        _ => Err(BlobError::not_supported(parts)),
    }
}

impl Blob<'_> {
    fn allow(&self, wanted: &str) -> Result<(), BlobError> {
        allow(self.app, self.container, Some(self.name), self.parts, wanted)
    }

    async fn put(&self, body: &mut Content) -> Result<Response, BlobError> {
        self.allow("cw")?;
        let headers = &self.parts.headers;
        match text(headers, "x-ms-blob-type").as_deref() {
            Some("BlockBlob") if !headers.contains_key("x-ms-copy-source") => {}
            _ => return Err(BlobError::not_supported(self.parts)),
        }
        let condition = self.check_write().await?;
        let content = self.receive(body).await?;
        let md5 = content.md5();
        let store = &self.app.hub.blobs;
        let info = store
            .commit(content, self.container, self.name, condition)
            .await?;
        Ok(created(&info, Some(md5)))
    }

    async fn put_block(&self, body: &mut Content) -> Result<Response, BlobError> {
        self.allow("cw")?;
        let id = query_parameter(self.parts.uri.query(), "blockid").unwrap_or_default();
        if id.is_empty() || id.len() > limits::BLOCK_ID_CHARS || STANDARD.decode(&id).is_err() {
            return Err(BlobError::new(
                StatusCode::BAD_REQUEST,
                "InvalidQueryParameterValue",
                "the parameter blockid must be base64 of 1 to 64 bytes",
            ));
        }
        let content = self.receive(body).await?;
        let md5 = content.md5();
        let store = &self.app.hub.blobs;
        store.put_block(content, self.container, self.name, id).await?;
        let mut response = StatusCode::CREATED.into_response();
        set_md5(response.headers_mut(), md5);
        Ok(response)
    }

    async fn put_block_list(&self, body: &mut Content) -> Result<Response, BlobError> {
        self.allow("cw")?;
        let condition = self.check_write().await?;
        let mut text = Vec::new();
        while let Some(chunk) = body.next().await? {
            if text.len() + chunk.len() > limits::HTTP_BODY_BYTES {
                return Err(BlobError::too_large());
            }
            text.extend_from_slice(&chunk);
        }
        let ids = xml::block_list(&text).map_err(BlobError::invalid_xml)?;
        let store = &self.app.hub.blobs;
        let info = store
            .commit_blocks(self.container, self.name, &ids, condition)
            .await?;
        Ok(created(&info, None))
    }

    async fn get(&self) -> Result<Response, BlobError> {
        self.allow("r")?;
        let store = &self.app.hub.blobs;
        let (mut file, info) = store.open(self.container, self.name).await?;
        self.if_match().check(Some(&info))?;
        let headers = &self.parts.headers;
        let range = text(headers, "x-ms-range").or_else(|| text(headers, "range"));
        let range = match range {
            Some(range) => Range::parse(&range, info.size)?,
            None => None,
        };
        let (start, length) = range.as_ref().map_or((0, info.size), Range::start_and_length);
        let body = if self.parts.method == Method::HEAD {
            Body::empty()
        } else {
            file.seek(std::io::SeekFrom::Start(start)).await?;
            Body::from_stream(ReaderStream::with_capacity(file.take(length), READ_BYTES))
        };
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        if let Some(range) = range {
            set(headers, header::CONTENT_RANGE, &range.content_range(info.size));
        }
        set(headers, header::CONTENT_LENGTH, &length.to_string());
        set(headers, header::CONTENT_TYPE, "application/octet-stream");
        set(headers, header::ACCEPT_RANGES, "bytes");
        set(headers, HeaderName::from_static("x-ms-blob-type"), "BlockBlob");
        set_info(headers, &info);
        if headers.contains_key(header::CONTENT_RANGE) {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        Ok(response)
    }

    async fn delete(&self) -> Result<Response, BlobError> {
        self.allow("d")?;
        let store = &self.app.hub.blobs;
        store.delete(self.container, self.name, self.if_match()).await?;
        Ok(StatusCode::ACCEPTED.into_response())
    }

    /// The condition on which the blob may be written, which holds before its
    /// content is taken.
    async fn check_write(&self) -> Result<Condition, BlobError> {
        let absent = text(&self.parts.headers, "if-none-match");
        let condition = match (absent.as_deref(), self.if_match()) {
            (None, condition) => condition,
            (Some("*"), Condition::Always) => Condition::Absent,
            _ => return Err(BlobError::not_supported(self.parts)),
        };
        let info = self.app.hub.blobs.info(self.container, self.name).await.ok();
        condition.check(info.as_ref())?;
        Ok(condition)
    }

    fn if_match(&self) -> Condition {
        match text(&self.parts.headers, "if-match").as_deref() {
            None => Condition::Always,
            Some("*") => Condition::Present,
            Some(etag) => Condition::Unchanged(etag.trim_matches('"').to_owned()),
        }
    }

    /// Takes the body to a file and checks it against its announced MD5.
    async fn receive(&self, body: &mut Content) -> Result<Staged, BlobError> {
        let headers = &self.parts.headers;
        let announced = text(headers, "content-length").and_then(|length| length.parse::<u64>().ok());
        if announced.is_some_and(|length| length > limits::BLOB_BYTES) {
            return Err(BlobError::too_large());
        }
        let mut content = self.app.hub.blobs.stage().await?;
        while let Some(chunk) = body.next().await? {
            if content.size() + chunk.len() as u64 > limits::BLOB_BYTES {
                return Err(BlobError::too_large());
            }
            content.write(&chunk).await?;
        }
        let expected = text(headers, "content-md5");
        if expected.is_some_and(|md5| md5 != STANDARD.encode(content.md5())) {
            return Err(BlobError::new(
                StatusCode::BAD_REQUEST,
                "Md5Mismatch",
                "the MD5 value in the request is not that of its body",
            ));
        }
        Ok(content)
    }
}

async fn of_container(app: &App, container: &ContainerName, parts: &Parts) -> Result<Response, BlobError> {
    let parameter = |name| query_parameter(parts.uri.query(), name);
    if parameter("restype").as_deref() != Some("container") {
        return Err(BlobError::not_supported(parts));
    }
    match (&parts.method, parameter("comp").as_deref()) {
        (&Method::GET | &Method::HEAD, None) => {
            allow(app, container, None, parts, "rl")?;
            Ok(StatusCode::OK.into_response())
        }
        (&Method::GET, Some("list")) => {
            allow(app, container, None, parts, "l")?;
            let prefix = parameter("prefix").unwrap_or_default();
            let after = parameter("marker").filter(|marker| !marker.is_empty());
            let count = parameter("maxresults")
                .and_then(|count| count.parse().ok())
                .filter(|count| (1..=limits::BLOB_LIST_PAGE).contains(count))
                .unwrap_or(limits::BLOB_LIST_PAGE);
            let listing = app.hub.blobs.list(container, &prefix, after, count).await?;
            Ok(xml::reply(xml::listing(container, &prefix, &listing)))
        }
        _ => Err(BlobError::not_supported(parts)),
    }
}

fn allow(
    app: &App,
    container: &ContainerName,
    blob: Option<&BlobName>,
    parts: &Parts,
    wanted: &str,
) -> Result<(), BlobError> {
    let query = parts.uri.query().unwrap_or_default();
    let (now, key) = (app.hub.clock.now(), &app.hub.settings.blob_key);
    check(query, container, blob, wanted, now, key).map_err(|denied| {
        tracing::debug!(method = %parts.method, path = parts.uri.path(), %denied, "blob refused");
        denied.into()
    })
}

/// A part of a blob, as positions of its first and last byte.
struct Range {
    first: u64,
    last: u64,
}

impl Range {
    /// Reads `bytes=first-` or `bytes=first-last`; another form asks for the
    /// whole, as in the service.
    fn parse(text: &str, size: u64) -> Result<Option<Self>, BlobError> {
        let Some((first, last)) = text
            .strip_prefix("bytes=")
            .and_then(|range| range.split_once('-'))
        else {
            return Ok(None);
        };
        let (Ok(first), Ok(last)) = (
            first.parse(),
            if last.is_empty() {
                Ok(u64::MAX)
            } else {
                last.parse()
            },
        ) else {
            return Ok(None);
        };
        if first >= size || last < first {
            return Err(BlobError::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "InvalidRange",
                "the range lies beyond the end of the blob",
            ));
        }
        Ok(Some(Self {
            first,
            last: last.min(size - 1),
        }))
    }

    fn start_and_length(&self) -> (u64, u64) {
        (self.first, self.last - self.first + 1)
    }

    fn content_range(&self, size: u64) -> String {
        format!("bytes {}-{}/{size}", self.first, self.last)
    }
}

fn created(info: &BlobInfo, md5: Option<[u8; 16]>) -> Response {
    let mut response = StatusCode::CREATED.into_response();
    let headers = response.headers_mut();
    set_info(headers, info);
    if let Some(md5) = md5 {
        set_md5(headers, md5);
    }
    response
}

fn set_info(headers: &mut HeaderMap, info: &BlobInfo) {
    set(headers, header::ETAG, &format!("\"{}\"", info.etag));
    set(headers, header::LAST_MODIFIED, &http_date(info));
}

fn set_md5(headers: &mut HeaderMap, md5: [u8; 16]) {
    set(
        headers,
        HeaderName::from_static("content-md5"),
        &STANDARD.encode(md5),
    );
    set(
        headers,
        HeaderName::from_static("x-ms-request-server-encrypted"),
        "false",
    );
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// When a blob was written in the form of HTTP headers.
fn http_date(info: &BlobInfo) -> String {
    let t = OffsetDateTime::from_unix_timestamp(info.modified.unix_seconds())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    // English names of at least three letters.
    let (day, month) = (t.weekday().to_string(), t.month().to_string());
    format!(
        "{}, {:02} {} {:04} {:02}:{:02}:{:02} GMT",
        &day[..3],
        t.day(),
        &month[..3],
        t.year(),
        t.hour(),
        t.minute(),
        t.second()
    )
}
