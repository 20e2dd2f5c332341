//! Requests that fail on purpose.

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use futures::StreamExt;

use crate::answer;

/// Makes the next requests fail whose line (`GET /path`) holds a text.
pub struct Fault {
    pub line: String,
    /// How many requests fail.
    pub times: usize,
    pub failure: Failure,
}

impl Fault {
    /// The next `times` requests whose line holds `line`.
    pub fn new(line: &str, times: usize, failure: Failure) -> Self {
        Self { line: line.into(), times, failure }
    }
}

/// How a request fails.
#[derive(Clone)]
pub enum Failure {
    /// A status, with the Hub's code (such as `GatedRepo`), or none.
    Status(u16, &'static str),
    /// 429 with this `Retry-After`, in seconds.
    RetryAfter(u32),
    /// The answer's body ends after so many bytes, and the connection with it.
    CutAfter(usize),
    /// The connection ends after so many bytes of the request's body.
    CutUploadAfter(usize),
    /// One byte of the answer's body, this one, is another.
    WrongByte(usize),
}

/// The failure of the request `line`, if one is due.
pub(crate) fn take(faults: &mut [Fault], line: &str) -> Option<Failure> {
    let fault = faults.iter_mut().find(|fault| fault.times > 0 && line.contains(&fault.line))?;
    fault.times -= 1;
    Some(fault.failure.clone())
}

/// The whole answer of a failure that has one.
pub(crate) fn status(failure: &Failure) -> Option<Response> {
    match failure {
        Failure::Status(status, code) => Some(answer::error(*status, code, "It fails on purpose")),
        Failure::RetryAfter(seconds) => {
            let mut response = answer::error(429, "", "Too many requests, on purpose");
            response.headers_mut().insert("retry-after", (*seconds).into());
            Some(response)
        }
        _ => None,
    }
}

/// Reads so many bytes of a request's body, and ends the connection.
pub(crate) async fn cut_upload(request: Request, bytes: usize) -> Response {
    let mut body = request.into_body().into_data_stream();
    let mut read = 0;
    while read < bytes
        && let Some(Ok(part)) = body.next().await
    {
        read += part.len();
    }
    let cut = futures::stream::once(async { Err::<Bytes, _>(std::io::Error::other("cut on purpose")) });
    Response::new(Body::from_stream(cut))
}

/// An answer with its body spoilt.
pub(crate) fn spoil(failure: Failure, response: Response) -> Response {
    let (head, body) = response.into_parts();
    let mut at = 0;
    let stream = body.into_data_stream().map(move |part| {
        let part = part.map_err(std::io::Error::other)?;
        let start = at;
        at += part.len();
        match failure {
            Failure::CutAfter(bytes) if at > bytes => Err(std::io::Error::other("cut on purpose")),
            Failure::WrongByte(wrong) if (start..at).contains(&wrong) => {
                let mut part = part.to_vec();
                part[wrong - start] ^= 1;
                Ok(Bytes::from(part))
            }
            _ => Ok(part),
        }
    });
    Response::from_parts(head, Body::from_stream(stream))
}
