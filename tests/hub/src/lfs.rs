//! Git LFS's batch and its basic transfer.

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use futures::StreamExt;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use crate::Inner;
use crate::answer::{self, error};
use crate::objects::hex;

/// Says for each object whether it is wanted, and where to.
pub(crate) fn batch(hub: &Inner, body: Value) -> Response {
    let speaks = |name: &str| body["transfers"].as_array().into_iter().flatten().any(|transfer| transfer == name);
    let transfer = if hub.xet && speaks("xet") { "xet" } else { "basic" };
    let object = |object: &Value| {
        let oid = object["oid"].as_str().unwrap_or_default();
        let mut told = json!({"oid": oid, "size": object["size"]});
        if transfer == "basic" && !hub.objects.has(oid) {
            told["actions"] = json!({"upload": {"href": format!("{}/lfs/{oid}", hub.url)}});
        }
        told
    };
    let objects: Vec<Value> = body["objects"].as_array().into_iter().flatten().map(object).collect();
    let headers = [("content-type", "application/vnd.git-lfs+json")];
    let body = json!({"transfer": transfer, "objects": objects, "hash_algo": "sha256"}).to_string();
    answer::build(StatusCode::OK, &headers, body.into())
}

/// Takes an object's bytes; it is kept if they have its hash.
pub(crate) async fn receive(hub: &Inner, oid: &str, request: Request) -> Response {
    let temporary = hub.objects.temporary();
    let received = async {
        let mut file = tokio::fs::File::create(&temporary).await?;
        let mut hash = Sha256::new();
        let mut body = request.into_body().into_data_stream();
        while let Some(part) = body.next().await {
            let part = part.map_err(std::io::Error::other)?;
            hash.update(&part);
            file.write_all(&part).await?;
        }
        file.flush().await?;
        if hex(&hash.finalize()) == oid {
            tokio::fs::rename(&temporary, hub.objects.path(oid)).await?;
            return Ok(true);
        }
        tokio::fs::remove_file(&temporary).await?;
        std::io::Result::Ok(false)
    };
    match received.await {
        Ok(true) => answer::json(json!({})),
        Ok(false) => error(422, "", "The bytes do not have the hash of the object"),
        Err(e) => error(500, "", &e.to_string()),
    }
}
