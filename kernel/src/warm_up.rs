//! From a configuration to an engine whose prelude is loaded.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::cache::{Prebuilt, Slot};
use crate::config::Config;
use crate::engine::{Engine, Failure, Outcome, Sink};
use crate::{Error, Result};

/// Starts an engine in `folder`, with the prelude in it, which is compiled first if it has to be; `note` is called with lines
/// for a person who waits. Where the prelude cannot be had, the engine is there without it, and why.
///
/// Errors: those of [`Engine::start`].
pub fn start(config: &Config, folder: &Path, sink: Sink, note: impl Fn(&str)) -> Result<(Engine, Option<Failure>)> {
    let Some(prelude) = &config.prelude else { return Ok((Engine::start(folder, None, sink)?, None)) };
    let prebuilt = Prebuilt::of(prelude)?;
    let mut direct = prebuilt.give(folder)?;
    if direct.is_none() && !prebuilt.is_fresh() {
        if let Err(error) = compile(&config.file, &note) {
            let failure = Failure::new("PreludeError", error.to_string());
            return Ok((Engine::start(folder, None, sink)?, Some(failure)));
        }
        direct = prebuilt.give(folder)?;
    }
    let is_loaded = direct.is_some();
    let mut engine = Engine::start(folder, direct, sink)?;
    if is_loaded {
        return Ok((engine, None));
    }
    match engine.run(&prelude.cell(), &|_, _| None) {
        Outcome::Ok(_) => Ok((engine, None)),
        Outcome::Failed(failure) => Ok((engine, Some(failure))),
    }
}

/// Has another process do it: this one's compiler is the cells'.
///
/// Errors: [`Error::Engine`] with that process's words.
fn compile(config: &Path, note: &impl Fn(&str)) -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["prebuild", "--with-parent", "--config"]).arg(config).env_remove(Slot::VARIABLE);
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut last = String::new();
    for line in process.stderr.take().into_iter().flat_map(|stderr| BufReader::new(stderr).lines()) {
        let line = line?;
        // evcxr tells of each crate.
        if line.trim_start().starts_with("Compiling ") {
            continue;
        }
        if line.starts_with("error: ") || !last.is_empty() {
            last = last + &line + "\n";
        } else {
            note(&line);
        }
    }
    if process.wait()?.success() { Ok(()) } else { Err(Error::Engine(last.trim_end().to_owned())) }
}
