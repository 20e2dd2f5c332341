//! Files out of Xet's storage, by the SHA-256 that their shards note.
//!
//! A *shard* lists a file's pieces: ranges of chunks of *xorbs*, objects of many compressed chunks. Both are files in the
//! folder that the client wrote; nothing here opens the client's database, which it may still have open.

use std::fs::{self, File};
use std::io::{self, BufReader, Cursor, Write};
use std::path::Path;

use sha2::{Digest, Sha256};
use xet_core_structures::metadata_shard::MDBShardFileHeader;
use xet_core_structures::metadata_shard::file_structs::{
    FileDataSequenceEntry, FileDataSequenceHeader, FileMetadataExt, FileVerificationEntry,
};
use xet_core_structures::xorb_object::XorbObject;

/// Writes the file with this SHA-256 to `path`; false if no shard has it.
pub(crate) fn put_together(cas: &Path, sha256: &str, path: &Path) -> io::Result<bool> {
    let storage = cas.join("xet/xorbs");
    let Ok(shards) = fs::read_dir(storage.join("shards")) else { return Ok(false) };
    for shard in shards {
        let shard = shard?.path();
        if !shard.is_file() {
            continue;
        }
        if let Some(pieces) = pieces(&fs::read(&shard)?, sha256)? {
            write(&storage, &pieces, sha256, path)?;
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

fn write(storage: &Path, pieces: &[FileDataSequenceEntry], sha256: &str, path: &Path) -> io::Result<()> {
    let mut out = File::create(path)?;
    let mut hash = Sha256::new();
    for piece in pieces {
        let xorb = storage.join("xorbs").join(format!("default.{:?}", piece.xorb_hash));
        let mut reader = BufReader::new(File::open(xorb)?);
        let object = XorbObject::deserialize(&mut reader).map_err(io::Error::other)?;
        let bytes = object
            .get_bytes_by_chunk_range(&mut reader, piece.chunk_index_start, piece.chunk_index_end)
            .map_err(io::Error::other)?;
        hash.update(&bytes);
        out.write_all(&bytes)?;
    }
    let found = crate::objects::hex(&hash.finalize());
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
        let folder = std::env::temp_dir();
        assert!(!put_together(&folder.join("absent"), "00", &folder.join("never")).unwrap());
    }
}
