//! `ferrotune push`

use std::path::PathBuf;

use ferrotune::hub::{Hub, PushOptions, Repository};
use serde_json::json;

use crate::failure::Failure;
use crate::{output, progress, units};

/// Put a model or an adapter onto the Hugging Face Hub
///
/// The folder of a run, of `ferrotune merge` or of `ferrotune quantize` goes there in one commit, with its card, metrics and
/// curve; checkpoints and hidden files stay. Files that are there with the same bytes are not sent again, so a push that was
/// cut off goes on. A repository that is made for it is private unless --public is given.
///
/// The token comes from HF_TOKEN, or from the file that `hf auth login` writes; it is never shown.
///
/// One part of 64 MB is sent at a time. HF_XET_CLIENT_AC_MAX_UPLOAD_CONCURRENCY allows more, which takes more memory.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  ferrotune push runs/orders --repo me/orders-lora
  ferrotune push models/orders --repo me/orders --public
  ferrotune push models/orders --repo team/orders --pull-request --message \"Trained on November's orders\"")]
pub(crate) struct Args {
    /// Folder to push
    #[arg(value_name = "DIR")]
    folder: PathBuf,

    /// Repository on the Hub, as org/name or org/name@branch
    #[arg(long, value_name = "org/name")]
    repo: String,

    /// Make a new repository private, which is the default
    #[arg(long, conflicts_with = "public")]
    private: bool,

    /// Make a new repository public
    #[arg(long)]
    public: bool,

    /// Open a pull request instead of changing the branch
    #[arg(long)]
    pull_request: bool,

    /// Title of the commit
    #[arg(long, value_name = "TEXT", default_value = "Upload with Ferrotune")]
    message: String,

    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
}

/// What keeps the memory of an upload flat, read from the environment and from nowhere else: how many parts hf-xet has in flight, and
/// from how many heaps glibc's allocator serves threads, each of which keeps what was once needed.
const FLAT: [(&str, &str); 2] = [("HF_XET_CLIENT_AC_MAX_UPLOAD_CONCURRENCY", "1"), ("MALLOC_ARENA_MAX", "1")];

/// Starts this program over with what is missing of [`FLAT`] in its environment. Where that fails, the push is as good and takes
/// more memory.
#[cfg(unix)]
fn keep_flat() {
    use std::os::unix::process::CommandExt;

    let missing: Vec<_> = FLAT.into_iter().filter(|(name, _)| std::env::var_os(name).is_none()).collect();
    if let (false, Ok(program)) = (missing.is_empty(), std::env::current_exe()) {
        let _ = std::process::Command::new(program).args(std::env::args_os().skip(1)).envs(missing).exec();
    }
}

/// Elsewhere a program cannot take its own place.
#[cfg(not(unix))]
fn keep_flat() {}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    keep_flat();
    let repository = Repository::model(&args.repo)?;
    let options = PushOptions { private: !args.public, pull_request: args.pull_request, message: args.message };
    if !args.folder.join("README.md").is_file() {
        output::status("there is no README.md, so the repository will have no model card");
    }
    let pushed = Hub::from_env()?.push(&args.folder, &repository, &options, &mut progress::transfer())?;
    if args.json {
        let (url, commit, sent, same, bytes) = (pushed.url, pushed.commit, pushed.sent, pushed.same, pushed.bytes);
        return output::json(&json!({"url": url, "commit": commit, "sent": sent, "same": same, "bytes": bytes}));
    }
    match pushed.commit {
        None => output::status(format!("all {} files are there already", pushed.same)),
        Some(_) => {
            let same = if pushed.same > 0 { format!(", {} were there already", pushed.same) } else { String::new() };
            output::status(format!("{} files sent ({}){same}", pushed.sent, units::bytes(pushed.bytes)));
        }
    }
    output::line(pushed.url)
}
