//! A data set from the Hub: which of a repository's files a split is.

use std::fs;
use std::path::PathBuf;

use super::client::{Hub, TreeFile};
use super::download::{Transfer, Watch};
use super::name::Repository;
use crate::{Error, Result, files};

/// The branch where the Hub keeps every public data set as Parquet.
const CONVERTED: &str = "refs/convert/parquet";
/// What can be read, the best first.
const KINDS: [&str; 3] = ["parquet", "jsonl", "json"];
/// Words in file names that mean another split.
const SPLITS: [&str; 6] = ["train", "test", "validation", "valid", "dev", "eval"];

impl Hub {
    /// The files of a split: the path of one file, or of a folder with all of them; from the cache, or fetched into it.
    ///
    /// Errors: as [`Hub::fetch_data`]; offline, [`Error::Config`] for data that are not in the cache.
    pub fn data(&self, repository: &Repository, split: &str, watch: &mut Watch) -> Result<PathBuf> {
        let folder = self.split_folder(repository, split);
        if folder.is_dir() {
            return Ok(only_file(folder));
        }
        if self.settings.offline {
            let told = repository.told();
            let what =
                format!("the split `{split}` of {told} is not in the cache, and `HF_HUB_OFFLINE` forbids to fetch it");
            let hint = format!("Unset it, or run `ferrotune fetch hf:{}:{split}` with a connection.", repository.id());
            return Err(Error::config("", what, hint));
        }
        self.fetch_data(repository, split, watch)
    }

    /// Brings the files of a split into the cache as they are on the Hub now, and returns where they are.
    ///
    /// They are the repository's Parquet, JSONL or JSON files whose names tell the split, or, in a repository without names
    /// of splits, all of them for `train`; else the Hub's own conversion to Parquet.
    ///
    /// Errors: as [`Hub::fetch_model`]; [`Error::Hub`] with the names there are for a split that is none.
    pub fn fetch_data(&self, repository: &Repository, split: &str, watch: &mut Watch) -> Result<PathBuf> {
        let mut tree = |repository: &Repository| self.tree(repository, &mut |note| watch(Transfer::Note(note)));
        let own = tree(repository)?;
        let (source, files, chosen) = match choose(&own, split) {
            Some(chosen) => (repository.clone(), own, chosen),
            None => {
                let converted = repository.at(CONVERTED);
                let files = tree(&converted).unwrap_or_default();
                let Some(chosen) = choose(&files, split) else {
                    return Err(no_such_split(repository, split, own.iter().chain(&files)));
                };
                (converted, files, chosen)
            }
        };
        let wanted: Vec<&TreeFile> = files.iter().filter(|file| chosen.contains(&file.path)).collect();
        let snapshot = self.download(&source, &wanted, watch)?;
        // A folder with this split's files alone, under names in their order.
        let folder = self.split_folder(repository, split);
        let new = folder.with_extension(format!("new-{}", std::process::id()));
        files::create_directory(&new)?;
        for (i, path) in chosen.iter().enumerate() {
            let extension = path.rsplit('.').next().unwrap_or("json");
            let link = new.join(format!("{i:05}.{extension}"));
            let blob = fs::canonicalize(snapshot.join(path)).map_err(|e| Error::read(snapshot.join(path), e))?;
            let linked = fs::hard_link(&blob, &link).or_else(|_| fs::copy(&blob, &link).map(|_| ()));
            linked.map_err(|e| Error::write(&link, e))?;
        }
        let placed = match fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
            _ => fs::rename(&new, &folder),
        };
        placed.map_err(|e| Error::write(&folder, e))?;
        Ok(only_file(folder))
    }

    /// Where a split's files are put.
    fn split_folder(&self, repository: &Repository, split: &str) -> PathBuf {
        let revision = repository.revision.replace('/', "--");
        let name = format!("{}--{}--{revision}--{split}", repository.owner, repository.name);
        self.settings.cache.join("ferrotune").join(name)
    }
}

/// A folder's file, if it has one alone.
fn only_file(folder: PathBuf) -> PathBuf {
    let files: Vec<PathBuf> =
        fs::read_dir(&folder).map(|entries| entries.flatten().map(|e| e.path()).collect()).unwrap_or_default();
    match <[PathBuf; 1]>::try_from(files) {
        Ok([file]) => file,
        Err(_) => folder,
    }
}

/// The paths of a split's files, in their order, of the best kind that has some.
fn choose(files: &[TreeFile], split: &str) -> Option<Vec<String>> {
    KINDS.iter().find_map(|kind| {
        let of_kind =
            |file: &&TreeFile| file.path.to_ascii_lowercase().ends_with(&format!(".{kind}")) && is_data(&file.path);
        let paths: Vec<&str> = files.iter().filter(of_kind).map(|file| file.path.as_str()).collect();
        let mut chosen: Vec<String> = paths.iter().filter(|path| names(path, split)).map(|p| p.to_string()).collect();
        let unnamed = !paths.iter().any(|path| SPLITS.iter().any(|split| names(path, split)));
        if chosen.is_empty() && unnamed && split == "train" {
            chosen = paths.iter().map(|path| path.to_string()).collect();
        }
        // A repository with several configurations has a folder for each: the default one, else the first.
        let folder = |path: &str| path.split('/').next().filter(|_| path.contains('/')).unwrap_or_default().to_string();
        let first = chosen.iter().map(|path| folder(path)).min_by_key(|name| (name != "default", name.clone()));
        chosen.retain(|path| Some(folder(path)) == first);
        chosen.sort();
        (!chosen.is_empty()).then_some(chosen)
    })
}

/// Whether a JSON file holds data and not a description of some.
fn is_data(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    !name.starts_with('.') && !["dataset_infos.json", "dataset_dict.json", "state.json", "config.json"].contains(&name)
}

/// Whether a path tells that it belongs to a split: by a folder, or by a word of its name.
fn names(path: &str, split: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    lower.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == split.to_ascii_lowercase())
}

fn no_such_split<'f>(repository: &Repository, split: &str, files: impl Iterator<Item = &'f TreeFile>) -> Error {
    let mut found: Vec<&str> = Vec::new();
    for file in files {
        found.extend(SPLITS.iter().filter(|split| names(&file.path, split) && is_data(&file.path)));
    }
    found.sort_unstable();
    found.dedup();
    let hint = match found[..] {
        [] => "It holds no Parquet, JSONL or JSON file whose name tells what it is.".to_string(),
        _ => format!("It seems to have {}.", found.iter().map(|s| format!("`{s}`")).collect::<Vec<_>>().join(", ")),
    };
    Error::hub(true, format!("{} has no split `{split}`", repository.told()), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(paths: &[&str], split: &str) -> Option<Vec<String>> {
        let files: Vec<TreeFile> = paths.iter().map(|path| TreeFile { path: path.to_string(), size: 1 }).collect();
        choose(&files, split)
    }

    #[test]
    fn a_split_is_the_files_that_are_named_after_it() {
        let sharded = [
            "data/train-00001-of-00002-b.parquet",
            "data/train-00000-of-00002-a.parquet",
            "data/test-00000-of-00001.parquet",
        ];
        assert_eq!(chosen(&sharded, "train").unwrap(), [sharded[1], sharded[0]]);
        assert_eq!(chosen(&sharded, "test").unwrap(), [sharded[2]]);
        assert_eq!(chosen(&sharded, "validation"), None);
        assert_eq!(chosen(&["README.md", "alpaca.json", "dataset_infos.json"], "train").unwrap(), ["alpaca.json"]);
        assert_eq!(chosen(&["alpaca.json"], "test"), None);
        assert_eq!(chosen(&["train.jsonl", "train.parquet"], "train").unwrap(), ["train.parquet"]);
        let converted = ["other/train/0000.parquet", "default/train/0000.parquet", "default/train/0001.parquet"];
        assert_eq!(chosen(&converted, "train").unwrap(), converted[1..]);
        assert_eq!(chosen(&["training_notes.json"], "train").unwrap(), ["training_notes.json"], "the only one");
    }
}
