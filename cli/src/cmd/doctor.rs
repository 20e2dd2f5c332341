//! `ferrotune doctor`

use std::path::PathBuf;
use std::process::Command;

use ferrotune::device::{self, Machine};

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
    let rows: [(&str, String); 11] = [
        ("ferrotune", version()),
        ("system", format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)),
        ("cores", cores(&machine)),
        ("memory", memory(&machine)),
        ("instructions", instructions()),
        ("GPU", gpu()),
        ("CUDA", cuda()),
        ("Python", python()),
        ("Jupyter", first_line("jupyter-lab", &["--version"]).unwrap_or_else(|| "not found".into())),
        ("HF_HOME", hf_home().map_or_else(|| "no home folder".into(), |path| path.display().to_string())),
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

/// The sets that the kernels know, in the words of FERROTUNE_ISA.
fn instructions() -> String {
    let mut sets = vec!["portable"];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            sets.push("avx2");
        }
        if is_x86_feature_detected!("avx512f") {
            sets.push("avx512");
        }
        if is_x86_feature_detected!("avx512bf16") {
            sets.push("avx512bf16");
        }
        // The standard library cannot ask for AMX yet; Linux lists it.
        let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        if flags.split_whitespace().any(|flag| flag == "amx_bf16") {
            sets.push("amx");
        }
    }
    #[cfg(target_arch = "aarch64")]
    sets.push("neon");
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

fn python() -> String {
    let Some(python) = first_line("python3", &["--version"]) else { return "not found".into() };
    match first_line("python3", &["-m", "pip", "--version"]) {
        Some(pip) => format!("{python}, {}", pip.split(" from ").next().unwrap_or(&pip)),
        None => format!("{python}, without pip"),
    }
}

/// The folder of huggingface_hub's files.
fn hf_home() -> Option<PathBuf> {
    if let Some(home) = std::env::var_os("HF_HOME") {
        return Some(home.into());
    }
    let cache = match std::env::var_os("XDG_CACHE_HOME") {
        Some(cache) => cache.into(),
        None => std::env::home_dir()?.join(".cache"),
    };
    Some(cache.join("huggingface"))
}

/// Where a token comes from, never the token.
fn token() -> String {
    if std::env::var_os("HF_TOKEN").is_some_and(|token| !token.is_empty()) {
        return "set by HF_TOKEN".into();
    }
    match hf_home().map(|home| home.join("token")).filter(|path| path.is_file()) {
        Some(path) => format!("in {}", path.display()),
        None => "none; only public models can be fetched".into(),
    }
}

/// The first line that a program prints, if it is there and succeeds.
fn first_line(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).output().ok().filter(|out| out.status.success())?;
    String::from_utf8_lossy(&out.stdout).lines().next().map(|line| line.trim().to_owned())
}
