//! The kernel's configuration: which prelude cells find loaded.
//!
//! ```toml
//! [prelude]
//! crate = "ferrotune-prelude"
//! path = "prelude"                   # from the configuration's own folder
//! use = ["ferrotune_prelude::*"]
//! ```

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{Error, Result};

/// What a configuration file says; nothing by default.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub prelude: Option<Prelude>,
    /// Where it was read.
    #[serde(skip)]
    pub file: PathBuf,
}

/// A crate that every cell depends on.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Prelude {
    /// The package's name.
    #[serde(rename = "crate")]
    pub name: String,
    /// Its folder.
    pub path: PathBuf,
    /// What cells import of it.
    #[serde(default, rename = "use")]
    pub uses: Vec<String>,
}

impl Config {
    /// Reads a file; paths in it become absolute.
    ///
    /// Errors: [`Error::Input`] with the file and the line; for a prelude's folder without a `Cargo.toml`.
    pub fn read(path: &Path) -> Result<Self> {
        let wrong = |what: String| Error::Input(format!("`{}`: {what}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|e| wrong(format!("could not be read: {e}.")))?;
        let mut config: Self = toml::from_str(&text).map_err(|e| wrong(e.to_string().trim_end().to_owned()))?;
        config.file = std::path::absolute(path)?;
        if let Some(prelude) = &mut config.prelude {
            let folder = path.parent().unwrap_or(Path::new("")).join(&prelude.path);
            prelude.path = std::path::absolute(&folder)?;
            if !prelude.path.join("Cargo.toml").exists() {
                let what = format!("`prelude.path` is `{}`, which holds no Cargo.toml.", prelude.path.display());
                return Err(wrong(what));
            }
        }
        Ok(config)
    }
}

impl Prelude {
    /// The cell that loads it.
    pub fn cell(&self) -> String {
        self.dependency() + &self.imports()
    }

    /// evcxr's command that makes it a dependency.
    pub fn dependency(&self) -> String {
        format!(":dep {} = {{ path = {:?} }}\n", self.name, self.path)
    }

    /// What cells import of it.
    pub fn imports(&self) -> String {
        self.uses.iter().map(|path| format!("use {path};\n")).collect()
    }

    /// Whether a line of a cell makes this very crate a dependency. Relative paths are from the current folder.
    pub fn is_asked_for_by(&self, line: &str) -> bool {
        let Some((name, settings)) = line.trim().strip_prefix(":dep ").and_then(|rest| rest.split_once('=')) else {
            return false;
        };
        let path = toml::from_str::<toml::Table>(&format!("it = {settings}")).ok();
        let path = path.as_ref().and_then(|table| table["it"].get("path")?.as_str()).map(Path::new);
        let same = |path: &Path| path.canonicalize().ok() == self.path.canonicalize().ok();
        name.trim().replace('-', "_") == self.name.replace('-', "_") && path.is_some_and(same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prelude_becomes_a_first_cell() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kernel.toml");
        std::fs::write(&file, "[prelude]\ncrate = \"toys\"\npath = \"toys\"\nuse = [\"toys::*\"]\n").unwrap();
        let error = Config::read(&file).unwrap_err();
        assert!(error.to_string().contains("holds no Cargo.toml"), "{error}");

        std::fs::create_dir(folder.path().join("toys")).unwrap();
        std::fs::write(folder.path().join("toys/Cargo.toml"), "").unwrap();
        let path = folder.path().join("toys");
        let cell = format!(":dep toys = {{ path = {path:?} }}\nuse toys::*;\n");
        let prelude = Config::read(&file).unwrap().prelude.unwrap();
        assert_eq!(prelude.cell(), cell);

        let asked = |line: &str| prelude.is_asked_for_by(&line.replace("HERE", &folder.path().display().to_string()));
        assert!(asked(":dep toys = { path = \"HERE/toys\" }") && asked("  :dep toys={path=\"HERE/toys/../toys\"}"));
        for line in [
            ":dep toys",
            ":dep toys = \"1\"",
            ":dep toys = { path = \"HERE\" }",
            ":dep a = { path = \"HERE/toys\" }",
            "x",
        ] {
            assert!(!asked(line), "{line}");
        }
    }

    #[test]
    fn an_unknown_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kernel.toml");
        std::fs::write(&file, "[prelude]\ncrate = \"toys\"\npath = \"toys\"\nuses = []\n").unwrap();
        let error = Config::read(&file).unwrap_err();
        assert!(error.to_string().contains("line 4") && error.to_string().contains("uses"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
