//! Ways to spoil a file.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use ferrotune::candle_core::{DType, Device, Shape, Tensor, safetensors};
use serde_json::Value;

pub(super) fn nothing(_: &Path) {}

pub(super) fn write(dir: &Path, path: &str, content: impl AsRef<[u8]>) {
    let path = dir.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

pub(super) fn remove(dir: &Path, path: &str) {
    let path = dir.join(path);
    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
}

/// Keeps the first `keep` of a hundred parts.
pub(super) fn truncate(dir: &Path, path: &str, keep: usize) {
    let bytes = fs::read(dir.join(path)).unwrap();
    write(dir, path, &bytes[..bytes.len() * keep / 100]);
}

/// Replaces the first place where `from` stands, in bytes.
pub(super) fn replace(dir: &Path, path: &str, from: &[u8], to: &[u8]) {
    let bytes = fs::read(dir.join(path)).unwrap();
    let at = bytes.windows(from.len()).position(|w| w == from).expect("there is something to replace");
    write(dir, path, [&bytes[..at], to, &bytes[at + from.len()..]].concat());
}

pub(super) fn edit_json(dir: &Path, path: &str, edit: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(dir.join(path)).unwrap()).unwrap();
    edit(&mut value);
    write(dir, path, value.to_string());
}

/// Sets a key of a JSON file; null takes it out.
pub(super) fn set(dir: &Path, path: &str, key: &str, value: Value) {
    edit_json(dir, path, |json| {
        let map = json.as_object_mut().unwrap();
        match value {
            Value::Null => map.remove(key),
            value => map.insert(key.into(), value),
        };
    });
}

/// Changes the header of a safetensors file as text, and keeps its length right.
pub(super) fn edit_header(dir: &Path, path: &str, edit: impl FnOnce(String) -> String) {
    let bytes = fs::read(dir.join(path)).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let before = String::from_utf8(bytes[8..end].to_vec()).unwrap();
    let header = edit(before.clone());
    assert_ne!(header, before);
    write(dir, path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes[end..]].concat());
}

pub(super) fn edit_tensors(dir: &Path, path: &str, edit: impl FnOnce(&mut HashMap<String, Tensor>)) {
    let path = dir.join(path);
    let mut tensors = safetensors::load(&path, &Device::Cpu).unwrap();
    edit(&mut tensors);
    safetensors::save(&tensors, path).unwrap();
}

pub(super) fn drop_tensor(dir: &Path, path: &str, name: &str) {
    edit_tensors(dir, path, |tensors| assert!(tensors.remove(name).is_some(), "{name}"));
}

pub(super) fn put_tensor(dir: &Path, path: &str, name: &str, value: f32, shape: impl Into<Shape>) {
    let tensor = Tensor::full(value, shape, &Device::Cpu).unwrap();
    edit_tensors(dir, path, |tensors| drop(tensors.insert(name.into(), tensor)));
}

/// Stores a tensor as another type.
pub(super) fn cast_tensor(dir: &Path, path: &str, name: &str, dtype: DType) {
    edit_tensors(dir, path, |tensors| {
        let tensor = tensors[name].to_dtype(dtype).unwrap();
        tensors.insert(name.into(), tensor);
    });
}
