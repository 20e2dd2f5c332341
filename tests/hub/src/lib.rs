//! A Hugging Face Hub on the loopback interface: the Hub's own protocol over a folder, to practise on and to test with.
//!
//! What huggingface_hub's Python client and hf-hub ask for is answered: repositories, branches and pull requests, commits
//! with files in git, by LFS's basic transfer and by Xet's storage, trees, downloads in ranges, and who one is. Requests can be made to fail on purpose ([`Fault`]). It has one user, and forgets
//! everything but files when it ends.
//!
//! `api` answers what begins with `/api`, `xet` what is for Xet's storage, `files` everything else; `store` holds the
//! repositories, `objects` their bytes.

mod answer;
mod api;
mod fault;
mod files;
mod lfs;
mod objects;
mod store;
mod xet;

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;

pub use fault::{Failure, Fault};
use objects::Objects;
use store::Store;

/// The user whose token the Hub takes, and the organization that the user belongs to.
pub const USER: &str = "me";
pub const ORGANIZATION: &str = "team";
/// Where in the Hub Xet's storage is.
const CAS: &str = "cas";

/// A running Hub; it ends when this is dropped.
pub struct LoopbackHub {
    inner: Arc<Inner>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Inner {
    url: String,
    objects: Objects,
    store: Mutex<Store>,
    faults: Mutex<Vec<Fault>>,
    requests: Mutex<Vec<String>>,
    /// Whether large files may come by Xet.
    xet: bool,
    /// A part of the storage's address that no other Hub has: clients remember by it what a storage holds, and a port may be
    /// had by another Hub later.
    storage: String,
}

impl Inner {
    /// The address of Xet's storage.
    fn cas_url(&self) -> String {
        format!("{}/{CAS}/{}", self.url, self.storage)
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LoopbackHub {
    /// Starts a Hub that keeps its files in `folder`, on a port that is free.
    ///
    /// Errors: the system's, where no port can be had or the folder cannot be written.
    pub fn start(folder: impl AsRef<Path>) -> io::Result<Self> {
        Self::start_with(folder, true)
    }

    /// A Hub that knows LFS's basic transfer alone, as most that are not Hugging Face's.
    ///
    /// Errors: as [`LoopbackHub::start`].
    pub fn start_without_xet(folder: impl AsRef<Path>) -> io::Result<Self> {
        Self::start_with(folder, false)
    }

    fn start_with(folder: impl AsRef<Path>, xet: bool) -> io::Result<Self> {
        let folder: PathBuf = std::path::absolute(folder)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let inner = Arc::new(Inner {
            url: format!("http://{}", listener.local_addr()?),
            objects: Objects::new(&folder)?,
            store: Mutex::default(),
            faults: Mutex::default(),
            requests: Mutex::default(),
            xet,
            storage: unique(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let router = Router::new().fallback(answer_request).with_state(inner.clone());
        let thread = std::thread::spawn(move || {
            runtime.block_on(async move {
                if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
                    tokio::select! {
                        _ = async { axum::serve(listener, router).await } => {}
                        _ = stopped => {}
                    }
                }
            });
            runtime.shutdown_background();
        });
        Ok(Self { inner, stop: Some(stop), thread: Some(thread) })
    }

    /// Its address, for `HF_ENDPOINT`.
    pub fn url(&self) -> &str {
        &self.inner.url
    }

    /// The one token that it takes; it is worth nothing elsewhere.
    pub fn token(&self) -> &str {
        store::TOKEN
    }

    /// Makes requests fail from now on.
    pub fn fail(&self, fault: Fault) {
        self.inner.faults.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
    }

    /// Lets every request succeed again.
    pub fn mend(&self) {
        self.inner.faults.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Every request so far, as `GET /path`, or `GET /path bytes=7-` where a part was asked for.
    pub fn requests(&self) -> Vec<String> {
        self.inner.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts files into a repository, which is made if it is not there: `models/org/name` or `datasets/org/name`, at `branch`.
    ///
    /// Errors: the system's, for files that cannot be written.
    pub fn put(&self, repository: &str, branch: &str, files: &[(&str, &[u8])]) -> io::Result<()> {
        let mut entries = Vec::new();
        for (name, bytes) in files {
            let large = store::is_large(name, bytes.len() as u64, bytes);
            entries.push((name.to_string(), self.inner.objects.put(bytes, large)?));
        }
        self.inner.store().put(repository, branch, entries);
        Ok(())
    }

    /// Makes a repository gated: its files are for those who agreed to its terms, and the user has not.
    pub fn gate(&self, repository: &str) {
        self.inner.store().gate(repository);
    }

    /// Whether a repository is for its owner alone; `None` if it is not there.
    pub fn is_private(&self, repository: &str) -> Option<bool> {
        self.inner.store().is_private(repository)
    }
}

/// A name that nothing had before.
fn unique() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_nanos());
    format!("{now:x}-{:x}", std::process::id())
}

impl Drop for LoopbackHub {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in it was printed; there is nothing left to end.
            let _ = thread.join();
        }
    }
}

async fn answer_request(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    let range = request.headers().get("range").and_then(|range| range.to_str().ok());
    let range = range.map(|range| format!(" {range}")).unwrap_or_default();
    let line = format!("{} {}{range}", request.method(), request.uri());
    inner.requests.lock().unwrap_or_else(PoisonError::into_inner).push(line.clone());
    let failure = fault::take(&mut inner.faults.lock().unwrap_or_else(PoisonError::into_inner), &line);
    if let Some(response) = failure.as_ref().and_then(fault::status) {
        return response;
    }
    if let Some(Failure::CutUploadAfter(bytes)) = failure {
        return fault::cut_upload(request, bytes).await;
    }
    let parts = answer::parts(&request);
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match &parts[..] {
        ["api", ..] => return api::answer(&inner, request).await,
        [CAS, _, path @ ..] => return xet::answer(&inner.objects, path, request).await,
        _ => {}
    }
    let response = files::answer(&inner, request).await;
    match failure {
        Some(failure) => fault::spoil(failure, response),
        None => response,
    }
}
