//! A folder onto the Hub, in one commit.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hf_hub::progress::{ProgressEvent, ProgressHandler, UploadEvent};
use hf_hub::repository::CommitOperation;
use hf_hub::{HFError, RepoTypeModel};
use sha1::Sha1;
use sha2::Sha256;

use super::client::Hub;
use super::download::{Transfer, Watch, hash};
use super::name::{MAIN, Repository};
use crate::{Error, Result};

/// How a folder is pushed.
#[derive(Clone, Debug)]
pub struct PushOptions {
    /// Whether a repository that is made for it is for its owner alone. One that is there stays as it is.
    pub private: bool,
    /// Open a pull request instead of changing the branch.
    pub pull_request: bool,
    /// The commit's title.
    pub message: String,
}

/// What a push has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The repository's page, or the pull request's.
    pub url: String,
    /// The commit; `None` where everything was there already.
    pub commit: Option<String>,
    /// Files that were sent, and that were there already with the same bytes.
    pub sent: usize,
    pub same: usize,
    pub bytes: u64,
}

/// What is left at home: what only a resumed run needs, and what other programs keep beside their files.
const LEFT: [&str; 4] = ["checkpoint-", ".", "__pycache__", "runs"];
/// Files up to this size may be part of a commit's text.
const INLINE: u64 = 10 << 20;
/// Text files up to this size are looked through for tokens.
const LOOKED_THROUGH: u64 = 1 << 20;

struct LocalFile {
    /// In the repository, with slashes.
    name: String,
    path: PathBuf,
    bytes: u64,
}

impl Hub {
    /// Puts the files of `folder` into a model's repository, which is made if it is not there; files there with the same bytes
    /// are not sent again, so a push that was cut off goes on.
    ///
    /// Checkpoints and hidden files are left out.
    ///
    /// Errors: [`Error::Config`] without a token, or for a folder that is neither a model nor an adapter, or has a token in
    /// one of its texts; [`Error::Read`]; [`Error::Hub`].
    pub fn push(
        &self,
        folder: &Path,
        repository: &Repository,
        options: &PushOptions,
        watch: &mut Watch,
    ) -> Result<Pushed> {
        if self.settings.offline {
            let what = "nothing can be pushed while `HF_HUB_OFFLINE` is set";
            return Err(Error::config("`HF_HUB_OFFLINE`", what, "Unset it."));
        }
        if !self.has_token() {
            let hint = "Make one that may write at the Hub's settings (`/settings/tokens`), and set `HF_TOKEN` to it, or run \
                        `hf auth login`.";
            return Err(Error::config("", "pushing needs a token, and none is set", hint));
        }
        let local = collect(folder)?;
        check(folder, &local)?;
        self.create(repository, options, watch)?;
        watch(Transfer::Note("comparing with what is there"));
        let mut send = Vec::new();
        for file in &local {
            if !self.is_there(repository, file, watch)? {
                send.push(file);
            }
        }
        let page = format!("{}/{}", self.settings.endpoint, repository.id());
        let same = local.len() - send.len();
        if send.is_empty() {
            return Ok(Pushed { url: page, commit: None, sent: 0, same, bytes: 0 });
        }
        self.check_transfer(repository, &send)?;
        let bytes = send.iter().map(|file| file.bytes).sum();
        let commit = self.commit(repository, &send, bytes, options, watch)?;
        let url = commit.pr_url.filter(|_| options.pull_request).unwrap_or(page);
        Ok(Pushed { url, commit: commit.commit_oid, sent: send.len(), same, bytes })
    }

    /// Makes the repository, and the branch, where they are missing.
    fn create(&self, repository: &Repository, options: &PushOptions, watch: &mut Watch) -> Result<()> {
        let id = repository.id();
        let mut note = |note: &str| watch(Transfer::Note(note));
        let handle = self.api.model(&repository.owner, &repository.name);
        if !self.ask(repository, &mut note, || handle.exists().send())? {
            self.ask(repository, &mut note, || {
                let request = self.api.create_repository().repo_id(&id).repo_type(RepoTypeModel);
                request.private(options.private).exist_ok(true).send()
            })?;
        }
        let revision = &repository.revision;
        if revision != MAIN
            && !self.ask(repository, &mut note, || handle.revision_exists().revision(revision).send())?
        {
            self.ask(repository, &mut note, || handle.create_branch().branch(revision).send())?;
        }
        Ok(())
    }

    /// Refuses large files where the Hub has no Xet: hf-hub would put them into the commit's text, as a whole and in memory.
    fn check_transfer(&self, repository: &Repository, send: &[&LocalFile]) -> Result<()> {
        let Some(large) = send.iter().find(|file| file.bytes > INLINE) else { return Ok(()) };
        let revision = repository.revision.replace('/', "%2F");
        let address = format!("{}/api/models/{}/xet-write-token/{revision}", self.settings.endpoint, repository.id());
        let answer = self.wait(|| self.http.get(address).send()).map_err(|e| self.unreachable(&e))?;
        match answer.status().as_u16() {
            404 => {
                let what =
                    format!("this Hub does not take `{}` by Xet, the only way that large files are sent", large.name);
                let hint = format!("Push it with huggingface_hub: `hf upload {} FOLDER`.", repository.id());
                Err(Error::hub(true, what, hint))
            }
            _ => Ok(()),
        }
    }

    /// Whether the repository has a file with the same name and bytes.
    fn is_there(&self, repository: &Repository, file: &LocalFile, watch: &mut Watch) -> Result<bool> {
        let Some(etag) = self.etag(repository, &file.name, watch)? else { return Ok(false) };
        let mut opened = fs::File::open(&file.path).map_err(|e| Error::read(&file.path, e))?;
        let found = match etag.len() {
            64 => hash::<Sha256>(&mut opened, &[]),
            40 => hash::<Sha1>(&mut opened, format!("blob {}\0", file.bytes).as_bytes()),
            _ => return Ok(false),
        };
        Ok(found.map_err(|e| Error::read(&file.path, e))? == etag)
    }

    fn commit(
        &self,
        repository: &Repository,
        send: &[&LocalFile],
        bytes: u64,
        options: &PushOptions,
        watch: &mut Watch,
    ) -> Result<hf_hub::repository::CommitInfo> {
        let handle = self.api.model(&repository.owner, &repository.name);
        let sent = Arc::new(Sent::default());
        let operations: Vec<CommitOperation> =
            send.iter().map(|file| CommitOperation::add_file(file.name.clone(), file.path.clone())).collect();
        let request = || {
            handle
                .create_commit()
                .operations(operations.clone())
                .commit_message(options.message.clone())
                .revision(repository.revision.clone())
                .create_pr(options.pull_request)
                .progress(sent.clone())
                .send()
        };
        let mut attempt = 0;
        loop {
            attempt += 1;
            // hf-hub reports from threads of its own, and `watch` belongs to this one.
            let result = std::thread::scope(|scope| {
                let waiting = scope.spawn(|| self.wait(request));
                while !waiting.is_finished() {
                    std::thread::park_timeout(std::time::Duration::from_millis(100));
                    watch(Transfer::Bytes { done: sent.bytes.load(Ordering::Relaxed).min(bytes), all: bytes });
                }
                waiting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            match result {
                Err(HFError::RateLimited { retry_after: Some(wait), .. }) if attempt < super::client::ATTEMPTS => {
                    self.pause(wait, &mut |note| watch(Transfer::Note(note)));
                }
                Err(error) => return Err(self.told(repository, error)),
                Ok(commit) => {
                    watch(Transfer::Bytes { done: bytes, all: bytes });
                    return Ok(commit);
                }
            }
        }
    }
}

/// How far an upload is.
#[derive(Default)]
struct Sent {
    bytes: AtomicU64,
}

impl ProgressHandler for Sent {
    fn on_progress(&self, event: &ProgressEvent) {
        if let ProgressEvent::Upload(UploadEvent::Progress { bytes_completed, .. }) = event {
            self.bytes.store(*bytes_completed, Ordering::Relaxed);
        }
    }
}

/// The files of a folder that are pushed, by name.
fn collect(folder: &Path) -> Result<Vec<LocalFile>> {
    let mut found = Vec::new();
    let mut folders = vec![(folder.to_path_buf(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|e| Error::read(&folder, e))? {
            let path = entry.map_err(|e| Error::read(&folder, e))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if LEFT.iter().any(|start| name.starts_with(start)) {
                continue;
            }
            let metadata = fs::metadata(&path).map_err(|e| Error::read(&path, e))?;
            if metadata.is_dir() {
                folders.push((path, format!("{prefix}{name}/")));
            } else {
                found.push(LocalFile { name: format!("{prefix}{name}"), path, bytes: metadata.len() });
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Refuses a folder that is no model, and one whose texts would tell the world a secret.
fn check(folder: &Path, files: &[LocalFile]) -> Result<()> {
    let weights = |file: &LocalFile| file.name.ends_with(".safetensors") || file.name.ends_with(".gguf");
    if !files.iter().any(weights) {
        let what = format!("`{}` holds neither a model nor an adapter", folder.display());
        let hint = "Push the folder of a run, of `ferrotune merge` or of `ferrotune quantize`.";
        return Err(Error::config("", what, hint));
    }
    for file in files.iter().filter(|file| file.bytes <= LOOKED_THROUGH && !weights(file)) {
        let text = fs::read(&file.path).map_err(|e| Error::read(&file.path, e))?;
        if has_token(&String::from_utf8_lossy(&text)) {
            let what =
                format!("`{}` holds what looks like a token of the Hub; nothing was pushed", file.path.display());
            return Err(Error::config("", what, "Take it out of the file, and revoke it: it may have been seen."));
        }
    }
    Ok(())
}

/// Whether a text holds `hf_` and what follows it in a token.
fn has_token(text: &str) -> bool {
    text.match_indices("hf_").any(|(at, _)| {
        let rest = text[at + 3..].chars().take_while(char::is_ascii_alphanumeric).count();
        rest >= 30
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_in_a_text_is_seen() {
        assert!(has_token(&format!("token = \"hf_{}\"", "aB3".repeat(12))));
        assert!(!has_token("hf_hub_download, hf_1 and hf_"));
    }

    #[test]
    fn checkpoints_and_hidden_files_stay_at_home() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["adapter_model.safetensors", "README.md", ".git/config", "checkpoint-3/a.bin", "onnx/a.txt"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        let names: Vec<String> = collect(folder.path()).unwrap().into_iter().map(|file| file.name).collect();
        assert_eq!(names, ["README.md", "adapter_model.safetensors", "onnx/a.txt"]);
    }
}
