//! A model or an adapter from the Hub: which of a repository's files it is.

use std::path::{Path, PathBuf};

use super::cache::Cached;
use super::client::{Hub, TreeFile};
use super::download::{Transfer, Watch};
use super::name::Repository;
use crate::{Error, Result};

const INDEX: &str = "model.safetensors.index.json";

/// Files beside the weights that say how to use them, or whose they are.
const COMPANIONS: [&str; 12] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "adapter_config.json",
    "prompt.json",
    "config.toml",
    "README.md",
    "LICENSE",
    "loss.svg",
];

impl Hub {
    /// The folder of a model or adapter, or the path of the one `.gguf` file of a repository that has nothing else; from the
    /// cache, or fetched into it.
    ///
    /// Errors: [`Error::Hub`], [`Error::Write`], [`Error::Format`] (see [`Hub::fetch_model`]); offline, [`Error::Config`] for
    /// a model that is not in the cache.
    pub fn model(&self, repository: &Repository, watch: &mut Watch) -> Result<PathBuf> {
        let cached = Cached::new(&self.settings.cache, repository);
        let snapshot = cached.snapshot(&cached.commit(&repository.revision));
        if let Some(path) = usable(&snapshot) {
            return Ok(path);
        }
        if self.settings.offline {
            let what = format!(
                "{} is not in Hugging Face's cache (`{}`), and `HF_HUB_OFFLINE` forbids to fetch it",
                repository.told(),
                self.settings.cache.display()
            );
            let hint =
                format!("Unset it, or run `ferrotune fetch hf:{}` where there is a connection.", repository.id());
            return Err(Error::config("", what, hint));
        }
        self.fetch_model(repository, watch)
    }

    /// Brings a model's or adapter's files into the cache as they are on the Hub now, and returns where they are.
    ///
    /// Errors: [`Error::Hub`]; [`Error::Write`] for the cache; [`Error::Format`] for a file whose name leads out of its
    /// folder, or whose bytes are not those that the Hub announced.
    pub fn fetch_model(&self, repository: &Repository, watch: &mut Watch) -> Result<PathBuf> {
        let files = self.tree(repository, &mut |note| watch(Transfer::Note(note)))?;
        let has = |name: &str| files.iter().any(|file| file.path == name);
        let is_gguf = |path: &str| !path.contains('/') && path.to_ascii_lowercase().ends_with(".gguf");
        let ggufs: Vec<&str> = files.iter().map(|file| file.path.as_str()).filter(|path| is_gguf(path)).collect();
        let whole = has("model.safetensors") || has(INDEX) || has("adapter_model.safetensors");
        let gguf = match ggufs[..] {
            [one] if !whole => Some(one.to_string()),
            [_, ..] if !whole => {
                let what = format!("{} has several `.gguf` files and no safetensors", repository.told());
                let hint = format!("Download one of them and pass its path: {}.", ggufs.join(", "));
                return Err(Error::hub(true, what, hint));
            }
            _ => None,
        };
        let wanted = |file: &&TreeFile| {
            let path = file.path.as_str();
            // A file whose name leads elsewhere is wanted, too: it is refused by name.
            gguf.as_deref() == Some(path) || COMPANIONS.contains(&path) || is_weights(path) || path.contains("..")
        };
        let folder = self.download(repository, &files.iter().filter(wanted).collect::<Vec<_>>(), watch)?;
        match gguf {
            Some(gguf) => Ok(folder.join(gguf)),
            None if usable(&folder).is_some() => Ok(folder),
            None => {
                let what = format!("{} is neither a model in safetensors or GGUF nor an adapter", repository.told());
                Err(Error::hub(
                    true,
                    what,
                    "Weights in other formats (`.bin`, `.pth`) are not read: they can run code.",
                ))
            }
        }
    }
}

/// Whether a file is transformers' or PEFT's weights; other safetensors, as Meta's `consolidated`, are the same weights once
/// more.
fn is_weights(path: &str) -> bool {
    let shard = path.starts_with("model-") && path.ends_with(".safetensors");
    shard && !path.contains('/') || ["model.safetensors", INDEX, "adapter_model.safetensors"].contains(&path)
}

/// What in a folder can be opened: the folder, if its config and every file of its weights are there, or its one GGUF file.
fn usable(folder: &Path) -> Option<PathBuf> {
    let has = |name: &str| folder.join(name).is_file();
    if has("adapter_config.json") && has("adapter_model.safetensors") {
        return Some(folder.into());
    }
    if has("config.json") && (has("model.safetensors") || all_shards(folder)) {
        return Some(folder.into());
    }
    let entries = std::fs::read_dir(folder).ok()?;
    let mut ggufs = entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "gguf"));
    ggufs.next().filter(|_| ggufs.next().is_none())
}

fn all_shards(folder: &Path) -> bool {
    let Ok(text) = std::fs::read(folder.join(INDEX)) else { return false };
    let Ok(index) = serde_json::from_slice::<serde_json::Value>(&text) else { return false };
    let shards = index["weight_map"].as_object().into_iter().flatten().filter_map(|(_, shard)| shard.as_str());
    shards.collect::<std::collections::BTreeSet<_>>().iter().all(|shard| folder.join(shard).is_file())
}
