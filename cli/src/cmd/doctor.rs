//! `ferrotune doctor`

use std::process::Command;

use ferrotune::device::{self, Machine};
use ferrotune::hub;

use super::lab;
use crate::failure::Failure;
use crate::{output, units};

/// Show what this machine has: cores, instruction sets, GPU, CUDA, Python, Jupyter, token
///
/// Nothing is changed, and nothing is asked of the network.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  ferrotune doctor
  FERROTUNE_ISA=avx2 ferrotune doctor")]
pub(crate) struct Args {}

pub(crate) fn run(_: Args) -> Result<(), Failure> {
    let machine = device::machine();
    let rows: [(&str, String); 12] = [
        ("ferrotune", version()),
        ("system", format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)),
        ("cores", cores(&machine)),
        ("memory", memory(&machine)),
        ("instructions", instructions(&machine)),
        ("GPU", gpu()),
        ("CUDA", cuda()),
        ("Rust", rust()),
        ("Python", python()),
        ("Jupyter", jupyter()),
        ("HF_HOME", hub::hf_home().map_or_else(|| "no home folder".into(), |path| path.display().to_string())),
        ("token", token()),
    ];
    for (name, value) in rows {
        output::line(format!("{name:<14}{value}"))?;
    }
    Ok(())
}

fn version() -> String {
    let cuda = if cfg!(feature = "cuda") { "with" } else { "without" };
    format!("{}, built {cuda} the feature `cuda`", env!("CARGO_PKG_VERSION"))
}

fn cores(machine: &Machine) -> String {
    match std::env::var("RAYON_NUM_THREADS") {
        Ok(n) => format!("{}; RAYON_NUM_THREADS={n}", machine.cores),
        Err(_) => machine.cores.to_string(),
    }
}

fn memory(machine: &Machine) -> String {
    match (machine.memory_total, machine.memory_available) {
        (Some(total), Some(free)) => format!("{}, {} free", units::bytes(total), units::bytes(free)),
        _ => "unknown".into(),
    }
}

/// The sets that products are written for, in the words of FERROTUNE_ISA.
fn instructions(machine: &Machine) -> String {
    let sets: Vec<&str> = machine.instruction_sets.iter().map(|isa| isa.name()).collect();
    let cap = std::env::var("FERROTUNE_ISA").map(|cap| format!("; FERROTUNE_ISA={cap}")).unwrap_or_default();
    format!("{}{cap}", sets.join(", "))
}

fn gpu() -> String {
    let query = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"];
    first_line("nvidia-smi", &query).map_or_else(|| "none found".into(), |line| format!("{line} (driver)"))
}

fn cuda() -> String {
    let Ok(out) = Command::new("nvcc").arg("--version").output() else { return "nvcc not found".into() };
    let text = String::from_utf8_lossy(&out.stdout);
    text.lines().find(|line| line.contains("release")).unwrap_or("nvcc is there").trim().to_owned()
}

/// What compiles the cells of notebooks.
fn rust() -> String {
    let Some(version) = first_line("rustc", &["--version"]) else { return "not found".into() };
    match lab::rust::look() {
        Ok(()) => format!("{version}, with its sources"),
        Err(_) => format!("{version}, without its sources; notebooks need `rustup component add rust-src`"),
    }
}

fn python() -> String {
    let Some(python) = first_line("python3", &["--version"]) else { return "not found".into() };
    match first_line("python3", &["-m", "pip", "--version"]) {
        Some(pip) => format!("{python}, {}", pip.split(" from ").next().unwrap_or(&pip)),
        None => format!("{python}, without pip"),
    }
}

/// JupyterLab on the PATH, or where `ferrotune lab` puts it.
fn jupyter() -> String {
    let version = |program: &str| first_line(program, &["--version"]);
    version("jupyter-lab")
        .or_else(|| version(".venv/bin/jupyter-lab").map(|version| format!("{version}, in .venv")))
        .unwrap_or_else(|| "not found; `ferrotune lab` sets it up".into())
}

/// Where a token comes from, never the token.
fn token() -> String {
    if std::env::var_os("HF_TOKEN").is_some_and(|token| !token.is_empty()) {
        return "set by HF_TOKEN".into();
    }
    match hub::hf_home().map(|home| home.join("token")).filter(|path| path.is_file()) {
        Some(path) => format!("in {}", path.display()),
        None => "none; only public models can be fetched".into(),
    }
}

/// The first line that a program prints, if it is there and succeeds.
fn first_line(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).output().ok().filter(|out| out.status.success())?;
    String::from_utf8_lossy(&out.stdout).lines().next().map(|line| line.trim().to_owned())
}
