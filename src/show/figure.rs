//! What all figures have in common: size, ink, colours, and how numbers stand beside ticks.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(super) type Drawn<E = Box<dyn std::error::Error>> = std::result::Result<(), E>;

/// plotters places everything on whole pixels; drawing larger and showing smaller makes curves smooth.
pub(super) const SCALE: u32 = 4;

/// Okabe and Ito's palette, which people with any kind of colour blindness tell apart, on light and dark paper.
pub(super) const PALETTE: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 128, 98),
    RGBColor(204, 121, 167),
    RGBColor(148, 103, 30),
    RGBColor(86, 150, 200),
];
pub(super) const INK: RGBColor = RGBColor(51, 51, 51);
pub(super) const GRID: RGBColor = RGBColor(232, 232, 232);

/// The drawing at the size that it is shown in, with words for those who cannot see it.
pub(super) fn framed(svg: &str, size: (u32, u32), label: &str, title: &str) -> String {
    let body = svg.split_once('>').map_or("", |(_, body)| body);
    let ((width, height), (w, h)) = (size, (px(size.0), px(size.1)));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {w} {h}\" \
         role=\"img\" aria-label=\"{label}\">\n<title>{title}</title>{body}"
    )
}

pub(super) const fn px(pixels: u32) -> u32 {
    pixels * SCALE
}

pub(super) fn font(size: u32) -> TextStyle<'static> {
    // The backend writes the size divided by 1.24.
    ("sans-serif", f64::from(px(size)) * 1.24).into_font().color(&INK)
}

pub(super) fn centred(style: TextStyle) -> TextStyle {
    style.pos(Pos::new(HPos::Center, VPos::Center))
}

pub(super) fn left(style: TextStyle) -> TextStyle {
    style.pos(Pos::new(HPos::Left, VPos::Center))
}

/// A range that holds `values` with some air, and is never empty.
pub(super) fn around<'v>(values: impl Iterator<Item = &'v f64>) -> Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(*v), b.max(*v)));
    if low > high {
        return 0.0..1.0;
    }
    let air = (0.06 * (high - low)).max(0.02 * low.abs()).max(1e-3);
    // What is not below zero gets an axis that isn't: one that went there would suggest it.
    let bottom = if low >= 0.0 { (low - air).max(0.0) } else { low - air };
    bottom..high + air
}

/// A number beside its tick: `2.5`, `0`, `1.5e-4`.
pub(super) fn short(value: f64) -> String {
    if value != 0.0 && !(1e-3..1e5).contains(&value.abs()) {
        return power(value);
    }
    trimmed(&format!("{value:.4}")).into()
}

/// A rate beside its tick, all in one form: `2e-4`, `0`.
pub(super) fn power(value: f64) -> String {
    let text = format!("{value:.3e}");
    match text.split_once('e') {
        Some((digits, power)) if value != 0.0 => format!("{}e{power}", trimmed(digits)),
        _ => "0".into(),
    }
}

fn trimmed(digits: &str) -> &str {
    digits.trim_end_matches('0').trim_end_matches('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_short() {
        let shown = [2.5, 0.0, 0.25, 120.0, 1.5e-4, 3e7, -0.5].map(short);
        assert_eq!(shown, ["2.5", "0", "0.25", "120", "1.5e-4", "3e7", "-0.5"]);
        assert_eq!([1e-3, 5e-4, 1.500_000_000_1e-4, 0.0].map(power), ["1e-3", "5e-4", "1.5e-4", "0"]);
    }
}
