//! The command `ferrotune-kernel`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ferrotune_kernel::{cache, child, cmd};

/// A Jupyter kernel for Rust.
#[derive(Parser)]
#[command(
    name = "ferrotune-kernel",
    version,
    max_term_width = 100,
    after_help = "\
Exit codes: 0 done, 1 failed while running, 2 the input or the usage is wrong, 130 interrupted.

Examples:
  ferrotune-kernel install                    for the Jupyter of this user
  ferrotune-kernel install --prefix .venv     for the Jupyter of a virtual environment
  ferrotune-kernel install --config kernel/ferrotune.toml    with what cells find loaded
  ferrotune-kernel prebuild --config kernel/ferrotune.toml   compiled now, not when a notebook opens
  ferrotune-kernel execute --config kernel/ferrotune.toml notebooks/en/sft.ipynb
  ferrotune-kernel uninstall"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Install(cmd::install::Args),
    Uninstall(cmd::uninstall::Args),
    Prebuild(cmd::prebuild::Args),
    Execute(cmd::execute::Args),
    Run(cmd::run::Args),
}

fn main() -> ExitCode {
    if let Some(error) = cache::toolchain::stand_in() {
        eprintln!("cargo could not be run: {error}");
        return ExitCode::from(1);
    }
    // The process that runs cells is this program, too, and never comes back from here.
    if let Err(error) = child::prepare() {
        eprintln!("the process that runs cells could not be set up: {error}");
        return ExitCode::from(1);
    }
    evcxr::runtime_hook();
    let result = match Cli::parse().command {
        Command::Install(args) => cmd::install::run(&args),
        Command::Uninstall(args) => cmd::uninstall::run(&args),
        Command::Prebuild(args) => cmd::prebuild::run(&args),
        Command::Execute(args) => cmd::execute::run(&args),
        Command::Run(args) => cmd::run::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
