//! Line charts as inline SVG: axes, units, one legend, colours by the classes of the page's style sheet.

use super::html::escape;
use super::text;

/// The drawing's size and the room for labels around it, in the units of its view box.
const SIZE: (f64, f64) = (420.0, 250.0);
const MARGIN: Margin = Margin { left: 66.0, right: 14.0, top: 12.0, bottom: 42.0 };

/// More points than this only make the page heavy.
const MAX_POINTS: usize = 400;

struct Margin {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

/// What a chart shows.
pub(crate) struct Chart<'a> {
    /// What a reader hears instead of seeing it.
    pub(crate) title: &'a str,
    pub(crate) x_label: &'a str,
    pub(crate) y_label: &'a str,
    pub(crate) x_scale: Scale,
    pub(crate) lines: Vec<Line<'a>>,
}

/// How the horizontal axis goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Equal steps.
    Even,
    /// Each step doubles; the few points of such lines are marked.
    Doubling,
}

/// One line of a chart.
pub(crate) struct Line<'a> {
    /// Class of the style sheet that gives the colour.
    pub(crate) class: &'a str,
    pub(crate) points: Vec<(f64, f64)>,
}

/// The range of an axis and where it is marked.
struct Axis {
    low: f64,
    high: f64,
    ticks: Vec<f64>,
    /// Whether a tick stands for so many doublings of one.
    doublings: bool,
}

impl Axis {
    /// An axis over the values, ending on round numbers where `rounded`.
    fn over(values: impl Iterator<Item = f64>, rounded: bool) -> Self {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        // What differs by rounding alone is one value: ticks between would be alike too.
        let differ = high - low > 1e-9 * low.abs().max(high.abs());
        let (low, high) = if differ { (low, high) } else { (low - 0.5, low + 0.5) };
        let step = round_step((high - low) / if rounded { 4.5 } else { 6.5 });
        let (low, high) =
            if rounded { ((low / step).floor() * step, (high / step).ceil() * step) } else { (low, high) };
        let first = (low / step).ceil() as i64;
        let last = (high / step + 1e-9).floor() as i64;
        Self { low, high, ticks: (first..=last).map(|i| i as f64 * step).collect(), doublings: false }
    }

    /// An axis over logarithms to base two, marked at whole ones.
    fn over_doublings(values: impl Iterator<Item = f64>) -> Self {
        let even = Self::over(values, false);
        let (first, last) = (even.low.ceil() as i64, (even.high + 1e-9).floor() as i64);
        let stride = (last - first) / 8 + 1;
        let ticks = (first..=last).filter(|tick| (tick - first) % stride == 0).map(|tick| tick as f64).collect();
        Self { ticks, doublings: true, ..even }
    }

    /// Where a value lies between the ends, 0 to 1.
    fn place(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// Labels with the decimals that tell the ticks apart.
    fn labels(&self) -> Vec<String> {
        if self.doublings {
            return self.ticks.iter().map(|tick| text::decimals(tick.exp2(), (-tick).max(0.0) as usize)).collect();
        }
        let step = self.ticks.windows(2).map(|pair| pair[1] - pair[0]).next().unwrap_or(1.0);
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        self.ticks.iter().map(|&tick| text::decimals(tick, decimals)).collect()
    }
}

/// The next of 1, 2, 5, 10, 20, 50, ...
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|digit| digit * power).find(|&round| round >= step * 0.999).unwrap_or(step)
}

impl Chart<'_> {
    /// The chart as an `svg` element, or nothing where no line has two finite points.
    pub(crate) fn svg(&self) -> Option<String> {
        let lines: Vec<_> = self.lines.iter().map(|line| (line.class, thinned(&self.placed(&line.points)))).collect();
        if !lines.iter().any(|(_, points)| points.len() > 1) {
            return None;
        }
        let all = || lines.iter().flat_map(|(_, points)| points);
        let marked = self.x_scale == Scale::Doubling;
        let x = if marked { Axis::over_doublings(all().map(|p| p.0)) } else { Axis::over(all().map(|p| p.0), false) };
        let y = Axis::over(all().map(|p| p.1), true);
        let drawn: String = lines.iter().map(|(class, points)| drawn(class, points, &x, &y, marked)).collect();
        let (width, height) = SIZE;
        Some(format!(
            "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">{}{}{drawn}</svg>",
            escape(self.title),
            self.vertical(&y),
            self.horizontal(&x)
        ))
    }

    /// The points on the scale of the horizontal axis.
    fn placed(&self, points: &[(f64, f64)]) -> Vec<(f64, f64)> {
        match self.x_scale {
            Scale::Even => points.to_vec(),
            Scale::Doubling => points.iter().map(|&(x, y)| (x.log2(), y)).collect(),
        }
    }

    fn vertical(&self, axis: &Axis) -> String {
        let (left, right) = (MARGIN.left, SIZE.0 - MARGIN.right);
        let marks = axis.ticks.iter().zip(axis.labels()).map(|(&tick, label)| {
            let y = down(axis, tick);
            let (near, base) = (left - 7.0, y + 4.0);
            format!(
                "<line class=\"grid\" x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"end\" x=\"{near}\" y=\"{base:.1}\">{label}</text>"
            )
        });
        let middle = (MARGIN.top + SIZE.1 - MARGIN.bottom) / 2.0;
        let label = escape(self.y_label);
        marks.collect::<String>()
            + &format!("<text class=\"mid\" transform=\"translate(12 {middle}) rotate(-90)\">{label}</text>")
    }

    fn horizontal(&self, axis: &Axis) -> String {
        let bottom = SIZE.1 - MARGIN.bottom;
        let marks = axis.ticks.iter().zip(axis.labels()).map(|(&tick, label)| {
            let x = across(axis, tick);
            let (end, base) = (bottom + 4.0, bottom + 17.0);
            format!(
                "<line class=\"tick\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom}\" y2=\"{end}\"/>\
                 <text class=\"mid\" x=\"{x:.1}\" y=\"{base}\">{label}</text>"
            )
        });
        let (left, right) = (MARGIN.left, SIZE.0 - MARGIN.right);
        let (middle, base, label) = ((left + right) / 2.0, SIZE.1 - 7.0, escape(self.x_label));
        marks.collect::<String>()
            + &format!("<line class=\"axis\" x1=\"{left}\" x2=\"{right}\" y1=\"{bottom}\" y2=\"{bottom}\"/>")
            + &format!("<text class=\"mid\" x=\"{middle}\" y=\"{base}\">{label}</text>")
    }
}

fn across(axis: &Axis, value: f64) -> f64 {
    MARGIN.left + axis.place(value) * (SIZE.0 - MARGIN.left - MARGIN.right)
}

fn down(axis: &Axis, value: f64) -> f64 {
    SIZE.1 - MARGIN.bottom - axis.place(value) * (SIZE.1 - MARGIN.top - MARGIN.bottom)
}

/// A line, and where asked for a mark on each of its points.
fn drawn(class: &str, points: &[(f64, f64)], x: &Axis, y: &Axis, marked: bool) -> String {
    let places: Vec<_> = points.iter().map(|&(a, b)| (across(x, a), down(y, b))).collect();
    let line: Vec<_> = places.iter().map(|(a, b)| format!("{a:.1},{b:.1}")).collect();
    let mark = |(a, b): &(f64, f64)| format!("<circle class=\"{class}\" cx=\"{a:.1}\" cy=\"{b:.1}\" r=\"3.2\"/>");
    let marks: String = if marked { places.iter().map(mark).collect() } else { String::new() };
    format!("<polyline class=\"{class}\" points=\"{}\"/>{marks}", line.join(" "))
}

/// The finite points, of many only so many.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let finite: Vec<_> = points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    text::sampled(&finite, MAX_POINTS).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> Chart<'static> {
        let lines = vec![Line { class: "trained", points }];
        Chart { title: "a < b", x_label: "step", y_label: "loss", x_scale: Scale::Even, lines }
    }

    #[test]
    fn doublings_are_equally_far_apart_and_their_points_marked() {
        let doubling = |points| Chart { x_scale: Scale::Doubling, ..chart(points) }.svg().unwrap();
        let svg = doubling(vec![(1.0, 5.0), (2.0, 6.0), (4.0, 7.0), (128.0, 8.0)]);
        let marks: Vec<f64> =
            svg.split("cx=\"").skip(1).map(|rest| rest.split('"').next().unwrap().parse().unwrap()).collect();
        assert_eq!(marks.len(), 4);
        assert!((marks[1] - marks[0] - (marks[2] - marks[1])).abs() < 0.2 && marks[3] > marks[2], "{marks:?}");
        for label in [">1<", ">2<", ">64<", ">128<"] {
            assert!(svg.contains(label), "{label} is missing in {svg}");
        }
        assert!(!chart(vec![(1.0, 1.0), (2.0, 2.0)]).svg().unwrap().contains("<circle"));
        let small = doubling(vec![(0.3, 5.0), (0.9, 6.0)]);
        assert!(small.contains(">0.5<"), "{small}");
        let far = doubling(vec![(1.0, 5.0), (65536.0, 6.0)]);
        assert!(far.matches("class=\"tick\"").count() <= 9, "{far}");
    }

    #[test]
    fn steps_between_ticks_are_round() {
        for (step, round) in [(0.7, 1.0), (1.0, 1.0), (1.2, 2.0), (3.0, 5.0), (7.0, 10.0), (0.013, 0.02)] {
            assert!((round_step(step) - round).abs() < 1e-12, "{step} gave {}", round_step(step));
        }
    }

    #[test]
    fn ticks_cover_the_values_and_their_labels_differ() {
        for (low, high) in
            [(0.0, 1.0), (-161.3, -12.0), (0.0003, 0.0301), (5.0, 5.0), (51.3, 51.3f64.next_up()), (1.0, 1e6)]
        {
            let axis = Axis::over([low, high].into_iter(), true);
            assert!(axis.low <= low && axis.high >= high && (3..=9).contains(&axis.ticks.len()), "{low} to {high}");
            let mut labels = axis.labels();
            labels.dedup();
            assert_eq!(labels.len(), axis.ticks.len(), "{labels:?}");
        }
    }

    #[test]
    fn a_line_stays_inside_the_drawing_and_rises_upwards() {
        let svg = chart(vec![(1.0, -3.0), (2.0, f64::NAN), (3.0, 9.0)]).svg().unwrap();
        assert!(svg.contains("a &lt; b") && !svg.contains("NaN"));
        let points = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        let places: Vec<Vec<f64>> =
            points.split(' ').map(|pair| pair.split(',').map(|number| number.parse().unwrap()).collect()).collect();
        assert_eq!(places.len(), 2);
        assert!(places[0][0] < places[1][0] && places[0][1] > places[1][1], "{places:?}");
        for place in places {
            assert!((MARGIN.left..=SIZE.0).contains(&place[0]) && (0.0..=SIZE.1).contains(&place[1]), "{place:?}");
        }
    }

    #[test]
    fn too_few_points_make_no_chart_and_many_are_thinned() {
        assert!(chart(vec![]).svg().is_none());
        assert!(chart(vec![(1.0, 1.0), (2.0, f64::INFINITY)]).svg().is_none());
        let many: Vec<_> = (0..10_000).map(|i| (f64::from(i), f64::from(i % 7))).collect();
        let kept = thinned(&many);
        assert!(kept.len() <= MAX_POINTS + 1);
        assert_eq!(kept.last(), many.last());
    }
}
