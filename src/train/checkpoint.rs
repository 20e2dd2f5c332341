//! Checkpoints: a folder that is there whole or not at all.
//!
//! `checkpoint-N/` holds the trained weights after step N (an adapter in PEFT's format, or `model.safetensors`),
//! `optimizer.safetensors` and `trainer_state.json`. Rows, dropout and order are functions of the seed and the step, so
//! the step is the whole of the random state and of the data cursor.

use super::adamw::AdamW;
use super::session::Trained;
use crate::lora::peft;
use crate::model::Parameters;
use crate::model::export::MODEL_FILE;
use crate::{Error, Result, files};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const OPTIMIZER_FILE: &str = "optimizer.safetensors";
const STATE_FILE: &str = "trainer_state.json";

/// What a checkpoint says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// The step after which it was made.
    pub global_step: usize,
    pub epoch: f64,
    pub max_steps: usize,
    pub seed: u64,
    /// Sizes of the other files in bytes: a checkpoint is whole when they agree.
    pub files: BTreeMap<String, u64>,
}

/// Writes the trained weights as the run's result has them: PEFT's files, or `model.safetensors`.
///
/// Errors: [`Error::Write`].
pub fn save_weights(directory: &Path, trained: &Trained, parameters: &Parameters) -> Result<()> {
    match trained {
        Trained::Adapter(adapter) => peft::save(adapter, directory),
        Trained::SoftPrompt(prompt) => prompt.save(directory),
        Trained::Weights => {
            files::create_directory(directory)?;
            let tensors = parameters.iter().map(|p| (p.name.as_str(), p.value.clone().into()));
            files::write_safetensors(&directory.join(MODEL_FILE), tensors)
        }
    }
}

/// Writes `checkpoint-N` into `run`, unless a whole one is there already, and returns its path.
///
/// Errors: [`Error::Write`]; what was saved before stays.
pub fn save(
    run: &Path,
    state: &TrainerState,
    trained: &Trained,
    parameters: &Parameters,
    optimizer: &AdamW,
) -> Result<PathBuf> {
    let path = run.join(format!("checkpoint-{}", state.global_step));
    if read_state(&path).is_ok() {
        return Ok(path);
    }
    let temporary = run.join(format!(".checkpoint-{}.tmp", state.global_step));
    remove(&temporary)?;
    files::create_directory(&temporary)?;
    save_weights(&temporary, trained, parameters)?;
    files::write_safetensors(&temporary.join(OPTIMIZER_FILE), optimizer.state()?)?;
    let mut state = state.clone();
    for entry in fs::read_dir(&temporary).map_err(|e| Error::read(&temporary, e))?.flatten() {
        let size = entry.metadata().map_err(|e| Error::read(entry.path(), e))?.len();
        state.files.insert(entry.file_name().to_string_lossy().into_owned(), size);
    }
    let mut text = serde_json::to_string_pretty(&state).unwrap_or_default();
    text.push('\n');
    files::write_atomic(&temporary.join(STATE_FILE), text.as_bytes())?;
    // A damaged checkpoint of this step is in the way of the rename.
    remove(&path)?;
    fs::rename(&temporary, &path).and_then(|()| files::sync_directory(run)).map_err(|e| Error::write(&path, e))?;
    Ok(path)
}

/// Puts the weights and the optimizer's state of the checkpoint in `directory` back, and returns what it says.
///
/// Errors: [`Error::Format`] when it is not whole, [`Error::Tensor`] when it belongs to another run.
pub fn load(directory: &Path, parameters: &Parameters, optimizer: &mut AdamW) -> Result<TrainerState> {
    let state = read_state(directory)?;
    let adapter = directory.join(peft::WEIGHTS_FILE);
    let weights = if adapter.exists() { adapter } else { directory.join(MODEL_FILE) };
    let stored = read_tensors(&weights)?;
    for parameter in parameters.iter() {
        let hint = "Resume with the settings that the run was started with.";
        let tensor = stored
            .get(&parameter.name)
            .ok_or_else(|| Error::tensor(&parameter.name, &weights, "missing from the checkpoint", hint))?;
        if tensor.dims() != parameter.value.dims() {
            let what = format!("has shape {:?}, this run trains {:?}", tensor.dims(), parameter.value.dims());
            return Err(Error::tensor(&parameter.name, &weights, what, hint));
        }
        // In place, because the model computes with the same storage.
        parameter.value.slice_set(&tensor.to_device(parameter.value.device())?, 0, 0)?;
    }
    let path = directory.join(OPTIMIZER_FILE);
    optimizer.load_state(&read_tensors(&path)?, &path)?;
    Ok(state)
}

/// The newest whole checkpoint in `run`, if there is one.
pub fn newest(run: &Path) -> Option<PathBuf> {
    list(run).into_iter().rev().find(|path| read_state(path).is_ok())
}

/// Removes the oldest checkpoints until `limit` are left, and what an earlier process left half-written.
///
/// Errors: [`Error::Write`].
pub fn rotate(run: &Path, limit: usize) -> Result<()> {
    let all = list(run);
    for old in all.iter().take(all.len().saturating_sub(limit)) {
        // Under another name first, so that half of it is never taken for a checkpoint.
        let doomed = run.join(format!(".{}.old", old.file_name().unwrap_or_default().to_string_lossy()));
        remove(&doomed)?;
        fs::rename(old, &doomed).map_err(|e| Error::write(old, e))?;
        remove(&doomed)?;
    }
    Ok(())
}

/// Checkpoint folders of `run`, oldest first.
fn list(run: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(run) else { return Vec::new() };
    let mut found: Vec<(usize, PathBuf)> = entries
        .flatten()
        .filter_map(|e| {
            let step = e.file_name().to_str()?.strip_prefix("checkpoint-")?.parse().ok()?;
            Some((step, e.path()))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

fn read_state(directory: &Path) -> Result<TrainerState> {
    let path = directory.join(STATE_FILE);
    if !path.exists() {
        let hint =
            "A checkpoint is a folder `checkpoint-N` in a run's; name one, or \"auto\" for the newest of the run.";
        return Err(Error::absent(&path, hint));
    }
    let hint = "Resume from an older checkpoint.";
    let state: TrainerState = serde_json::from_slice(&files::read(&path)?)
        .map_err(|e| Error::format(&path, format!("line {}", e.line()), e.to_string(), hint))?;
    for (name, size) in &state.files {
        let file = directory.join(name);
        let found = fs::metadata(&file).map_err(|e| Error::read(&file, e))?.len();
        if found != *size {
            return Err(Error::format(&file, "", format!("has {found} bytes, {size} were written"), hint));
        }
    }
    Ok(state)
}

fn read_tensors(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let tensors = candle_core::safetensors::load_buffer(&files::read(path)?, &Device::Cpu).map_err(|e| {
        Error::format(path, "", format!("not a whole safetensors file ({e})"), "Resume from an older checkpoint.")
    })?;
    Ok(tensors.into_iter().collect())
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::write(directory, e)),
        _ => Ok(()),
    }
}
