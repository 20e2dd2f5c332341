//! A checkpoint written tensor by tensor: one safetensors file, or shards and their index.
//!
//! What is written has a temporary name until it is whole, so that no reader takes a part for a model.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde_json::{Map, Value, json};

use crate::{Error, Result, files};

/// The file of a model that is not sharded.
pub const MODEL_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";

/// A weight that is going to be written.
pub(super) struct Planned {
    /// Its name; several tensors that belong together (a 4-bit weight's) go by the first one's.
    pub(super) name: String,
    /// What it takes in the file, in bytes; may be too much by a little.
    pub(super) bytes: u64,
    /// How many tensors it is.
    pub(super) tensors: usize,
}

/// Writes weights in the order in which they were planned.
pub(super) struct CheckpointWriter {
    directory: PathBuf,
    /// Folders that were made for it, the innermost first.
    made: Vec<PathBuf>,
    /// For each shard the first weight that is not in it any more, and the bytes that its header may take.
    shards: Vec<(String, usize)>,
    current: Option<Shard>,
    /// Which shard, from 0, each tensor is in.
    places: BTreeMap<String, usize>,
    total_bytes: u64,
    finished: usize,
}

impl CheckpointWriter {
    /// Starts a checkpoint of `weights` in `directory`, whose files hold at most `shard_bytes` each, or one weight.
    ///
    /// Errors: [`Error::Write`].
    pub(super) fn create(directory: &Path, weights: &[Planned], shard_bytes: u64) -> Result<Self> {
        let made = directory.ancestors().take_while(|d| !d.as_os_str().is_empty() && !d.exists());
        let made = made.map(Path::to_path_buf).collect();
        files::create_directory(directory)?;
        let mut shards = Vec::new();
        let (mut bytes, mut header) = (0, EMPTY_HEADER);
        for weight in weights {
            if bytes > 0 && bytes + weight.bytes > shard_bytes {
                shards.push((weight.name.clone(), header));
                (bytes, header) = (0, EMPTY_HEADER);
            }
            bytes += weight.bytes;
            header += weight.tensors * (weight.name.len() + ENTRY);
        }
        shards.push((String::new(), header));
        let mut writer = Self {
            directory: directory.into(),
            made,
            shards,
            current: None,
            places: BTreeMap::new(),
            total_bytes: 0,
            finished: 0,
        };
        writer.open_shard()?;
        Ok(writer)
    }

    /// Starts a tensor of the weight `weight`: the next one that was planned, or one more of the same.
    pub(super) fn start(&mut self, weight: &str, name: &str, dtype: Dtype, shape: &[usize]) -> Result<()> {
        if self.shards[self.finished].0 == weight {
            self.close_shard()?;
            self.open_shard()?;
        }
        self.places.insert(name.into(), self.finished);
        if let Some(shard) = &mut self.current {
            shard.start(name, dtype, shape);
        }
        Ok(())
    }

    /// Adds to the tensor that was started last.
    ///
    /// Errors: [`Error::Write`], as from a full disk.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.total_bytes += bytes.len() as u64;
        match &mut self.current {
            Some(shard) => shard.write(bytes),
            None => Ok(()),
        }
    }

    /// Makes the files whole; returns their names.
    pub(super) fn finish(mut self) -> Result<Vec<String>> {
        self.close_shard()?;
        let count = self.shards.len();
        let names: Vec<String> = (0..count).map(|shard| shard_name(shard, count)).collect();
        if count > 1 {
            let map: Map<String, Value> =
                self.places.iter().map(|(tensor, shard)| (tensor.clone(), json!(names[*shard]))).collect();
            let index = json!({"metadata": {"total_size": self.total_bytes}, "weight_map": map});
            let text = serde_json::to_string_pretty(&index).unwrap_or_default() + "\n";
            files::write_atomic(&self.directory.join(INDEX_FILE), text.as_bytes())?;
        }
        Ok(names)
    }

    fn open_shard(&mut self) -> Result<()> {
        let name = shard_name(self.finished, self.shards.len());
        self.current = Some(Shard::create(self.directory.join(name), self.shards[self.finished].1)?);
        Ok(())
    }

    fn close_shard(&mut self) -> Result<()> {
        if let Some(shard) = self.current.take() {
            shard.finish()?;
            self.finished += 1;
        }
        Ok(())
    }
}

impl Drop for CheckpointWriter {
    fn drop(&mut self) {
        self.current = None;
        // A folder with a finished file in it is not empty, and stays.
        let _ = self.made.iter().try_for_each(fs::remove_dir);
    }
}

/// transformers' names.
fn shard_name(shard: usize, count: usize) -> String {
    match count {
        1 => MODEL_FILE.into(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", shard + 1),
    }
}

/// Bytes of a header without tensors, and of an entry beside the tensor's name: more than they can take.
const EMPTY_HEADER: usize = 64;
const ENTRY: usize = 192;

/// One safetensors file. Its header comes first and is known last, so room is left for it and filled with spaces, as the
/// format allows.
struct Shard {
    path: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
    header_bytes: usize,
    header: Map<String, Value>,
    /// Name, type and shape of the tensor that is being written, and where it starts.
    open: Option<(String, Dtype, Vec<usize>, u64)>,
    length: u64,
}

impl Shard {
    fn create(path: PathBuf, header_bytes: usize) -> Result<Self> {
        // The format aligns the data to 8 bytes.
        let header_bytes = header_bytes.next_multiple_of(8);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let temporary = path.with_file_name(format!(".{name}.tmp-{}", std::process::id()));
        let created = (|| {
            let mut file = File::create(&temporary)?;
            file.seek(SeekFrom::Start(8 + header_bytes as u64))?;
            Ok(BufWriter::with_capacity(1 << 20, file))
        })();
        let file = created.map_err(|e| Error::write(&path, e))?;
        let header = Map::from_iter([("__metadata__".to_string(), json!({"format": "pt"}))]);
        Ok(Self { path, temporary, file, header_bytes, header, open: None, length: 0 })
    }

    fn start(&mut self, name: &str, dtype: Dtype, shape: &[usize]) {
        self.end();
        self.open = Some((name.into(), dtype, shape.into(), self.length));
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::write(&self.path, e))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn end(&mut self) {
        if let Some((name, dtype, shape, start)) = self.open.take() {
            let entry = json!({"dtype": format!("{dtype:?}"), "shape": shape, "data_offsets": [start, self.length]});
            self.header.insert(name, entry);
        }
    }

    fn finish(mut self) -> Result<()> {
        self.end();
        let mut header = Value::Object(std::mem::take(&mut self.header)).to_string();
        if header.len() > self.header_bytes {
            let what = format!("the header takes {} bytes, for which {} were left", header.len(), self.header_bytes);
            return Err(Error::Shape { op: "safetensors", what });
        }
        header.extend(std::iter::repeat_n(' ', self.header_bytes - header.len()));
        let written = (|| {
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(&(header.len() as u64).to_le_bytes())?;
            self.file.write_all(header.as_bytes())?;
            self.file.flush()?;
            self.file.get_ref().sync_all()?;
            fs::rename(&self.temporary, &self.path)?;
            files::sync_directory(self.path.parent().unwrap_or(Path::new(".")))
        })();
        written.map_err(|e| Error::write(&self.path, e))
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        // Absent once it has its name; else nobody's, and whatever keeps it from going away was reported by the write.
        let _ = fs::remove_file(&self.temporary);
    }
}
