//! The connection to the Hub: hf-hub for its API, plain requests for files, and errors in words.

use std::future::Future;
use std::time::Duration;

use hf_hub::{HFClient, HFError};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use tokio::runtime::Runtime;

use super::name::{Kind, Repository};
use super::settings::Settings;
use crate::{Error, Result};

/// How often a request is made again that failed for a reason that may pass.
pub(super) const ATTEMPTS: u32 = 5;
/// The longest that the Hub may ask to wait before it is an error.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// A Hugging Face Hub: the real one, or another that speaks its protocol.
pub struct Hub {
    pub(super) settings: Settings,
    pub(super) api: HFClient,
    /// Follows redirects, without the token where they lead to another host.
    pub(super) http: reqwest::Client,
    /// For what stands in the answer that redirects.
    pub(super) no_redirect: reqwest::Client,
    runtime: Runtime,
}

impl Hub {
    /// The Hub that the environment names (see [`Settings::from_env`]).
    ///
    /// Errors: those of [`Settings::from_env`] and [`Hub::new`].
    pub fn from_env() -> Result<Self> {
        Self::new(Settings::from_env()?)
    }

    /// A Hub by its settings; nothing is sent yet.
    ///
    /// Errors: [`Error::Config`] for an endpoint or a token that cannot be one; [`Error::Hub`] where the system refuses
    /// what every connection needs.
    pub fn new(settings: Settings) -> Result<Self> {
        let agent = concat!("ferrotune/", env!("CARGO_PKG_VERSION"));
        let endpoint = || {
            let what = format!("`{}` is not the address of a Hub", settings.endpoint);
            Error::config("`HF_ENDPOINT`", what, "Unset it, or set it to an address such as `https://huggingface.co`.")
        };
        if !settings.endpoint.starts_with("http://") && !settings.endpoint.starts_with("https://") {
            return Err(endpoint());
        }
        let mut headers = HeaderMap::new();
        let api = HFClient::builder().endpoint(&settings.endpoint).cache_dir(&settings.cache).user_agent(agent);
        let mut api = api.retry_base_delay(settings.patience / 5);
        if let Some(token) = &settings.token {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
                let what = "the token holds characters that no token has";
                Error::config("`HF_TOKEN`", what, "Copy it again from the Hub's settings.")
            })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
            api = api.token(token);
        }
        let system =
            |e: &dyn std::fmt::Display| Error::hub(false, format!("no connection can be made: {e}"), "Try again.");
        let http = || reqwest::Client::builder().user_agent(agent).default_headers(headers.clone());
        let timeouts = |builder: reqwest::ClientBuilder| {
            builder.connect_timeout(Duration::from_secs(20)).read_timeout(Duration::from_secs(60))
        };
        let no_redirect = http().redirect(reqwest::redirect::Policy::none());
        Ok(Self {
            api: api.build().map_err(|_| endpoint())?,
            http: timeouts(http()).build().map_err(|e| system(&e))?,
            no_redirect: timeouts(no_redirect).build().map_err(|e| system(&e))?,
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .map_err(|e| system(&e))?,
            settings,
        })
    }

    /// Whether a token is sent.
    pub fn has_token(&self) -> bool {
        self.settings.token.is_some()
    }

    /// Waits for what `work` begins, on a thread of its own: who calls may be in a runtime already, as a notebook's cell.
    pub(super) fn wait<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce() -> F + Send) -> T {
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| self.runtime.block_on(async { work().await }));
            waiting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Makes a request of the API, and again after as long as the Hub asks to wait; `note` hears of it.
    pub(super) fn ask<T: Send, F: Future<Output = Result<T, HFError>>>(
        &self,
        repository: &Repository,
        note: &mut dyn FnMut(&str),
        request: impl Fn() -> F + Sync,
    ) -> Result<T> {
        for _ in 1..ATTEMPTS {
            match self.wait(&request) {
                Err(HFError::RateLimited { retry_after: Some(wait), .. }) if wait <= LONGEST_WAIT => {
                    self.pause(wait, note)
                }
                other => return other.map_err(|e| self.told(repository, e)),
            }
        }
        self.wait(&request).map_err(|e| self.told(repository, e))
    }

    pub(super) fn pause(&self, wait: Duration, note: &mut dyn FnMut(&str)) {
        note(&format!("the Hub asks to wait {} s", wait.as_secs()));
        self.wait(|| tokio::time::sleep(wait));
    }

    /// hf-hub's error in words.
    pub(super) fn told(&self, repository: &Repository, error: HFError) -> Error {
        let context = match &error {
            HFError::Http { context }
            | HFError::AuthRequired { context }
            | HFError::Forbidden { context }
            | HFError::Conflict { context }
            | HFError::RateLimited { context, .. } => Some(context),
            HFError::RepoNotFound { context, .. }
            | HFError::RevisionNotFound { context, .. }
            | HFError::EntryNotFound { context, .. } => context.as_ref(),
            _ => None,
        };
        match (context, &error) {
            (Some(context), _) => self.refused(
                repository,
                context.status.as_u16(),
                context.error_code.as_deref(),
                context.server_message.as_deref(),
            ),
            (None, HFError::Request { source, .. }) => self.unreachable(source),
            (None, HFError::Io(e)) => Error::hub(false, format!("{} could not be sent: {e}", repository.told()), AGAIN),
            (None, _) => {
                let what = format!("the transfer of {} failed: {}", repository.told(), without_end(&error.to_string()));
                Error::hub(false, what, AGAIN)
            }
        }
    }

    /// What an answer other than success means for `repository`.
    pub(super) fn refused(
        &self,
        repository: &Repository,
        status: u16,
        code: Option<&str>,
        said: Option<&str>,
    ) -> Error {
        match self.refusal(repository, status, code, said) {
            Error::Hub { given, what, hint, .. } => Error::Hub { status: Some(status), given, what, hint },
            other => other,
        }
    }

    fn refusal(&self, repository: &Repository, status: u16, code: Option<&str>, said: Option<&str>) -> Error {
        let (told, id) = (repository.told(), repository.id());
        let page = format!("{}/{}{id}", self.settings.endpoint, repository.kind.prefix());
        let said = said.map(|said| format!(" (the Hub says: {})", without_end(said))).unwrap_or_default();
        match (status, code) {
            (_, Some("GatedRepo")) => {
                let then = if self.has_token() {
                    "The token's owner has to be the one who agreed."
                } else {
                    "Then set `HF_TOKEN` to a token of yours, or run `hf auth login`."
                };
                let hint = format!("Agree to its terms at {page} while you are logged in there. {then}");
                Error::hub(true, format!("{told} is gated: its owner wants you to agree to terms first{said}"), hint)
            }
            (_, Some("RevisionNotFound")) => Error::hub(
                true,
                format!("{told} was not found: there is no such revision{said}"),
                format!("See {page}."),
            ),
            (_, Some("EntryNotFound")) => {
                Error::hub(true, format!("a file of {told} is not there{said}"), format!("See {page}."))
            }
            (401 | 404, _) if !self.has_token() => {
                let hint = "Check the name. If it is private, set `HF_TOKEN` to a token that may read it, or run `hf auth \
                            login`.";
                Error::hub(true, format!("{told} was not found, or is not for everybody{said}"), hint)
            }
            (401, _) => {
                let hint = "Set `HF_TOKEN` to one from the Hub's settings that has not been revoked, or unset it.";
                Error::hub(true, format!("the Hub does not take the token that was sent for {told}{said}"), hint)
            }
            (403, _) => {
                let hint = format!("Use a token with that right, from the Hub's settings, or ask who owns `{id}`.");
                Error::hub(true, format!("the token has no right to do this with {told}{said}"), hint)
            }
            (404, _) => {
                let hint = "Check the name, and that the token's owner may see it.";
                Error::hub(true, format!("{told} was not found{said}"), hint)
            }
            (409, _) => {
                let hint = "Somebody else changed it at the same time, or a request is still going on; try again.";
                Error::hub(false, format!("{told} could not be changed{said}"), hint)
            }
            (429, _) => {
                let hint = "Wait some minutes and run this again; what has been transferred is kept.";
                Error::hub(false, format!("the Hub has had too many requests{said}"), hint)
            }
            (500.., _) => {
                let what = format!("the Hub failed at {told} with status {status}{said}");
                Error::hub(false, what, "This is on its side: run this again later; what has been transferred is kept.")
            }
            _ => Error::hub(true, format!("the Hub refused {told} with status {status}{said}"), format!("See {page}.")),
        }
    }

    pub(super) fn unreachable(&self, error: &reqwest::Error) -> Error {
        let what = format!("the Hub at {} could not be reached: {}", self.settings.endpoint, deepest(error));
        let hint = "Check the connection and run this again; what has been transferred is kept. `HF_HUB_OFFLINE=1` uses \
                    what is in the cache.";
        Error::hub(false, what, hint)
    }
}

/// What an error comes from in the end, which is the part that tells something.
pub(super) fn deepest(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    without_end(&deepest.to_string()).into()
}

const AGAIN: &str = "Run this again; what has been transferred is kept.";

fn without_end(text: &str) -> &str {
    text.trim().trim_end_matches('.')
}

/// A file of a repository, as its tree has it.
pub(super) struct TreeFile {
    pub(super) path: String,
    pub(super) size: u64,
}

impl Hub {
    /// Every file of the repository at its revision.
    pub(super) fn tree(&self, repository: &Repository, note: &mut dyn FnMut(&str)) -> Result<Vec<TreeFile>> {
        use futures::TryStreamExt;
        use hf_hub::repository::RepoTreeEntry;
        let entries: Vec<RepoTreeEntry> = self.ask(repository, note, || async {
            let Repository { kind, owner, name, revision } = repository;
            match kind {
                Kind::Model => {
                    let handle = self.api.model(owner, name);
                    handle.list_tree().revision(revision).recursive(true).send()?.try_collect().await
                }
                Kind::Dataset => {
                    let handle = self.api.dataset(owner, name);
                    handle.list_tree().revision(revision).recursive(true).send()?.try_collect().await
                }
            }
        })?;
        let file = |entry| match entry {
            RepoTreeEntry::File { path, size, .. } => Some(TreeFile { path, size }),
            _ => None,
        };
        Ok(entries.into_iter().filter_map(file).collect())
    }
}
