//! From a config to a session that is ready to train: what `train` and the quick start share.

use ferrotune::train::{Inputs, RunConfig, Session};
use ferrotune::{Error, device, hub};

use crate::output;
use crate::progress::{self, Progress};

/// Finds the model and the data, and loads them.
pub(crate) fn prepare(config: RunConfig, watcher: &mut Progress) -> Result<Session, Error> {
    let data = hub::resolve_data(&config.data)?;
    let eval_data = config.eval_data.as_deref().map(hub::resolve_data).transpose()?;
    let model = hub::resolve_with(&config.model, &mut |note| output::status(note))?;
    let choice = device::choose(device::Wanted::Auto)?;
    watcher.device = Some(choice.reason);
    let base_model = hub::base_model(&config.model).to_owned();
    let inputs = Inputs {
        model: &model,
        base_model: &base_model,
        data: &data,
        eval_data: eval_data.as_deref(),
        device: choice.device,
    };
    let bar = progress::bar(0, "loading the model");
    let session = Session::prepare(config, &inputs, watcher, |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    session
}
