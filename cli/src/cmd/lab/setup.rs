//! What the course needs, made where it is missing: `.venv`, the kernel, its prelude, the book.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::rust;
use crate::failure::Failure;
use crate::{interrupt, output};

/// The kernel's configuration, from the root.
pub(super) const CONFIG: &str = "kernel/ferrotune.toml";
const REQUIREMENTS: &str = include_str!("requirements.txt");
/// JupyterLab asks nobody for news, nor the reader whether it may.
const SETTINGS: &str = "{\"@jupyterlab/apputils-extension:notification\": {\"fetchNews\": \"false\"}}\n";
/// In the environment: the requirements that it has.
const INSTALLED: &str = "ferrotune-lab.txt";

/// A Python environment with JupyterLab and the kernel, and the book.
pub(super) struct Lab {
    venv: PathBuf,
    kernel: PathBuf,
    config: PathBuf,
    book: PathBuf,
}

impl Lab {
    /// Makes what is not there yet; what is there stays. The programs are built, unless they are in the folder `programs`.
    pub(super) fn set_up(root: &Path, programs: Option<PathBuf>) -> Result<Self, Failure> {
        rust::look()?;
        let venv = root.join(".venv");
        environment(&venv)?;
        let programs = match programs {
            Some(folder) => std::path::absolute(folder).map_err(|e| Failure::Input(format!("`--programs`: {e}.")))?,
            None => build_programs(root)?,
        };
        output::status("building the book");
        let mut course = Command::new(programs.join("ferrotune-course"));
        run(course.current_dir(root).arg("book").stdout(Stdio::null()), "ferrotune-course book")?;
        let book = root.join("target/book/index.html");
        let lab = Self { kernel: programs.join("ferrotune-kernel"), config: root.join(CONFIG), venv, book };
        output::status("installing the kernel");
        let mut install = lab.kernel(&["install", "--prefix"]);
        run(install.arg(&lab.venv).stdout(Stdio::null()), "ferrotune-kernel install")?;
        output::status("compiling what cells find loaded");
        run(lab.kernel(&["prebuild"]).stdout(Stdio::null()), "ferrotune-kernel prebuild")?;
        // Jupyter shows the pictures of those notebooks alone that this user has run or trusts.
        let notebooks = notebooks(root);
        run(lab.program("jupyter-trust").args(&notebooks).stdout(Stdio::null()), "jupyter trust")?;
        Ok(lab)
    }

    /// A program of the environment.
    pub(super) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.venv.join("bin").join(name));
        // The environment's kernels, not those of a Jupyter elsewhere; what Jupyter keeps stays here, too.
        command.env_remove("JUPYTER_PATH").env("JUPYTER_DATA_DIR", self.venv.join("share/jupyter"));
        command
    }

    /// The address of the book's first page.
    pub(super) fn book(&self) -> String {
        format!("file://{}", self.book.display())
    }

    /// The command by which other editors learn of the kernel.
    pub(super) fn install_for_user(&self) -> String {
        format!("{} install --user --config {}", self.kernel.display(), self.config.display())
    }

    /// Runs a notebook by Jupyter's client and returns where its outputs are.
    pub(super) fn run_notebook(&self, root: &Path, notebook: &Path) -> Result<PathBuf, Failure> {
        output::status(format!("running `{}`", notebook.display()));
        let folder = root.join("target/lab");
        let mut nbconvert = self.program("jupyter-nbconvert");
        nbconvert.args(["--to", "notebook", "--execute", "--log-level", "WARN", "--output-dir"]).arg(&folder);
        nbconvert.arg("--ExecutePreprocessor.kernel_name=ferrotune").arg(notebook);
        run(&mut nbconvert, "jupyter nbconvert")?;
        Ok(folder.join(notebook.file_name().unwrap_or_default()))
    }

    fn kernel(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.kernel);
        command.args([arguments[0], "--config"]).arg(&self.config).args(&arguments[1..]);
        command
    }
}

/// The notebooks of the course, which its program has written.
fn notebooks(root: &Path) -> Vec<PathBuf> {
    let folders = ["en", "vi"].map(|language| root.join("notebooks").join(language));
    let entries = folders.into_iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "ipynb")).collect()
}

/// Builds the kernel and the course's program; returns the folder that they are in.
fn build_programs(root: &Path) -> Result<PathBuf, Failure> {
    output::status("building the kernel");
    let mut cargo = Command::new("cargo");
    let packages = ["-p", "ferrotune-kernel", "-p", "ferrotune-course", "--bins"];
    run(cargo.current_dir(root).args(["build", "--release", "--locked"]).args(packages), "cargo")?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
    Ok(target.join("release"))
}

/// `.venv` with what is required.
fn environment(venv: &Path) -> Result<(), Failure> {
    let installed = venv.join(INSTALLED);
    if std::fs::read_to_string(&installed).is_ok_and(|text| text == REQUIREMENTS) {
        return Ok(());
    }
    if !venv.join("bin/python").exists() {
        output::status(format!("making a Python environment in `{}`", venv.display()));
        let mut python = Command::new("python3");
        run(python.args(["-m", "venv"]).arg(venv), "python3 -m venv")?;
    }
    output::status("installing JupyterLab from PyPI");
    let required = REQUIREMENTS.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let mut pip = Command::new(venv.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(required);
    run(&mut pip, "pip")?;
    let settings = venv.join("share/jupyter/lab/settings");
    write(&settings.join("overrides.json"), SETTINGS)?;
    write(&installed, REQUIREMENTS)
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let written = std::fs::create_dir_all(path.parent().unwrap_or(path)).and_then(|()| std::fs::write(path, text));
    written.map_err(|e| Failure::Running(format!("could not write `{}`: {e}.", path.display())))
}

/// Runs a program to its end; what it says goes where this command's words go.
fn run(command: &mut Command, name: &str) -> Result<(), Failure> {
    let status = command.stdin(Stdio::null()).status();
    let status =
        status.map_err(|e| Failure::Running(format!("`{name}` could not be started: {e}. Is it installed?")))?;
    if interrupt::asked() {
        return Err(Failure::Interrupted("the set-up goes on where it stopped when this command is run again.".into()));
    }
    if status.success() {
        return Ok(());
    }
    Err(Failure::Running(format!("`{name}` failed; it says why above. Run this command again once that is mended.")))
}
