//! A session from the names in its settings.

use candle_core::Device;

use super::{Watch, base_model, resolve_data, resolve_with};
use crate::Result;
use crate::train::{Inputs, Observer, RunConfig, Session};

/// Finds the model and the data that `config` names, and loads them.
///
/// - `watch`: is told of what takes long to come
/// - `observer`: hears what there is to say about the data
/// - `progress`: is told of each loaded block, out of how many
///
/// Errors: those of [`resolve_with`](super::resolve_with), [`resolve_data`](super::resolve_data) and [`Session::prepare`].
pub fn session(
    config: RunConfig,
    device: Device,
    watch: &mut Watch,
    observer: &mut dyn Observer,
    progress: impl FnMut(usize, usize),
) -> Result<Session> {
    let data = resolve_data(&config.data, watch)?;
    let eval_data = config.eval_data.as_deref().map(|data| resolve_data(data, watch)).transpose()?;
    let model = resolve_with(&config.model, watch)?;
    let base_model = base_model(&config.model).to_owned();
    let inputs =
        Inputs { model: &model, base_model: &base_model, data: &data, eval_data: eval_data.as_deref(), device };
    Session::prepare(config, &inputs, observer, progress)
}
