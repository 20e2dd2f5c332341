//! What begins with `/api`: repositories, commits, trees, tokens.

use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::answer::{self, error};
use crate::store::{self, Commit, Entry, Repository};
use crate::{Inner, ORGANIZATION, USER};

pub(crate) async fn answer(hub: &Inner, request: Request) -> Response {
    let parts = answer::parts(&request);
    let parts: Vec<&str> = parts.iter().skip(1).map(String::as_str).collect();
    let token = answer::token(request.headers()).map(str::to_owned);
    if token.as_deref().is_some_and(|token| token != store::TOKEN) {
        return error(401, "", "Invalid credentials in Authorization header");
    }
    let known = token.is_some();
    match (request.method().clone(), &parts[..]) {
        (Method::GET, ["whoami-v2"]) if known => answer::json(json!({
            "type": "user", "id": "1", "name": USER, "fullname": USER, "email": null, "isPro": false, "canPay": false, "avatarUrl": "",
            "orgs": [{"type": "org", "id": "2", "name": ORGANIZATION, "fullname": ORGANIZATION, "roleInOrg": "write"}],
            "auth": {"type": "access_token", "accessToken": {"displayName": "loopback", "role": "write"}},
        })),
        (Method::POST, ["validate-yaml"]) => answer::json(json!({"errors": [], "warnings": []})),
        (Method::POST, ["repos", "create"]) if known => create(hub, answer::json_body(request).await),
        (method, [kind @ ("models" | "datasets"), owner, name, rest @ ..]) => {
            let id = format!("{kind}/{owner}/{name}");
            if let Some(refusal) =
                refused(hub, &id, known, method != Method::GET && rest.first() != Some(&"paths-info"), owner)
            {
                return refusal;
            }
            let rest: Vec<String> = rest.iter().map(|part| part.to_string()).collect();
            repository(hub, &id, method, &rest, request).await
        }
        _ if !known => error(401, "", "Invalid username or password."),
        _ => error(404, "", "Sorry, we can't find the page you are looking for."),
    }
}

/// Why a request may not look at a repository, or change it.
pub(crate) fn refused(hub: &Inner, id: &str, known: bool, changes: bool, owner: &str) -> Option<Response> {
    let store = hub.store();
    let visible = store.repositories.get(id).filter(|repository| known || !repository.private);
    match visible {
        // As the Hub has it: who is not known does not learn whether a repository is there.
        None if !known => Some(error(401, "RepoNotFound", "Repository not found")),
        None => Some(error(404, "RepoNotFound", "Repository not found")),
        Some(_) if changes && !known => Some(error(401, "", "Invalid username or password.")),
        Some(_) if changes && ![USER, ORGANIZATION].contains(&owner) => {
            Some(error(403, "", &format!("You don't have the rights to change {id}")))
        }
        Some(_) => None,
    }
}

fn create(hub: &Inner, body: Value) -> Response {
    let name = body["name"].as_str().unwrap_or_default();
    let owner = body["organization"].as_str().unwrap_or(USER);
    if ![USER, ORGANIZATION].contains(&owner) {
        return error(403, "", &format!("You don't have the rights to create a model under the namespace \"{owner}\""));
    }
    let kind = if body["type"] == "dataset" { "datasets" } else { "models" };
    let private = body["private"] == true || body["visibility"] == "private";
    let prefix = if kind == "datasets" { "datasets/" } else { "" };
    let url = format!("{}/{prefix}{owner}/{name}", hub.url);
    if hub.store().create(&format!("{kind}/{owner}/{name}"), private) {
        return answer::json(json!({"url": url, "name": format!("{owner}/{name}"), "id": "3"}));
    }
    let told = json!({"error": "You already created this model repo", "url": url});
    answer::with_status(StatusCode::CONFLICT, told)
}

async fn repository(hub: &Inner, id: &str, method: Method, rest: &[String], request: Request) -> Response {
    let parts: Vec<&str> = rest.iter().map(String::as_str).collect();
    match (method, &parts[..]) {
        (Method::GET, []) => info(hub, id, "main"),
        (Method::GET, ["revision", revision]) => info(hub, id, revision),
        (Method::GET, ["refs"]) => {
            with(hub, id, |repository| {
                let branches: Vec<Value> = repository
                .branches
                .iter()
                .map(|(name, commit)| json!({"name": name, "ref": format!("refs/heads/{name}"), "targetCommit": commit}))
                .collect();
                answer::json(json!({"branches": branches, "converts": [], "tags": []}))
            })
        }
        (Method::GET, ["tree", revision, path @ ..]) => {
            let recursive = answer::is_asked(&request, "recursive");
            at(hub, id, revision, |_, commit| tree(commit, &path.join("/"), recursive))
        }
        (Method::POST, ["paths-info", revision]) => {
            let body = answer::body(request).await;
            let paths = paths(&body);
            at(hub, id, revision, |_, commit| {
                let found = paths.iter().filter_map(|path| Some(described(path, commit.files.get(path)?)));
                answer::json(found.collect())
            })
        }
        (Method::POST, ["branch", branch]) => {
            let body = answer::json_body(request).await;
            let from = body["startingPoint"].as_str().unwrap_or("main").to_owned();
            with(hub, id, |repository| match repository.commit(&from).map(|(commit, _)| commit.to_owned()) {
                _ if repository.branches.contains_key(*branch) => error(409, "", "Reference already exists"),
                Some(commit) => {
                    repository.branches.insert(branch.to_string(), commit);
                    answer::json(json!({}))
                }
                None => error(404, "RevisionNotFound", &format!("Invalid rev id: {from}")),
            })
        }
        (Method::POST, ["preupload", revision]) => {
            let body = answer::json_body(request).await;
            at(hub, id, revision, |_, commit| preupload(&body, commit))
        }
        (Method::GET, ["xet-write-token" | "xet-read-token", revision]) if hub.xet => at(hub, id, revision, |_, _| {
            let expires =
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_secs())
                    + 3600;
            let url = hub.cas_url();
            let headers = [
                ("content-type", "application/json"),
                ("x-xet-access-token", "xet"),
                ("x-xet-token-expiration", &expires.to_string()),
                ("x-xet-cas-url", &url),
            ];
            let body = json!({"accessToken": "xet", "exp": expires, "casUrl": url}).to_string();
            answer::build(StatusCode::OK, &headers, body.into())
        }),
        (Method::POST, ["commit", revision]) => {
            let pull_request = answer::is_asked(&request, "create_pr");
            let body = answer::body(request).await;
            commit(hub, id, revision, pull_request, &body)
        }
        _ => error(404, "", "Sorry, we can't find the page you are looking for."),
    }
}

fn with(hub: &Inner, id: &str, then: impl FnOnce(&mut Repository) -> Response) -> Response {
    match hub.store().repositories.get_mut(id) {
        Some(repository) => then(repository),
        None => error(404, "RepoNotFound", "Repository not found"),
    }
}

fn at(hub: &Inner, id: &str, revision: &str, then: impl FnOnce(&str, &Commit) -> Response) -> Response {
    with(hub, id, |repository| match repository.commit(revision) {
        Some((name, commit)) => then(name, commit),
        None => error(404, "RevisionNotFound", &format!("Invalid rev id: {revision}")),
    })
}

fn info(hub: &Inner, id: &str, revision: &str) -> Response {
    with(hub, id, |repository| {
        let Some((name, commit)) = repository.commit(revision) else {
            return error(404, "RevisionNotFound", &format!("Invalid rev id: {revision}"));
        };
        let files: Vec<Value> = commit.files.keys().map(|path| json!({"rfilename": path})).collect();
        let id = id.split_once('/').map_or(id, |(_, id)| id);
        answer::json(json!({
            "_id": "4", "id": id, "modelId": id, "author": id.split('/').next(), "sha": name, "private": repository.private,
            "gated": if repository.gated { json!("auto") } else { json!(false) }, "disabled": false, "downloads": 0, "likes": 0,
            "tags": [], "siblings": files, "lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z",
        }))
    })
}

fn described(path: &str, entry: &Entry) -> Value {
    let mut value = json!({"type": "file", "oid": entry.oid, "size": entry.size, "path": path});
    if let Some(sha256) = &entry.lfs {
        value["lfs"] = json!({"oid": sha256, "size": entry.size, "pointerSize": 130});
    }
    value
}

fn tree(commit: &Commit, below: &str, recursive: bool) -> Response {
    let prefix = if below.is_empty() { String::new() } else { format!("{below}/") };
    let mut entries: Vec<Value> = Vec::new();
    for (path, entry) in &commit.files {
        let Some(rest) = path.strip_prefix(&prefix) else { continue };
        match rest.split_once('/') {
            Some((folder, _)) if !recursive => {
                let folder = format!("{prefix}{folder}");
                if !entries.iter().any(|entry| entry["path"] == folder.as_str()) {
                    entries.push(json!({"type": "directory", "oid": entry.oid, "size": 0, "path": folder}));
                }
            }
            _ => entries.push(described(path, entry)),
        }
    }
    if entries.is_empty() && !below.is_empty() {
        return error(404, "EntryNotFound", &format!("{below} does not exist"));
    }
    answer::json(entries.into())
}

/// The paths of a request, in JSON or as a form, as the two clients send them.
fn paths(body: &[u8]) -> Vec<String> {
    if let Ok(json) = serde_json::from_slice::<Value>(body) {
        let paths = json["paths"].as_array().into_iter().flatten();
        return paths.filter_map(|path| path.as_str().map(str::to_owned)).collect();
    }
    let text = String::from_utf8_lossy(body).replace('+', " ");
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    let decode = |path: &str| percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned();
    pairs.filter(|(key, _)| *key == "paths").map(|(_, path)| decode(path)).collect()
}

fn preupload(body: &Value, commit: &Commit) -> Response {
    let file = |file: &Value| {
        let path = file["path"].as_str().unwrap_or_default();
        let sample = BASE64.decode(file["sample"].as_str().unwrap_or_default()).unwrap_or_default();
        let large = store::is_large(path, file["size"].as_u64().unwrap_or(0), &sample);
        let oid = commit.files.get(path).map(|entry| entry.oid.clone());
        json!({"path": path, "uploadMode": if large { "lfs" } else { "regular" }, "shouldIgnore": false, "oid": oid})
    };
    let files: Vec<Value> = body["files"].as_array().into_iter().flatten().map(file).collect();
    answer::json(json!({"files": files}))
}

/// Takes a commit, a line of JSON for each of its parts.
fn commit(hub: &Inner, id: &str, revision: &str, pull_request: bool, body: &[u8]) -> Response {
    let Some(mut new) =
        hub.store().repositories.get(id).and_then(|r| r.commit(revision)).map(|(_, commit)| commit.clone())
    else {
        return error(404, "RevisionNotFound", &format!("Invalid rev id: {revision}"));
    };
    for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let Ok(line) = serde_json::from_slice::<Value>(line) else {
            return error(400, "", "The commit has a line that is not JSON");
        };
        let (key, value) = (line["key"].as_str().unwrap_or_default(), &line["value"]);
        let path = value["path"].as_str().unwrap_or_default().to_owned();
        let entry = match key {
            "file" => {
                let bytes = BASE64.decode(value["content"].as_str().unwrap_or_default()).unwrap_or_default();
                hub.objects.put(&bytes, false).map(Some)
            }
            "lfsFile" => {
                hub.objects.large(value["oid"].as_str().unwrap_or_default(), value["size"].as_u64().unwrap_or(0))
            }
            "deletedFile" => {
                new.files.remove(&path);
                continue;
            }
            "deletedFolder" => {
                new.files.retain(|name, _| !name.starts_with(&path));
                continue;
            }
            _ => continue,
        };
        match entry {
            Ok(Some(entry)) => new.files.insert(path, entry),
            Ok(None) => return error(400, "", &format!("The bytes of {path} were never uploaded")),
            Err(e) => return error(500, "", &e.to_string()),
        };
    }
    with(hub, id, |repository| {
        let (branch, pull) = match pull_request {
            true => {
                repository.pull_requests += 1;
                let number = repository.pull_requests;
                let url = format!("{}/{}/discussions/{number}", hub.url, id.trim_start_matches("models/"));
                (format!("refs/pr/{number}"), Some((url, number)))
            }
            false => (revision.to_owned(), None),
        };
        let oid = repository.add(&branch, new);
        let url = format!("{}/{}/commit/{oid}", hub.url, id.trim_start_matches("models/"));
        let mut told = json!({"success": true, "commitOid": oid, "commitUrl": url, "hookOutput": ""});
        if let Some((url, number)) = pull {
            told["pullRequestUrl"] = json!(url);
            told["prUrl"] = json!(url);
            told["prNum"] = json!(number);
        }
        answer::json(told)
    })
}
