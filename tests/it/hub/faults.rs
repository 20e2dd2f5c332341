//! What goes wrong on the way, one by one.

use std::fs;

use ferrotune::hub::{Hub, Repository, Settings};
use ferrotune_loopback_hub::{Failure, Fault};

use super::{Setup, contents, incomplete, options, refused};

fn is_whole(setup: &Setup, id: &str) -> bool {
    let fetched = setup.fetch(id).unwrap();
    let mut expected = contents(&setup.model());
    expected.retain(|(name, _)| fetched.join(name).exists());
    expected.len() == 3 && contents(&fetched) == expected && incomplete(setup) == 0
}

/// The first byte that each request for the weights asked for.
fn starts(setup: &Setup) -> Vec<u64> {
    let lines = setup.server.requests().into_iter();
    let gets = lines.filter(|line| line.starts_with("GET") && line.contains("/model.safetensors"));
    gets.map(|l| l.split_once("bytes=").map_or(0, |(_, from)| from.trim_end_matches('-').parse().unwrap())).collect()
}

/// Nothing of a file is asked for twice.
#[test]
fn a_download_that_was_cut_off_goes_on() {
    let setup = Setup::new();
    let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    setup.put_model("org/tiny");
    setup.server.put("models/org/tiny", "main", &[("model.safetensors", &bytes)]).unwrap();
    // The request for the file's hash is one of the three, and has no body to cut.
    setup.server.fail(Fault::new("model.safetensors", 3, Failure::CutAfter(1_000_000)));
    let fetched = setup.fetch("org/tiny").unwrap();
    assert!(fs::read(fetched.join("model.safetensors")).unwrap() == bytes);
    let starts = starts(&setup);
    assert_eq!(starts.len(), 3);
    assert!(starts[0] == 0 && starts[0] < starts[1] && starts[1] < starts[2], "each goes on further: {starts:?}");
    assert_eq!(incomplete(&setup), 0);
}

/// What came of a file before everything failed is there when it is fetched again.
#[test]
fn another_run_goes_on_where_the_first_was_cut_off() {
    let setup = Setup::new();
    let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    setup.put_model("org/tiny");
    setup.server.put("models/org/tiny", "main", &[("model.safetensors", &bytes)]).unwrap();
    setup.server.fail(Fault::new("model.safetensors", 2, Failure::CutAfter(2_000_000)));
    setup.server.fail(Fault::new("model.safetensors", 1000, Failure::Status(503, "")));
    refused(setup.fetch("org/tiny"), false, &["503"]);
    assert_eq!(incomplete(&setup), 1);
    setup.server.mend();
    let before = starts(&setup).len();
    let fetched = setup.fetch("org/tiny").unwrap();
    assert!(fs::read(fetched.join("model.safetensors")).unwrap() == bytes);
    assert!(starts(&setup)[before..].iter().all(|start| *start > 0), "from the start again: {:?}", starts(&setup));
}

#[test]
fn a_hub_that_fails_for_a_while_is_asked_again() {
    for failure in [Failure::Status(503, ""), Failure::RetryAfter(0), Failure::Status(500, "")] {
        let setup = Setup::new();
        setup.put_model("org/tiny");
        setup.server.fail(Fault::new("/tree/", 2, failure.clone()));
        setup.server.fail(Fault::new("/config.json", 2, failure));
        assert!(is_whole(&setup, "org/tiny"));
    }
}

#[test]
fn a_hub_that_goes_on_failing_is_told_of_and_keeps_what_came() {
    let setup = Setup::new();
    setup.put_model("org/tiny");
    setup.server.fail(Fault::new("GET /org/tiny/resolve", 1000, Failure::Status(502, "")));
    refused(setup.fetch("org/tiny"), false, &["failed", "`org/tiny`", "502", "run this again"]);
    let setup = Setup::new();
    setup.put_model("org/tiny");
    setup.server.fail(Fault::new("HEAD", 1000, Failure::Status(429, "")));
    refused(setup.fetch("org/tiny"), false, &["too many requests", "Wait"]);
}

#[test]
fn wrong_bytes_are_thrown_away() {
    let setup = Setup::new();
    setup.put_model("org/tiny");
    // Once: the second try brings the right ones. HEAD has no byte to spoil, so it takes two requests.
    setup.server.fail(Fault::new("model.safetensors", 2, Failure::WrongByte(77)));
    assert!(is_whole(&setup, "org/tiny"));
    let setup = Setup::new();
    setup.put_model("org/tiny");
    setup.server.fail(Fault::new("GET /org/tiny/resolve", 1000, Failure::WrongByte(3)));
    refused(setup.fetch("org/tiny"), true, &["README.md", "its hash is"]);
    assert_eq!(incomplete(&setup), 0);
    assert!(setup.fetch("org/tiny").is_err(), "nothing wrong was kept for whole");
}

#[test]
fn a_name_that_climbs_out_of_its_folder_is_refused() {
    for name in ["../../evil.json", "a/../../../evil.safetensors"] {
        let setup = Setup::new();
        setup.put_model("org/tiny");
        setup.server.put("models/org/tiny", "main", &[(name, b"{}")]).unwrap();
        refused(setup.fetch("org/tiny"), true, &[name, "outside of the cache"]);
        assert!(!setup.folder.path().join("evil.json").exists());
        assert_eq!(setup.server.requests().iter().filter(|line| line.starts_with("GET /org")).count(), 0);
    }
}

#[test]
fn who_may_not_is_told_why() {
    let setup = Setup::new();
    setup.put_model("org/tiny");
    let repository = Repository::model("org/tiny").unwrap();
    let fetch = |hub: &Hub| hub.fetch_model(&repository, &mut |_| {});
    refused(fetch(&setup.hub_with(Some("wrong"))), true, &["does not take the token", "HF_TOKEN"]);
    setup.server.gate("models/org/tiny");
    refused(fetch(&setup.hub_with(None)), true, &["gated", "/org/tiny", "HF_TOKEN", "log"]);
    refused(fetch(&setup.hub()), true, &["gated", "/org/tiny", "agreed"]);
    refused(setup.fetch("org/absent"), true, &["`org/absent`", "was not found"]);
    refused(setup.fetch("org/tiny@v9"), true, &["no such revision"]);

    let model = setup.model();
    let push = |hub: &Hub, id: &str| hub.push(&model, &Repository::model(id).unwrap(), &options(), &mut |_| {});
    refused(push(&setup.hub_with(None), "me/tiny"), true, &["needs a token", "hf auth login"]);
    refused(push(&setup.hub_with(Some("wrong")), "me/tiny"), true, &["does not take the token"]);
    refused(push(&setup.hub(), "stranger/tiny"), true, &["no right", "`stranger/tiny`"]);
    setup.put_model("org/open");
    fs::write(model.join("README.md"), "# Mine\n").unwrap();
    refused(push(&setup.hub(), "org/open"), true, &["no right"]);
}

#[test]
fn a_push_that_fails_in_the_middle_goes_on_when_it_is_repeated() {
    let setup = Setup::new();
    let model = setup.model();
    // hf-hub tries five times more by itself.
    setup.server.fail(Fault::new("/commit/", 6, Failure::Status(503, "")));
    refused(setup.push(&model, "me/tiny"), false, &["503", "later"]);
    assert_eq!(contents(&model).len(), 3);
    let pushed = setup.push(&model, "me/tiny").unwrap();
    assert_eq!(pushed.sent, 3);
    assert!(contents(&setup.fetch("me/tiny").unwrap()) == contents(&model));
    setup.server.fail(Fault::new("/commit/", 1, Failure::Status(409, "")));
    fs::write(model.join("README.md"), "# New\n").unwrap();
    refused(setup.push(&model, "me/tiny"), false, &["could not be changed", "try again"]);
    assert_eq!(setup.push(&model, "me/tiny").unwrap().sent, 1);
}

#[test]
fn without_a_hub_what_is_in_the_cache_is_used() {
    let setup = Setup::new();
    setup.put_model("org/tiny");
    let fetched = setup.fetch("org/tiny").unwrap();
    let offline =
        Hub::new(Settings { offline: true, endpoint: "http://127.0.0.1:9".into(), ..setup.settings() }).unwrap();
    assert_eq!(offline.model(&Repository::model("org/tiny").unwrap(), &mut |_| {}).unwrap(), fetched);
    let absent = offline.model(&Repository::model("org/other").unwrap(), &mut |_| {});
    refused(absent, true, &["`org/other`", "HF_HUB_OFFLINE", "ferrotune fetch"]);
    let push = offline.push(&setup.model(), &Repository::model("me/tiny").unwrap(), &options(), &mut |_| {});
    refused(push, true, &["HF_HUB_OFFLINE"]);
    let gone = Hub::new(Settings { endpoint: "http://127.0.0.1:9".into(), ..setup.settings() }).unwrap();
    refused(
        gone.fetch_model(&Repository::model("org/other").unwrap(), &mut |_| {}),
        false,
        &["could not be reached", "127.0.0.1:9"],
    );
    let wrong = Hub::new(Settings { endpoint: "huggingface".into(), ..setup.settings() });
    refused(wrong, true, &["`huggingface`", "HF_ENDPOINT"]);
}

#[test]
fn a_hub_without_xet_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let server = ferrotune_loopback_hub::LoopbackHub::start_without_xet(folder.path()).unwrap();
    let setup = Setup::new();
    let hub = Hub::new(Settings { endpoint: server.url().into(), ..setup.settings() }).unwrap();
    let (model, repository) = (setup.model(), Repository::model("me/tiny").unwrap());
    let pushed = hub.push(&model, &repository, &options(), &mut |_| {}).unwrap();
    assert_eq!(pushed.sent, 3, "small files are part of the commit");
    fs::write(model.join("model-00002-of-00002.safetensors"), vec![0; 11 << 20]).unwrap();
    let told = ["Xet", "model-00002", "hf upload me/tiny"];
    refused(hub.push(&model, &repository, &options(), &mut |_| {}), true, &told);
}
