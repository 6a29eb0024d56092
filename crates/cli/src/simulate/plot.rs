//! A run as lines of text.

use std::fmt::Write as _;

use sagellm_simulator::Moment;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const WIDTH: usize = 60;

/// Returns what came, waited, ran and was on time, each as one line over time.
pub(super) fn timeline(moments: &[Moment]) -> String {
    let mut out = String::new();
    let Some(last) = moments.last().filter(|_| moments.len() > 2) else { return out };
    let mut line = |name: &str, values: &[f64], unit: &str| {
        let columns = columns(values);
        let most = columns.iter().copied().fold(0.0, f64::max);
        let _ = writeln!(out, "{name:<12}{}  up to {most:.0}{unit}", bars(&columns, most));
    };
    let rate = |of: fn(&Moment) -> u64| -> Vec<f64> {
        let each = moments.windows(2).map(|pair| {
            let time = (pair[1].at_s - pair[0].at_s).max(1e-9);
            of(&pair[1]).saturating_sub(of(&pair[0])) as f64 / time
        });
        each.collect()
    };
    let level = |of: fn(&Moment) -> u64| -> Vec<f64> {
        moments.iter().map(|moment| of(moment) as f64).collect()
    };
    line("arriving", &rate(|moment| moment.arrived), " per second");
    line("waiting", &level(|moment| moment.waiting), "");
    line("running", &level(|moment| moment.running), "");
    line("on time", &rate(|moment| moment.on_time), " per second");
    let _ = writeln!(out, "{:<12}0{:>width$.0} s", "", last.at_s, width = WIDTH - 1);
    out
}

/// Returns the mean of each column's share of the values.
fn columns(values: &[f64]) -> Vec<f64> {
    let width = WIDTH.min(values.len()).max(1);
    let column = |place: usize| {
        let (from, to) = (place * values.len() / width, (place + 1) * values.len() / width);
        let part = &values[from..to.max(from + 1).min(values.len())];
        part.iter().sum::<f64>() / part.len().max(1) as f64
    };
    (0..width).map(column).collect()
}

fn bars(values: &[f64], most: f64) -> String {
    let bar = |value: &f64| match most > 0.0 {
        true => BARS[((value / most * 7.0).round() as usize).min(7)],
        false => BARS[0],
    };
    values.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_where_most_waited() {
        let moment = |n: u64| Moment {
            at_s: n as f64,
            waiting: if n == 30 { 70 } else { 0 },
            arrived: n,
            ..Moment::default()
        };
        let moments: Vec<Moment> = (0..60).map(moment).collect();
        let text = timeline(&moments);
        let waiting = text.lines().nth(1).expect("the second line");
        assert!(waiting.contains('█') && waiting.contains("up to 70"), "{waiting}");
        assert_eq!(timeline(&moments[..1]), "");
    }
}
