//! Files of a repository into the cache: each goes on where it was cut off, and is held against its hash before it has its
//! name.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{CONTENT_LENGTH, ETAG, HeaderMap, LOCATION, RANGE, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::cache::Cached;
use super::client::{ATTEMPTS, Hub, TreeFile};
use super::name::Repository;
use crate::{Error, Result, files};

/// What a transfer tells while it runs.
pub enum Transfer<'a> {
    /// A sentence about something that takes long.
    Note(&'a str),
    /// Bytes that are there, of all.
    Bytes { done: u64, all: u64 },
}

/// Bytes that are written at a time.
const PART: usize = 1 << 20;

/// Who hears of a transfer.
pub type Watch<'a> = dyn FnMut(Transfer) + 'a;

/// What the Hub says of a file before it sends it.
struct Head {
    etag: String,
    commit: String,
    size: u64,
}

/// Why a file did not come.
struct Cut {
    error: Box<Error>,
    /// The connection broke or the Hub failed: what is there is kept, and the rest may come at another time.
    again: bool,
    /// How long the Hub asks to wait.
    wait: Option<Duration>,
}

impl Cut {
    fn again(error: Error, wait: Option<Duration>) -> Self {
        Self { error: Box::new(error), again: true, wait }
    }

    fn never(error: Error) -> Self {
        Self { error: Box::new(error), again: false, wait: None }
    }
}

impl Hub {
    /// Brings `files` of a repository's tree into the cache, and returns the folder of their commit.
    ///
    /// Errors: [`Error::Hub`]; [`Error::Write`] for the cache; [`Error::Format`] for a file whose name leads out of the
    /// folder, or whose bytes are not those that the Hub announced.
    pub(super) fn download(&self, repository: &Repository, files: &[&TreeFile], watch: &mut Watch) -> Result<PathBuf> {
        let cached = Cached::new(&self.settings.cache, repository);
        for file in files {
            check_name(repository, &file.path)?;
        }
        let all = files.iter().map(|file| file.size).sum();
        let (mut commit, mut done) = (None, 0);
        for file in files {
            // What a branch stands for may change while its files are fetched: all are taken from the first one's commit.
            let at = commit.as_deref().map_or_else(|| repository.clone(), |commit| repository.at(commit));
            let head = self.head(&at, &file.path, watch)?;
            self.file(&at, &cached, &file.path, &head, &mut |bytes| {
                watch(match bytes {
                    Transfer::Bytes { done: bytes, .. } => Transfer::Bytes { done: done + bytes, all },
                    note => note,
                });
            })?;
            cached.link(&head.commit, &file.path, &head.etag)?;
            done += file.size;
            watch(Transfer::Bytes { done, all });
            commit = Some(head.commit);
        }
        let Some(commit) = commit else {
            let what = format!("{} has no files that can be used", repository.told());
            let hint =
                "A model is `config.json` with safetensors, or one `.gguf` file; data are Parquet, JSON or JSONL.";
            return Err(Error::hub(true, what, hint));
        };
        cached.set_commit(&repository.revision, &commit)?;
        Ok(cached.snapshot(&commit))
    }

    /// The hash of a file on the Hub; `None` if it is not there.
    pub(super) fn etag(&self, repository: &Repository, path: &str, watch: &mut Watch) -> Result<Option<String>> {
        match self.head(repository, path, watch) {
            Ok(head) => Ok(Some(head.etag)),
            Err(Error::Hub { status: Some(404), .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for a file's hash, size and commit.
    fn head(&self, repository: &Repository, path: &str, watch: &mut Watch) -> Result<Head> {
        let address = self.address(repository, path)?;
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.try_head(repository, address.clone()) {
                Err(cut) if !cut.again || attempt >= ATTEMPTS => return Err(*cut.error),
                Err(cut) => self.before_another(attempt, &cut, watch),
                Ok(head) => return Ok(head),
            }
        }
    }

    fn try_head(&self, repository: &Repository, mut address: reqwest::Url) -> Result<Head, Cut> {
        // Renamed repositories redirect within the Hub; to another host only file contents are sent.
        for _ in 0..3 {
            let sent = self.wait(|| self.no_redirect.head(address.clone()).send());
            let response = sent.map_err(|e| Cut::again(self.unreachable(&e), None))?;
            let status = response.status();
            let headers = response.headers();
            let next = text(headers, LOCATION.as_str()).filter(|_| status.is_redirection());
            let inside = next.filter(|next| next.starts_with('/') && !next.starts_with("//"));
            if let Some(next) = inside.and_then(|next| address.join(next).ok()) {
                address = next;
                continue;
            }
            if !status.is_success() && !status.is_redirection() {
                return Err(self.cut(repository, response));
            }
            let told = |linked: &str, plain: &str| text(headers, linked).or_else(|| text(headers, plain));
            let etag = told("x-linked-etag", ETAG.as_str()).map(|etag| etag.trim_start_matches("W/").trim_matches('"'));
            let size = told("x-linked-size", CONTENT_LENGTH.as_str()).and_then(|size| size.parse().ok());
            let commit = text(headers, "x-repo-commit");
            let (Some(etag), Some(size), Some(commit)) = (etag, size, commit) else {
                let what = format!("the Hub did not say which bytes {} has", repository.told());
                let hint = "Check that `HF_ENDPOINT` is a Hub; proxies that drop headers do this, too.";
                return Err(Cut::never(Error::hub(false, what, hint)));
            };
            // Both become names of files.
            if [etag, commit].iter().any(|name| name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric())) {
                let what = format!(
                    "the Hub named bytes of {} by `{etag}` and `{commit}`, which no hash is",
                    repository.told()
                );
                return Err(Cut::never(Error::hub(false, what, "Check that `HF_ENDPOINT` is a Hub.")));
            }
            return Ok(Head { etag: etag.into(), commit: commit.into(), size });
        }
        let what = format!("the Hub redirects {} in a circle", repository.told());
        Err(Cut::never(Error::hub(false, what, "Check that `HF_ENDPOINT` is a Hub.")))
    }

    /// Brings one file into `blobs`, from where it was cut off.
    fn file(&self, repository: &Repository, cached: &Cached, path: &str, head: &Head, watch: &mut Watch) -> Result<()> {
        let blob = cached.blob(&head.etag);
        if blob.is_file() {
            return Ok(());
        }
        let _lock = cached.lock(&head.etag)?;
        // Whoever held the lock may have brought it.
        if blob.is_file() {
            return Ok(());
        }
        files::create_directory(blob.parent().unwrap_or(&blob))?;
        let incomplete = blob.with_extension("incomplete");
        let address = self.address(&repository.at(&head.commit), path)?;
        let mut attempt = 0;
        let mut damaged = false;
        loop {
            let before = fs::metadata(&incomplete).map_or(0, |file| file.len());
            match self.try_rest(repository, address.clone(), &incomplete, head.size, watch) {
                Ok(()) => {}
                Err(cut) if !cut.again => return Err(*cut.error),
                Err(cut) => {
                    // An attempt that brought something does not count.
                    let now = fs::metadata(&incomplete).map_or(0, |file| file.len());
                    attempt = if now > before { 1 } else { attempt + 1 };
                    if attempt >= ATTEMPTS {
                        return Err(*cut.error);
                    }
                    self.before_another(attempt, &cut, watch);
                    continue;
                }
            }
            match mismatch(&incomplete, &head.etag)? {
                None => {
                    let named = fs::rename(&incomplete, &blob);
                    return named.map_err(|e| Error::write(&blob, e));
                }
                Some(what) => {
                    fs::remove_file(&incomplete).map_err(|e| Error::write(&incomplete, e))?;
                    if damaged {
                        let hint = "It was fetched twice and thrown away. The connection or the repository is damaged; try \
                                    again later.";
                        return Err(Error::format(path, repository.told(), what, hint));
                    }
                    damaged = true;
                }
            }
        }
    }

    /// Asks for what is missing of a file and writes it behind what is there.
    fn try_rest(
        &self,
        repository: &Repository,
        address: reqwest::Url,
        incomplete: &Path,
        size: u64,
        watch: &mut Watch,
    ) -> Result<(), Cut> {
        let write = |e| Cut::never(Error::write(incomplete, e));
        let mut file =
            OpenOptions::new().create(true).read(true).write(true).truncate(false).open(incomplete).map_err(write)?;
        let mut have = file.metadata().map_err(write)?.len();
        if have > size {
            file.set_len(0).map_err(write)?;
            have = 0;
        }
        if have == size {
            return Ok(());
        }
        let mut request = self.http.get(address);
        if have > 0 {
            request = request.header(RANGE, format!("bytes={have}-"));
        }
        let mut response = self.wait(|| request.send()).map_err(|e| Cut::again(self.unreachable(&e), None))?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {}
            status if status.is_success() => have = 0,
            _ => return Err(self.cut(repository, response)),
        }
        file.set_len(have).and_then(|()| file.seek(SeekFrom::Start(have))).map_err(write)?;
        while have < size {
            let part = self.wait(|| Part::read(&mut response));
            file.write_all(&part.bytes).map_err(write)?;
            have += part.bytes.len() as u64;
            watch(Transfer::Bytes { done: have.min(size), all: size });
            match part.end {
                None => {}
                Some(None) if have >= size => break,
                Some(error) => {
                    let why = error.map(|e| format!(" ({})", super::client::deepest(&e))).unwrap_or_default();
                    let told = repository.told();
                    let what = format!("the connection ended after {have} of {size} bytes of a file of {told}{why}");
                    let hint = "Run this again; what has been transferred is kept.";
                    return Err(Cut::again(Error::hub(false, what, hint), None));
                }
            }
        }
        file.sync_all().map_err(write)
    }

    /// What an answer other than success means, and whether it is worth another try.
    fn cut(&self, repository: &Repository, response: Response) -> Cut {
        let status = response.status();
        let headers = response.headers();
        let error =
            self.refused(repository, status.as_u16(), text(headers, "x-error-code"), text(headers, "x-error-message"));
        if status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT || status.is_server_error()
        {
            let wait = text(headers, RETRY_AFTER.as_str()).and_then(|seconds| seconds.parse().ok());
            return Cut::again(error, wait.map(Duration::from_secs));
        }
        Cut::never(error)
    }

    fn before_another(&self, attempt: u32, cut: &Cut, watch: &mut Watch) {
        match cut.wait {
            Some(wait) => self.pause(wait.min(Duration::from_secs(300)), &mut |note| watch(Transfer::Note(note))),
            None => {
                let told = cut.error.to_string();
                watch(Transfer::Note(&format!("{}; trying again", told.split(". ").next().unwrap_or(&told))));
                let wait = self.settings.patience * 2u32.pow(attempt);
                self.wait(|| tokio::time::sleep(wait));
            }
        }
    }

    /// Where a file is.
    fn address(&self, repository: &Repository, path: &str) -> Result<reqwest::Url> {
        let mut address = reqwest::Url::parse(&self.settings.endpoint)
            .map_err(|e| Error::config("`HF_ENDPOINT`", format!("this is no address: {e}"), "Unset it."))?;
        if let Ok(mut segments) = address.path_segments_mut() {
            let prefix = repository.kind.prefix().split('/').filter(|part| !part.is_empty());
            segments.pop_if_empty().extend(prefix).extend([&repository.owner, &repository.name]);
            // A revision is one segment, whatever slashes it has.
            segments.push("resolve").push(&repository.revision).extend(path.split('/'));
        }
        Ok(address)
    }
}

/// Some of an answer's bytes.
struct Part {
    bytes: Vec<u8>,
    /// That nothing more comes: because all is there, or for an error.
    end: Option<Option<reqwest::Error>>,
}

impl Part {
    /// Reads about a megabyte.
    async fn read(response: &mut Response) -> Self {
        let mut bytes = Vec::with_capacity(PART);
        while bytes.len() < PART {
            match response.chunk().await {
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                Ok(None) => return Self { bytes, end: Some(None) },
                Err(error) => return Self { bytes, end: Some(Some(error)) },
            }
        }
        Self { bytes, end: None }
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// Refuses a file name that leads out of the folder that it is put into.
fn check_name(repository: &Repository, path: &str) -> Result<()> {
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', '\0', ':']);
    if path.split('/').all(plain) {
        return Ok(());
    }
    let what = "the repository names a file so that it would be written outside of the cache; nothing was fetched";
    Err(Error::format(path, repository.told(), what, "Use another repository, and tell the Hub of this one."))
}

/// How a file differs from what its hash promises: SHA-256 of large files, git's SHA-1 of small ones.
fn mismatch(path: &Path, etag: &str) -> Result<Option<String>> {
    let mut file = File::open(path).map_err(|e| Error::read(path, e))?;
    let found = match etag.len() {
        64 => hash::<Sha256>(&mut file, &[]),
        40 => {
            let length = file.metadata().map_err(|e| Error::read(path, e))?.len();
            hash::<Sha1>(&mut file, format!("blob {length}\0").as_bytes())
        }
        // Some Hubs name files by other things; their length has been checked.
        _ => return Ok(None),
    };
    let found = found.map_err(|e| Error::read(path, e))?;
    Ok((found != etag).then(|| format!("its hash is {found} instead of {etag}")))
}

/// The hash, in hex, of `before` and what is left of `file`.
pub(super) fn hash<D: Digest>(file: &mut impl Read, before: &[u8]) -> std::io::Result<String> {
    let mut hash = D::new();
    hash.update(before);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
