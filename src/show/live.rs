//! A run that is watched while it trains.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use super::display::backend::Backend;
use super::display::throttle::Throttle;
use super::display::{self, Display, Progress, Svg};
use super::plot::loss_svg;
use crate::interrupt;
use crate::train::observer::{End, EvalMetrics, Event, Observer, Start, StepMetrics};

/// How often the curve is drawn at most.
const PLOT_EVERY: Duration = Duration::from_millis(250);

/// Shows a bar and the loss curve in a notebook while a run trains, and stops the run when it is interrupted.
///
/// Where pictures appear only when a cell ends, the curve is drawn once, at the end.
#[derive(Debug)]
pub struct Live {
    /// The rows so far, as `metrics.jsonl` has them.
    metrics: String,
    begun: Instant,
    bar: Option<Progress>,
    plot: Option<Display<Svg>>,
    throttle: Throttle,
    /// What the run said before its first step.
    pub start: Option<Start>,
    /// How it ended, once it has.
    pub end: Option<End>,
    /// The newest checkpoint.
    pub checkpoint: Option<PathBuf>,
}

impl Default for Live {
    fn default() -> Self {
        Self::new()
    }
}

impl Live {
    /// A watcher of a run that has not begun. It listens for interrupts from here on.
    pub fn new() -> Self {
        interrupt::begin();
        Self {
            metrics: String::new(),
            begun: Instant::now(),
            bar: None,
            plot: None,
            throttle: Throttle::new(PLOT_EVERY),
            start: None,
            end: None,
            checkpoint: None,
        }
    }

    /// The curve so far as SVG.
    ///
    /// Errors: the curve cannot be drawn.
    pub fn svg(&self) -> crate::Result<String> {
        loss_svg(&self.metrics)
    }

    fn begin(&mut self, start: &Start) {
        self.begun = Instant::now();
        let mut bar = Progress::new(start.total_steps as u64, "step");
        bar.set(start.resumed_step as u64);
        self.bar = Some(bar);
        self.start = Some(start.clone());
    }

    fn step(&mut self, step: &StepMetrics) {
        self.row(step);
        let resumed = self.start.as_ref().map_or(0, |start| start.resumed_step);
        let done = step.step.saturating_sub(resumed).max(1);
        let left = self.begun.elapsed().as_secs_f64() / done as f64 * step.total_steps.saturating_sub(step.step) as f64;
        if let Some(bar) = &mut self.bar {
            bar.message(format!(
                "loss {:.4} · {:.0} tokens/s · {} left",
                step.loss,
                step.tokens_per_second,
                clock(left)
            ));
            bar.set(step.step as u64);
        }
        self.draw(Instant::now());
    }

    fn evaluated(&mut self, eval: &EvalMetrics) {
        self.row(eval);
        self.draw(Instant::now());
    }

    fn row(&mut self, row: &impl serde::Serialize) {
        self.metrics += &serde_json::to_string(row).unwrap_or_default();
        self.metrics.push('\n');
    }

    /// Draws the curve, if it is time and pictures can move.
    fn draw(&mut self, now: Instant) {
        if Backend::current() == Backend::Frames && self.throttle.due(now) {
            self.show_plot();
            self.throttle.spent(now, now.elapsed());
        }
    }

    fn show_plot(&mut self) {
        // A run goes on without its picture.
        let Ok(svg) = self.svg() else { return };
        match &self.plot {
            Some(plot) => plot.update(svg),
            None => self.plot = Some(Display::new(svg)),
        }
    }

    fn finish(&mut self, end: &End) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
        self.show_plot();
        if end.interrupted {
            display::status(json!({"interrupted": true}));
        }
        self.end = Some(end.clone());
    }
}

impl Observer for Live {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Start(start) => self.begin(start),
            Event::Step(step) => self.step(step),
            Event::Eval(eval) => self.evaluated(eval),
            Event::Checkpoint(path) => {
                display::status(json!({"checkpoint": path.display().to_string()}));
                self.checkpoint = Some(path.to_path_buf());
            }
            Event::Note(text) => display::backend::write(&display::backend::line(text)),
            Event::End(end) => self.finish(end),
        }
    }

    fn cancelled(&self) -> bool {
        interrupt::asked()
    }
}

/// `9 s`, `3 min 05 s`.
fn clock(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    if seconds < 60 { format!("{seconds} s") } else { format!("{} min {:02} s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_has_every_step_and_evaluation() {
        let mut live = Live::new();
        live.event(&Event::Start(&Start { total_steps: 2, ..Start::default() }));
        for step in [1, 2] {
            let metrics = StepMetrics { step, total_steps: 2, loss: 3.0 - step as f64, ..StepMetrics::default() };
            live.event(&Event::Step(&metrics));
        }
        live.event(&Event::Eval(&EvalMetrics { step: 2, eval_loss: 1.5, ..EvalMetrics::default() }));
        live.event(&Event::Checkpoint(std::path::Path::new("runs/a/checkpoint-2")));
        live.event(&Event::End(&End { step: 2, total_steps: 2, ..End::default() }));
        assert_eq!(live.metrics.lines().count(), 3);
        assert!(live.svg().unwrap().contains("evaluation loss"));
        assert_eq!(live.checkpoint, Some("runs/a/checkpoint-2".into()));
        assert_eq!(live.end.as_ref().map(|end| end.step), Some(2));
    }

    #[test]
    fn times_are_short() {
        assert_eq!([0.4, 59.6, 185.0, -1.0].map(clock), ["0 s", "1 min 00 s", "3 min 05 s", "0 s"]);
    }
}
