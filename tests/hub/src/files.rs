//! What does not begin with `/api`: downloads, and LFS.

use std::io::SeekFrom;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::response::Response;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use crate::answer::{self, error};
use crate::{Inner, api, lfs, store};

pub(crate) async fn answer(hub: &Inner, request: Request) -> Response {
    let parts = answer::parts(&request);
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let (kind, rest) = match &parts[..] {
        ["datasets", rest @ ..] => ("datasets", rest),
        rest => ("models", rest),
    };
    match (request.method().clone(), rest) {
        (Method::PUT, ["lfs", oid]) => {
            let oid = oid.to_string();
            lfs::receive(hub, &oid, request).await
        }
        (Method::POST, [owner, name, "info", "lfs", "objects", "batch"]) => {
            let id = format!("{kind}/{owner}/{}", name.trim_end_matches(".git"));
            let known = answer::token(request.headers()) == Some(store::TOKEN);
            match api::refused(hub, &id, known, true, owner) {
                Some(refusal) => refusal,
                None => lfs::batch(hub, answer::json_body(request).await),
            }
        }
        (method @ (Method::GET | Method::HEAD), [owner, name, "resolve", revision, path @ ..]) => {
            let (id, path) = (format!("{kind}/{owner}/{name}"), path.join("/"));
            let wanted = Wanted {
                head: method == Method::HEAD,
                from: range(&request),
                token: answer::token(request.headers()).map(str::to_owned),
            };
            drop(request);
            send(hub, &id, owner, revision, &path, wanted).await
        }
        _ => error(404, "", "Sorry, we can't find the page you are looking for."),
    }
}

/// What a download asks for, and who asks.
struct Wanted {
    head: bool,
    /// The first byte.
    from: Option<u64>,
    token: Option<String>,
}

/// A file's bytes, or those of them that `Range` asks for.
async fn send(hub: &Inner, id: &str, owner: &str, revision: &str, path: &str, wanted: Wanted) -> Response {
    let token = wanted.token;
    if token.as_deref().is_some_and(|token| token != store::TOKEN) {
        return error(401, "", "Invalid credentials in Authorization header");
    }
    if let Some(refusal) = api::refused(hub, id, token.is_some(), false, owner) {
        return refusal;
    }
    let found = {
        let store = hub.store();
        let Some(repository) = store.repositories.get(id) else {
            return error(404, "RepoNotFound", "Repository not found");
        };
        if repository.gated {
            let status = if token.is_some() { 403 } else { 401 };
            return error(status, "GatedRepo", "Access to this model is restricted. You must have access to it.");
        }
        let Some((commit, files)) = repository.commit(revision) else {
            return error(404, "RevisionNotFound", &format!("Invalid rev id: {revision}"));
        };
        files.files.get(path).map(|entry| (commit.to_owned(), entry.clone()))
    };
    let Some((commit, entry)) = found else { return error(404, "EntryNotFound", "Entry not found") };
    let size = entry.size;
    let from = wanted.from.filter(|from| *from < size);
    let start = from.unwrap_or(0);
    let etag = format!("\"{}\"", entry.object());
    let (length, linked) = ((size - start).to_string(), size.to_string());
    let mut headers = vec![
        ("content-type", "application/octet-stream"),
        ("accept-ranges", "bytes"),
        ("etag", etag.as_str()),
        ("x-repo-commit", commit.as_str()),
        ("content-length", length.as_str()),
    ];
    if entry.lfs.is_some() {
        headers.extend([("x-linked-etag", etag.as_str()), ("x-linked-size", linked.as_str())]);
    }
    let part = format!("bytes {start}-{}/{size}", size.saturating_sub(1));
    if from.is_some() {
        headers.push(("content-range", &part));
    }
    let status = if from.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    if wanted.head {
        return answer::build(StatusCode::OK, &headers, Body::empty());
    }
    let opened = async {
        let mut file = tokio::fs::File::open(hub.objects.path(entry.object())).await?;
        file.seek(SeekFrom::Start(start)).await?;
        std::io::Result::Ok(file.take(size - start))
    };
    match opened.await {
        Ok(file) => answer::build(status, &headers, Body::from_stream(ReaderStream::with_capacity(file, 1 << 16))),
        Err(e) => error(500, "", &e.to_string()),
    }
}

/// Where a range begins; it goes on to the end, as clients that resume ask for.
fn range(request: &Request) -> Option<u64> {
    let text = request.headers().get(header::RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes=")?.split_once('-')?.0.parse().ok()
}
