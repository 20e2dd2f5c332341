//! From an adapter to what others load, and back: the same tokens at every stage.

use std::fs;
use std::path::Path;

use candle_core::{D, DType, Device};
use ferrotune::hub::{Hub, Repository, Settings};
use ferrotune::lora::{Adapter, peft};
use ferrotune::model::export::{self, GgufType, SHARD_BYTES};
use ferrotune::model::{self, LoadOptions};

use super::Setup;

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-llama-2").join(name)
}

/// What a model goes on with after some ids, the likeliest token each time.
fn tokens(path: &Path, adapter: Option<&Adapter>) -> Vec<u32> {
    let pretrained = model::open(path).unwrap();
    let mut decoder = model::load(&pretrained, &LoadOptions::new(Device::Cpu, DType::F32), |_, _| {}).unwrap();
    if let Some(adapter) = adapter {
        decoder.set_adapter(adapter, false).unwrap();
    }
    let mut ids = vec![3, 41, 59, 26];
    for _ in 0..24 {
        let logits = decoder.logits(&ids).unwrap();
        let next: Vec<u32> = logits.argmax(D::Minus1).unwrap().to_vec1().unwrap();
        ids.extend(next.last());
    }
    ids
}

#[test]
fn every_stage_says_the_same() {
    let setup = Setup::new();
    let root = setup.folder.path();
    let base = model::open(&golden("")).unwrap();
    let adapter = peft::load(&golden("lora"), &base.config.module_shapes(), &Device::Cpu).unwrap();
    let trained = tokens(&golden(""), Some(&adapter));
    assert_ne!(trained, tokens(&golden(""), None), "the adapter says nothing new, so nothing was compared");

    let (merged, gguf) = (root.join("merged"), root.join("gguf/merged.gguf"));
    export::write_merged(&base, &adapter, DType::F16, SHARD_BYTES, &merged, |_, _| {}).unwrap();
    assert_eq!(tokens(&merged, None), trained, "merged");
    export::write_gguf(&model::open(&merged).unwrap(), GgufType::F16, &gguf, |_, _| {}).unwrap();
    assert_eq!(tokens(&gguf, None), trained, "as GGUF");

    for (folder, id) in
        [(merged.as_path(), "me/merged"), (gguf.parent().unwrap(), "me/gguf"), (&golden("lora"), "me/adapter")]
    {
        setup.push(folder, id).unwrap();
    }
    let clean = Hub::new(Settings { cache: root.join("another cache"), ..setup.settings() }).unwrap();
    let fetch = |id: &str| clean.fetch_model(&Repository::model(id).unwrap(), &mut |_| {}).unwrap();
    assert_eq!(tokens(&fetch("me/merged"), None), trained, "fetched");
    assert_eq!(tokens(&fetch("me/gguf"), None), trained, "fetched as GGUF");
    let fetched = peft::load(&fetch("me/adapter"), &base.config.module_shapes(), &Device::Cpu).unwrap();
    assert_eq!(tokens(&golden(""), Some(&fetched)), trained, "the adapter, fetched");
    assert!(fs::read_dir(root.join("cache")).is_err(), "nothing came from the first cache");
}
