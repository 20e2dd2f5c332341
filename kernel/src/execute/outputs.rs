//! What cells have shown, as a notebook keeps it.

use std::collections::BTreeMap;

use jupyter_protocol::{ExecutionCount, Media};
use nbformat::v4::{self, DisplayData, ErrorOutput, ExecuteResult, MultilineString};
use serde_json::Value;

use crate::engine::{self, Outcome};

/// Something that was shown, and the name by which it can be replaced.
struct Shown {
    output: v4::Output,
    display_id: Option<String>,
}

/// The outputs of each cell, by its number.
#[derive(Default)]
pub(super) struct Outputs {
    cells: BTreeMap<usize, Vec<Shown>>,
    cell: usize,
    /// Whether the next output takes the place of those before it.
    clear: bool,
}

impl Outputs {
    /// What comes from here on belongs to this cell.
    pub(super) fn begin(&mut self, cell: usize) {
        (self.cell, self.clear) = (cell, false);
    }

    pub(super) fn push(&mut self, output: engine::Output) {
        match output {
            engine::Output::Stdout(text) => self.text("stdout", text),
            engine::Output::Stderr(text) => self.text("stderr", text),
            engine::Output::Message { msg_type, content } => self.message(&msg_type, content),
        }
    }

    pub(super) fn end(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Ok(value) if value.is_empty() => {}
            Outcome::Ok(value) => self.show(v4::Output::ExecuteResult(ExecuteResult {
                execution_count: ExecutionCount::new(self.cell),
                data: engine::media(&value),
                metadata: Default::default(),
            })),
            Outcome::Failed(failure) => self.show(v4::Output::Error(ErrorOutput {
                ename: failure.ename,
                evalue: failure.evalue,
                traceback: failure.traceback,
            })),
        }
    }

    /// All outputs, by the cell's number.
    pub(super) fn take(&mut self) -> BTreeMap<usize, Vec<v4::Output>> {
        let outputs = |shown: Vec<Shown>| shown.into_iter().map(|shown| shown.output).collect();
        std::mem::take(&mut self.cells).into_iter().map(|(cell, shown)| (cell, outputs(shown))).collect()
    }

    fn shown(&mut self) -> &mut Vec<Shown> {
        let shown = self.cells.entry(self.cell).or_default();
        if std::mem::take(&mut self.clear) {
            shown.clear();
        }
        shown
    }

    fn show(&mut self, output: v4::Output) {
        self.shown().push(Shown { output, display_id: None });
    }

    fn text(&mut self, stream: &str, new: String) {
        // What is written before the first cell is nobody's.
        if self.cell == 0 {
            return;
        }
        match self.shown().last_mut() {
            Some(Shown { output: v4::Output::Stream { name, text }, .. }) if name == stream => text.0.push_str(&new),
            _ => self.show(v4::Output::Stream { name: stream.into(), text: MultilineString(new) }),
        }
    }

    fn message(&mut self, msg_type: &str, mut content: Value) {
        let display_id = content["transient"]["display_id"].as_str().map(str::to_owned);
        match msg_type {
            "clear_output" if content["wait"] == Value::Bool(true) => self.clear = true,
            "clear_output" => {
                self.cells.remove(&self.cell);
            }
            "display_data" | "update_display_data" => {
                let data: Media = serde_json::from_value(content["data"].take()).unwrap_or_default();
                let metadata = content["metadata"].as_object().cloned().unwrap_or_default();
                let output = v4::Output::DisplayData(DisplayData { data, metadata });
                if msg_type == "display_data" {
                    return self.shown().push(Shown { output, display_id });
                }
                let mut before = self.cells.values_mut().flatten();
                let same = |shown: &&mut Shown| display_id.is_some() && shown.display_id == display_id;
                if let Some(shown) = before.find(same) {
                    shown.output = output;
                }
            }
            // A page is for a person who looks.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn frame(msg_type: &str, text: &str, id: &str) -> engine::Output {
        let content = json!({"data": {"text/plain": text}, "metadata": {}, "transient": {"display_id": id}});
        engine::Output::Message { msg_type: msg_type.into(), content }
    }

    #[test]
    fn what_is_updated_stays_where_it_is() {
        let mut outputs = Outputs::default();
        outputs.push(engine::Output::Stdout("before".into()));
        outputs.begin(1);
        outputs.push(frame("display_data", "0 %", "bar"));
        outputs.push(engine::Output::Stdout("a".into()));
        outputs.push(engine::Output::Stdout("b".into()));
        outputs.begin(2);
        outputs.push(frame("update_display_data", "100 %", "bar"));
        outputs.push(engine::Output::Stderr("c".into()));
        outputs.push(engine::Output::Message { msg_type: "clear_output".into(), content: json!({"wait": true}) });
        outputs.push(engine::Output::Stderr("d".into()));
        outputs.end(Outcome::Ok([("text/plain".to_owned(), "3".to_owned())].into()));
        let written = serde_json::to_value(outputs.take()).unwrap();
        assert_eq!(written[0], Value::Null);
        assert_eq!(written["1"][0]["data"]["text/plain"], json!(["100 %"]));
        assert_eq!(written["1"][1], json!({"output_type": "stream", "name": "stdout", "text": ["ab"]}));
        assert_eq!(written["2"][0], json!({"output_type": "stream", "name": "stderr", "text": ["d"]}));
        assert_eq!(written["2"][1]["execution_count"], 2);
    }
}
