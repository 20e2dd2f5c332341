//! `ferrotune decide`

use std::io::{BufRead, IsTerminal};

use ferrotune::Error;
use ferrotune::decide::tree::{ADVICE, QUESTIONS, Question, mermaid, walk};
use serde_json::json;

use crate::failure::Failure;
use crate::{interrupt, output};

/// Ask the questions that tell whether to write a prompt, to retrieve, or to fine-tune
///
/// Each question is answered with yes or no: by its flag, at the terminal, or by a line of standard input. What the answers
/// rest on can be measured: see `ferrotune compare`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  ferrotune decide
  ferrotune decide --knowledge yes --form-with-facts no --examples-with-facts yes
  ferrotune decide --knowledge no --form yes --volume no --json
  ferrotune decide --tree                     the whole tree, as a Mermaid flowchart")]
pub(crate) struct Args {
    /// Answers hold facts from documents, or facts that change
    #[arg(long, value_name = "yes|no", value_parser = yes_or_no)]
    knowledge: Option<bool>,

    /// A prompt with examples gives the form often enough
    #[arg(long, value_name = "yes|no", value_parser = yes_or_no)]
    form: Option<bool>,

    /// So does a prompt with the facts in it
    #[arg(long, value_name = "yes|no", value_parser = yes_or_no)]
    form_with_facts: Option<bool>,

    /// There are more queries than the break-even of a long prompt
    #[arg(long, value_name = "yes|no", value_parser = yes_or_no)]
    volume: Option<bool>,

    /// There are some hundred good examples
    #[arg(long, value_name = "yes|no", value_parser = yes_or_no)]
    examples: Option<bool>,

    /// There are some hundred, each with its facts
    #[arg(long, value_name = "yes|no", value_parser = yes_or_no)]
    examples_with_facts: Option<bool>,

    /// Print the tree and ask nothing
    #[arg(long)]
    tree: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a person may type for yes and no.
fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.trim().to_lowercase().as_str() {
        "yes" | "y" | "true" | "1" | "có" | "co" | "c" => Ok(true),
        "no" | "n" | "false" | "0" | "không" | "khong" | "k" => Ok(false),
        _ => Err("it must be yes or no".into()),
    }
}

impl Args {
    fn given(&self, id: &str) -> Option<bool> {
        match id {
            "knowledge" => self.knowledge,
            "form" => self.form,
            "form-with-facts" => self.form_with_facts,
            "volume" => self.volume,
            "examples" => self.examples,
            "examples-with-facts" => self.examples_with_facts,
            _ => None,
        }
    }
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    if args.tree {
        return match args.json {
            true => output::json(&json!({"questions": QUESTIONS, "advice": ADVICE})),
            false => output::piece(mermaid("en")),
        };
    }
    let (steps, advice) = walk(|question| match args.given(question.id) {
        Some(answer) => Ok(Some(answer)),
        None => ask(question),
    })?;
    if args.json {
        return output::json(&json!({
            "advice": advice.approach, "text": advice.text.en, "why": advice.why.en, "answers": steps,
        }));
    }
    output::line(format!("\n{}. {}", advice.text.en, advice.why.en))?;
    output::line("\nBecause:")?;
    for step in &steps {
        let question = QUESTIONS.iter().find(|question| question.id == step.question);
        let text = question.map_or("", |question| question.text.en);
        output::line(format!("  {:<3}  {text}", if step.answer { "yes" } else { "no" }))?;
    }
    output::line("\n`ferrotune compare` tries all approaches on one task and measures them.")
}

/// Asks at the terminal until there is an answer; takes a line of standard input where there is no terminal.
fn ask(question: &Question) -> Result<Option<bool>, Error> {
    let stdin = std::io::stdin();
    let is_terminal = stdin.is_terminal();
    loop {
        if is_terminal {
            output::status(format!("\n{}\n  {}", question.text.en, question.help.en));
            eprint!("yes or no? ");
        }
        let mut line = String::new();
        let read = interrupt::idle(|| stdin.lock().read_line(&mut line));
        let read = read.map_err(|e| Error::read("standard input", e))?;
        if read == 0 {
            return Ok(None);
        }
        match yes_or_no(&line) {
            Ok(answer) => return Ok(Some(answer)),
            Err(_) if is_terminal => continue,
            Err(_) => {
                let what = format!("the answer to `{}` is `{}`", question.id, line.trim());
                return Err(Error::data("", what, "Write yes or no, a line for each question."));
            }
        }
    }
}
