//! A run, shown on stderr: one line that moves on a terminal, one line every `logging_steps` elsewhere.

use std::io::IsTerminal;
use std::time::Instant;

use ferrotune::hub::Transfer;
use ferrotune::train::observer::{End, EvalMetrics, Event, Observer, Start, StepMetrics};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{interrupt, output, units};

/// A terminal or a log that watches a run.
pub(crate) struct Progress {
    /// None where stderr is no terminal.
    bar: Option<ProgressBar>,
    logging_steps: usize,
    begun: Instant,
    /// Why the run is on its device, to be told when it starts: before that, an error may be all there is to tell.
    pub(crate) device: Option<String>,
    /// Steps that were done before this process began.
    resumed_step: usize,
    /// What was told before the first step.
    pub(crate) start: Option<Start>,
}

impl Progress {
    pub(crate) fn new(logging_steps: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(style("{bar:30} {msg}"));
            bar
        });
        Self { bar, logging_steps, begun: Instant::now(), device: None, resumed_step: 0, start: None }
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => output::status(text),
        }
    }

    fn start(&mut self, start: &Start) {
        self.begun = Instant::now();
        self.resumed_step = start.resumed_step;
        if let Some(bar) = &self.bar {
            bar.set_length(start.total_steps as u64);
            bar.set_position(start.resumed_step as u64);
        }
        if let Some(reason) = &self.device {
            self.say(&format!("device: {reason}"));
        }
        self.say(&describe_start(start));
        self.start = Some(start.clone());
    }

    fn step(&mut self, step: &StepMetrics) {
        let done = step.step.saturating_sub(self.resumed_step);
        let left = self.begun.elapsed().as_secs_f64() / done as f64 * step.total_steps.saturating_sub(step.step) as f64;
        let line = describe_step(step, left);
        match &self.bar {
            Some(bar) => {
                bar.set_position(step.step as u64);
                bar.set_message(line);
            }
            None if step.step.is_multiple_of(self.logging_steps) || step.step == step.total_steps => {
                output::status(line)
            }
            None => {}
        }
    }

    fn end(&self, end: &End) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let verb = if end.interrupted { "interrupted" } else { "finished" };
        output::status(format!(
            "{verb} after step {}/{}: {}, {:.0} tokens/s, at most {} of memory",
            end.step,
            end.total_steps,
            units::seconds(end.train_seconds),
            end.tokens_per_second,
            units::bytes(end.peak_rss_bytes),
        ));
    }
}

impl Observer for Progress {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Start(start) => self.start(start),
            Event::Step(step) => self.step(step),
            Event::Eval(eval) => self.say(&describe_eval(eval)),
            Event::Checkpoint(path) => self.say(&format!("saved {}", path.display())),
            Event::Note(text) => self.say(&format!("note: {text}")),
            Event::End(end) => self.end(end),
            _ => {}
        }
    }

    fn cancelled(&self) -> bool {
        interrupt::asked()
    }
}

fn describe_start(start: &Start) -> String {
    let resumed = match start.resumed_step {
        0 => String::new(),
        step => format!(", going on after step {step}"),
    };
    format!(
        "training {} of {} parameters on {}: {} examples in {} rows, {} tokens an epoch, {} steps{resumed}",
        units::count(start.trainable_parameters),
        units::count(start.total_parameters),
        start.device,
        units::count(start.examples),
        units::count(start.rows),
        units::count(start.tokens),
        units::count(start.total_steps),
    )
}

fn describe_step(step: &StepMetrics, seconds_left: f64) -> String {
    format!(
        "step {}/{}  loss {:.4}  lr {:.2e}  {:.0} tokens/s  {} left  {}",
        step.step,
        step.total_steps,
        step.loss,
        step.learning_rate,
        step.tokens_per_second,
        units::seconds(seconds_left),
        units::bytes(step.peak_rss_bytes),
    )
}

fn describe_eval(eval: &EvalMetrics) -> String {
    format!("step {}  eval loss {:.4}  ({})", eval.step, eval.eval_loss, units::seconds(eval.eval_seconds))
}

/// A bar for work that is counted: downloads in bytes, answers in pieces. Hidden where stderr is no terminal.
pub(crate) fn bar(total: u64, what: &str) -> ProgressBar {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(total), target);
    bar.set_style(style("{bar:30} {pos}/{len} {msg}"));
    bar.set_message(what.to_owned());
    bar
}

/// Who tells of a transfer: sentences on stderr, bytes as a bar on a terminal, each tenth of them as a line elsewhere.
pub(crate) fn transfer() -> impl FnMut(Transfer) {
    let bar = bar(0, "");
    bar.set_style(style(TRANSFER));
    let mut tenths = 0;
    move |transfer| match transfer {
        Transfer::Note(note) if bar.is_hidden() => output::status(note),
        Transfer::Note(note) => bar.suspend(|| output::status(note)),
        Transfer::Bytes { done, all } => {
            bar.set_length(all);
            bar.set_position(done);
            let now = done * 10 / all.max(1);
            if bar.is_hidden() && all >= LARGE && now > tenths {
                output::status(format!("{} of {}", units::bytes(done), units::bytes(all)));
            }
            tenths = now;
            if done >= all {
                bar.finish_and_clear();
            }
        }
    }
}

/// The style of a bar of bytes.
const TRANSFER: &str = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {msg}";
/// Bytes from which on a log is told how far they are.
const LARGE: u64 = 10_000_000;

/// The style of a constant template, which the test below shows to be one.
fn style(template: &'static str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_reads_as_one_line() {
        let step = StepMetrics {
            step: 20,
            total_steps: 141,
            loss: 1.23456,
            learning_rate: 1.98e-4,
            tokens_per_second: 512.4,
            peak_rss_bytes: 612_000_000,
            ..Default::default()
        };
        let line = describe_step(&step, 190.0);
        assert_eq!(line, "step 20/141  loss 1.2346  lr 1.98e-4  512 tokens/s  3m 10s left  612 MB");
    }

    #[test]
    fn templates_are_well_formed() {
        for template in ["{bar:30} {msg}", "{bar:30} {pos}/{len} {msg}", TRANSFER] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
