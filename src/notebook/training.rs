//! A training in a cell.

use std::path::PathBuf;

use crate::show::{self, Live, Table};
use crate::train::observer::End;
use crate::train::{self, Session};
use crate::{Error, Result, device};

/// How a training ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Training {
    pub step: usize,
    pub total_steps: usize,
    /// Whether it was stopped before its last step. Calling [`train`] again goes on from there.
    pub interrupted: bool,
    pub train_seconds: f64,
    pub tokens_per_second: f64,
    /// The newest checkpoint.
    pub checkpoint: Option<PathBuf>,
    /// Where the run's files are.
    pub output_dir: PathBuf,
}

/// Trains `session` to its last step, with a bar and a curve that move; an interrupt ends it after the step that it is in,
/// saves a checkpoint, and returns what there is with `interrupted` set.
///
/// Errors: those of [`train::run`], interruption excepted, and of [`show::write_results`].
pub fn train(session: &mut Session) -> Result<Training> {
    let mut live = Live::new();
    let end = device::on_pool(|| train::run(session, &mut live));
    let end = match (end, &live.end) {
        (Err(Error::Interrupted { .. }), Some(end)) => end.clone(),
        (end, _) => end?,
    };
    if !end.interrupted {
        show::write_results(session, &live.start.take().unwrap_or_default(), &end, &[], None)?;
    }
    Ok(Training::new(&end, live.checkpoint.take(), session.config.output_dir.clone()))
}

impl Training {
    fn new(end: &End, checkpoint: Option<PathBuf>, output_dir: PathBuf) -> Self {
        Self {
            step: end.step,
            total_steps: end.total_steps,
            interrupted: end.interrupted,
            train_seconds: end.train_seconds,
            tokens_per_second: end.tokens_per_second,
            checkpoint,
            output_dir,
        }
    }

    /// The same as a table.
    pub fn table(&self) -> Table {
        let mut table = Table::new(["", ""]);
        table.row(["steps".to_owned(), format!("{} of {}", self.step, self.total_steps)]);
        table.row(["interrupted", if self.interrupted { "yes" } else { "no" }]);
        table.row(["time".to_owned(), format!("{:.1} s", self.train_seconds)]);
        table.row(["speed".to_owned(), format!("{:.0} tokens/s", self.tokens_per_second)]);
        if let Some(checkpoint) = &self.checkpoint {
            table.row(["checkpoint".to_owned(), checkpoint.display().to_string()]);
        }
        table.row(["run".to_owned(), self.output_dir.display().to_string()]);
        table
    }

    /// Shows the table at the end of a cell.
    pub fn evcxr_display(&self) {
        show::table(self.table());
    }
}
