//! From a config to a session that is ready to train: what `train` and the quick start share.

use ferrotune::train::{RunConfig, Session};
use ferrotune::{Error, device, hub};

use crate::progress::{self, Progress};

/// Finds the model and the data, and loads them.
pub(crate) fn prepare(config: RunConfig, watcher: &mut Progress) -> Result<Session, Error> {
    let choice = device::choose(device::Wanted::Auto)?;
    watcher.device = Some(choice.reason);
    let bar = progress::bar(0, "loading the model");
    let session = hub::session(config, choice.device, &mut progress::transfer(), watcher, |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    session
}
