//! evcxr as a service: cells in, outputs as they are made, an outcome at the end.

mod analysis;
mod failure;
mod interrupt;
mod output;
mod relay;
mod setup;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;

use evcxr::{CommandContext, EvalCallbacks, EvalContext};
use jupyter_protocol::Media;
use serde_json::Value;

use crate::cache::{Direct, FLAGS, toolchain};
use crate::{Error, Result, child, rustc};
pub use analysis::{Completions, IsComplete, is_complete};
pub use failure::Failure;
use interrupt::Stage;
pub use interrupt::{Interrupted, Interrupter};
pub use output::Output;
use relay::Relay;
pub use relay::Sink;

/// Tells code in a cell that frames on its standard output are understood.
pub const RICH_STDOUT: &str = "JUPYTER_RICH_STDOUT";

/// How a cell ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The last expression's value by MIME type; empty where there was none.
    Ok(BTreeMap<String, String>),
    Failed(Failure),
}

/// A value that there is something to see of: a cell that ends in a loop has the value `()`.
fn shown(value: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let is_unit = value.len() == 1 && value.get("text/plain").is_some_and(|text| text.trim() == "()");
    if is_unit { BTreeMap::new() } else { value }
}

/// Asks the person in front of the notebook: a prompt, and whether what is typed should stay unseen. `None` where nobody
/// can be asked.
pub type AskFor<'a> = &'a dyn Fn(&str, bool) -> Option<String>;

/// A process that runs cells, and the compiler that makes them. Not to be moved to another thread.
pub struct Engine {
    context: CommandContext,
    relay: Relay,
    interrupter: Interrupter,
    sink: Sink,
    /// The process that the setup cell was run in.
    set_up: usize,
    /// The prelude, while cargo does not know of it.
    direct: Option<Direct>,
}

impl Engine {
    /// Starts a process; takes some seconds. `folder` is the slot of this process; `prelude` was given to it.
    ///
    /// Errors: [`Error::Engine`] where there is no working Rust.
    pub fn start(folder: &Path, prelude: Option<Direct>, sink: Sink) -> Result<Self> {
        let socket = folder.join("output");
        let relay = Relay::listen(&socket, sink.clone())?;
        let mut command = Command::new(std::env::current_exe()?);
        command.env(child::SOCKET, &socket).env(RICH_STDOUT, "1").env("LD_LIBRARY_PATH", library_path()?);
        toolchain::VARIABLES.iter().for_each(|name| {
            command.env_remove(name);
        });
        let (context, outputs) =
            EvalContext::with_subprocess_command(command).map_err(|e| Error::Engine(e.to_string()))?;
        // The relay takes everything; what still comes this way was written before it was there.
        for (channel, wrap) in
            [(outputs.stdout, Output::Stdout as fn(String) -> Output), (outputs.stderr, Output::Stderr)]
        {
            let sink = sink.clone();
            std::thread::spawn(move || {
                channel.iter().for_each(|line| {
                    // The sanitizer-like noise of an empty line would open an output area for nothing.
                    if !line.is_empty() {
                        sink(wrap(line + "\n"));
                    }
                });
            });
        }
        let context = CommandContext::with_eval_context(context);
        let interrupter = Interrupter::new(context.process_handle());
        let mut engine = Self { context, relay, interrupter, sink, set_up: 0, direct: prelude };
        engine.set_up()?;
        Ok(engine)
    }

    /// Interrupts the cell in work, from another thread.
    pub fn interrupter(&self) -> Interrupter {
        self.interrupter.clone()
    }

    /// Compiles and runs a cell; what it writes goes to the sink meanwhile, all of it before this returns.
    pub fn run(&mut self, code: &str, ask: AskFor) -> Outcome {
        if let Err(error) = self.set_up() {
            return Outcome::Failed(Failure::new("Error", error.to_string()));
        }
        let code = match self.without_the_prelude(code) {
            Ok(code) => code,
            Err(error) => return Outcome::Failed(Failure::new("Error", error.to_string())),
        };
        self.relay.begin();
        self.interrupter.begin();
        let relay = self.relay.clone();
        let nobody = std::cell::Cell::new(false);
        let mut callbacks = EvalCallbacks {
            input_reader: &|request| {
                ask(&relay.prompt(), request.is_password).unwrap_or_else(|| {
                    nobody.set(true);
                    String::new()
                })
            },
        };
        let result = catch_unwind(AssertUnwindSafe(|| self.context.execute_with_callbacks(&code, &mut callbacks)));
        let (stage, compiler_ended) = self.interrupter.end();
        let (fault, caught) = self.relay.end();
        if let Some(relay::Fault::Panic { message, place }) = caught {
            (self.sink)(Output::Stderr(format!("panicked at {place}:\n{message}\n")));
        }
        match result {
            Err(_) => {
                Outcome::Failed(Failure::new("KernelError", "evcxr failed on this cell. The variables may be lost."))
            }
            _ if stage == Stage::Killed => Outcome::Failed(self.killed()),
            Ok(Err(_)) if compiler_ended => {
                Outcome::Failed(Failure::new("Interrupted", "the compiler was stopped; nothing of the cell has run"))
            }
            Ok(Err(error)) => Outcome::Failed(Failure::of_error(&error, &code)),
            Ok(Ok(_)) if nobody.get() && stage == Stage::Asked => {
                Outcome::Failed(Failure::new("Interrupted", "the cell waited for input"))
            }
            Ok(Ok(_)) if nobody.get() && fault.is_none() => Outcome::Failed(Failure::new(
                "StdinNotImplementedError",
                "the frontend does not take input for this cell",
            )),
            Ok(Ok(outputs)) => match fault {
                Some(fault) => Outcome::Failed(Failure::of_fault(fault)),
                None => Outcome::Ok(shown(outputs.content_by_mime_type.into_iter().collect())),
            },
        }
    }

    pub fn complete(&mut self, code: &str, cursor: usize) -> Completions {
        catch_unwind(AssertUnwindSafe(|| analysis::complete(&mut self.context, code, cursor))).unwrap_or_default()
    }

    /// The documentation of what is at the cursor, as plain text and HTML.
    pub fn inspect(&mut self, code: &str, cursor: usize) -> Option<(String, String)> {
        catch_unwind(AssertUnwindSafe(|| analysis::inspect(&mut self.context, code, cursor))).ok()?
    }

    /// Runs the setup cell in a process that has not seen it.
    fn set_up(&mut self) -> Result<()> {
        let processes = self.relay.processes();
        if self.set_up == processes {
            return Ok(());
        }
        if let Some(direct) = &mut self.direct {
            direct.arrive()?;
        }
        let prelude = self.direct.as_ref().map(|direct| build_flags(&direct.flags) + &direct.prelude.imports());
        let cell = prelude.unwrap_or_else(|| build_flags(FLAGS)) + setup::CELL;
        self.context.execute(&cell).map_err(|e| Error::Engine(e.to_string()))?;
        self.set_up = processes;
        Ok(())
    }

    /// The cell without a line that asks for the prelude that is there. A cell that asks for something else gets an engine in
    /// which cargo knows the prelude, and both share what they both depend on.
    fn without_the_prelude<'a>(&mut self, code: &'a str) -> Result<Cow<'a, str>> {
        let Some(direct) = &self.direct else { return Ok(code.into()) };
        let commands = || code.lines().filter(|line| line.trim_start().starts_with(":dep "));
        if commands().next().is_none() {
            return Ok(code.into());
        }
        if commands().all(|line| direct.prelude.is_asked_for_by(line)) {
            // Errors tell of lines by their number.
            let blank = |line| if direct.prelude.is_asked_for_by(line) { "" } else { line };
            return Ok(code.lines().map(blank).collect::<Vec<_>>().join("\n").into());
        }
        direct.leave()?;
        let cell = build_flags(FLAGS) + &direct.prelude.dependency();
        self.direct = None;
        self.context.execute(&cell).map_err(|e| Error::Engine(e.to_string()))?;
        Ok(code.into())
    }

    fn killed(&self) -> Failure {
        let checkpoint = match self.relay.checkpoint() {
            Some(folder) => format!(" The newest checkpoint is in `{folder}`."),
            None => String::new(),
        };
        Failure::new(
            "Interrupted",
            format!("the process that ran the cell was ended, and all variables are lost.{checkpoint}"),
        )
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // evcxr would wait for the running code.
        self.interrupter.kill();
    }
}

/// evcxr's command that sets how cells are compiled.
fn build_flags(flags: &str) -> String {
    format!(":build_env CARGO_ENCODED_RUSTFLAGS={flags}\n")
}

/// Where cells find Rust's standard library, which they share. What the compiler writes into them is a relative path, which
/// holds for some folders only.
fn library_path() -> Result<std::ffi::OsString> {
    let mut path = std::ffi::OsString::from(rustc::ask(&["--print", "target-libdir"])?);
    if let Some(before) = std::env::var_os("LD_LIBRARY_PATH").filter(|before| !before.is_empty()) {
        path.push(":");
        path.push(before);
    }
    Ok(path)
}

/// A value by MIME type as messages and notebooks have it; types that hold objects are parsed.
pub fn media(value: &BTreeMap<String, String>) -> Media {
    let form = |(mime, text): (&String, &String)| {
        let json = mime.ends_with("json").then(|| serde_json::from_str(text).ok()).flatten();
        (mime.clone(), json.unwrap_or_else(|| Value::String(text.clone())))
    };
    let bundle: serde_json::Map<String, Value> = value.iter().map(form).collect();
    serde_json::from_value(Value::Object(bundle)).unwrap_or_default()
}
