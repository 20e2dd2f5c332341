//! Drawings of `lessons/figures`: SVG with places for labels, which each language fills in.

use crate::course::read;
use crate::{Course, Error, Result};

/// The drawing `name`, its `{{label}}` places filled from `labels`, which is TOML: a string for each, and `alt`, which says
/// in words what there is to see.
///
/// Errors: [`Error::Lesson`] for a drawing or a label that there isn't.
pub fn draw(course: &Course, place: &str, name: &str, labels: &str) -> Result<String> {
    let wrong = |what: String| Error::lesson(place, what, "Mend the fence of the diagram.");
    let path = course.root().join("lessons/figures").join(format!("{name}.svg"));
    if !path.is_file() {
        return Err(wrong(format!("there is no drawing `lessons/figures/{name}.svg`")));
    }
    let labels: toml::Table = labels.parse().map_err(|e| wrong(format!("the labels of `{name}` are no TOML: {e}")))?;
    let alt = labels.get("alt").and_then(toml::Value::as_str);
    let alt = alt.ok_or_else(|| wrong(format!("the diagram `{name}` has no `alt`")))?;
    let mut svg = read(&path)?;
    for (label, text) in &labels {
        let placed = format!("{{{{{label}}}}}");
        if label != "alt" && !svg.contains(&placed) {
            return Err(wrong(format!("the drawing `{name}` has no place for `{label}`")));
        }
        svg = svg.replace(&placed, &escaped(text.as_str().unwrap_or_default()));
    }
    if let Some((_, missing)) = svg.split_once("{{") {
        let label = missing.split("}}").next().unwrap_or_default();
        return Err(wrong(format!("the diagram `{name}` has no label `{label}`")));
    }
    let named = format!("<svg role=\"img\" aria-label=\"{}\" ", escaped(alt));
    let lines: Vec<&str> = svg.lines().filter(|line| !line.trim().is_empty()).map(str::trim).collect();
    Ok(lines.join("\n").replacen("<svg ", &named, 1))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
