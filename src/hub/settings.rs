//! Where the Hub is, who asks, and where its files are kept: huggingface_hub's variables.

use std::path::PathBuf;
use std::time::Duration;

use crate::{Error, Result};

const ENDPOINT: &str = "https://huggingface.co";

/// How a [`Hub`](super::Hub) is reached.
#[derive(Clone)]
pub struct Settings {
    /// The Hub's address, without a slash at its end.
    pub endpoint: String,
    /// Who asks; never shown.
    pub token: Option<String>,
    /// huggingface_hub's cache of repositories.
    pub cache: PathBuf,
    /// Ask nobody, and use what is in the cache.
    pub offline: bool,
    /// How long to wait before a failed request is made again: twice as long after the first failure, and so on.
    pub patience: Duration,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { endpoint, token, cache, offline, patience } = self;
        let token = token.as_ref().map(|_| "…");
        f.debug_struct("Settings")
            .field("endpoint", endpoint)
            .field("token", &token)
            .field("cache", cache)
            .field("offline", offline)
            .field("patience", patience)
            .finish()
    }
}

impl Settings {
    /// `HF_ENDPOINT`; `HF_TOKEN`, else the file that `HF_TOKEN_PATH` names, else `token` in `HF_HOME`, unless
    /// `HF_HUB_DISABLE_IMPLICIT_TOKEN` is set; `HF_HUB_CACHE`; `HF_HUB_OFFLINE`.
    ///
    /// Errors: [`Error::Config`] if no variable says where the cache is.
    pub fn from_env() -> Result<Self> {
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').into(),
            token: if is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") { None } else { token() },
            cache: cache_dir()?,
            offline: is_on("HF_HUB_OFFLINE"),
            patience: Duration::from_millis(500),
        })
    }
}

/// The folder of huggingface_hub's files: `HF_HOME`, else `huggingface` in the user's cache; `None` if no variable says where
/// that is.
pub fn hf_home() -> Option<PathBuf> {
    path("HF_HOME")
        .or_else(|| Some(path("XDG_CACHE_HOME")?.join("huggingface")))
        .or_else(|| Some(path("HOME")?.join(".cache/huggingface")))
}

/// `HF_HUB_CACHE` or `HUGGINGFACE_HUB_CACHE`, else `hub` in [`hf_home`].
fn cache_dir() -> Result<PathBuf> {
    path("HF_HUB_CACHE")
        .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| Some(hf_home()?.join("hub")))
        .ok_or_else(|| Error::config("", "there is no home folder to keep models in", "Set `HF_HOME` to one."))
}

fn token() -> Option<String> {
    text("HF_TOKEN").or_else(|| {
        let file = path("HF_TOKEN_PATH").or_else(|| Some(hf_home()?.join("token")))?;
        let token = std::fs::read_to_string(file).ok()?.trim().to_string();
        (!token.is_empty()).then_some(token)
    })
}

fn path(key: &str) -> Option<PathBuf> {
    std::env::var_os(key).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn text(key: &str) -> Option<String> {
    let text = std::env::var(key).ok()?.trim().to_string();
    (!text.is_empty()).then_some(text)
}

/// huggingface_hub's way to read a switch.
fn is_on(key: &str) -> bool {
    text(key).is_some_and(|value| matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
}
