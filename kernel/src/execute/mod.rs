//! Runs a notebook without a frontend.

mod outputs;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nbformat::v4::{Cell, Notebook};

use crate::engine::{Engine, Outcome, Sink};
use crate::secrets::Secrets;
use outputs::Outputs;

/// Where code cells that are meant to fail say so.
const RAISES: &str = "raises-exception";

/// Collects what cells show, from the engine's start on.
#[derive(Clone, Default)]
pub struct Collector(Arc<Mutex<Outputs>>);

/// The cell at which a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Among the code cells, from 1.
    pub number: usize,
    /// What went wrong, without colour.
    pub what: String,
}

impl Collector {
    /// Takes what the engine's cells write.
    pub fn sink(&self) -> Sink {
        let this = self.clone();
        Arc::new(move |output| this.lock().push(output))
    }

    fn lock(&self) -> MutexGuard<'_, Outputs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs the code cells of `notebook` one after the other and gives each its outputs. Ends at the first that fails without the
/// tag `raises-exception` (unless `go_on`), or that has the tag and does not fail; before the next where `on_cell`, which is
/// told its number and code, says no.
///
/// Errors: the cell at which it ended.
pub fn execute(
    engine: &mut Engine,
    notebook: &mut Notebook,
    collector: &Collector,
    go_on: bool,
    mut on_cell: impl FnMut(usize, &str) -> bool,
) -> Result<(), Stopped> {
    let mut result = Ok(());
    let mut number = 0;
    for cell in &mut notebook.cells {
        let Cell::Code { metadata, execution_count, source, outputs, .. } = cell else { continue };
        (*execution_count, *outputs) = (None, Vec::new());
        let code = source.concat();
        if result.is_err() {
            continue;
        }
        number += 1;
        collector.lock().begin(number);
        if code.trim().is_empty() {
            continue;
        }
        if !on_cell(number, &code) {
            result = Err(Stopped { number, what: "interrupted before this cell".into() });
            continue;
        }
        *execution_count = i32::try_from(number).ok();
        let outcome = engine.run(&code, &|_, _| None);
        let raises = metadata.tags.as_ref().is_some_and(|tags| tags.iter().any(|tag| tag == RAISES));
        match &outcome {
            Outcome::Failed(failure) if !raises && !go_on => {
                result = Err(Stopped { number, what: format!("{}: {}", failure.ename, failure.evalue) });
            }
            Outcome::Ok(_) if raises => {
                result = Err(Stopped { number, what: format!("it has the tag `{RAISES}` and did not fail") });
            }
            _ => {}
        }
        collector.lock().end(outcome);
    }
    let secrets = Secrets::of_this_user();
    let mut cells = collector.lock().take();
    let code = notebook.cells.iter_mut().filter_map(|cell| match cell {
        Cell::Code { outputs, .. } => Some(outputs),
        _ => None,
    });
    for (index, outputs) in code.enumerate() {
        *outputs = cells.remove(&(index + 1)).unwrap_or_default();
        if let Some(masked) = serde_json::to_string(&outputs).ok().and_then(|text| secrets.mask(&text)) {
            *outputs = serde_json::from_str(&masked).unwrap_or_default();
        }
    }
    result
}
