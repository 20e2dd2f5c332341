//! A machine without the sources of Rust's library.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use jupyter_protocol::{CompleteRequest, InspectRequest, JupyterMessageContent as Content};
use serde_json::json;

use crate::frontend::Frontend;

/// Makes a toolchain in `folder` that is the machine's but for the sources; returns its programs' folder.
fn toolchain(folder: &Path) -> PathBuf {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap();
    let sysroot = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
    let (bin, library) = (folder.join("bin"), folder.join("lib/rustlib"));
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::create_dir_all(&library).unwrap();
    for entry in std::fs::read_dir(sysroot.join("lib/rustlib")).unwrap().flatten() {
        if entry.file_name() != "src" {
            symlink(entry.path(), library.join(entry.file_name())).unwrap();
        }
    }
    symlink(sysroot.join("bin/cargo"), bin.join("cargo")).unwrap();
    let compiler = sysroot.join("bin/rustc");
    let script = format!("#!/bin/sh\nexec '{}' --sysroot '{}' \"$@\"\n", compiler.display(), folder.display());
    std::fs::write(bin.join("rustc"), script).unwrap();
    std::fs::set_permissions(bin.join("rustc"), std::fs::Permissions::from_mode(0o755)).unwrap();
    bin
}

#[test]
fn the_first_cell_says_that_sources_are_missing_and_every_request_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let before = std::env::var_os("PATH").unwrap();
    let programs = [toolchain(folder.path())].into_iter().chain(std::env::split_paths(&before));
    let path = std::env::join_paths(programs).unwrap();
    let mut frontend = Frontend::start_with(|kernel| {
        kernel.env("PATH", &path).env_remove("RUST_SRC_PATH");
    });

    let ran = frontend.run("1 + 1");
    assert_eq!(ran.value(), json!({"text/plain": "2"}));
    let text = ran.stderr();
    let told: Vec<&str> = text.lines().filter(|line| line.contains("`rustup component add rust-src`")).collect();
    assert_eq!(told.len(), 1, "{text}");
    // Later cells do not say it again, and do what it says.
    let ran = frontend.run("let text: String = \"kept\".into();");
    assert_eq!(ran.outputs.len(), 0, "{:?}", ran.outputs);
    assert_eq!(frontend.run("text.len()").value(), json!({"text/plain": "4"}));
    let ran = frontend.run("let lost = String::new();");
    let error = &ran.error().evalue;
    assert!(error.split(" `").next().is_some_and(|begin| told[0].contains(begin)), "{error}");
    assert!(ran.stderr().is_empty(), "{}", ran.stderr());

    frontend.send(CompleteRequest { code: "text.le".into(), cursor_pos: 7 });
    assert!(matches!(frontend.reply().content, Content::CompleteReply(_)));
    frontend.send(InspectRequest { code: "text".into(), cursor_pos: 2, detail_level: Some(0) });
    assert!(matches!(frontend.reply().content, Content::InspectReply(_)));
}
