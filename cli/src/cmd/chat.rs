//! `ferrotune chat`

use std::io::{BufRead, IsTerminal};

use ferrotune::Error;
use ferrotune::data::{Message, Template};
use ferrotune::generate::{self, Event, TextStream};

use crate::adapted::{ModelArgs, SamplingArgs};
use crate::failure::Failure;
use crate::opened::{self, Opened, Precision};
use crate::{interrupt, output};

/// Talk to a model
///
/// With a run's adapter, each line is put into the text that the run was trained with; else the model's own chat
/// template is used. `/reset` forgets the talk, `/exit` ends it, Ctrl-C ends an answer.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  ferrotune chat --adapter runs/quick-start
  ferrotune chat --model smollm2-135m --temperature 0.7")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    sampling: SamplingArgs,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    interrupt::listen()?;
    let opened = args.model.open(Precision::Fast)?;
    let config = args.sampling.config(&opened.pretrained.eos_token_ids);
    config.validate()?;
    let template = opened.template()?;
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        let with = args.model.adapter.as_ref().map(|a| format!(" with `{}`", a.display())).unwrap_or_default();
        output::status(format!("`{}`{with}. /reset forgets the talk, /exit ends it.", opened.name));
    }
    let mut talk: Vec<Message> = Vec::new();
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if terminal {
            output::piece("> ")?;
        }
        let line = match interrupt::idle(|| lines.next()) {
            None => return Ok(()),
            Some(line) => line.map_err(|e| Failure::Input(format!("could not read the standard input: {e}.")))?,
        };
        match line.trim() {
            "" => continue,
            "/exit" | "/quit" => return Ok(()),
            "/reset" => talk.clear(),
            line => {
                talk.push(Message { role: "user".into(), content: line.into() });
                let ids = prompt(&opened, &template, &talk)?;
                let answer = say(&opened, ids, &config)?;
                talk.push(Message { role: "assistant".into(), content: answer });
            }
        }
    }
}

/// The ids of the talk so far. A run's adapter knows single records, so only the last line counts there.
fn prompt(opened: &Opened, template: &Template, talk: &[Message]) -> Result<Vec<u32>, Error> {
    let last = talk.last().map_or("", |message| message.content.as_str());
    match (opened.prompt(), template) {
        (None, Template::Chat(chat)) => opened::encode(&opened.pretrained, &chat.render(talk, true)?, false),
        (prompt, template) => {
            let bare = ferrotune::data::Record { instruction: last.into(), ..Default::default() };
            opened.prompt_ids(template, &prompt.map_or(bare, |prompt| prompt.record(last)))
        }
    }
}

/// Generates an answer, shows it as it comes, and returns it.
fn say(opened: &Opened, ids: Vec<u32>, config: &generate::GenerationConfig) -> Result<String, Failure> {
    let tokenizer = opened.pretrained.tokenizer()?;
    let mut stream = TextStream::new(tokenizer, true);
    let mut answer = String::new();
    let mut shown = Ok(());
    let mut on_event = |event: Event| {
        if let (Event::Token { id, .. }, true) = (event, shown.is_ok()) {
            shown = stream.push(id).map_err(Failure::from).and_then(|piece| {
                answer.push_str(&piece);
                output::piece(piece)
            });
        }
    };
    generate::generate(&opened.decoder, &[ids], config, &mut on_event, &|| interrupt::asked())?;
    shown?;
    let rest = stream.finish()?;
    output::line(&rest)?;
    Ok(answer + &rest)
}
