//! Whether a run may write into a folder that holds one already.

use std::path::Path;

use super::{KEYS, Key, RunConfig, Table};
use crate::error::{Error, Result};

/// Files that a finished run leaves.
const RESULTS: [&str; 3] = ["adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json"];

impl RunConfig {
    /// Refuses an `output_dir` whose run would be lost: one that differs in a setting that shapes the model or the data,
    /// or any with `resume_from_checkpoint = false`.
    ///
    /// Settings that only lengthen a run, or say how often something is told, evaluated or saved, may change.
    /// Errors: [`Error::Config`] with the folder; [`Error::Read`] where it cannot be looked into.
    pub fn check_output_dir(&self) -> Result<()> {
        let dir = &self.output_dir;
        // The nearest folder that is there, in which the missing ones are made.
        if let Some(found) = dir.ancestors().find(|path| path.exists()).filter(|path| !path.is_dir()) {
            let what = format!("`output_dir` is `{}`, and `{}` is no folder", dir.display(), found.display());
            return Err(Error::config("", what, "Name a folder that is new, or a run's to go on with."));
        }
        if !dir.exists() || !holds_run(dir)? {
            return Ok(());
        }
        let refuse = |what: String| {
            let hint = "Choose another `output_dir`, or delete that folder if the run is no longer needed.";
            Err(Error::config("", what, hint))
        };
        let path = dir.join("config.toml");
        let Some(previous) = std::fs::read_to_string(&path).ok().and_then(|text| Self::from_toml(&text, &path).ok())
        else {
            return refuse(format!(
                "`{}` holds results without a `config.toml` that says how they were made",
                dir.display()
            ));
        };
        if self.resume_from_checkpoint.is_none() {
            return refuse(format!("`{}` holds a run, and `resume_from_checkpoint` is false", dir.display()));
        }
        for key in KEYS.iter().filter(|key| shapes_run(key)) {
            let (before, now) = (key.value(&previous), key.value(self));
            if before != now {
                let show =
                    |value: Option<toml::Value>| value.map_or("not set".to_owned(), |value| format!("`{value}`"));
                let (name, before, now) = (key.name, show(before), show(now));
                return refuse(format!("`{}` holds a run whose `{name}` is {before}, here {now}", dir.display()));
            }
        }
        Ok(())
    }
}

/// Whether there is something that a new run would replace.
fn holds_run(dir: &Path) -> Result<bool> {
    if RESULTS.iter().any(|name| dir.join(name).exists()) {
        return Ok(true);
    }
    let entries = std::fs::read_dir(dir).map_err(|e| Error::read(dir, e))?;
    Ok(entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("checkpoint-")))
}

/// Whether a run with another value of `key` is another run.
fn shapes_run(key: &Key) -> bool {
    match key.table {
        Table::Run => matches!(key.name, "model" | "data" | "method" | "template" | "seed" | "init_adapter"),
        Table::Lora | Table::PromptTuning => true,
        Table::Quantization => true,
        Table::Sft => matches!(
            key.name,
            "per_device_train_batch_size"
                | "gradient_accumulation_steps"
                | "max_length"
                | "packing"
                | "completion_only_loss"
                | "shuffle"
                | "neftune_noise_alpha"
                | "loraplus_lr_ratio"
        ),
    }
}
