//! Reading files: what is accepted, and how each mistake is told.

use std::path::Path;

use ferrotune::data::load;

use super::record;

/// (file name, content, what the message must hold)
const REFUSED: &[(&str, &[u8], &[&str])] = &[
    ("a.jsonl", b"", &["holds no examples", "`instruction`"]),
    ("a.jsonl", b"\n  \n", &["holds no examples"]),
    ("a.json", b"", &["holds no examples"]),
    ("a.json", b"[]", &["holds no examples"]),
    ("a.json", b"\xef\xbb\xbf[]", &["holds no examples"]),
    (
        "a.jsonl",
        b"{\"instruction\":\"a\",\"output\":\"b\"}\n\n{\"instruction\":\"a\"}",
        &["line 3", "`output` is missing", "`instruction`"],
    ),
    ("a.jsonl", b"{}", &["line 1", "`instruction` is missing", "The keys here: none."]),
    (
        "a.json",
        b"[{\"instruction\":\"a\",\"output\":\"b\"},{\"prompt\":\"a\",\"output\":\"b\"}]",
        &["row 2", "`instruction` is missing", "`prompt`"],
    ),
    ("a.jsonl", b"{\"instruction\":\"a\",\"output\":3}", &["line 1", "`output` is a number", "string"]),
    ("a.json", b"[{\"instruction\":null,\"output\":\"\"}]", &["row 1", "`instruction` is null", "string"]),
    ("a.json", b"[{\"instruction\":\"a\",\"input\":[],\"output\":\"\"}]", &["row 1", "`input` is an array"]),
    ("a.jsonl", b"\"text\"", &["line 1", "a string, not an object"]),
    ("a.json", b"[true]", &["row 1", "a boolean, not an object"]),
    ("a.json", b"{\"instruction\":\"a\",\"output\":\"b\"}", &["an object, not an array"]),
    (
        "a.json",
        b"{\"instruction\":\"a\",\"output\":\"b\"}\n{\"instruction\":\"a\",\"output\":\"b\"}",
        &["line 2, column 1", "`.jsonl`"],
    ),
    ("a.jsonl", b"[\n{\"instruction\":\"a\",\"output\":\"b\"}\n]", &["line 1, column", "`.json`"]),
    ("a.jsonl", b"{\"instruction\":\"a\",\"output\":\"b\"}\n{\"instruction\":'a'}", &["line 2, column 16"]),
    ("a.json", b"[\n  {\"instruction\": \"a\"\n  \"output\": \"b\"}\n]", &["line 3, column 3", "expected `,` or `}`"]),
    ("a.jsonl", b"{\"instruction\":\"a\",\"output\":\"\\ud800\"}", &["line 1, column", "hex escape"]),
    (
        "a.jsonl",
        b"{\"instruction\":\"a\",\"output\":\"b\"}\n{\"instruction\":\"caf\xe9\"}",
        &["line 2", "UTF-8", "byte 53"],
    ),
    ("a.csv", b"instruction,output\n", &["`.csv`", "`.jsonl`"]),
    ("data", b"{}", &["no extension"]),
];

#[test]
fn each_mistake_is_told_with_its_place() {
    for (name, content, wanted) in REFUSED {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let error = load(&path).unwrap_err();
        let message = error.to_string();
        let input = String::from_utf8_lossy(content);
        assert!(error.is_input(), "{input}: {message}");
        assert!(message.contains(name) && message.ends_with('.') && !message.contains('\n'), "{input}: {message}");
        for part in *wanted {
            assert!(message.contains(part), "{input}: no {part:?} in {message}");
        }
    }
}

#[test]
fn a_path_that_is_not_there_is_told() {
    for name in ["nowhere/train.jsonl", "nowhere/train", "nowhere"] {
        let message = load(Path::new(name)).unwrap_err().to_string();
        assert!(message.starts_with("could not read `nowhere"), "{message}");
    }
}

#[test]
fn an_empty_folder_is_told() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("README.md"), "# Data").unwrap();
    let message = load(dir.path()).unwrap_err().to_string();
    assert!(message.contains("no `.json`, `.jsonl` or `.parquet` file"), "{message}");
}

#[test]
fn lines_arrays_and_folders_give_the_same_records() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write(
        "b.jsonl",
        "\u{feff}{\"instruction\":\"một\",\"output\":\"1\"}\r\n\r\n{\"output\":\"2\",\"input\":null,\"instruction\":\"hai\",\"id\":7}",
    );
    write("a.json", "\u{feff}[{\"instruction\":\"a\",\"input\":\"b\",\"output\":\"c\\n\"}]");
    write("notes.txt", "not data");
    let lines = [record("một", "", "1"), record("hai", "", "2")];
    let array = [record("a", "b", "c\n")];
    assert_eq!(load(&dir.path().join("b.jsonl")).unwrap(), lines);
    assert_eq!(load(&dir.path().join("a.json")).unwrap(), array);
    assert_eq!(load(dir.path()).unwrap(), [&array[..], &lines[..]].concat());
}
