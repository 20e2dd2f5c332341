//! Requests taken apart, and answers put together.

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

/// The most that a request's body may have, but for files by LFS: somewhat more than a xorb's.
const MOST: usize = 80 << 20;

pub(crate) fn json(value: Value) -> Response {
    with_status(StatusCode::OK, value)
}

pub(crate) fn with_status(status: StatusCode, value: Value) -> Response {
    build(status, &[("content-type", "application/json")], Body::from(value.to_string()))
}

/// An error as the Hub has it: a code and a sentence in headers, and the sentence in the body.
pub(crate) fn error(status: u16, code: &str, message: &str) -> Response {
    let headers = [("content-type", "application/json"), ("x-error-code", code), ("x-error-message", message)];
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    build(status, &headers[..], Body::from(json!({"error": message}).to_string()))
}

pub(crate) fn build(status: StatusCode, headers: &[(&str, &str)], body: Body) -> Response {
    let mut response = Response::builder().status(status);
    for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
        response = response.header(*name, *value);
    }
    response.body(body).unwrap_or_default()
}

/// A path's parts, decoded one by one: a revision with slashes is one part.
pub(crate) fn parts(request: &Request) -> Vec<String> {
    let path = request.uri().path().trim_start_matches('/');
    path.split('/').map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned()).collect()
}

/// Whether the query has a switch that is on.
pub(crate) fn is_asked(request: &Request, key: &str) -> bool {
    let query = request.uri().query().unwrap_or_default();
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .any(|(k, v)| k == key && matches!(v, "1" | "true" | "True"))
}

/// The token that a request carries.
pub(crate) fn token(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

/// A request's body; `None` if it was cut off, or is too long.
pub(crate) async fn whole_body(request: Request) -> Option<Bytes> {
    axum::body::to_bytes(request.into_body(), MOST).await.ok()
}

pub(crate) async fn body(request: Request) -> Bytes {
    whole_body(request).await.unwrap_or_default()
}

pub(crate) async fn json_body(request: Request) -> Value {
    serde_json::from_slice(&body(request).await).unwrap_or(Value::Null)
}
