//! Charts as SVG text: lines over time, and bars.

use std::fmt::Write as _;

/// A line of a chart: its name, its colour (a CSS variable), its points.
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    pub(super) colour: &'a str,
    pub(super) points: Vec<(f64, f64)>,
}

/// A bar: its name, its share of the full length, 0 to 1, and what stands beside it.
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) share: f64,
    pub(super) label: String,
    pub(super) colour: &'static str,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 28.0;
const TOP: f64 = 12.0;

/// Returns text with nothing in it that a page would take for its own.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Returns lines over a common axis of `x`, with a legend.
pub(super) fn lines(title: &str, x: &str, lines: &[Line<'_>]) -> String {
    let points = || lines.iter().flat_map(|line| line.points.iter().copied());
    let right = points().map(|point| point.0).fold(1e-9, f64::max);
    let most = nice(points().map(|point| point.1).fold(1e-9, f64::max));
    let at = |(px, py): (f64, f64)| {
        let x = LEFT + px / right * (WIDTH - LEFT - 8.0);
        (x, HEIGHT - BOTTOM - py / most * (HEIGHT - BOTTOM - TOP))
    };
    let mut svg = format!(
        "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">",
        escaped(title)
    );
    for step in 0..=4 {
        let value = most * f64::from(step) / 4.0;
        let (_, y) = at((0.0, value));
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"{}\" y=\"{:.1}\" class=\"tick end\">{}</text>",
            WIDTH - 8.0,
            LEFT - 6.0,
            y + 4.0,
            short(value)
        );
    }
    for step in 0..=5 {
        let value = right * f64::from(step) / 5.0;
        let (px, _) = at((value, 0.0));
        let (place, unit) = if step == 5 { ("end", escaped(x)) } else { ("mid", String::new()) };
        let _ = write!(
            svg,
            "<text x=\"{px:.1}\" y=\"{}\" class=\"tick {place}\">{} {unit}</text>",
            HEIGHT - 8.0,
            short(value),
        );
    }
    for line in lines {
        let mut path = String::new();
        for (place, point) in line.points.iter().enumerate() {
            let (px, py) = at(*point);
            let _ = write!(path, "{}{px:.1} {py:.1}", if place == 0 { "M" } else { "L" });
        }
        let _ = write!(
            svg,
            "<path d=\"{path}\" style=\"stroke:var({})\"><title>{}</title></path>",
            line.colour,
            escaped(line.name)
        );
    }
    svg.push_str("</svg><p class=\"legend\">");
    for line in lines {
        let _ = write!(
            svg,
            "<span><i style=\"background:var({})\"></i>{}</span>",
            line.colour,
            escaped(line.name)
        );
    }
    svg.push_str("</p></figure>\n");
    svg
}

/// Returns bars, one below the other.
pub(super) fn bars(title: &str, bars: &[Bar]) -> String {
    let mut out =
        format!("<figure><figcaption>{}</figcaption><table class=\"bars\">", escaped(title));
    for bar in bars {
        let _ = write!(
            out,
            "<tr><th>{}</th><td><div style=\"width:{:.1}%;background:var({})\"></div></td><td class=\"number\">{}</td></tr>",
            escaped(&bar.name),
            bar.share.clamp(0.0, 1.0) * 100.0,
            bar.colour,
            escaped(&bar.label)
        );
    }
    out.push_str("</table></figure>\n");
    out
}

/// Returns the least of 1, 2, 2.5, 5 times a power of ten that is not below `value`.
fn nice(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|step| step * power >= value);
    step.unwrap_or(10.0) * power
}

fn short(value: f64) -> String {
    if value >= 1e6 {
        format!("{:.1}M", value / 1e6)
    } else if value >= 1e4 {
        format!("{:.0}k", value / 1e3)
    } else if value >= 10.0 || value == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_on_round_numbers() {
        let round = |value: f64| (nice(value) * 1e6).round() / 1e6;
        assert_eq!([0.3, 1.0, 3.0, 23.0, 999.0].map(round), [0.5, 1.0, 5.0, 25.0, 1000.0]);
    }

    #[test]
    fn names_cannot_break_the_page() {
        let line = Line { name: "<b>", colour: "--a", points: vec![(0.0, 1.0), (1.0, 2.0)] };
        let svg = lines("a & b", "s", &[line]);
        assert!(svg.contains("&lt;b&gt;") && svg.contains("a &amp; b") && !svg.contains("<b>"));
    }
}
