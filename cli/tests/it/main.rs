//! The command `ferrotune`, run as a person runs it.

mod bad_input;
mod compare;
mod decide;
mod errors;
mod help;
mod help_train;
mod hub;
mod plan;
mod tiny;
mod train;

use std::path::Path;
use std::process::{Command, Stdio};

/// What a run of the command printed, and its exit code.
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs `ferrotune` in `dir`, away from the terminal and the user's settings.
fn ferrotune_in(dir: &Path, args: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferrotune"));
    outcome(command.args(args).current_dir(dir).env("HF_HUB_OFFLINE", "1"))
}

fn outcome(command: &mut Command) -> Outcome {
    let out = command
        .env_remove("COLUMNS")
        .env_remove("RAYON_NUM_THREADS")
        .stdin(Stdio::null())
        .output()
        .expect("the command starts");
    Outcome {
        code: out.status.code(),
        stdout: String::from_utf8(out.stdout).expect("stdout is UTF-8"),
        stderr: String::from_utf8(out.stderr).expect("stderr is UTF-8"),
    }
}

fn ferrotune(args: &[&str]) -> Outcome {
    ferrotune_in(Path::new(env!("CARGO_TARGET_TMPDIR")), args)
}
