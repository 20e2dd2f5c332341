//! Rows under other names than Alpaca's, in JSON and in Parquet.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use ferrotune::data::{Message, Record, load};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};

use super::record;

fn read(row: Value) -> Result<Record, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.json");
    fs::write(&path, json!([row]).to_string()).unwrap();
    load(&path).map(|mut records| records.remove(0)).map_err(|e| e.to_string())
}

#[test]
fn common_names_are_known() {
    let expected = record("q", "", "a");
    for row in [
        json!({"prompt": "q", "completion": "a"}),
        json!({"prompt": "q", "response": "a", "source": "x"}),
        json!({"question": "q", "answer": "a"}),
        json!({"instruction": "q", "response": "a"}),
        json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}),
        json!({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}),
        json!({"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]}),
    ] {
        assert_eq!(read(row.clone()).unwrap(), expected, "{row}");
    }
    let both = json!({
        "instruction_en": "q", "input_en": "i", "output_en": "a", "instruction_vi": "hỏi", "input_vi": null, "output_vi": "đáp",
    });
    assert_eq!(read(both).unwrap(), record("hỏi", "", "đáp"));
    assert_eq!(read(json!({"instruction_en": "q", "input_en": "i", "output_en": "a"})).unwrap(), record("q", "i", "a"));
}

#[test]
fn what_was_said_before_is_kept() {
    let turn = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    let said = [("system", "s"), ("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4")];
    let messages: Vec<Value> = said.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
    let turns = vec![turn("system", "s"), turn("user", "1"), turn("assistant", "2")];
    assert_eq!(read(json!({"messages": messages})).unwrap(), Record { turns, ..record("3", "", "4") });
}

#[test]
fn rows_that_are_no_examples_are_told_of() {
    for (row, told) in [
        (json!({"messages": []}), "the last two messages of `messages`"),
        (json!({"messages": [{"role": "assistant", "content": "a"}]}), "the last two messages"),
        (json!({"messages": "text"}), "`messages` is a string"),
        (json!({"messages": [{"role": "user"}]}), "`role` and `content`"),
        (json!({"prompt": 1, "completion": "a"}), "`prompt` is a number"),
        (json!({"text": "a"}), "The keys here: `text`."),
    ] {
        let error = read(row.clone()).unwrap_err();
        assert!(error.contains(told) && error.contains("row 1"), "{row}: {error}");
    }
}

/// Writes two columns of text.
fn write_parquet(path: &Path, names: [&str; 2], rows: &[[&str; 2]]) {
    let columns = names.map(|name| format!("required binary {name} (UTF8);")).concat();
    let schema = Arc::new(parse_message_type(&format!("message rows {{ {columns} }}")).unwrap());
    let properties = WriterProperties::builder().set_compression(parquet::basic::Compression::SNAPPY).build();
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for column in 0..2 {
        let values: Vec<ByteArray> = rows.iter().map(|row| row[column].into()).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn parquet_is_read_and_a_file_that_was_cut_short_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train-00000-of-00001.parquet");
    write_parquet(&path, ["prompt", "completion"], &[["q", "a"], ["hỏi", "đáp"]]);
    assert_eq!(load(&path).unwrap(), [record("q", "", "a"), record("hỏi", "", "đáp")]);
    assert_eq!(load(folder.path()).unwrap().len(), 2);
    let whole = fs::read(&path).unwrap();
    for length in [0, 3, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let error = load(&path).unwrap_err();
        let text = error.to_string();
        assert!(
            error.is_input() && text.contains("not a whole Parquet file") && text.contains("train-00000"),
            "{text}"
        );
    }
    write_parquet(&path, ["text", "label"], &[["a", "b"]]);
    let text = load(&path).unwrap_err().to_string();
    assert!(text.contains("row 1") && text.contains("`text`, `label`"), "{text}");
}
