//! The curves of a run as a picture.

use std::collections::BTreeMap;
use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::figure::{Area, Drawn, GRID, PALETTE, SCALE, around, centred, font, framed, power, px, short};
use super::metrics::Metrics;
use crate::{Error, Result};

/// Pixels of the picture as it is shown.
const SIZE: (u32, u32) = (800, 500);
const LEGEND_HEIGHT: u32 = 44;
const RATE_HEIGHT: u32 = 140;

const SMOOTHED: RGBColor = PALETTE[0];
const RAW: RGBColor = RGBColor(158, 202, 233);
const EVAL: RGBColor = PALETTE[1];
const RATE: RGBColor = PALETTE[2];

/// Points beyond which a line is thinned out: more than a screen has columns.
const POINTS: usize = 1600;

/// Draws the text of a `metrics.jsonl` as SVG: each step's loss and its moving average, the evaluations' loss, and the
/// learning rate below. Losses are in nats per trained token.
///
/// The average is exponential, with a span of a fiftieth of the run, at least 5 steps. Numbers that were not finite
/// leave a gap. Without steps, the axes say so.
///
/// Errors: [`Error::Data`] with the line that is no row.
pub fn loss_svg(metrics: &str) -> Result<String> {
    let metrics = Metrics::read(metrics)?;
    let mut svg = String::new();
    draw(&metrics, &mut svg).map_err(|e| Error::Shape { op: "loss_svg", what: e.to_string() })?;
    Ok(framed(&svg, SIZE, "Training curves", "Loss and learning rate by step"))
}

fn canvas() -> (u32, u32) {
    (px(SIZE.0), px(SIZE.1))
}

fn draw(metrics: &Metrics, svg: &mut String) -> Drawn {
    let root = SVGBackend::with_string(svg, canvas()).into_drawing_area();
    root.fill(&WHITE)?;
    let (legend, panels) = root.split_vertically(px(LEGEND_HEIGHT));
    let (upper, lower) = panels.split_vertically(px(SIZE.1 - LEGEND_HEIGHT - RATE_HEIGHT));
    let steps = steps(metrics);
    draw_legend(&legend, metrics)?;
    draw_loss(&upper, metrics, steps.clone())?;
    draw_rate(&lower, metrics, steps)?;
    root.present()?;
    Ok(())
}

fn draw_loss(area: &Area, metrics: &Metrics, steps: Steps) -> Drawn {
    let raw = points(&metrics.loss);
    let smoothed = average(&raw);
    let evals = points(&metrics.eval_loss);
    let losses = metrics.loss.values().chain(metrics.eval_loss.values());
    let mut builder = ChartBuilder::on(area);
    builder.margin_left(px(8)).margin_right(px(20)).y_label_area_size(px(70)).x_label_area_size(px(18));
    let mut chart = builder.build_cartesian_2d(steps, around(losses))?;
    chart
        .configure_mesh()
        .axis_style(GRID.stroke_width(SCALE))
        .bold_line_style(GRID.stroke_width(SCALE))
        .light_line_style(TRANSPARENT)
        .label_style(font(13))
        .set_all_tick_mark_size(px(5))
        .x_label_formatter(&|_| String::new())
        .y_label_formatter(&|y| short(*y))
        .y_labels(7)
        .y_desc("loss (nats per token)")
        .axis_desc_style(font(14))
        .draw()?;
    chart.draw_series(LineSeries::new(thin(&raw), RAW.stroke_width(px(5) / 4)))?;
    chart.draw_series(LineSeries::new(thin(&smoothed), SMOOTHED.stroke_width(px(5) / 2)))?;
    // A line of one point cannot be seen.
    if let [only] = smoothed[..] {
        chart.draw_series([Circle::new(only, px(4), SMOOTHED.filled())])?;
    }
    chart.draw_series(LineSeries::new(evals.iter().copied(), EVAL.stroke_width(px(3) / 2)))?;
    chart.draw_series(evals.iter().map(|point| Circle::new(*point, px(4), EVAL.filled())))?;
    if raw.is_empty() && evals.is_empty() {
        let (width, height) = area.dim_in_pixel();
        area.draw_text("no steps yet", &centred(font(16)), (width as i32 / 2, height as i32 / 2))?;
    }
    Ok(())
}

fn draw_rate(area: &Area, metrics: &Metrics, steps: Steps) -> Drawn {
    let rates = points(&metrics.learning_rate);
    let highest = metrics.learning_rate.values().fold(0.0, |a: f64, b| a.max(*b));
    // Nothing but zeros has no scale of its own.
    let top = if highest > 0.0 { 1.1 * highest } else { 1e-4 };
    let mut builder = ChartBuilder::on(area);
    builder.margin_left(px(8)).margin_right(px(20)).margin_bottom(px(8));
    builder.y_label_area_size(px(70)).x_label_area_size(px(48));
    let mut chart = builder.build_cartesian_2d(steps, 0.0..top)?;
    chart
        .configure_mesh()
        .axis_style(GRID.stroke_width(SCALE))
        .bold_line_style(GRID.stroke_width(SCALE))
        .light_line_style(TRANSPARENT)
        .label_style(font(13))
        .set_all_tick_mark_size(px(5))
        .x_label_formatter(&|x| x.to_string())
        .y_label_formatter(&|y| power(*y))
        .y_labels(3)
        .x_desc("step")
        .y_desc("learning rate")
        .axis_desc_style(font(14))
        .draw()?;
    chart.draw_series(LineSeries::new(thin(&rates), RATE.stroke_width(px(2))))?;
    if let [only] = rates[..] {
        chart.draw_series([Circle::new(only, px(4), RATE.filled())])?;
    }
    Ok(())
}

/// What is drawn, above the panels, where it hides no curve.
fn draw_legend(area: &Area, metrics: &Metrics) -> Drawn {
    let items = [
        (!metrics.loss.is_empty(), "loss of each step", RAW, 2, false),
        (!metrics.loss.is_empty(), "loss, moving average", SMOOTHED, 5, false),
        (!metrics.eval_loss.is_empty(), "evaluation loss", EVAL, 3, true),
    ];
    let at = |x: u32| px(x) as i32;
    let y = at(LEGEND_HEIGHT / 2 + 2);
    let mut x = 76;
    for (_, words, colour, half_pixels, marked) in items.into_iter().filter(|item| item.0) {
        let line = vec![(at(x), y), (at(x + 30), y)];
        area.draw(&PathElement::new(line, colour.stroke_width(px(half_pixels) / 2)))?;
        if marked {
            area.draw(&Circle::new((at(x + 15), y), px(4), colour.filled()))?;
        }
        area.draw_text(words, &font(14).pos(Pos::new(HPos::Left, VPos::Center)), (at(x + 38), y))?;
        x += 210;
    }
    Ok(())
}

/// The axis of steps: labels stand on whole numbers.
#[derive(Clone)]
struct Steps(Range<f64>);

impl Ranged for Steps {
    type FormatOption = DefaultFormatting;
    type ValueType = u32;

    fn map(&self, value: &u32, limit: (i32, i32)) -> i32 {
        let part = (f64::from(*value) - self.0.start) / (self.0.end - self.0.start);
        limit.0 + (part * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<u32> {
        // At most ten, at multiples of 1, 2 or 5 times a power of ten.
        let span = self.0.end - self.0.start;
        let power = 10f64.powf((span / 10.0).max(1.0).log10().floor());
        let fits = |gap: &f64| span / gap <= 10.0;
        let gap = [power, 2.0 * power, 5.0 * power].into_iter().find(fits).unwrap_or(10.0 * power);
        let first = (self.0.start / gap).ceil();
        (0..=10).map(|i| (first + f64::from(i)) * gap).filter(|x| *x <= self.0.end).map(|x| x as u32).collect()
    }

    fn range(&self) -> Range<u32> {
        self.0.start as u32..self.0.end as u32
    }
}

/// From the first step with a row to the last; a run that was resumed elsewhere does not begin at 1.
fn steps(metrics: &Metrics) -> Steps {
    let all = || [&metrics.loss, &metrics.learning_rate, &metrics.eval_loss].into_iter().flat_map(|m| m.keys());
    match (all().min(), all().max()) {
        (Some(first), Some(last)) if first < last => Steps(f64::from(*first)..f64::from(*last)),
        (Some(only), _) => Steps(f64::from(*only) - 1.0..f64::from(*only) + 1.0),
        _ => Steps(0.0..10.0),
    }
}

fn points(values: &BTreeMap<u32, f64>) -> Vec<(u32, f64)> {
    values.iter().map(|(step, value)| (*step, *value)).collect()
}

/// The exponential moving average, corrected for its start as Adam's moments are, so that it begins at the first loss.
fn average(raw: &[(u32, f64)]) -> Vec<(u32, f64)> {
    let span = (raw.len() as f64 / 50.0).max(5.0);
    let keep = 1.0 - 2.0 / (span + 1.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    let smooth = |(step, value): &(u32, f64)| {
        sum = keep * sum + (1.0 - keep) * value;
        weight = keep * weight + (1.0 - keep);
        (*step, sum / weight)
    };
    raw.iter().map(smooth).collect()
}

/// At most [`POINTS`] points that look the same: the lowest and the highest of each stretch, so that no spike is lost.
fn thin(points: &[(u32, f64)]) -> Vec<(u32, f64)> {
    if points.len() <= POINTS {
        return points.to_vec();
    }
    let extremes = |stretch: &[(u32, f64)]| {
        let by_value = |a: &&(u32, f64), b: &&(u32, f64)| a.1.total_cmp(&b.1);
        let mut pair: Vec<_> =
            stretch.iter().min_by(by_value).into_iter().chain(stretch.iter().max_by(by_value)).copied().collect();
        pair.sort_by_key(|point| point.0);
        pair
    };
    points.chunks(points.len().div_ceil(POINTS / 2)).flat_map(extremes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_begins_at_the_first_loss_and_follows() {
        assert_eq!(average(&[(1, 2.0), (2, 2.0)]), [(1, 2.0), (2, 2.0)]);
        // A span of 5 keeps two thirds: (2/3 · 1/3 · 3 + 1/3 · 0) / (2/3 · 1/3 + 1/3) = 6/5.
        let smoothed = average(&[(4, 3.0), (7, 0.0)]);
        assert!((smoothed[1].1 - 1.2).abs() < 1e-12 && smoothed[1].0 == 7, "{smoothed:?}");
        assert_eq!(average(&[]), []);
    }

    #[test]
    fn step_labels_are_few_and_round() {
        let labels = |range: Range<f64>| Steps(range).key_points(100);
        assert_eq!(labels(0.0..2.0), [0, 1, 2]);
        assert_eq!(labels(1.0..120.0), [20, 40, 60, 80, 100, 120]);
        assert_eq!(labels(501.0..520.0), (502..=520).step_by(2).collect::<Vec<_>>());
        assert_eq!(labels(0.0..4e9), (0..=8).map(|i| i * 500_000_000).collect::<Vec<u32>>());
    }
}
