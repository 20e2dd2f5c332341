//! Ids, sampling settings, and what is written besides runs.

use super::spoil::{nothing, remove, write};
use super::{GENERATE, LOGITS, MERGE, QUANTIZE, Row, row};

const IDS: &str = "Write a list of sequences of token ids";
const PROMPT: &[&str] = &["--prompt", "tea"];

pub(super) fn rows() -> Vec<Row> {
    vec![
        // Ids.
        row("no ids", |d| remove(d, "ids.json"), LOGITS, &["could not read `ids.json`"]),
        row("ids that are no JSON", |d| write(d, "ids.json", "[[1, 2],\n[3"), LOGITS, &["`ids.json`, line 2", IDS]),
        row("a list of ids", |d| write(d, "ids.json", "[1, 2]"), LOGITS, &["`ids.json`, line 1", "list of lists", IDS]),
        row("negative ids", |d| write(d, "ids.json", "[[-1]]"), LOGITS, &["`ids.json`, line 1", "-1", IDS]),
        row("ids with a fraction", |d| write(d, "ids.json", "[[1.5]]"), LOGITS, &["`ids.json`, line 1", "1.5", IDS]),
        row("no sequences", |d| write(d, "ids.json", "[]"), LOGITS, &["`ids.json`", "no sequence", IDS]),
        row("an empty sequence", |d| write(d, "ids.json", "[[1], []]"), LOGITS, &["`ids.json`", "sequence 2", "empty"]),
        row(
            "ids outside of the vocabulary",
            |d| write(d, "ids.json", "[[1, 2], [5, 131]]"),
            LOGITS,
            &["`ids.json`", "sequence 2", "131"],
        ),
        // How answers are made.
        row("a negative temperature", nothing, GENERATE, &["`temperature` is -1", "at least 0"])
            .with(&["--temperature=-1"])
            .with(PROMPT),
        row("a temperature that is NaN", nothing, GENERATE, &["`temperature` is NaN", "at least 0"])
            .with(&["--temperature", "nan"])
            .with(PROMPT),
        row("a probability above 1", nothing, GENERATE, &["`top_p` is 2", "at most 1"])
            .with(&["--top-p", "2"])
            .with(PROMPT),
        row("a penalty of 0", nothing, GENERATE, &["`repetition_penalty` is 0", "above 0"])
            .with(&["--repetition-penalty", "0"])
            .with(PROMPT),
        // Where it is written.
        row(
            "a folder that is not empty",
            |d| write(d, "quantized/notes.txt", "x"),
            QUANTIZE,
            &["`quantized` is not empty", "`--out`", "new or empty"],
        ),
        row("a folder that is a file", |d| write(d, "merged", "x"), MERGE, &["`merged` is no folder", "new or empty"]),
        row(
            "a folder below a file",
            nothing,
            ["quantize", "--model", "model", "--out", "ids.json/q"],
            &["`ids.json/q`"],
        ),
        row(
            "a file in a folder that is not there",
            nothing,
            ["logits", "--model", "model", "--ids", "ids.json", "--out", "absent/out.safetensors"],
            &["could not write `absent/out.safetensors`", "another folder"],
        )
        .while_running(),
    ]
}
