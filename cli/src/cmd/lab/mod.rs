//! `ferrotune lab`: from a clone of the repository to notebooks in a browser.

pub(super) mod rust;
mod server;
mod setup;

use std::path::{Path, PathBuf};

use ferrotune::hub;

use crate::failure::Failure;
use crate::{interrupt, output, progress};
use server::Server;

/// Set up JupyterLab with the Rust kernel in `.venv`, build the book, and open the course
///
/// To be run in a clone of the repository. The first time takes some minutes, later starts take seconds. The server listens
/// on this machine only and asks for a token; Ctrl-C ends it.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  ferrotune lab
  ferrotune lab --no-open                     print the address and leave the browser alone
  ferrotune lab --notebook notebooks/vi/sft.ipynb
  ferrotune lab --check                       set up, run the notebook in Jupyter, report, exit")]
pub(crate) struct Args {
    /// Do not open a browser
    #[arg(long)]
    no_open: bool,
    /// Set everything up, run the notebook without a browser, and exit
    #[arg(long)]
    check: bool,
    /// The notebook to open (notebooks/en/sft.ipynb by default)
    #[arg(long, value_name = "FILE", default_value = "notebooks/en/sft.ipynb", hide_default_value = true)]
    notebook: PathBuf,
    /// Take the kernel and the program that builds the book from this folder instead of building them
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let root = root()?;
    let notebook = notebook(&root, &args.notebook)?;
    // What is run below hears of Ctrl-C as well, and ends.
    interrupt::listen()?;
    let lab = setup::Lab::set_up(&root, args.programs)?;
    hub::resolve_with(ferrotune::train::RunConfig::default().model.as_str(), &mut progress::transfer())?;
    let server = Server::start(&lab, &root, &notebook, !args.no_open && !args.check)?;
    if args.check {
        // The server answered; now the notebook, by Jupyter's own client.
        drop(server);
        let ran = lab.run_notebook(&root, &root.join(&notebook))?;
        return output::line(format!("JupyterLab started, and `{}` ran: {}", notebook.display(), ran.display()));
    }
    output::line(format!("\nThe book:   {}", lab.book()))?;
    output::line(format!("JupyterLab: {}", server.url()))?;
    output::line(format!(
        "\nVS Code, Zed or a Jupyter of your own find the kernel after this; choose \"Rust (Ferrotune)\":\n  {}",
        lab.install_for_user()
    ))?;
    output::line("\nCtrl-C ends it.")?;
    server.wait()
}

/// The repository that the current folder is in.
fn root() -> Result<PathBuf, Failure> {
    let here = std::env::current_dir().map_err(|e| Failure::Running(format!("there is no current folder: {e}.")))?;
    let root = here.ancestors().find(|folder| folder.join(setup::CONFIG).is_file()).map(Path::to_path_buf);
    root.ok_or_else(|| {
        let what = format!("`{}` is not in a clone of Ferrotune's repository", here.display());
        Failure::Input(format!("{what}, which has the kernel and the notebooks. Change into one and run this again."))
    })
}

/// The notebook's path from the root, which is what the server serves.
fn notebook(root: &Path, path: &Path) -> Result<PathBuf, Failure> {
    let from_here = path.canonicalize().ok().filter(|path| path.is_file());
    let found = from_here.or_else(|| root.join(path).canonicalize().ok().filter(|path| path.is_file()));
    let root = root.canonicalize().unwrap_or_else(|_| root.to_path_buf());
    found.and_then(|path| path.strip_prefix(&root).ok().map(Path::to_path_buf)).ok_or_else(|| {
        let what = format!("there is no notebook `{}` in `{}`", path.display(), root.display());
        Failure::Input(format!("{what}. Name one of those in `notebooks/`."))
    })
}
