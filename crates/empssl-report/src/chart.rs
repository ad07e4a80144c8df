//! Line charts as inline SVG: axes, units, one legend, colours by the classes of the page's style sheet; and as tables of
//! some of their points.

use maud::{Markup, html};

use crate::table::{Cell, Table};
use crate::words;

/// The drawing's width and height, in the units of its view box.
const SIZE: (f64, f64) = (420.0, 250.0);
/// The box of the curves within it, which leaves room for labels.
const LEFT: f64 = 66.0;
const RIGHT: f64 = SIZE.0 - 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = SIZE.1 - 42.0;

/// More points than this only make the page heavy.
const MAX_POINTS: usize = 400;

/// Points that stand for a curve in a table, about.
const SAMPLES: usize = 12;

/// A chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// What is drawn.
    pub title: String,
    /// What lies to the right.
    pub x_label: &'static str,
    /// What lies upwards; accuracies end in `percent`.
    pub y_label: String,
    /// How the horizontal axis goes.
    pub x_scale: Scale,
    /// The curves.
    pub lines: Vec<Line>,
    /// What a reader should know about it; may be empty.
    pub note: String,
}

/// How a horizontal axis goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Equal steps.
    Even,
    /// Each step doubles; the few points of such lines are marked.
    Doubling,
}

/// One line of a chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// In the legend.
    pub name: String,
    /// Class of the style sheet that gives the colour.
    pub class: &'static str,
    /// In their order.
    pub points: Vec<(f64, f64)>,
}

/// Tables of some of the points, one for all neighbouring charts over the same axis.
pub(crate) fn samples(charts: &[Chart]) -> Vec<Table> {
    charts
        .chunk_by(|one, next| one.x_label == next.x_label)
        .map(sampled)
        .filter(|table| !table.rows.is_empty())
        .collect()
}

fn sampled(charts: &[Chart]) -> Table {
    let (mut heads, mut lines) = (vec![charts[0].x_label.to_owned()], Vec::new());
    for (chart, line) in charts.iter().flat_map(|chart| chart.lines.iter().map(move |line| (chart, line))) {
        heads.push(match (charts.len(), chart.lines.len()) {
            (_, 1) => chart.title.clone(),
            (1, _) => line.name.clone(),
            _ => format!("{}, {}", chart.title, line.name),
        });
        lines.push((chart.y_label.ends_with("percent"), &line.points));
    }
    let mut places: Vec<f64> = lines.iter().flat_map(|(_, points)| points.iter().map(|point| point.0)).collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    let value = |x: f64, points: &[(f64, f64)], words: fn(f64) -> String| {
        points.iter().find(|point| point.0 == x).map_or(Cell::default(), |point| words(point.1).into())
    };
    let row = |&x: &f64| {
        let values = lines
            .iter()
            .map(|(percent, points)| value(x, points, if *percent { words::percent } else { words::number }));
        [Cell::from(words::number(x))].into_iter().chain(values).collect()
    };
    let rows = words::sampled(&places, SAMPLES).map(row).collect();
    Table { heads, rows }
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
            return self.ticks.iter().map(|tick| words::decimals(tick.exp2(), (-tick).max(0.0) as usize)).collect();
        }
        let step = self.ticks.windows(2).map(|pair| pair[1] - pair[0]).next().unwrap_or(1.0);
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        self.ticks.iter().map(|&tick| words::decimals(tick, decimals)).collect()
    }
}

/// The next of 1, 2, 5, 10, 20, 50, ...
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|digit| digit * power).find(|&round| round >= step * 0.999).unwrap_or(step)
}

impl Chart {
    /// A chart of those lines that have points, over equal steps and without a note.
    pub fn new(
        title: impl Into<String>,
        x_label: &'static str,
        y_label: impl Into<String>,
        lines: impl IntoIterator<Item = Line>,
    ) -> Self {
        let lines = lines.into_iter().filter(|line| !line.points.is_empty()).collect();
        let (title, y_label, note) = (title.into(), y_label.into(), String::new());
        Self { title, x_label, y_label, x_scale: Scale::Even, lines, note }
    }

    /// Whether a line of it has two finite points, without which there is nothing to draw.
    pub(crate) fn has_lines(&self) -> bool {
        self.lines.iter().any(|line| thinned(&line.points).len() > 1)
    }

    /// The chart in a frame, or nothing where no line has two finite points.
    pub(crate) fn figure(&self) -> Markup {
        html! {
            @if self.has_lines() {
                figure {
                    h3 { (self.title) }
                    @if self.lines.len() > 1 {
                        p.legend { @for line in &self.lines { span { span.dot.(line.class) {} (line.name) } } }
                    }
                    (self.svg())
                    @if !self.note.is_empty() { p.note { (self.note) } }
                }
            }
        }
    }

    fn svg(&self) -> Markup {
        let marked = self.x_scale == Scale::Doubling;
        let placed = |&(x, y): &(f64, f64)| (if marked { x.log2() } else { x }, y);
        let thin = |line: &Line| thinned(&line.points.iter().map(placed).collect::<Vec<_>>());
        let lines: Vec<_> = self.lines.iter().map(|line| (line.class, thin(line))).collect();
        let all = || lines.iter().flat_map(|(_, points)| points);
        let x = if marked { Axis::over_doublings(all().map(|p| p.0)) } else { Axis::over(all().map(|p| p.0), false) };
        let y = Axis::over(all().map(|p| p.1), true);
        let across = |value: f64| LEFT + x.place(value) * (RIGHT - LEFT);
        let down = |value: f64| BOTTOM - y.place(value) * (BOTTOM - TOP);
        html! {
            svg viewBox={ "0 0 " (SIZE.0) " " (SIZE.1) } role="img" aria-label=(self.title) {
                (vertical(&y, &self.y_label, down))
                (horizontal(&x, self.x_label, across))
                @for (class, points) in &lines {
                    (drawn(class, points.iter().map(|&(a, b)| (across(a), down(b))).collect(), marked))
                }
            }
        }
    }
}

/// A place in the drawing.
fn at(place: f64) -> String {
    format!("{place:.1}")
}

fn vertical(axis: &Axis, label: &str, down: impl Fn(f64) -> f64) -> Markup {
    html! {
        @for (&tick, label) in axis.ticks.iter().zip(axis.labels()) {
            line.grid x1=(LEFT) x2=(RIGHT) y1=(at(down(tick))) y2=(at(down(tick))) {}
            text.end x=(LEFT - 7.0) y=(at(down(tick) + 4.0)) { (label) }
        }
        text.mid transform={ "translate(12 " ((TOP + BOTTOM) / 2.0) ") rotate(-90)" } { (label) }
    }
}

fn horizontal(axis: &Axis, label: &str, across: impl Fn(f64) -> f64) -> Markup {
    html! {
        @for (&tick, label) in axis.ticks.iter().zip(axis.labels()) {
            line.tick x1=(at(across(tick))) x2=(at(across(tick))) y1=(BOTTOM) y2=(BOTTOM + 4.0) {}
            text.mid x=(at(across(tick))) y=(BOTTOM + 17.0) { (label) }
        }
        line.axis x1=(LEFT) x2=(RIGHT) y1=(BOTTOM) y2=(BOTTOM) {}
        text.mid x=((LEFT + RIGHT) / 2.0) y=(SIZE.1 - 7.0) { (label) }
    }
}

/// A line, and where asked for a mark on each of its points.
fn drawn(class: &str, places: Vec<(f64, f64)>, marked: bool) -> Markup {
    let line: Vec<_> = places.iter().map(|(a, b)| format!("{a:.1},{b:.1}")).collect();
    html! {
        polyline.(class) points=(line.join(" ")) {}
        @if marked { @for (a, b) in &places { circle.(class) cx=(at(*a)) cy=(at(*b)) r="3.2" {} } }
    }
}

/// The finite points, of many only so many.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let finite: Vec<_> = points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    words::sampled(&finite, MAX_POINTS).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> Chart {
        Chart::new("a < b", "step", "loss", [Line { name: "a line".to_owned(), class: "trained", points }])
    }

    #[test]
    fn doublings_are_equally_far_apart_and_their_points_marked() {
        let doubling = |points| Chart { x_scale: Scale::Doubling, ..chart(points) }.figure().into_string();
        let svg = doubling(vec![(1.0, 5.0), (2.0, 6.0), (4.0, 7.0), (128.0, 8.0)]);
        let marks: Vec<f64> =
            svg.split("cx=\"").skip(1).map(|rest| rest.split('"').next().unwrap().parse().unwrap()).collect();
        assert_eq!(marks.len(), 4);
        assert!((marks[1] - marks[0] - (marks[2] - marks[1])).abs() < 0.2 && marks[3] > marks[2], "{marks:?}");
        for label in [">1<", ">2<", ">64<", ">128<"] {
            assert!(svg.contains(label), "{label} is missing in {svg}");
        }
        assert!(!chart(vec![(1.0, 1.0), (2.0, 2.0)]).figure().into_string().contains("<circle"));
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
        let svg = chart(vec![(1.0, -3.0), (2.0, f64::NAN), (3.0, 9.0)]).figure().into_string();
        assert!(svg.contains("a &lt; b") && !svg.contains("NaN"));
        let points = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        let places: Vec<Vec<f64>> =
            points.split(' ').map(|pair| pair.split(',').map(|number| number.parse().unwrap()).collect()).collect();
        assert_eq!(places.len(), 2);
        assert!(places[0][0] < places[1][0] && places[0][1] > places[1][1], "{places:?}");
        for place in places {
            assert!((LEFT..=SIZE.0).contains(&place[0]) && (0.0..=SIZE.1).contains(&place[1]), "{place:?}");
        }
    }

    #[test]
    fn too_few_points_make_no_chart_and_many_are_thinned() {
        assert_eq!(chart(vec![]).figure().into_string(), "");
        assert_eq!(chart(vec![(1.0, 1.0), (2.0, f64::INFINITY)]).figure().into_string(), "");
        let many: Vec<_> = (0..10_000).map(|i| (f64::from(i), f64::from(i % 7))).collect();
        let kept = thinned(&many);
        assert!(kept.len() <= MAX_POINTS + 1);
        assert_eq!(kept.last(), many.last());
    }

    #[test]
    fn curves_over_one_axis_share_a_table_of_some_of_their_points() {
        let points = |factor: f64| (1..=100).map(|x| (f64::from(x), factor * f64::from(x))).collect();
        let percents = Chart { title: "b".to_owned(), y_label: "top-1, percent".to_owned(), ..chart(points(0.5)) };
        let [table] = <[Table; 1]>::try_from(samples(&[chart(points(1.0)), percents])).unwrap();
        assert_eq!(table.heads, ["step", "a < b", "b"]);
        let text = |row: &Vec<Cell>| row.iter().map(|cell| cell.text.clone()).collect::<Vec<_>>();
        assert_eq!(text(table.rows.last().unwrap()), ["100", "100", "50.0 %"]);
        assert!((10..=13).contains(&table.rows.len()));
    }
}
