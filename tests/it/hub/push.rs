//! What is pushed is what is fetched.

use std::fs;

use ferrotune::hub::{PushOptions, Repository};
use ferrotune::model;

use super::{Setup, contents, options, refused, watch};

#[test]
fn a_model_comes_back_as_it_was_pushed() {
    let setup = Setup::new();
    let folder = setup.model();
    fs::create_dir(folder.join("checkpoint-1")).unwrap();
    fs::write(folder.join("checkpoint-1/optimizer.safetensors"), "left at home").unwrap();
    let pushed = setup.push(&folder, "me/tiny").unwrap();
    assert_eq!(pushed.url, format!("{}/me/tiny", setup.server.url()));
    assert_eq!((pushed.sent, pushed.same), (3, 0));
    assert_eq!(setup.server.is_private("models/me/tiny"), Some(true));

    let mut told = Vec::new();
    let fetched = setup.hub().fetch_model(&Repository::model("me/tiny").unwrap(), &mut watch(&mut told)).unwrap();
    fs::remove_dir_all(folder.join("checkpoint-1")).unwrap();
    assert!(contents(&fetched) == contents(&folder));
    assert_eq!(model::open(&fetched).unwrap().weights.names(), model::open(&folder).unwrap().weights.names());
    let all: u64 = contents(&folder).iter().map(|(_, bytes)| bytes.len() as u64).sum();
    assert_eq!(told.last(), Some(&(all, all)));
    assert!(told.windows(2).all(|pair| pair[0].0 <= pair[1].0), "{told:?}");
}

#[test]
fn a_second_push_sends_what_has_changed() {
    let setup = Setup::new();
    let folder = setup.model();
    let first = setup.push(&folder, "me/tiny").unwrap();
    let second = setup.push(&folder, "me/tiny").unwrap();
    assert_eq!((second.commit, second.sent, second.same), (None, 0, 3));
    fs::write(folder.join("README.md"), "# Another card\n").unwrap();
    let third = setup.push(&folder, "me/tiny").unwrap();
    assert_eq!((third.sent, third.same), (1, 2));
    assert_ne!(third.commit, first.commit);
    assert!(contents(&setup.fetch("me/tiny").unwrap()) == contents(&folder));
    // The first commit is still what it was.
    let old = setup.fetch(&format!("me/tiny@{}", first.commit.unwrap())).unwrap();
    assert!(fs::read_to_string(old.join("README.md")).unwrap().contains("# A model"));
}

#[test]
fn branches_and_pull_requests_leave_main_alone() {
    let setup = Setup::new();
    let folder = setup.model();
    setup.push(&folder, "team/tiny").unwrap();
    fs::write(folder.join("README.md"), "# On a branch\n").unwrap();
    setup.push(&folder, "team/tiny@next").unwrap();
    fs::write(folder.join("README.md"), "# Proposed\n").unwrap();
    let proposal = PushOptions { pull_request: true, ..options() };
    let pushed = setup.hub().push(&folder, &Repository::model("team/tiny").unwrap(), &proposal, &mut |_| {}).unwrap();
    assert!(pushed.url.ends_with("/team/tiny/discussions/1"), "{}", pushed.url);
    let card = |id: &str| fs::read_to_string(setup.fetch(id).unwrap().join("README.md")).unwrap();
    assert!(card("team/tiny").contains("# A model"));
    assert!(card("team/tiny@next").contains("# On a branch"));
    assert!(card("team/tiny@refs/pr/1").contains("# Proposed"));
}

#[test]
fn a_repository_is_public_only_if_that_is_said() {
    let setup = Setup::new();
    let public = PushOptions { private: false, ..options() };
    setup.hub().push(&setup.model(), &Repository::model("me/open").unwrap(), &public, &mut |_| {}).unwrap();
    assert_eq!(setup.server.is_private("models/me/open"), Some(false));
    let anyone = setup.hub_with(None);
    assert!(anyone.fetch_model(&Repository::model("me/open").unwrap(), &mut |_| {}).is_ok());
    setup.push(&setup.model(), "me/closed").unwrap();
    let hidden = anyone.fetch_model(&Repository::model("me/closed").unwrap(), &mut |_| {});
    refused(hidden, true, &["`me/closed`", "HF_TOKEN"]);
}

#[test]
fn what_is_no_model_or_holds_a_token_is_not_pushed() {
    let setup = Setup::new();
    let folder = setup.model();
    let empty = tempfile::tempdir().unwrap();
    refused(setup.push(empty.path(), "me/tiny"), true, &["neither a model nor an adapter"]);
    fs::write(folder.join("notes.txt"), format!("token: hf_{}", "x1".repeat(20))).unwrap();
    let error = setup.push(&folder, "me/tiny").unwrap_err().to_string();
    assert!(error.contains("notes.txt") && !error.contains("x1x1"), "{error}");
    assert_eq!(setup.server.is_private("models/me/tiny"), None, "nothing was made");
}

/// What is in the cache is used without asking, and fetching asks again.
#[test]
fn the_cache_serves_until_it_is_refreshed() {
    let setup = Setup::new();
    setup.put_model("org/tiny");
    let repository = Repository::model("org/tiny").unwrap();
    let first = setup.hub().model(&repository, &mut |_| {}).unwrap();
    let asked = setup.server.requests().len();
    assert_eq!(setup.hub().model(&repository, &mut |_| {}).unwrap(), first);
    assert_eq!(setup.server.requests().len(), asked);
    setup.server.put("models/org/tiny", "main", &[("README.md", b"# New\n")]).unwrap();
    let second = setup.fetch("org/tiny").unwrap();
    assert_ne!(second, first);
    // What had the same bytes was not sent again.
    let sent = setup.server.requests();
    assert_eq!(
        sent.iter().filter(|line| line.starts_with("GET") && line.contains("/model.safetensors")).count(),
        1,
        "{sent:?}"
    );
}

#[test]
fn a_repository_with_one_gguf_file_is_that_file() {
    let setup = Setup::new();
    setup.server.put("models/org/one", "main", &[("a.gguf", b"GGUF"), ("README.md", b"#")]).unwrap();
    assert!(setup.fetch("org/one").unwrap().ends_with("a.gguf"));
    setup.server.put("models/org/two", "main", &[("a.gguf", b"GGUF"), ("b.gguf", b"GGUF")]).unwrap();
    refused(setup.fetch("org/two"), true, &["several", "a.gguf, b.gguf"]);
    setup.server.put("models/org/none", "main", &[("pytorch_model.bin", b"pickle"), ("config.json", b"{}")]).unwrap();
    refused(setup.fetch("org/none"), true, &["neither"]);
}
