//! Kernelspecs.

use serde_json::Value;

use crate::frontend::command;

#[test]
fn a_kernelspec_comes_and_goes() {
    let home = tempfile::tempdir().unwrap();
    let spec = home.path().join("venv/share/jupyter/kernels/ferrotune/kernel.json");
    let run = |arguments: &[&str]| {
        let output =
            command(home.path()).args(arguments).arg("--prefix").arg(home.path().join("venv")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for _ in 0..2 {
        assert!(run(&["install"]).contains("is installed in"));
    }
    let content: Value = serde_json::from_str(&std::fs::read_to_string(&spec).unwrap()).unwrap();
    assert_eq!(content["display_name"], "Rust (Ferrotune)");
    assert_eq!(content["interrupt_mode"], "message");
    assert_eq!(content["argv"][3], "{connection_file}");
    assert!(run(&["uninstall"]).contains("is removed"));
    assert!(!spec.parent().unwrap().exists());
    assert!(run(&["uninstall"]).contains("There is no kernel"));
}

#[test]
fn a_configuration_that_is_wrong_is_told_of_at_once() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("kernel.toml");
    std::fs::write(&file, "[prelude]\ncrate = \"a\"\npath = \"nowhere\"\n").unwrap();
    let output =
        command(home.path()).args(["install", "--prefix"]).arg(home.path()).arg("--config").arg(&file).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("holds no Cargo.toml"), "{output:?}");
}
