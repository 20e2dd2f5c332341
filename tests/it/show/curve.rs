//! `loss.svg`.

use ferrotune::show::loss_svg;

const EVAL_COLOUR: &str = "#D55E00";

fn steps(steps: impl IntoIterator<Item = u32>) -> String {
    let row = |step: u32| {
        let loss = 3.0 / f64::from(step).sqrt();
        format!("{{\"step\":{step},\"epoch\":0.1,\"loss\":{loss},\"grad_norm\":1.0,\"learning_rate\":2e-4}}\n")
    };
    steps.into_iter().map(row).collect()
}

fn eval(step: u32, loss: f64) -> String {
    format!("{{\"step\":{step},\"epoch\":1.0,\"eval_loss\":{loss},\"eval_tokens\":5}}\n")
}

/// The texts of a picture that a reader of XML accepts, as far as this one goes: one root, every element closed in its
/// order, every attribute quoted, nothing that is no number in a number's place.
fn texts(svg: &str) -> Vec<String> {
    let (mut open, mut roots, mut texts) = (Vec::new(), 0, Vec::new());
    let mut rest = svg;
    while let Some(start) = rest.find('<') {
        let between = rest[..start].trim();
        if !between.is_empty() {
            assert!(!open.is_empty(), "text outside of the root: {between}");
            texts.push(between.to_string());
        }
        let end = start + rest[start..].find('>').expect("an unclosed tag");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
            continue;
        }
        let name = tag.split([' ', '/']).next().unwrap();
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        roots += usize::from(open.is_empty());
        if !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty() && rest.trim().is_empty() && roots == 1, "{open:?} {roots}");
    for odd in ["NaN", "nan", "inf", "2147483647", "-2147483648"] {
        assert!(!svg.contains(odd), "{odd} in {svg}");
    }
    texts
}

fn eval_points(svg: &str) -> usize {
    let is_point = |line: &&str| line.starts_with("<circle") && line.contains(EVAL_COLOUR);
    // One more explains the colour above the panels.
    svg.lines().filter(is_point).count() - 1
}

/// The corners of the lines of one colour, those of the legend left out.
fn corners(svg: &str, colour: &str) -> Vec<(i32, i32)> {
    let lines = svg.lines().filter(|line| line.starts_with("<polyline") && line.contains(colour)).skip(1);
    let points = lines.flat_map(|line| line.split("points=\"").nth(1).unwrap().split('"').next().unwrap().split(' '));
    let pair = |p: &str| p.split_once(',').map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()));
    points.filter_map(pair).collect()
}

#[test]
fn shows_every_evaluation_and_says_what_is_what() {
    let svg = loss_svg(&(steps(1..=40) + &eval(20, 1.0) + &eval(40, 0.5) + &eval(30, 0.7))).unwrap();
    assert_eq!(eval_points(&svg), 3);
    let texts = texts(&svg);
    for words in [
        "step",
        "loss (nats per token)",
        "learning rate",
        "loss of each step",
        "loss, moving average",
        "evaluation loss",
    ] {
        assert!(texts.iter().any(|text| text == words), "{words} in {texts:?}");
    }
    assert!(!texts.iter().any(|text| text == "no steps yet"));
    // White behind everything, before anything.
    let background = svg.lines().find(|line| line.starts_with('<') && line.contains("#FFFFFF")).unwrap();
    assert!(background.starts_with("<rect x=\"0\" y=\"0\""), "{background}");
}

#[test]
fn curves_go_the_way_that_the_numbers_go() {
    let svg = loss_svg(&(steps(1..=40) + &eval(20, 1.0) + &eval(40, 0.5))).unwrap();
    for colour in ["#9ECAE9", "#0072B2", EVAL_COLOUR] {
        let corners = corners(&svg, colour);
        assert!(corners.len() >= 2, "{colour}");
        // Steps go to the right; the losses fall, and down is up in SVG.
        assert!(corners.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 < w[1].1), "{colour}: {corners:?}");
    }
}

#[test]
fn a_resumed_run_keeps_its_steps() {
    let svg = loss_svg(&steps(501..=520)).unwrap();
    let texts = texts(&svg);
    assert!(texts.iter().any(|text| text == "510") && !texts.iter().any(|text| text == "10"), "{texts:?}");
    // The steps before a checkpoint, written once more after it, draw the same picture.
    assert_eq!(loss_svg(&(steps(501..=515) + &steps(511..=520))).unwrap(), svg);
}

#[test]
fn short_runs_have_a_picture_too() {
    let none = loss_svg("").unwrap();
    assert!(texts(&none).iter().any(|text| text == "no steps yet"));
    assert_eq!(none.matches("<circle").count(), 0);
    let one = loss_svg(&steps([1])).unwrap();
    assert!(!texts(&one).iter().any(|text| text == "no steps yet"));
    assert_eq!(one.matches("<circle").count(), 2, "the loss and the rate");
    texts(&loss_svg(&eval(7, 0.5)).unwrap());
}

#[test]
fn odd_numbers_leave_no_trace() {
    let odd = "{\"step\":3,\"loss\":null,\"learning_rate\":null}\n{\"step\":4,\"loss\":1e308,\"learning_rate\":0.0}\n\
               {\"step\":4294967295,\"loss\":-1e308}\n{\"step\":5,\"eval_loss\":null}\n";
    texts(&loss_svg(odd).unwrap());
    texts(&loss_svg(&(steps(1..=2) + odd)).unwrap());
    // All the same, all zero, very large, very small.
    for (loss, rate) in [("1.5", "0.0"), ("0.0", "1e-300"), ("1e29", "1e29"), ("1e-29", "5e-324"), ("-2.0", "0")] {
        let row = |step| format!("{{\"step\":{step},\"loss\":{loss},\"learning_rate\":{rate}}}\n");
        texts(&loss_svg(&(1..4).map(row).collect::<String>()).unwrap());
    }
    let far = "{\"step\":0,\"loss\":1.0}\n{\"step\":4294967295,\"loss\":2.0}\n";
    texts(&loss_svg(far).unwrap());
}

#[test]
fn a_long_run_is_thinned_without_losing_its_spikes() {
    let row = |step: u32| {
        let loss = if step == 54_321 { 9.0 } else { 1.0 };
        format!("{{\"step\":{step},\"loss\":{loss},\"learning_rate\":1e-4}}\n")
    };
    let svg = loss_svg(&(1..=100_000).map(row).collect::<String>()).unwrap();
    texts(&svg);
    assert!(svg.len() < 200_000, "{} bytes", svg.len());
    let raw = corners(&svg, "#9ECAE9");
    let (top, bottom) = (raw.iter().map(|p| p.1).min().unwrap(), raw.iter().map(|p| p.1).max().unwrap());
    assert!(bottom - top > 800, "the spike is gone: {top} to {bottom}");
}

#[test]
fn a_broken_line_is_named() {
    let error = loss_svg("{\"step\":1,\"loss\":1.0}\nstep 2\n").unwrap_err();
    assert!(error.is_input() && error.to_string().contains("`metrics.jsonl`, line 2"), "{error}");
}
