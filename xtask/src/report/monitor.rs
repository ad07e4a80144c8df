//! How good the features were becoming: the kNN checks of the training.

use super::chart::{Chart, Line, Scale};
use super::model::{Check, Step};
use super::text;

/// The curve over the training.
pub(super) fn chart(steps: &[Step]) -> Chart<'static> {
    let points = checks(steps).map(|(step, check)| (step, check.knn_top1)).collect();
    Chart {
        title: "Neighbours during training",
        x_label: "training step",
        y_label: "kNN top-1, percent",
        x_scale: Scale::Even,
        lines: vec![Line { class: "trained", points }],
    }
}

/// What the curve is of and what it took, of so many seconds of training; nothing without a check.
pub(super) fn note(steps: &[Step], seconds: f64) -> Option<String> {
    let checks: Vec<Check> = checks(steps).map(|(_, check)| check).collect();
    let last = checks.last()?;
    let share = 100.0 * checks.iter().map(|check| check.seconds).sum::<f64>() / seconds;
    let patches = if last.patches == 1 { "one patch".to_owned() } else { format!("{} patches", last.patches) };
    let looks = if checks.len() == 1 { "One check".to_owned() } else { format!("{} checks", checks.len()) };
    let share =
        if share.is_finite() { format!("{} of the training time", text::percent(share)) } else { "no time".to_owned() };
    Some(format!(
        "Weighted kNN on {} labelled training images, {patches} each, every label held out in turn: a sign of how \
         training went, not a test score. {looks} took {share}.",
        text::count(last.images)
    ))
}

/// Each check in figures: step, top-1, top-5.
pub(super) fn rows(steps: &[Step]) -> Vec<[String; 3]> {
    let row = |(step, check): (f64, Check)| {
        [text::number(step), text::percent(check.knn_top1), text::percent(check.knn_top5)]
    };
    checks(steps).map(row).collect()
}

fn checks(steps: &[Step]) -> impl Iterator<Item = (f64, Check)> {
    steps.iter().filter_map(|step| Some((step.step, step.monitor?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Six steps as they are logged, with a check after every second one.
    fn steps() -> Vec<Step> {
        let line = |step: u32| {
            let check = r#","monitor":{"knn_top1":SHARE.5,"knn_top5":90,"images":1000,"patches":1,"seconds":0.25}"#;
            let check = if step % 2 == 0 { check.replace("SHARE", &step.to_string()) } else { String::new() };
            let record = format!(r#"{{"step":{step},"lr":0.1,"loss":1,"invariance":0,"coding_rate":2{check}}}"#);
            serde_json::from_str(&record).unwrap()
        };
        (1..=6).map(line).collect()
    }

    #[test]
    fn a_training_with_checks_has_a_curve_and_says_what_it_took() {
        let steps = steps();
        assert_eq!(chart(&steps).lines[0].points, [(2.0, 2.5), (4.0, 4.5), (6.0, 6.5)]);
        assert!(chart(&steps).svg().unwrap().contains("Neighbours during training"));
        let note = note(&steps, 50.0).unwrap();
        assert!(note.starts_with("Weighted kNN on 1,000 labelled training images, one patch each"), "{note}");
        assert!(note.ends_with("3 checks took 1.5 % of the training time."), "{note}");
        assert_eq!(rows(&steps)[2], ["6", "6.5 %", "90.0 %"]);
    }

    #[test]
    fn both_pages_show_the_checks_and_the_scatter_of_a_run() {
        use std::fs;
        use std::path::Path;

        let (run, fixture) = (tempfile::tempdir().unwrap(), Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/run"));
        let at = |name: &str| run.path().join(name);
        let pages = || {
            super::super::render(run.path()).unwrap();
            ["report.md", "report.html"].map(|name| fs::read_to_string(at(name)).unwrap())
        };
        fs::copy(fixture.join("report.json"), at("report.json")).unwrap();
        fs::copy(fixture.join("metrics.jsonl"), at("metrics.jsonl")).unwrap();
        let words = ["Neighbours during training", "1,000 labelled training images", "2 checks took"];
        let shown = |page: &String| words.iter().filter(|word| page.contains(**word)).count();
        assert_eq!(pages().map(|page| (shown(&page), page.contains("by their features"))), [(0, false); 2]);
        let check = r#","monitor":{"knn_top1":41.5,"knn_top5":90,"images":1000,"patches":4,"seconds":0.25}}"#;
        let text = fs::read_to_string(at("metrics.jsonl")).unwrap();
        let line = |(index, line): (usize, &str)| match (index, line.strip_suffix('}')) {
            (10 | 20, Some(open)) => format!("{open}{check}\n"),
            _ => format!("{line}\n"),
        };
        fs::write(at("metrics.jsonl"), text.lines().enumerate().map(line).collect::<String>()).unwrap();
        fs::write(at("scatter.svg"), "<svg xmlns=\"http://www.w3.org/2000/svg\"><script>1</script></svg>").unwrap();
        let [markdown, html] = pages();
        assert_eq!([&markdown, &html].map(shown), [3; 2]);
        assert!(markdown.contains("41.5 %") && markdown.contains("](scatter.svg)"), "{markdown}");
        assert!(html.contains("src=\"data:image/svg+xml;base64,PHN2Zy") && !html.contains("<script"));
    }

    #[test]
    fn a_training_without_checks_has_none_of_it() {
        let steps: Vec<Step> = steps().into_iter().filter(|step| step.monitor.is_none()).collect();
        assert!(chart(&steps).svg().is_none() && note(&steps, 50.0).is_none() && rows(&steps).is_empty());
    }
}
