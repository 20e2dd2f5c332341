//! Xet's storage: what clients upload to it, and files out of that by their SHA-256.
//!
//! A *shard* lists a file's pieces: ranges of chunks of *xorbs*, objects of many compressed chunks. Clients send xorbs first
//! and then the shards that need them; both are files here. Asked for a grant to upload a xorb elsewhere, the storage says
//! that it has the xorb or that there is no elsewhere. Version 2 of the shards' endpoint and the search for chunks that are
//! there already are not offered, and clients do without.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Cursor, Write};
use std::path::Path;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde_json::json;
use sha2::{Digest, Sha256};
use xet_core_structures::metadata_shard::MDBShardFileHeader;
use xet_core_structures::metadata_shard::file_structs::{
    FileDataSequenceEntry, FileDataSequenceHeader, FileMetadataExt, FileVerificationEntry,
};
use xet_core_structures::xorb_object::{XorbObject, reconstruct_xorb_with_footer};

use crate::answer::{self, error};
use crate::objects::{Objects, hex};

/// Answers a request below the storage's address.
pub(crate) async fn answer(objects: &Objects, path: &[&str], request: Request) -> Response {
    match (request.method().clone(), path) {
        (Method::POST, ["v1", "xorb-grants", "default", hash]) if objects.cas().join("xorbs").join(hash).is_file() => {
            answer::build(StatusCode::OK, &[], Body::empty())
        }
        (Method::POST, ["v1", "xorbs", "default", hash]) => {
            let hash = hash.to_string();
            let Some(bytes) = answer::whole_body(request).await else {
                return error(400, "", "The body was cut off");
            };
            match keep_xorb(objects, &hash, &bytes) {
                Ok(()) => answer::json(json!({"was_inserted": true})),
                Err(e) => error(400, "", &e.to_string()),
            }
        }
        (Method::POST, ["v1", "shards"]) => {
            let Some(bytes) = answer::whole_body(request).await else {
                return error(400, "", "The body was cut off");
            };
            match objects.keep(&objects.cas().join("shards").join(hex(&Sha256::digest(&bytes))), &bytes) {
                Ok(()) => answer::json(json!({"result": 1})),
                Err(e) => error(500, "", &e.to_string()),
            }
        }
        _ => error(404, "", "Not found"),
    }
}

/// Keeps a xorb, with the table of its chunks, which clients leave to the storage; it is refused if its bytes have another hash.
fn keep_xorb(objects: &Objects, hash: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = objects.temporary();
    let mut file = BufWriter::new(File::create(&temporary)?);
    let (_, found) = reconstruct_xorb_with_footer(&mut file, bytes).map_err(io::Error::other)?;
    file.flush()?;
    if found.hex() != hash {
        fs::remove_file(&temporary)?;
        return Err(io::Error::other(format!("The hash of the xorb {hash} is {}", found.hex())));
    }
    fs::rename(temporary, objects.cas().join("xorbs").join(hash))
}

/// Writes the file with this SHA-256 to `path`; false if no shard has it.
pub(crate) fn put_together(cas: &Path, sha256: &str, path: &Path) -> io::Result<bool> {
    for shard in fs::read_dir(cas.join("shards"))? {
        if let Some(pieces) = pieces(&fs::read(shard?.path())?, sha256)? {
            write(cas, &pieces, sha256, path)?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// A file's pieces in a shard, in their order.
fn pieces(shard: &[u8], sha256: &str) -> io::Result<Option<Vec<FileDataSequenceEntry>>> {
    let mut reader = Cursor::new(shard);
    if MDBShardFileHeader::deserialize(&mut reader).is_err() {
        return Ok(None);
    }
    loop {
        let header = FileDataSequenceHeader::deserialize(&mut reader)?;
        if header.is_bookend() {
            return Ok(None);
        }
        let mut pieces = Vec::new();
        for _ in 0..header.num_entries {
            pieces.push(FileDataSequenceEntry::deserialize(&mut reader)?);
        }
        if header.contains_verification() {
            for _ in 0..header.num_entries {
                FileVerificationEntry::deserialize(&mut reader)?;
            }
        }
        if header.contains_metadata_ext() && FileMetadataExt::deserialize(&mut reader)?.sha256.hex() == sha256 {
            return Ok(Some(pieces));
        }
    }
}

fn write(cas: &Path, pieces: &[FileDataSequenceEntry], sha256: &str, path: &Path) -> io::Result<()> {
    let mut out = File::create(path)?;
    let mut hash = Sha256::new();
    for piece in pieces {
        let mut reader = BufReader::new(File::open(cas.join("xorbs").join(piece.xorb_hash.hex()))?);
        let object = XorbObject::deserialize(&mut reader).map_err(io::Error::other)?;
        let bytes = object
            .get_bytes_by_chunk_range(&mut reader, piece.chunk_index_start, piece.chunk_index_end)
            .map_err(io::Error::other)?;
        hash.update(&bytes);
        out.write_all(&bytes)?;
    }
    let found = hex(&hash.finalize());
    if found != sha256 {
        return Err(io::Error::other(format!("the pieces of {sha256} make up {found}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_shard_has_no_file() {
        assert!(pieces(b"no shard", "00").unwrap().is_none());
    }
}
