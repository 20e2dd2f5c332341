//! Data sets from the Hub.

use std::fs;

use ferrotune::data;
use ferrotune::hub::{Hub, Repository, Settings};
use ferrotune_loopback_hub::{Failure, Fault};

use super::{Setup, refused};

const TRAIN: &[u8] = b"{\"instruction\": \"a\", \"output\": \"1\"}\n{\"instruction\": \"b\", \"output\": \"2\"}\n";
const TEST: &[u8] = b"{\"instruction\": \"c\", \"output\": \"3\"}\n";

fn load(setup: &Setup, name: &str) -> ferrotune::Result<Vec<String>> {
    let (repository, split) = Repository::dataset(name)?;
    let path = setup.hub().data(&repository, &split, &mut |_| {})?;
    Ok(data::load(&path)?.into_iter().map(|record| record.instruction).collect())
}

#[test]
fn a_split_is_fetched_once_and_read() {
    let setup = Setup::new();
    let files: [(&str, &[u8]); 3] = [("train.jsonl", TRAIN), ("test.jsonl", TEST), ("README.md", b"#")];
    setup.server.put("datasets/org/words", "main", &files).unwrap();
    assert_eq!(load(&setup, "org/words").unwrap(), ["a", "b"]);
    assert_eq!(load(&setup, "org/words:test").unwrap(), ["c"]);
    let asked = setup.server.requests().len();
    assert_eq!(load(&setup, "org/words:test").unwrap(), ["c"]);
    assert_eq!(setup.server.requests().len(), asked);
    refused(load(&setup, "org/words:validation"), true, &["no split `validation`", "`test`, `train`"]);
    let offline = Hub::new(Settings { offline: true, ..setup.settings() }).unwrap();
    let (repository, _) = Repository::dataset("org/words").unwrap();
    assert!(offline.data(&repository, "train", &mut |_| {}).is_ok());
    refused(offline.data(&repository, "dev", &mut |_| {}), true, &["`dev`", "HF_HUB_OFFLINE"]);
}

#[test]
fn shards_are_read_in_their_order_and_the_hubs_conversion_stands_in() {
    let setup = Setup::new();
    let files = [("data/train-00001-of-00002.jsonl", TEST), ("data/train-00000-of-00002.jsonl", TRAIN)];
    setup.server.put("datasets/org/shards", "main", &files).unwrap();
    assert_eq!(load(&setup, "org/shards").unwrap(), ["a", "b", "c"]);
    setup.server.put("datasets/org/csv", "main", &[("train.csv", b"a,b")]).unwrap();
    refused(load(&setup, "org/csv"), true, &["no split `train`"]);
    setup.server.put("datasets/org/csv", "refs/convert/parquet", &[("default/train/0000.jsonl", TRAIN)]).unwrap();
    assert_eq!(load(&setup, "org/csv").unwrap(), ["a", "b"]);
}

#[test]
fn a_model_of_that_name_is_no_data_set() {
    let setup = Setup::new();
    refused(load(&setup, "org/absent"), true, &["the data set `org/absent`", "was not found"]);
}

#[test]
fn a_split_that_was_cut_off_is_never_read() {
    let setup = Setup::new();
    setup.server.put("datasets/org/words", "main", &[("train.jsonl", TRAIN)]).unwrap();
    setup.server.fail(Fault::new("GET /datasets/org/words/resolve", 1000, Failure::CutAfter(10)));
    refused(load(&setup, "org/words"), false, &["un this again"]);
    let cache = setup.folder.path().join("cache/ferrotune");
    assert!(!cache.exists() || fs::read_dir(cache).unwrap().count() == 0);
}
