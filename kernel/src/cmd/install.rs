//! `ferrotune-kernel install`: tells Jupyter of this kernel.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::config::Config;
use crate::{Error, Result};

/// Tell Jupyter of this kernel.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// The kernel's configuration, which names the prelude
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Whose Jupyter.
#[derive(clap::Args)]
#[group(multiple = false)]
pub(super) struct Place {
    /// This user's (the default)
    #[arg(long)]
    user: bool,
    /// That of the active virtual or Conda environment
    #[arg(long)]
    sys_prefix: bool,
    /// That of the environment in this folder
    #[arg(long, value_name = "FOLDER")]
    prefix: Option<PathBuf>,
}

/// The kernelspec's name.
const NAME: &str = "ferrotune";

impl Place {
    /// The kernelspec's folder.
    ///
    /// Errors: [`Error::Input`] where nothing says which environment, or where home is.
    pub(super) fn folder(&self) -> Result<PathBuf> {
        let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let missing = |what: &str| Error::Input(what.into());
        let data = if let Some(prefix) = &self.prefix {
            std::path::absolute(prefix)?.join("share/jupyter")
        } else if self.sys_prefix {
            let active = variable("VIRTUAL_ENV").or_else(|| variable("CONDA_PREFIX"));
            let none = || missing("no environment is active. Activate one, or name its folder by `--prefix`.");
            active.ok_or_else(none)?.join("share/jupyter")
        } else {
            let home = || Some(variable("HOME")?.join(".local/share"));
            let data = variable("JUPYTER_DATA_DIR");
            let data = data.or_else(|| Some(variable("XDG_DATA_HOME").or_else(home)?.join("jupyter")));
            data.ok_or_else(|| missing("HOME is not set, so there is no folder of this user. Use `--prefix`."))?
        };
        Ok(data.join("kernels").join(NAME))
    }
}

pub fn run(args: &Args) -> Result<()> {
    let folder = args.place.folder()?;
    let mut argv = vec![path_text(&std::env::current_exe()?)?, "run".into(), "--connection-file".into()];
    argv.push("{connection_file}".into());
    if let Some(config) = &args.config {
        // Said now, not when a notebook opens.
        Config::read(config)?;
        argv.extend(["--config".into(), path_text(&std::path::absolute(config)?)?]);
    }
    let spec = json!({
        "argv": argv,
        "display_name": "Rust (Ferrotune)",
        "language": "rust",
        "interrupt_mode": "message",
        "metadata": {"debugger": false},
    });
    std::fs::create_dir_all(&folder).map_err(Error::write(&folder))?;
    let text = serde_json::to_string_pretty(&spec).unwrap_or_default() + "\n";
    for (name, content) in [("kernel.json", text.as_str()), ("logo-svg.svg", include_str!("logo.svg"))] {
        let (new, file) = (folder.join(format!("{name}.new")), folder.join(name));
        std::fs::write(&new, content).and_then(|()| std::fs::rename(&new, &file)).map_err(Error::write(&file))?;
    }
    println!("The kernel `{NAME}` is installed in `{}`.", folder.display());
    Ok(())
}

fn path_text(path: &Path) -> Result<String> {
    let what = || Error::Input(format!("`{}` is no UTF-8, which Jupyter's files have to be.", path.display()));
    path.to_str().map(str::to_owned).ok_or_else(what)
}
