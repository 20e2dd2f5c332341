//! `ferrotune generate`

use std::path::{Path, PathBuf};

use ferrotune::data::Record;
use ferrotune::generate::{self, Event, Finish, TextStream};
use ferrotune::{Error, files};
use serde::Deserialize;
use serde_json::json;

use crate::adapted::{ModelArgs, SamplingArgs};
use crate::failure::Failure;
use crate::opened::{self, Opened, Precision};
use crate::{interrupt, output, progress};

/// Continue a text, or many
///
/// A prompt is continued as it stands. A line of a prompts file is `{"prompt": "…"}`, or a record with `instruction`
/// and perhaps `input`, which gets the text around it that the adapter was trained with.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  ferrotune generate --model smollm2-135m --prompt 'The capital of Vietnam is' --max-new-tokens 20
  ferrotune generate --adapter runs/quick-start --prompts datasets/orders/test.jsonl --json")]
#[command(group = clap::ArgGroup::new("what").required(true).args(["prompt", "prompts"]))]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// Text to continue
    #[arg(long, value_name = "P")]
    prompt: Option<String>,

    /// File with a prompt or a record on each line
    #[arg(long, value_name = "F.jsonl")]
    prompts: Option<PathBuf>,

    #[command(flatten)]
    sampling: SamplingArgs,

    /// Print one JSON object for each prompt: prompt, text, tokens
    #[arg(long)]
    json: bool,
}

/// A line of a prompts file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Prompt {
        prompt: String,
    },
    Record {
        instruction: String,
        #[serde(default)]
        input: Option<String>,
    },
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let lines = match (&args.prompt, &args.prompts) {
        (_, Some(path)) => read_lines(path)?,
        (prompt, None) => vec![Line::Prompt { prompt: prompt.clone().unwrap_or_default() }],
    };
    interrupt::listen()?;
    let opened = args.model.open(Precision::Fast)?;
    let config = args.sampling.config(&opened.pretrained.eos_token_ids);
    config.validate()?;
    let (texts, prompts) = prompts(&opened, &lines)?;
    let tokenizer = opened.pretrained.tokenizer()?;
    // One answer is shown as it is made; several are shown when each is whole.
    let streaming = args.prompt.is_some() && !args.json;
    let mut stream = TextStream::new(tokenizer, true);
    let mut closed = Ok(());
    let bar = progress::bar(prompts.len() as u64, "answers");
    let mut on_event = |event: Event| match event {
        Event::Token { id, .. } if streaming && closed.is_ok() => {
            closed = stream.push(id).map_err(Failure::from).and_then(output::piece);
        }
        Event::Finished { .. } if !streaming => bar.inc(1),
        _ => {}
    };
    let completions = generate::generate(&opened.decoder, &prompts, &config, &mut on_event, &|| interrupt::asked());
    bar.finish_and_clear();
    let completions = completions.map_err(|e| match &args.prompts {
        Some(path) => e.in_file(path),
        None => e,
    })?;
    closed?;
    if streaming {
        output::line(stream.finish()?)?;
    } else {
        for (text, completion) in texts.iter().zip(&completions) {
            let answer = generate::decode(tokenizer, &completion.ids)?;
            if args.json {
                output::json(&json!({
                    "prompt": text, "text": answer, "tokens": completion.ids, "finish": completion.finish
                }))?;
            } else {
                output::line(answer)?;
            }
        }
    }
    if completions.iter().any(|completion| completion.finish == Finish::Cancelled) {
        return Err(Failure::Interrupted("interrupted".into()));
    }
    Ok(())
}

/// The text and the ids of each prompt.
fn prompts(opened: &Opened, lines: &[Line]) -> Result<(Vec<String>, Vec<Vec<u32>>), Error> {
    let template = opened.record_template()?;
    let (mut texts, mut ids) = (Vec::with_capacity(lines.len()), Vec::with_capacity(lines.len()));
    for line in lines {
        let (text, special) = match line {
            Line::Prompt { prompt } => (prompt.clone(), true),
            Line::Record { instruction, input } => {
                let input = input.clone().unwrap_or_default();
                let record = Record { instruction: instruction.clone(), input, ..Record::default() };
                (template.prompt(&record)?, template.wants_special_tokens())
            }
        };
        ids.push(opened::encode(&opened.pretrained, &text, special)?);
        texts.push(text);
    }
    Ok((texts, ids))
}

fn read_lines(path: &Path) -> Result<Vec<Line>, Error> {
    let bytes = files::read(path)?;
    let hint = "Write an object with `prompt`, or with `instruction` and perhaps `input`, on each line.";
    let mut lines = Vec::new();
    for (i, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let fail = |what: String, hint: &str| Error::format(path, format!("line {}", i + 1), what, hint);
        let text =
            std::str::from_utf8(line).map_err(|_| fail("the text is not UTF-8".into(), "Save the file as UTF-8."))?;
        if text.trim().is_empty() {
            continue;
        }
        let value: serde_json::Value = serde_json::from_str(text).map_err(|e| {
            let reason = e.to_string();
            // The rest says "at line 1", which counts from here.
            let reason = reason.split(" at line ").next().unwrap_or_default();
            fail(format!("this is not valid JSON ({reason})"), hint)
        })?;
        lines.push(
            serde_json::from_value(value).map_err(|_| fail("this is neither a prompt nor a record".into(), hint))?,
        );
    }
    if lines.is_empty() {
        return Err(Error::data("", format!("`{}` holds no prompts", path.display()), hint));
    }
    Ok(lines)
}
