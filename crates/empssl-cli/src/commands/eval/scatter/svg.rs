//! Points of several classes as SVG, on a light ground or a dark one as the reader's system asks.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Side of the square of the points, and the width of the legend beside it.
const SIDE: f64 = 560.0;
const LEGEND: f64 = 170.0;
/// Room around the points, and above them for the title.
const MARGIN: f64 = 16.0;
const TITLE: f64 = 34.0;
/// Classes that the legend names.
const NAMED: usize = 24;
/// Letters of a name that fit beside its dot.
const LETTERS: usize = 20;

/// Ten colours that are told apart on white and on black.
const COLOURS: [[u8; 3]; 10] = [
    [31, 119, 180],
    [255, 127, 14],
    [44, 160, 44],
    [214, 39, 40],
    [148, 103, 189],
    [140, 86, 75],
    [227, 119, 194],
    [127, 127, 127],
    [188, 189, 34],
    [23, 190, 207],
];

const STYLE: &str = "svg{color-scheme:light dark}.g{fill:#fff}.t{fill:#1d2127;font:13px system-ui,sans-serif}\
    .p{fill-opacity:.78}@media (prefers-color-scheme:dark){.g{fill:#1b1f25}.t{fill:#e6e8eb}}";

/// What is drawn.
pub(super) struct Drawing<'a> {
    pub(super) title: &'a str,
    pub(super) points: &'a [[f64; 2]],
    /// The class of each point.
    pub(super) classes: &'a [usize],
    pub(super) class_names: &'a [String],
}

impl Drawing<'_> {
    pub(super) fn svg(&self) -> String {
        let (width, height) = (SIDE + LEGEND, SIDE + TITLE);
        let title = escape(self.title);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\">\
             <title>{title}</title><style>{STYLE}</style>\
             <rect class=\"g\" width=\"{width}\" height=\"{height}\"/>\
             <text class=\"t\" x=\"{MARGIN}\" y=\"23\">{title}</text>{}{}</svg>\n",
            self.circles(),
            self.legend()
        )
    }

    /// One circle for each point, both axes at one scale.
    fn circles(&self) -> String {
        let [x, y] = [0, 1].map(|axis| range(self.points.iter().map(|point| point[axis])));
        let extent = (x[1] - x[0]).max(y[1] - y[0]);
        let scale = if extent > 0.0 { (SIDE - 2.0 * MARGIN) / extent } else { 0.0 };
        let middle = [(x[0] + x[1]) / 2.0, (y[0] + y[1]) / 2.0];
        let mut drawn = String::new();
        for (point, &class) in self.points.iter().zip(self.classes) {
            let across = SIDE / 2.0 + (point[0] - middle[0]) * scale;
            let down = TITLE + SIDE / 2.0 - (point[1] - middle[1]) * scale;
            let colour = self.colour(class);
            // Writing to a string cannot fail.
            let _ =
                write!(drawn, "<circle class=\"p\" cx=\"{across:.1}\" cy=\"{down:.1}\" r=\"3.2\" fill=\"{colour}\"/>");
        }
        drawn
    }

    /// The classes that have points, the most frequent ones where there are many.
    fn legend(&self) -> String {
        let mut counts = BTreeMap::new();
        self.classes.iter().for_each(|&class| *counts.entry(class).or_insert(0) += 1);
        let mut shown: Vec<(usize, usize)> = counts.iter().map(|(&class, &count)| (class, count)).collect();
        shown.sort_by_key(|&(class, count)| (std::cmp::Reverse(count), class));
        shown.truncate(NAMED);
        shown.sort_unstable();
        let mut drawn = String::new();
        let line = |place: usize| TITLE + MARGIN + 20.0 * place as f64;
        for (place, &(class, _)) in shown.iter().enumerate() {
            let name: String =
                self.class_names.get(class).map_or("no name", String::as_str).chars().take(LETTERS).collect();
            let (colour, name, y) = (self.colour(class), escape(&name), line(place));
            let (dot, left, base) = (SIDE + 6.0, SIDE + 18.0, y + 4.5);
            let _ = write!(
                drawn,
                "<circle cx=\"{dot}\" cy=\"{y}\" r=\"5\" fill=\"{colour}\"/>\
                 <text class=\"t\" x=\"{left}\" y=\"{base}\">{name}</text>"
            );
        }
        if counts.len() > shown.len() {
            let (left, base, more) = (SIDE + 18.0, line(shown.len()) + 4.5, counts.len() - shown.len());
            let _ = write!(drawn, "<text class=\"t\" x=\"{left}\" y=\"{base}\">and {more} more</text>");
        }
        drawn
    }

    /// Of ten classes the ten colours; of more, hues all around, every other one darker.
    fn colour(&self, class: usize) -> String {
        let [r, g, b] = match self.class_names.len() {
            0..=10 => COLOURS[class % 10],
            n => hue(class as f64 / n as f64, if class.is_multiple_of(2) { 0.62 } else { 0.44 }),
        };
        format!("#{r:02x}{g:02x}{b:02x}")
    }
}

/// Smallest and largest.
fn range(numbers: impl Iterator<Item = f64>) -> [f64; 2] {
    numbers.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], number| [low.min(number), high.max(number)])
}

/// A colour of this hue, in turns, and lightness, at a saturation of 0.65 (the HSL cone).
fn hue(turn: f64, lightness: f64) -> [u8; 3] {
    let reach = 0.65 * lightness.min(1.0 - lightness);
    [0.0, 8.0, 4.0].map(|offset| {
        let place = (offset + turn * 12.0) % 12.0;
        let value = lightness - reach * (place - 3.0).min(9.0 - place).clamp(-1.0, 1.0);
        (value * 255.0).round() as u8
    })
}

/// Makes text safe inside an element.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|class| format!("class {class}")).collect()
    }

    /// The places of the points in a drawing.
    fn places(svg: &str) -> Vec<[f64; 2]> {
        let number =
            |text: &str, key: &str| text.split(key).nth(1).unwrap().split('"').next().unwrap().parse().unwrap();
        svg.split("<circle class=\"p\"").skip(1).map(|rest| [number(rest, "cx=\""), number(rest, "cy=\"")]).collect()
    }

    #[test]
    fn points_fill_their_square_at_one_scale_and_rise_upwards() {
        let (points, names) = ([[-2.0, 0.0], [2.0, 1.0], [0.0, -1.0]], names(3));
        let svg = Drawing { title: "t & u", points: &points, classes: &[0, 1, 2], class_names: &names }.svg();
        assert_eq!(places(&svg), [[16.0, 314.0], [544.0, 182.0], [280.0, 446.0]]);
        assert!(svg.contains("<title>t &amp; u</title>") && svg.contains("prefers-color-scheme:dark"));
        assert!(names.iter().all(|name| svg.contains(&format!(">{name}</text>"))));
        assert!(svg.contains("#1f77b4") && svg.contains("#2ca02c"));
    }

    #[test]
    fn the_legend_of_many_classes_names_the_most_frequent() {
        let classes: Vec<usize> = (0..100).chain([97, 97, 98]).collect();
        let points = vec![[0.0, 0.0]; classes.len()];
        let svg = Drawing { title: "", points: &points, classes: &classes, class_names: &names(100) }.svg();
        assert!(svg.contains(">class 97<") && svg.contains(">class 98<") && svg.contains(">class 21<"));
        assert!(!svg.contains(">class 22<") && svg.contains(">and 76 more<"));
        assert_eq!(places(&svg)[0], [280.0, 314.0]);
    }

    #[test]
    fn hues_go_around_the_wheel_and_differ() {
        assert_eq!([hue(0.0, 0.5), hue(1.0 / 3.0, 0.5)], [[210, 45, 45], [45, 210, 45]]);
        let names = names(100);
        let drawing = Drawing { title: "", points: &[], classes: &[], class_names: &names };
        let mut colours: Vec<String> = (0..100).map(|class| drawing.colour(class)).collect();
        colours.sort();
        colours.dedup();
        assert_eq!(colours.len(), 100);
    }
}
