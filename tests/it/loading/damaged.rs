//! Damaged files: an error wherever a file is cut, and no crash whatever a header claims.

use std::fs;
use std::path::Path;

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device};
use ferrotune::model::{self, LoadOptions};

use super::gguf::Gguf;
use super::{config, folder, golden, tensors};

/// Opens and loads a model, and says whether that went well.
fn loads(path: &Path) -> bool {
    let options = LoadOptions::new(Device::Cpu, DType::F32);
    let loaded = model::open(path).and_then(|pretrained| model::load(&pretrained, &options, |_, _| {}));
    match loaded {
        Ok(_) => true,
        Err(error) => {
            assert!(error.is_input(), "blamed on the program: {error}");
            let text = error.to_string();
            assert!(
                text.contains("model.safetensors") || text.contains("tiny.gguf") || text.contains("tensor `"),
                "{text}"
            );
            false
        }
    }
}

/// Lengths to cut at: all of the first, where the header has its fields, then strides.
fn cuts(length: usize) -> impl Iterator<Item = usize> {
    (0..64).chain((64..length).step_by(997)).chain([length - 1])
}

/// Writes `bytes` with the bits of one byte of the header changed, many times over.
fn flips(header: usize, mut check: impl FnMut(usize, u8)) {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    for _ in 0..600 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (state >> 33) as usize % header;
        check(at, ((state >> 20) as u8).max(1));
    }
}

#[test]
fn safetensors_cut_anywhere_are_refused() {
    let directory = folder(&config("tiny-llama-2"), &tensors("tiny-llama-2"));
    let path = directory.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    assert!(loads(directory.path()));
    for cut in cuts(whole.len()) {
        fs::write(&path, &whole[..cut]).unwrap();
        assert!(!loads(directory.path()), "cut at {cut} of {}", whole.len());
    }
}

#[test]
fn a_wrong_byte_in_a_safetensors_header_is_no_crash() {
    let directory = folder(&config("tiny-llama-2"), &tensors("tiny-llama-2"));
    let path = directory.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let mut refused = 0;
    flips(header, |at, bits| {
        let mut bytes = whole.clone();
        bytes[at] ^= bits;
        fs::write(&path, bytes).unwrap();
        refused += usize::from(!loads(directory.path()));
    });
    assert!(refused > 500, "{refused} of 600 changes were noticed");
}

fn tiny_gguf(directory: &Path) -> std::path::PathBuf {
    let config = model::open(&golden("tiny-llama-2")).unwrap().config;
    Gguf::new(&config, &tensors("tiny-llama-2"), GgmlDType::F16).write(directory)
}

#[test]
fn gguf_cut_anywhere_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = tiny_gguf(directory.path());
    let whole = fs::read(&path).unwrap();
    assert!(loads(&path));
    for cut in cuts(whole.len()) {
        fs::write(&path, &whole[..cut]).unwrap();
        assert!(!loads(&path), "cut at {cut} of {}", whole.len());
    }
}

#[test]
fn a_wrong_byte_in_a_gguf_header_is_no_crash() {
    let directory = tempfile::tempdir().unwrap();
    let path = tiny_gguf(directory.path());
    let whole = fs::read(&path).unwrap();
    let name = b"token_embd.weight";
    let header = whole.windows(name.len()).position(|w| w == name).unwrap() + 64;
    let mut refused = 0;
    flips(header, |at, bits| {
        let mut bytes = whole.clone();
        bytes[at] ^= bits;
        fs::write(&path, bytes).unwrap();
        refused += usize::from(!loads(&path));
    });
    assert!(refused > 300, "{refused} of 600 changes were noticed");
}
