//! Charts for experiments: lines, dots and stems over an axis, and bars in groups.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;

use super::display::{Svg, escape};
use super::figure::{Area, Drawn, GRID, PALETTE, SCALE, around, centred, font, framed, left, px, short};

const SIZE: (u32, u32) = (760, 420);
const LEGEND_HEIGHT: u32 = 40;
const LABELS_LEFT: u32 = 72;

/// Series over an axis of numbers, as SVG.
///
/// ```
/// use ferrotune::show::Chart;
///
/// let svg = Chart::new("Squares").x("n").y("n²").line("n²", (0..5).map(|n| (f64::from(n), f64::from(n * n)))).to_svg();
/// assert!(svg.starts_with("<svg") && svg.contains("<title>Squares</title>"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Chart {
    title: String,
    x: String,
    y: String,
    log_x: bool,
    log_y: bool,
    series: Vec<Series>,
}

#[derive(Clone, Debug)]
struct Series {
    name: String,
    mark: Mark,
    points: Vec<(f64, f64)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mark {
    Line,
    /// A line with its points.
    Dotted,
    Dots,
    /// From the axis up.
    Stems,
}

impl Chart {
    /// An empty chart; `title` is read out to those who cannot see it.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), ..Self::default() }
    }

    /// What the horizontal axis shows.
    #[must_use]
    pub fn x(self, label: impl Into<String>) -> Self {
        Self { x: label.into(), ..self }
    }

    /// What the vertical axis shows.
    #[must_use]
    pub fn y(self, label: impl Into<String>) -> Self {
        Self { y: label.into(), ..self }
    }

    /// A horizontal axis of powers; points at or below zero are left out.
    #[must_use]
    pub fn log_x(self) -> Self {
        Self { log_x: true, ..self }
    }

    /// A vertical axis of powers; points at or below zero are left out.
    #[must_use]
    pub fn log_y(self) -> Self {
        Self { log_y: true, ..self }
    }

    /// A line through `points`.
    #[must_use]
    pub fn line(self, name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        self.with(name, Mark::Line, points)
    }

    /// A line through `points`, each of which is marked.
    #[must_use]
    pub fn dotted(self, name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        self.with(name, Mark::Dotted, points)
    }

    /// Points by themselves.
    #[must_use]
    pub fn dots(self, name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        self.with(name, Mark::Dots, points)
    }

    /// Points on stalks that stand on the axis.
    #[must_use]
    pub fn stems(self, name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        self.with(name, Mark::Stems, points)
    }

    fn with(mut self, name: impl Into<String>, mark: Mark, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let finite = |point: &(f64, f64)| point.0.is_finite() && point.1.is_finite();
        let points = points.into_iter().filter(finite).collect();
        self.series.push(Series { name: name.into(), mark, points });
        self
    }

    /// The picture.
    pub fn to_svg(&self) -> String {
        picture(&self.title, |root| self.draw(root))
    }

    fn draw(&self, root: &Area) -> Drawn {
        let (top, area) = root.split_vertically(px(LEGEND_HEIGHT));
        legend(&top, self.series.iter().enumerate().map(|(i, s)| (s.name.as_str(), colour(i))))?;
        let placed: Vec<Vec<(f64, f64)>> = self.series.iter().map(|series| self.placed(&series.points)).collect();
        let all = || placed.iter().flatten();
        let x_axis = Axis::new(all().map(|p| p.0).collect(), self.log_x);
        let mut y_axis = Axis::new(all().map(|p| p.1).collect(), self.log_y);
        if self.series.iter().any(|series| series.mark == Mark::Stems) && !self.log_y {
            y_axis.range.start = y_axis.range.start.min(0.0);
        }
        let floor = y_axis.range.start;
        let (log_x, log_y) = (self.log_x, self.log_y);
        let mut builder = ChartBuilder::on(&area);
        builder.margin_left(px(8)).margin_right(px(20)).margin_bottom(px(8));
        builder.y_label_area_size(px(LABELS_LEFT)).x_label_area_size(px(48));
        let mut chart = builder.build_cartesian_2d(x_axis, y_axis)?;
        chart
            .configure_mesh()
            .axis_style(GRID.stroke_width(SCALE))
            .bold_line_style(GRID.stroke_width(SCALE))
            .light_line_style(TRANSPARENT)
            .label_style(font(13))
            .set_all_tick_mark_size(px(5))
            .x_label_formatter(&|x| short(value(*x, log_x)))
            .y_label_formatter(&|y| short(value(*y, log_y)))
            .x_desc(&self.x)
            .y_desc(&self.y)
            .axis_desc_style(font(14))
            .draw()?;
        for (i, (series, points)) in self.series.iter().zip(&placed).enumerate() {
            let style = colour(i).stroke_width(px(2));
            match series.mark {
                Mark::Line | Mark::Dotted => {
                    chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
                }
                Mark::Stems => {
                    let stems = points.iter().map(|(x, y)| PathElement::new(vec![(*x, floor), (*x, *y)], style));
                    chart.draw_series(stems)?;
                }
                Mark::Dots => {}
            }
            if series.mark != Mark::Line {
                chart.draw_series(points.iter().map(|point| Circle::new(*point, px(4), colour(i).filled())))?;
            }
        }
        Ok(())
    }

    /// Points where they stand on the axes.
    fn placed(&self, points: &[(f64, f64)]) -> Vec<(f64, f64)> {
        let there = points.iter().filter(|(x, y)| (!self.log_x || *x > 0.0) && (!self.log_y || *y > 0.0));
        let place = |value: f64, log: bool| if log { value.log10() } else { value };
        there.map(|(x, y)| (place(*x, self.log_x), place(*y, self.log_y))).collect()
    }
}

impl From<Chart> for Svg {
    fn from(chart: Chart) -> Self {
        chart.to_svg().into()
    }
}

/// Bars side by side in named groups, as SVG; the vertical axis begins at zero.
///
/// ```
/// use ferrotune::show::Bars;
///
/// let svg = Bars::new("Errors", ["normal", "uniform"]).y("error").bar("NF4", [0.09, 0.08]).bar("INT4", [0.1, 0.07]).to_svg();
/// assert!(svg.contains("normal") && svg.contains("INT4"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Bars {
    title: String,
    y: String,
    groups: Vec<String>,
    bars: Vec<(String, Vec<f64>)>,
}

impl Bars {
    /// Groups without bars; `title` is read out to those who cannot see them.
    pub fn new<S: Into<String>>(title: impl Into<String>, groups: impl IntoIterator<Item = S>) -> Self {
        Self { title: title.into(), groups: groups.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// What the height shows.
    #[must_use]
    pub fn y(self, label: impl Into<String>) -> Self {
        Self { y: label.into(), ..self }
    }

    /// One bar in each group, of the same colour; groups past the last value have none.
    #[must_use]
    pub fn bar(mut self, name: impl Into<String>, values: impl IntoIterator<Item = f64>) -> Self {
        self.bars.push((name.into(), values.into_iter().collect()));
        self
    }

    /// The picture.
    pub fn to_svg(&self) -> String {
        picture(&self.title, |root| self.draw(root))
    }

    fn draw(&self, root: &Area) -> Drawn {
        let (top, area) = root.split_vertically(px(LEGEND_HEIGHT));
        legend(&top, self.bars.iter().enumerate().map(|(i, (name, _))| (name.as_str(), colour(i))))?;
        let highest = self.bars.iter().flat_map(|(_, values)| values).fold(0.0, |a: f64, b| a.max(*b));
        let y_axis = Axis { range: 0.0..if highest > 0.0 { 1.08 * highest } else { 1.0 }, log: false, few: Vec::new() };
        let groups = self.groups.len().max(1) as f64;
        let mut builder = ChartBuilder::on(&area);
        builder.margin_left(px(8)).margin_right(px(20)).margin_bottom(px(8));
        builder.y_label_area_size(px(LABELS_LEFT)).x_label_area_size(px(40));
        let x_axis = Axis { range: 0.0..groups, log: false, few: Vec::new() };
        let mut chart = builder.build_cartesian_2d(x_axis, y_axis)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .axis_style(GRID.stroke_width(SCALE))
            .bold_line_style(GRID.stroke_width(SCALE))
            .light_line_style(TRANSPARENT)
            .label_style(font(13))
            .set_all_tick_mark_size(0)
            .x_label_formatter(&|_| String::new())
            .y_label_formatter(&|y| short(*y))
            .y_desc(&self.y)
            .axis_desc_style(font(14))
            .draw()?;
        // A fifth of a group is the space between it and the next.
        let width = 0.8 / self.bars.len().max(1) as f64;
        for (i, (_, values)) in self.bars.iter().enumerate() {
            let bars = values.iter().take(self.groups.len()).enumerate().map(|(group, value)| {
                let start = group as f64 + 0.1 + i as f64 * width;
                Rectangle::new([(start, 0.0), (start + 0.92 * width, *value)], colour(i).filled())
            });
            chart.draw_series(bars)?;
        }
        let (plane_x, plane_y) = chart.plotting_area().get_pixel_range();
        for (group, name) in self.groups.iter().enumerate() {
            let middle =
                f64::from(plane_x.start) + f64::from(plane_x.end - plane_x.start) * (group as f64 + 0.5) / groups;
            root.draw_text(name, &centred(font(14)), (middle as i32, plane_y.end + px(20) as i32))?;
        }
        Ok(())
    }
}

impl From<Bars> for Svg {
    fn from(bars: Bars) -> Self {
        bars.to_svg().into()
    }
}

fn picture(title: &str, draw: impl FnOnce(&Area) -> Drawn) -> String {
    let mut svg = String::new();
    let drawn = {
        let root = SVGBackend::with_string(&mut svg, (px(SIZE.0), px(SIZE.1))).into_drawing_area();
        root.fill(&WHITE).map_err(Into::into).and_then(|()| draw(&root)).and_then(|()| Ok(root.present()?))
    };
    let title = escape(title);
    match drawn {
        Ok(()) => framed(&svg, SIZE, &title, &title),
        // Text is drawn by the browser and memory is never full: nothing here has been seen to fail.
        Err(e) => framed(
            &format!("<svg><text y=\"80\" font-size=\"60\">{}</text></svg>", escape(&e.to_string())),
            SIZE,
            &title,
            &title,
        ),
    }
}

fn colour(series: usize) -> RGBColor {
    PALETTE[series % PALETTE.len()]
}

/// What is drawn, above it.
fn legend<'n>(area: &Area, items: impl Iterator<Item = (&'n str, RGBColor)>) -> Drawn {
    let at = |x: u32| px(x) as i32;
    let y = at(LEGEND_HEIGHT / 2 + 2);
    let mut x = LABELS_LEFT + 8;
    for (name, colour) in items.filter(|(name, _)| !name.is_empty()) {
        area.draw(&Rectangle::new([(at(x), y - at(5)), (at(x + 18), y + at(5))], colour.filled()))?;
        area.draw_text(name, &left(font(14)), (at(x + 25), y))?;
        // Letters of this size are some eight pixels wide.
        x += 50 + 8 * name.chars().count() as u32;
    }
    Ok(())
}

fn value(place: f64, log: bool) -> f64 {
    if log { 10f64.powf(place) } else { place }
}

/// An axis of numbers, or of their logarithms to the base of ten.
#[derive(Clone)]
struct Axis {
    range: Range<f64>,
    log: bool,
    /// The places of the values, where they are so few that each has a tick.
    few: Vec<f64>,
}

impl Axis {
    fn new(mut values: Vec<f64>, log: bool) -> Self {
        values.sort_by(f64::total_cmp);
        values.dedup_by(|a, b| (*a - *b).abs() < 1e-9);
        let range = if log {
            let (low, high) = (values.first().copied().unwrap_or(0.0), values.last().copied().unwrap_or(1.0));
            let air = (0.05 * (high - low)).max(0.05);
            low - air..high + air
        } else {
            around(values.iter())
        };
        let few = if log && values.len() <= 8 { values } else { Vec::new() };
        Self { range, log, few }
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let part = (value - self.range.start) / (self.range.end - self.range.start);
        limit.0 + (part * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        if !self.few.is_empty() {
            return self.few.clone();
        }
        let span = self.range.end - self.range.start;
        let power = 10f64.powf((span / 8.0).log10().floor());
        let fits = |gap: &f64| span / gap <= 8.0;
        let gap = [power, 2.0 * power, 5.0 * power].into_iter().find(fits).unwrap_or(10.0 * power);
        // Powers of ten only, on an axis of powers.
        let gap = if self.log { gap.max(1.0).round() } else { gap };
        let first = (self.range.start / gap).ceil();
        (0..10).map(|i| (first + f64::from(i)) * gap).filter(|x| *x <= self.range.end).collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_shows_every_series_and_survives_odd_numbers() {
        let svg = Chart::new("A < B").x("n").line("one", [(0.0, 1.0), (1.0, f64::NAN)]).dots("two", []).to_svg();
        assert!(svg.contains("<title>A &lt; B</title>") && svg.contains("one") && svg.contains("two"), "{svg}");
        assert!(!svg.contains("NaN"), "{svg}");
        let empty = Chart::new("nothing").to_svg();
        assert!(empty.starts_with("<svg") && empty.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn an_axis_of_powers_has_a_tick_for_each_of_few_values() {
        let axis = Axis::new(vec![0.0, 0.602, 1.204], true);
        assert_eq!(axis.key_points(10), [0.0, 0.602, 1.204]);
        let many = Axis::new((0..40).map(|i| f64::from(i) / 10.0).collect(), true);
        assert_eq!(many.key_points(10), [0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(Axis::new(vec![0.0, 1.0], false).key_points(10), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
    }

    #[test]
    fn bars_stand_in_their_groups() {
        let svg = Bars::new("t", ["a", "b"]).bar("x", [1.0, 2.0]).bar("y", [3.0]).to_svg();
        // Paper, two marks of the legend, three bars.
        assert_eq!(svg.matches("<rect").count(), 1 + 2 + 3, "{svg}");
    }
}
