//! A table that changes, and the search for its rows: BM25 over the names, accents left out.

use std::path::Path;

use bm25::{Document, SearchEngine, SearchEngineBuilder, Tokenizer};
use serde_json::Value;

use crate::data::orders::without_accents;
use crate::{Error, Result};

/// A row of a menu.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub name: String,
    /// In đồng.
    pub price: u32,
    /// How many can be made; at 0 it is sold out.
    pub stock: u32,
}

impl Row {
    /// What a guest pays now; `None` when it is sold out.
    pub fn price_now(&self) -> Option<u32> {
        (self.stock > 0).then_some(self.price)
    }
}

/// What a shop sells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Menu {
    pub rows: Vec<Row>,
}

impl Menu {
    /// Reads a menu, one JSON object a line: `name`, `price`, and `stock`, which is plenty where it is not told.
    ///
    /// Errors: [`Error::Read`]; [`Error::Format`] with the line of a row that is no object, or has no name or no price, or a name
    /// that was there before; [`Error::Data`] for a menu without rows.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::read(path, e))?;
        let mut menu = Self::default();
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let bad = |what: String| {
                let hint = "A row is `{\"name\": \"trà đào\", \"price\": 38000, \"stock\": 30}`.";
                Error::format(path, format!("line {}", i + 1), what, hint)
            };
            let value: Value = serde_json::from_str(line).map_err(|e| bad(format!("this is no JSON object ({e})")))?;
            let name = value["name"].as_str().filter(|name| !name.trim().is_empty());
            let name = name.ok_or_else(|| bad("the row has no `name`".into()))?.trim().to_owned();
            let number = |key: &str| value[key].as_u64().and_then(|n| u32::try_from(n).ok());
            let price = number("price").filter(|price| *price > 0);
            let price = price.ok_or_else(|| bad(format!("`{name}` has no `price` in whole đồng")))?;
            let stock = match value.get("stock") {
                None | Some(Value::Null) => u32::MAX,
                Some(_) => number("stock").ok_or_else(|| bad(format!("the `stock` of `{name}` is no whole number")))?,
            };
            if menu.find(&name).is_some() {
                return Err(bad(format!("`{name}` is there twice")));
            }
            menu.rows.push(Row { name, price, stock });
        }
        if menu.rows.is_empty() {
            let what = format!("`{}` has no rows", path.display());
            return Err(Error::data("", what, "Write one row a line."));
        }
        Ok(menu)
    }

    /// The row called `name`.
    pub fn find(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }
}

/// Words in small letters, accents left out: what guests type.
#[derive(Clone, Debug, Default)]
struct Words;

impl Tokenizer for Words {
    fn tokenize(&self, text: &str) -> Vec<String> {
        let plain = without_accents(&text.to_lowercase());
        plain.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(Into::into).collect()
    }
}

/// Finds rows of a menu for a query (BM25: Robertson and Zaragoza, 2009).
pub struct Retriever {
    menu: Menu,
    engine: SearchEngine<usize, u32, Words>,
}

impl Retriever {
    /// An index of the names of `menu`.
    pub fn new(menu: Menu) -> Self {
        let documents: Vec<Document<usize>> =
            menu.rows.iter().enumerate().map(|(i, row)| Document::new(i, row.name.clone())).collect();
        let engine = SearchEngineBuilder::with_tokenizer_and_documents(Words, documents).build();
        Self { menu, engine }
    }

    /// The at most `k` rows that fit `query` best, the best first; none where no word of it is in a name.
    pub fn search(&self, query: &str, k: usize) -> Vec<&Row> {
        let mut found = self.engine.search(query, None);
        // Equal scores in the menu's order, so that the same query finds the same rows.
        found.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.document.id.cmp(&b.document.id)));
        found.iter().take(k).filter_map(|result| self.menu.rows.get(result.document.id)).collect()
    }

    /// What it searches.
    pub fn menu(&self) -> &Menu {
        &self.menu
    }
}
