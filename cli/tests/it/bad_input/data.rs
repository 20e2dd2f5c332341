//! Data and prompts.

use std::fs;

use super::spoil::{nothing, remove, write};
use super::{EVAL, GENERATE, PLAN, PREVIEW, Row, TRAIN, row};

const DATA: &str = "data.jsonl";
const GOOD: &str = "{\"instruction\": \"a\", \"output\": \"b\"}";
const KEYS: &str = "Each example is an object with the strings `instruction` and `output`";
const ARRAY: &[&str] = &["train", "--model", "model", "--data", "data.json", "--output-dir", "run"];
const PROMPTS: &[&str] = &["--prompts", "prompts.jsonl"];

pub(super) fn rows() -> Vec<Row> {
    vec![
        row(
            "no data, to train",
            |d| remove(d, DATA),
            TRAIN,
            &["could not read `data.jsonl`", "`.jsonl` or `.parquet` file"],
        ),
        row(
            "no data, to score",
            |d| remove(d, DATA),
            EVAL,
            &["could not read `data.jsonl`", "`.jsonl` or `.parquet` file"],
        ),
        row(
            "no data, to show",
            |d| remove(d, DATA),
            PREVIEW,
            &["could not read `data.jsonl`", "`.jsonl` or `.parquet` file"],
        ),
        row(
            "no data, to evaluate on",
            nothing,
            [TRAIN, &["--eval-data", "absent.jsonl"]].concat(),
            &["could not read `absent.jsonl`", "`.jsonl` or `.parquet` file"],
        ),
        row("an empty file", |d| write(d, DATA, ""), TRAIN, &["`data.jsonl` holds no examples", KEYS]),
        row("blank lines alone", |d| write(d, DATA, "\n \n"), EVAL, &["`data.jsonl` holds no examples", KEYS]),
        row(
            "a folder without data",
            |d| fs::create_dir(d.join("empty")).unwrap(),
            ["train", "--model", "model", "--data", "empty", "--output-dir", "run"],
            &["`empty` holds no `.json`, `.jsonl` or `.parquet` file"],
        ),
        row(
            "broken JSON on a line",
            |d| write(d, DATA, format!("{GOOD}\n{{\"instruction\": \"a\", \"outp\n{GOOD}\n")),
            TRAIN,
            &["`data.jsonl`, line 2, column ", "one whole JSON object"],
        ),
        row(
            "no `output` on a line",
            |d| write(d, DATA, format!("{GOOD}\n\n{{\"instruction\": \"a\", \"answer\": \"b\"}}\n")),
            TRAIN,
            &["`data.jsonl`, line 3", "the key `output` is missing", "`answer`", KEYS],
        ),
        row(
            "a number for a text",
            |d| write(d, DATA, "{\"instruction\": 7, \"output\": \"b\"}"),
            PREVIEW,
            &["`data.jsonl`, line 1", "`instruction` is a number, but must be a string"],
        ),
        row(
            "a list for an object",
            |d| write(d, DATA, "[1, 2]\n"),
            TRAIN,
            &["line 1", "an array, not an object", KEYS],
        ),
        row(
            "not UTF-8",
            |d| write(d, DATA, [GOOD.as_bytes(), b"\n{\"instruction\": \"\xff\", \"output\": \"b\"}"].concat()),
            TRAIN,
            &["`data.jsonl`, line 2", "not UTF-8", "Save the file as UTF-8."],
        ),
        row(
            "a bad row of an array",
            |d| write(d, "data.json", format!("[{GOOD},\n {{\"output\": \"b\"}}]")),
            ARRAY,
            &["`data.json`, row 2", "the key `instruction` is missing", KEYS],
        ),
        row(
            "an array that is not closed",
            |d| write(d, "data.json", format!("[{GOOD},\n")),
            ARRAY,
            &["`data.json`, line 2", "one JSON array"],
        ),
        row(
            "lines in a `.json` file",
            |d| write(d, "data.json", format!("{GOOD}\n{GOOD}\n")),
            ARRAY,
            &["`data.json`, line 2", "name the file `.jsonl`"],
        ),
        row(
            "data of an unknown kind",
            |d| write(d, "data.csv", "a,b"),
            ["train", "--model", "model", "--data", "data.csv", "--output-dir", "run"],
            &["`data.csv` is a `.csv` file", "`.jsonl`"],
        ),
        row(
            "data of the Hub",
            nothing,
            ["train", "--model", "model", "--data", "hf:org/data:train", "--output-dir", "run"],
            &["the split `train` of the data set `org/data`", "HF_HUB_OFFLINE", "ferrotune fetch hf:org/data:train"],
        ),
        row("data of the Hub, to plan", nothing, PLAN, &["`org/data`", "ferrotune fetch"])
            .with(&["--data", "hf:org/data"]),
        row(
            "nothing left to train on",
            nothing,
            TRAIN,
            &["`data.jsonl`", "none of the 24 examples has a trained token", "`max_length` is 8; raise it"],
        )
        .with(&["--max-length", "8", "--completion-only-loss"]),
        row("no end left to train on", nothing, TRAIN, &["`data.jsonl`", "end-of-sequence", "Raise `max_length`"])
            .with(&["--max-length", "8"]),
        // Prompts.
        row(
            "no prompts",
            |d| remove(d, "prompts.jsonl"),
            [GENERATE, PROMPTS].concat(),
            &["could not read `prompts.jsonl`"],
        ),
        row(
            "prompts without a line",
            |d| write(d, "prompts.jsonl", "\n"),
            [GENERATE, PROMPTS].concat(),
            &["`prompts.jsonl`", "no prompts"],
        ),
        row(
            "a prompt line with another key",
            |d| write(d, "prompts.jsonl", "{\"prompt\": \"a\"}\n{\"promt\": \"a\"}\n"),
            [GENERATE, PROMPTS].concat(),
            &["`prompts.jsonl`, line 2", "neither a prompt nor a record", "`prompt`", "`instruction`"],
        ),
        row(
            "a prompt line that is no JSON",
            |d| write(d, "prompts.jsonl", "{\"prompt\": \"a\"}\n\n{\"prompt\": \n"),
            [GENERATE, PROMPTS].concat(),
            &["`prompts.jsonl`, line 3", "not valid JSON (EOF while parsing a value)"],
        ),
        row(
            "prompts that are not UTF-8",
            |d| write(d, "prompts.jsonl", b"{\"prompt\": \"a\"}\n{\"prompt\": \"\xff\"}\n"),
            [GENERATE, PROMPTS].concat(),
            &["`prompts.jsonl`, line 2", "UTF-8"],
        ),
        row("an empty prompt", nothing, GENERATE, &["prompt 1 has no tokens"]).with(&["--prompt", ""]),
        row(
            "a prompt longer than the model takes",
            |d| write(d, "prompts.jsonl", format!("{{\"prompt\": \"{}\"}}", "a".repeat(1600))),
            [GENERATE, PROMPTS].concat(),
            &["prompt 1 has 1600 tokens, the model takes 1536, `prompts.jsonl`", "Shorten the prompt"],
        ),
    ]
}
