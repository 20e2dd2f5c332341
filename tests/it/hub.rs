//! Models, adapters and data to the Hub and back, over its protocol on the loopback interface, and what happens when it fails.

mod data;
mod faults;
mod publish;
mod push;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ferrotune::hub::{Hub, PushOptions, Pushed, Repository, Settings, Transfer};
use ferrotune::{Error, Result};
use ferrotune_loopback_hub::LoopbackHub;
use tempfile::TempDir;

/// A Hub, a folder for its files, and a cache for ours.
struct Setup {
    server: LoopbackHub,
    folder: TempDir,
}

impl Setup {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { server: LoopbackHub::start(folder.path().join("hub")).unwrap(), folder }
    }

    fn settings(&self) -> Settings {
        Settings {
            endpoint: self.server.url().into(),
            token: Some(self.server.token().into()),
            cache: self.folder.path().join("cache"),
            offline: false,
            patience: Duration::from_millis(1),
        }
    }

    fn hub(&self) -> Hub {
        Hub::new(self.settings()).unwrap()
    }

    /// The client without a token, or with another.
    fn hub_with(&self, token: Option<&str>) -> Hub {
        Hub::new(Settings { token: token.map(Into::into), ..self.settings() }).unwrap()
    }

    /// A model's folder, small but whole.
    fn model(&self) -> PathBuf {
        let folder = self.folder.path().join("model");
        fs::create_dir_all(&folder).unwrap();
        for name in ["config.json", "model.safetensors"] {
            fs::copy(
                Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-llama-2").join(name),
                folder.join(name),
            )
            .unwrap();
        }
        fs::write(folder.join("README.md"), "---\nlibrary_name: transformers\n---\n\n# A model\n").unwrap();
        folder
    }

    /// Puts that model onto the Hub, as it got there by somebody else.
    fn put_model(&self, id: &str) {
        let folder = self.model();
        let files =
            ["config.json", "model.safetensors", "README.md"].map(|name| (name, fs::read(folder.join(name)).unwrap()));
        let files = files.each_ref().map(|(name, bytes)| (*name, bytes.as_slice()));
        self.server.put(&format!("models/{id}"), "main", &files).unwrap();
    }

    fn fetch(&self, id: &str) -> Result<PathBuf> {
        self.hub().fetch_model(&Repository::model(id)?, &mut |_| {})
    }

    fn push(&self, folder: &Path, id: &str) -> Result<Pushed> {
        self.hub().push(folder, &Repository::model(id)?, &options(), &mut |_| {})
    }
}

fn options() -> PushOptions {
    PushOptions { private: true, pull_request: false, message: "A test".into() }
}

/// What is in a folder, by name, links followed.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect();
    found.sort();
    found
}

/// Half-written files in the cache.
fn incomplete(setup: &Setup) -> usize {
    let mut folders = vec![setup.folder.path().join("cache")];
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if entry.path().extension().is_some_and(|e| e == "incomplete") {
                count += 1;
            }
        }
    }
    count
}

/// Fails unless this is an error that tells of all of these, and nothing secret.
fn refused<T>(result: Result<T>, is_input: bool, told: &[&str]) -> Error {
    let error = result.err().expect("it is refused");
    let text = error.to_string();
    assert_eq!(error.is_input(), is_input, "{text}");
    for part in told {
        assert!(text.contains(part), "`{part}` is not told: {text}");
    }
    assert!(!text.contains("hf_"), "a token is told: {text}");
    error
}

/// Every byte that a transfer told of, in the order in which it did.
fn watch(told: &mut Vec<(u64, u64)>) -> impl FnMut(Transfer) {
    |transfer| {
        if let Transfer::Bytes { done, all } = transfer {
            told.push((done, all));
        }
    }
}
