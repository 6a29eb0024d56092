//! Charts as SVG text: lines over time, and bars.

use std::fmt::Write as _;

use super::escaped;

/// A line of a chart: its name, its colour (a CSS variable), its points.
pub(crate) struct Line<'a> {
    pub(crate) name: &'a str,
    pub(crate) colour: &'a str,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A bar: its name, its share of the full length, 0 to 1, and what stands beside it.
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) share: f64,
    pub(crate) label: String,
    pub(crate) colour: &'static str,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 28.0;
const TOP: f64 = 12.0;

/// The axes of a chart, from zero on.
struct Axes {
    right: f64,
    most: f64,
    height: f64,
}

impl Axes {
    fn of(points: impl Iterator<Item = (f64, f64)>, height: f64) -> Self {
        let largest = |(right, most): (f64, f64), (x, y): (f64, f64)| (right.max(x), most.max(y));
        let (right, most) = points.fold((1e-9, 1e-9), largest);
        Self { right, most: nice(most), height }
    }

    fn at(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let inside = self.height - BOTTOM - TOP;
        (
            LEFT + x / self.right * (WIDTH - LEFT - 8.0),
            self.height - BOTTOM - y / self.most * inside,
        )
    }

    /// Returns the beginning of a figure, with its grid and its ticks.
    fn drawn(&self, title: &str, x: &str) -> String {
        let height = self.height;
        let mut svg = format!(
            "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">",
            escaped(title)
        );
        self.grid(&mut svg);
        for step in 0..=5 {
            let value = self.right * f64::from(step) / 5.0;
            let (px, _) = self.at((value, 0.0));
            let (place, unit) =
                if step == 5 { ("end", escaped(x)) } else { ("mid", String::new()) };
            let _ = write!(
                svg,
                "<text x=\"{px:.1}\" y=\"{}\" class=\"tick {place}\">{} {unit}</text>",
                height - 8.0,
                short(value),
            );
        }
        svg
    }

    fn grid(&self, svg: &mut String) {
        for step in 0..=4 {
            let value = self.most * f64::from(step) / 4.0;
            let (_, y) = self.at((0.0, value));
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"{}\" y=\"{:.1}\" class=\"tick end\">{}</text>",
                WIDTH - 8.0,
                LEFT - 6.0,
                y + 4.0,
                short(value)
            );
        }
    }

    fn path(&self, points: impl Iterator<Item = (f64, f64)>) -> String {
        let mut path = String::new();
        for (place, point) in points.enumerate() {
            let (px, py) = self.at(point);
            let _ = write!(path, "{}{px:.1} {py:.1}", if place == 0 { "M" } else { "L" });
        }
        path
    }
}

/// Returns the legend of a figure, and its end.
fn legend<'a>(parts: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = "</svg><p class=\"legend\">".to_owned();
    for (name, colour) in parts {
        let name = escaped(name);
        let _ = write!(out, "<span><i style=\"background:var({colour})\"></i>{name}</span>");
    }
    out + "</p></figure>\n"
}

/// Points that say what they are when they are pointed at.
pub(crate) struct Dots<'a> {
    pub(crate) name: &'a str,
    pub(crate) colour: &'a str,
    /// Whether a line joins them.
    pub(crate) joined: bool,
    /// The size of a dot.
    pub(crate) radius: f64,
    /// Each with what it says.
    pub(crate) points: Vec<((f64, f64), String)>,
}

/// Returns points over common axes, with a legend.
pub(crate) fn dots(title: &str, x: &str, series: &[Dots<'_>]) -> String {
    let all = series.iter().flat_map(|dots| dots.points.iter().map(|(point, _)| *point));
    let axes = Axes::of(all, 1.6 * HEIGHT);
    let mut svg = axes.drawn(title, x);
    for dots in series.iter().filter(|dots| dots.joined) {
        let path = axes.path(dots.points.iter().map(|(point, _)| *point));
        let _ = write!(svg, "<path d=\"{path}\" style=\"stroke:var({})\"/>", dots.colour);
    }
    for dots in series {
        for (point, says) in &dots.points {
            let (px, py) = axes.at(*point);
            let _ = write!(
                svg,
                "<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"{}\" style=\"fill:var({})\"><title>{}</title></circle>",
                dots.radius,
                dots.colour,
                escaped(says)
            );
        }
    }
    svg + &legend(series.iter().map(|dots| (dots.name, dots.colour)))
}

/// Returns lines over a common axis of `x`, with a legend.
pub(crate) fn lines(title: &str, x: &str, lines: &[Line<'_>]) -> String {
    let axes = Axes::of(lines.iter().flat_map(|line| line.points.iter().copied()), HEIGHT);
    let mut svg = axes.drawn(title, x);
    for line in lines {
        let path = axes.path(line.points.iter().copied());
        let _ = write!(
            svg,
            "<path d=\"{path}\" style=\"stroke:var({})\"><title>{}</title></path>",
            line.colour,
            escaped(line.name)
        );
    }
    svg + &legend(lines.iter().map(|line| (line.name, line.colour)))
}

/// Returns bars, one below the other.
pub(crate) fn bars(title: &str, bars: &[Bar]) -> String {
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

/// Returns bars of parts that add up to one, one below the other, with a legend of the parts.
pub(crate) fn parts(title: &str, names: &[(&str, &str)], bars: &[(String, Vec<f64>)]) -> String {
    let mut out =
        format!("<figure><figcaption>{}</figcaption><table class=\"bars\">", escaped(title));
    for (name, shares) in bars {
        let _ = write!(out, "<tr><th>{}</th><td class=\"parts\">", escaped(name));
        for (share, (part, colour)) in shares.iter().zip(names) {
            let percent = share.clamp(0.0, 1.0) * 100.0;
            let _ = write!(
                out,
                "<div style=\"width:{percent:.1}%;background:var({colour})\" title=\"{} {percent:.0} %\"></div>",
                escaped(part)
            );
        }
        out.push_str("</td></tr>");
    }
    out.push_str("</table>");
    out.push_str(legend(names.iter().copied()).trim_start_matches("</svg>"));
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
