//! `cargo course`: the book, the notebooks, and what they show.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ferrotune_course::{Course, Error, Language, Result, bless, book, check, notebook, run};
use mdbook_driver::book::Book;

/// Builds the book and the notebooks from the lessons, runs their cells, and keeps what they show
#[derive(Parser)]
#[command(
    name = "cargo course",
    version,
    after_help = "\
Examples:
  cargo course book                 the book in both languages, in target/book
  cargo course run nf4              run a lesson's cells and compare them with their record
  cargo course bless nf4            run them, keep what they show, and write the notebooks anew
  cargo course check                everything that can be checked without running a cell"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command_,
}

#[derive(Subcommand)]
enum Command_ {
    /// Write the book in both languages
    Book {
        /// The folder that the languages' folders are in
        #[arg(long, value_name = "FOLDER")]
        out: Option<PathBuf>,
    },
    /// Check pages, records, notebooks, links and both languages, without running a cell
    Check,
    /// Run a lesson's cells and compare what they show with their record
    Run {
        /// The lessons; all of them, if none is named
        lessons: Vec<String>,
        /// Run the notebooks in the Jupyter kernel instead; this is its program
        #[arg(long, value_name = "FILE")]
        kernel: Option<PathBuf>,
    },
    /// Run the cells of lessons and keep what they show; write the notebooks anew
    Bless {
        /// The lessons to run; none is run, if none is named
        lessons: Vec<String>,
    },
    /// Say that a page's sections, of which one language changed, still say the same in both
    Synced {
        /// The pages
        #[arg(required = true)]
        pages: Vec<String>,
    },
    /// Turn a book that mdBook gives on standard input into one that it knows: for `mdbook build`
    Preprocess {
        #[arg(hide = true, num_args = 0..)]
        supports: Vec<String>,
    },
}

fn main() -> ExitCode {
    match execute(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match &error {
                Error::Findings(findings) => findings.iter().for_each(|finding| eprintln!("error: {finding}")),
                error => eprintln!("error: {error}"),
            }
            ExitCode::from(if matches!(error, Error::Lesson { .. }) { 2 } else { 1 })
        }
    }
}

fn execute(command: Command_) -> Result<()> {
    let course = Course::here()?;
    match command {
        Command_::Book { out } => {
            let out = out.unwrap_or_else(|| course.root().join("target/book"));
            println!("{}", book::build(&course, &out)?.display());
            Ok(())
        }
        Command_::Check => {
            check::all(&course)?;
            check::book(&course, &course.root().join("target/book"))
        }
        Command_::Run { lessons, kernel } => run_lessons(&course, lessons, kernel),
        Command_::Bless { lessons } => bless_lessons(&course, &lessons),
        Command_::Synced { pages } => {
            check::bless_twins(&course, &pages)?;
            Ok(())
        }
        Command_::Preprocess { supports } => preprocess(&course, &supports),
    }
}

fn run_lessons(course: &Course, lessons: Vec<String>, kernel: Option<PathBuf>) -> Result<()> {
    let lessons = if lessons.is_empty() { course.lessons()? } else { lessons };
    let mut findings = Vec::new();
    if let Some(kernel) = kernel {
        for lesson in &lessons {
            // Both languages have the same code cells.
            let now = run::in_kernel(course, &kernel, Language::English, lesson)?;
            findings.extend(bless::differences(course, lesson, &now)?);
        }
    } else {
        let program = run::build(course)?;
        for lesson in &lessons {
            let now = run::run(course, lesson, &program, |cell| eprintln!("{lesson}: {cell}"))?;
            findings.extend(bless::differences(course, lesson, &now)?);
        }
    }
    if findings.is_empty() { Ok(()) } else { Err(Error::Findings(findings)) }
}

fn bless_lessons(course: &Course, lessons: &[String]) -> Result<()> {
    if !lessons.is_empty() {
        let program = run::build(course)?;
        for lesson in lessons {
            let now = run::run(course, lesson, &program, |cell| eprintln!("{lesson}: {cell}"))?;
            let changed = bless::record(course, lesson, &now)?;
            let changed = if changed.is_empty() { "nothing changed".into() } else { changed.join(", ") };
            println!("lessons/records/{lesson}.json: {changed}");
        }
    }
    for path in notebook::write_all(course)? {
        println!("{path}");
    }
    check::bless_twins(course, &[])?;
    Ok(())
}

/// The protocol of mdBook's preprocessors.
fn preprocess(course: &Course, supports: &[String]) -> Result<()> {
    if !supports.is_empty() {
        return Ok(());
    }
    let failed = |e: &dyn std::fmt::Display| Error::Book(e.to_string());
    let input = std::io::read_to_string(std::io::stdin()).map_err(|e| failed(&e))?;
    let (_, mut book): (serde_json::Value, Book) = serde_json::from_str(&input).map_err(|e| failed(&e))?;
    book::chapters(course, Language::English, &mut book)?;
    let output = serde_json::to_string(&book).map_err(|e| failed(&e))?;
    std::io::stdout().write_all(output.as_bytes()).map_err(|e| failed(&e))
}
