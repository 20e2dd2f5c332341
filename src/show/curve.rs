//! The loss of a run as an SVG.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde_json::Value;

use crate::{Error, Result};

const SIZE: (u32, u32) = (860, 480);
/// Blue, vermilion and grey of Okabe and Ito's palette, told apart without red or green.
const LOSS: RGBColor = RGBColor(0, 114, 178);
const EVAL: RGBColor = RGBColor(213, 94, 0);
const RATE: RGBColor = RGBColor(90, 90, 90);
/// Weight of the past in the running mean, a step.
const MOMENTUM: f64 = 0.9;

/// What is larger is no loss that could be drawn to scale: the drawing library would look for ticks for ever.
const LARGEST: f64 = 1e12;

/// Points over steps.
type Series = Vec<(f64, f64)>;

/// Draws the text of a `metrics.jsonl`: the loss of each step pale, its running mean strong, evaluations as points, and
/// the learning rate in a strip below. Lines that are no rows, and numbers that are not finite, are left out.
///
/// Errors: [`Error::Shape`] where the drawing library refuses, which no input is known to bring about.
pub fn loss_svg(metrics: &str) -> Result<String> {
    let (loss, eval, rate) = series(metrics);
    let mut svg = String::new();
    draw(&mut svg, &loss, &eval, &rate)
        .map_err(|e| Error::Shape { op: "loss_svg", what: format!("the curve could not be drawn: {e}") })?;
    Ok(svg)
}

fn series(metrics: &str) -> (Series, Series, Series) {
    let (mut loss, mut eval, mut rate) = (Series::new(), Series::new(), Series::new());
    for row in metrics.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let number = |key: &str| row.get(key).and_then(Value::as_f64).filter(|v| v.abs() < LARGEST);
        let Some(step) = number("step") else { continue };
        for (key, series) in [("loss", &mut loss), ("eval_loss", &mut eval), ("learning_rate", &mut rate)] {
            series.extend(number(key).map(|value| (step, value)));
        }
    }
    (loss, eval, rate)
}

/// The running mean from the first value on, without a bias towards zero.
fn smoothed(points: &Series) -> Series {
    let (mut sum, mut weight) = (0.0, 0.0);
    let mean = |(step, value): &(f64, f64)| {
        sum = MOMENTUM * sum + (1.0 - MOMENTUM) * value;
        weight = MOMENTUM * weight + (1.0 - MOMENTUM);
        (*step, sum / weight)
    };
    points.iter().map(mean).collect()
}

fn greatest(points: &Series) -> f64 {
    points.iter().map(|(_, value)| *value).fold(0.0, f64::max)
}

fn draw(svg: &mut String, loss: &Series, eval: &Series, rate: &Series) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let last = loss.iter().chain(eval).map(|(step, _)| *step).fold(1.0, f64::max);
    let (upper, lower) = root.split_vertically(SIZE.1 - 110);
    let top = greatest(loss).max(greatest(eval)).max(f64::MIN_POSITIVE) * 1.05;
    let font = ("sans-serif", 13);

    let mut chart = ChartBuilder::on(&upper)
        .margin_top(14)
        .margin_right(20)
        .x_label_area_size(22)
        .y_label_area_size(62)
        .build_cartesian_2d(0.0..last, 0.0..top)?;
    let light = BLACK.mix(0.10);
    let tick = |value: &f64| format!("{value:.0}");
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(light)
        .axis_style(BLACK.mix(0.4))
        .x_label_formatter(&tick)
        .y_desc("loss (nats per token)")
        .label_style(font)
        .axis_desc_style(font)
        .draw()?;
    chart.draw_series(LineSeries::new(loss.iter().copied(), LOSS.mix(0.35).stroke_width(1)))?;
    let line =
        |colour: RGBColor| move |(x, y): (i32, i32)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2));
    chart
        .draw_series(LineSeries::new(smoothed(loss), LOSS.stroke_width(2)))?
        .label("training, running mean")
        .legend(line(LOSS));
    if !eval.is_empty() {
        chart
            .draw_series(LineSeries::new(eval.iter().copied(), EVAL.stroke_width(2)))?
            .label("held out")
            .legend(line(EVAL));
        chart.draw_series(eval.iter().map(|point| Circle::new(*point, 4, EVAL.filled())))?;
    }
    if loss.is_empty() {
        let centre = TextStyle::from(font).pos(Pos::new(HPos::Center, VPos::Center));
        upper.draw_text("no steps yet", &centre, (SIZE.0 as i32 / 2, SIZE.1 as i32 / 3))?;
    } else {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .border_style(light)
            .label_font(font)
            .draw()?;
    }

    let highest = greatest(rate).max(f64::MIN_POSITIVE) * 1.1;
    let mut strip = ChartBuilder::on(&lower)
        .margin_right(20)
        .x_label_area_size(40)
        .y_label_area_size(62)
        .build_cartesian_2d(0.0..last, 0.0..highest)?;
    strip
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(light)
        .axis_style(BLACK.mix(0.4))
        .x_label_formatter(&tick)
        .y_labels(3)
        .y_label_formatter(&|value| format!("{value:.0e}"))
        .x_desc("step")
        .y_desc("rate")
        .label_style(font)
        .axis_desc_style(font)
        .draw()?;
    strip.draw_series(LineSeries::new(rate.iter().copied(), RATE.stroke_width(2)))?;
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize) -> String {
        let step = |i: usize| format!("{{\"step\":{i},\"loss\":{},\"learning_rate\":1e-3}}\n", 3.0 / i as f64);
        (1..=n).map(step).collect()
    }

    #[test]
    fn every_evaluation_is_a_point() {
        let metrics = rows(20) + "{\"step\":10,\"eval_loss\":0.5}\n{\"step\":20,\"eval_loss\":0.4}\nhalf a li";
        let svg = loss_svg(&metrics).unwrap();
        assert_eq!(svg.matches("<circle").count(), 2);
        for text in ["step", "loss (nats per token)", "held out", "training, running mean"] {
            assert!(svg.contains(text), "{text}");
        }
    }

    #[test]
    fn short_and_broken_runs_are_drawn_too() {
        for metrics in [
            "",
            &rows(1),
            "{\"step\":1,\"loss\":null}\n",
            "{\"step\":1,\"loss\":0.0}\n",
            "{\"step\":1,\"loss\":1e308}\n",
        ] {
            let svg = loss_svg(metrics).unwrap();
            assert!(
                svg.trim_end().ends_with("</svg>") && !svg.contains("NaN") && !svg.contains("inf"),
                "{metrics}: {svg}"
            );
        }
        assert!(loss_svg("").unwrap().contains("no steps yet"));
    }

    #[test]
    fn the_mean_of_a_constant_is_that_constant() {
        let points: Series = (1..30).map(|i| (f64::from(i), 2.5)).collect();
        assert!(smoothed(&points).iter().all(|(_, value)| (value - 2.5).abs() < 1e-12));
    }
}
