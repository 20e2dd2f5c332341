//! An experiment's result, as a cell shows it.

use super::{Claim, Sweep};
use crate::show::{self, Bars, Chart, Table};

/// A drawing of either kind.
#[derive(Clone, Debug)]
pub enum Picture {
    Chart(Chart),
    Bars(Bars),
}

impl Picture {
    /// The drawing as SVG.
    pub fn to_svg(&self) -> String {
        match self {
            Self::Chart(chart) => chart.to_svg(),
            Self::Bars(bars) => bars.to_svg(),
        }
    }
}

/// What an experiment came to.
#[derive(Clone, Debug)]
pub struct Report {
    pub sweep: Sweep,
    pub table: Table,
    pub picture: Picture,
    pub verdicts: Vec<Claim>,
}

impl Report {
    /// The claims, each with `holds`, `fails` or `open`.
    pub fn claims(&self) -> Table {
        let mut table = Table::new(["claim", "here it"]).limit(0, 100);
        for claim in &self.verdicts {
            table.row([claim.text.as_str(), claim.verdict.word()]);
        }
        table
    }

    /// Table, picture and claims, one below the other.
    pub fn show(&self) {
        show::table(self.table.clone());
        show::svg(self.picture.to_svg());
        show::table(self.claims());
    }

    /// Shows the report at the end of a cell.
    pub fn evcxr_display(&self) {
        self.show();
    }
}
