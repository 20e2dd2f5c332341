//! To the Hub and back, over a connection that breaks and onto a disk that is full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ferrotune_loopback_hub::{Failure, Fault, LoopbackHub};
use tempfile::TempDir;

use super::{Outcome, outcome};

struct Setup {
    server: LoopbackHub,
    folder: TempDir,
}

impl Setup {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { server: LoopbackHub::start(folder.path().join("hub")).unwrap(), folder }
    }

    /// A folder that is pushed as a model: 3 MB that no compression makes smaller.
    fn model(&self) -> PathBuf {
        let folder = self.folder.path().join("model");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config.json"), "{}").unwrap();
        fs::write(folder.join("model.safetensors"), noise(3_000_000)).unwrap();
        folder
    }

    fn run(&self, args: &[&str]) -> Outcome {
        self.variables(Command::new(env!("CARGO_BIN_EXE_ferrotune")).args(args))
    }

    /// Runs it where no file may grow beyond `blocks` of 1,024 bytes, as on a disk that is full.
    fn run_on_full_disk(&self, blocks: usize, args: &[&str]) -> Outcome {
        let limit = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        self.variables(Command::new("bash").args(["-c", &limit, env!("CARGO_BIN_EXE_ferrotune")]).args(args))
    }

    fn variables(&self, command: &mut Command) -> Outcome {
        let home = self.folder.path().join("home");
        let command = command.env_remove("HF_HUB_OFFLINE").env("HF_HOME", &home).env("HF_HUB_CACHE", home.join("hub"));
        let command = command.env("HF_ENDPOINT", self.server.url()).env("HF_TOKEN", self.server.token());
        outcome(command.env("HF_XET_CLIENT_RETRY_BASE_DELAY", "1ms"))
    }

    fn push(&self, id: &str) -> Outcome {
        self.run(&["push", self.model().to_str().unwrap(), "--repo", id])
    }

    /// Whether what is fetched is what was pushed.
    fn is_whole(&self, id: &str) -> bool {
        let fetched = self.run(&["fetch", &format!("hf:{id}")]);
        assert_eq!(fetched.code, Some(0), "{}", fetched.stderr);
        let weights = |folder: &Path| fs::read(folder.join("model.safetensors")).unwrap();
        weights(Path::new(fetched.stdout.trim())) == weights(&self.model())
    }

    /// How many uploads of Xet's objects were asked for.
    fn uploads(&self) -> usize {
        self.server.requests().iter().filter(|line| line.starts_with("POST") && line.contains("/v1/xorbs/")).count()
    }
}

fn noise(bytes: u32) -> Vec<u8> {
    let mut state = 1u64;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..bytes).map(next).collect()
}

#[test]
fn an_upload_whose_connection_is_cut_is_sent_again() {
    let setup = Setup::new();
    setup.server.fail(Fault::new("/v1/xorbs/", 2, Failure::CutUploadAfter(1_000_000)));
    let pushed = setup.push("me/noise");
    assert_eq!(pushed.code, Some(0), "{}", pushed.stderr);
    assert_eq!(setup.uploads(), 3);
    assert!(setup.is_whole("me/noise"));
}

#[test]
fn an_upload_that_is_always_cut_is_told_of_and_leaves_nothing_half() {
    let setup = Setup::new();
    setup.server.fail(Fault::new("/v1/xorbs/", 1000, Failure::CutUploadAfter(1_000_000)));
    let pushed = setup.push("me/noise");
    assert_eq!(pushed.code, Some(1), "{}", pushed.stderr);
    assert!(pushed.stderr.contains("`me/noise`") && pushed.stderr.contains("again"), "{}", pushed.stderr);
    assert_ne!(setup.run(&["fetch", "hf:me/noise"]).code, Some(0), "nothing was committed");
    setup.server.mend();
    assert_eq!(setup.push("me/noise").code, Some(0));
    assert!(setup.is_whole("me/noise"));
}

/// What reached the storage before the cut is not sent a second time.
#[test]
fn a_push_that_was_cut_off_goes_on() {
    let setup = Setup::new();
    setup.server.fail(Fault::new("/v1/shards", 1000, Failure::CutUploadAfter(10)));
    assert_eq!(setup.push("me/noise").code, Some(1));
    assert_eq!(setup.uploads(), 1);
    setup.server.mend();
    assert_eq!(setup.push("me/noise").code, Some(0));
    assert_eq!(setup.uploads(), 1);
    assert!(setup.is_whole("me/noise"));
}

#[test]
fn a_full_disk_is_told_of_and_loses_nothing() {
    let setup = Setup::new();
    assert_eq!(setup.push("me/noise").code, Some(0));
    let fetched = setup.run_on_full_disk(1000, &["fetch", "hf:me/noise"]);
    assert_eq!(fetched.code, Some(1), "{}", fetched.stderr);
    assert!(fetched.stderr.contains("could not write") && fetched.stderr.contains("free space"), "{}", fetched.stderr);
    assert!(setup.is_whole("me/noise"));
    let mut requests = setup.server.requests().into_iter();
    let rest = requests.any(|line| line.starts_with("GET") && line.ends_with("bytes=1024000-"));
    assert!(rest, "what was on the disk was asked for again");
}

/// Xet keeps notes of what it sends; that they cannot be written must not be taken for success.
#[test]
fn a_push_from_a_full_disk_is_told_of() {
    let setup = Setup::new();
    let pushed = setup.run_on_full_disk(0, &["push", setup.model().to_str().unwrap(), "--repo", "me/noise"]);
    assert_eq!(pushed.code, Some(1), "{}", pushed.stderr);
    assert!(pushed.stderr.contains("the transfer of the model `me/noise` failed"), "{}", pushed.stderr);
    assert_ne!(setup.run(&["fetch", "hf:me/noise"]).code, Some(0), "nothing was committed");
    assert_eq!(setup.push("me/noise").code, Some(0));
    assert!(setup.is_whole("me/noise"));
}
