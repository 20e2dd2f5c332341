//! Names of repositories on the Hub: `org/name`, with a revision or a split.

use crate::{Error, Result};

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Model,
    Dataset,
}

impl Kind {
    /// As the Hub's API and huggingface_hub's cache have it.
    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }

    /// Before a repository's name in addresses of its files.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Model => "",
            Self::Dataset => "datasets/",
        }
    }
}

/// A repository and one of its revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    pub kind: Kind,
    pub owner: String,
    pub name: String,
    /// A branch, a tag or a commit.
    pub revision: String,
}

/// The revision of a name without one.
pub(super) const MAIN: &str = "main";

impl Repository {
    /// A model by `org/name[@revision]`.
    ///
    /// Errors: [`Error::Config`] for a name of another form.
    pub fn model(text: &str) -> Result<Self> {
        let hint = "Write it as `org/name` or `org/name@revision`.";
        Self::parse(Kind::Model, text).ok_or_else(|| {
            Error::config("", format!("`{text}` is not the name of a model on the Hugging Face Hub"), hint)
        })
    }

    /// A data set by `org/name[@revision][:split]`, and the split, `train` if none is named.
    ///
    /// Errors: [`Error::Config`] for a name of another form.
    pub fn dataset(text: &str) -> Result<(Self, String)> {
        let hint = "Write it as `org/name`, `org/name:split` or `org/name@revision:split`.";
        let (id, split) = text.split_once(':').unwrap_or((text, "train"));
        let repository = Self::parse(Kind::Dataset, id).filter(|_| is_plain(split) && !split.contains('@'));
        repository.map(|repository| (repository, split.into())).ok_or_else(|| {
            Error::config("", format!("`{text}` is not the name of a data set on the Hugging Face Hub"), hint)
        })
    }

    /// Each part becomes a folder's name and a part of an address, so it may hold nothing that leads elsewhere.
    fn parse(kind: Kind, text: &str) -> Option<Self> {
        let (id, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let (owner, name) = id.split_once('/')?;
        let fits = is_plain(owner) && is_plain(name) && revision.split('/').all(is_plain);
        fits.then(|| Self { kind, owner: owner.into(), name: name.into(), revision: revision.into() })
    }

    /// `org/name`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    /// The same repository at another revision.
    pub(super) fn at(&self, revision: &str) -> Self {
        Self { revision: revision.into(), ..self.clone() }
    }

    /// As people name it in messages.
    pub(super) fn told(&self) -> String {
        let kind = match self.kind {
            Kind::Model => "model",
            Kind::Dataset => "data set",
        };
        match self.revision.as_str() {
            MAIN => format!("the {kind} `{}`", self.id()),
            revision => format!("the {kind} `{}` at `{revision}`", self.id()),
        }
    }
}

/// Whether a text is one part of a path, and none that leads out of it.
fn is_plain(part: &str) -> bool {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "-_. +".contains(c);
    !part.is_empty() && part != "." && part != ".." && part.chars().all(harmless)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_revision_and_data_sets_a_split() {
        let model = Repository::model("org/tiny.model@refs/pr/1").unwrap();
        assert_eq!((model.id().as_str(), model.revision.as_str()), ("org/tiny.model", "refs/pr/1"));
        assert_eq!(Repository::model("org/name").unwrap().revision, "main");
        let (data, split) = Repository::dataset("org/name:test").unwrap();
        assert_eq!((data.id().as_str(), split.as_str()), ("org/name", "test"));
        assert_eq!(Repository::dataset("org/name").unwrap().1, "train");
        assert_eq!(Repository::dataset("org/name@v1:dev").unwrap().0.revision, "v1");
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for bad in [
            "name",
            "../x",
            "org/..",
            "org/a/b",
            "org/a@../../x",
            "org/",
            "",
            "org/a?b",
            "org/a#b",
            "org\\a/b",
            "o/a%2e",
        ] {
            let error = Repository::model(bad).unwrap_err();
            assert!(error.is_input() && error.to_string().contains("is not the name of a model"), "{bad}: {error}");
        }
        for bad in ["org/a:", "org/a:../b", "org/a:b/c"] {
            assert!(Repository::dataset(bad).is_err(), "{bad}");
        }
    }
}
