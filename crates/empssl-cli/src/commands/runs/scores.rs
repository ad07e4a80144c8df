//! The scores of a run's states, from the reports that lie in its folder.

use serde::Serialize;
use serde_json::Value;

use crate::report::Counts;
use crate::run::folder::{RunFolder, read_json};

/// The scores of the trained encoder in its last state.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Last {
    pub(super) linear: Option<f64>,
    pub(super) knn: Option<f64>,
}

/// The best linear probe, chosen among states and so a little flattering.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Best {
    pub(super) linear: f64,
    /// `last`, or the snapshot's name.
    pub(super) state: String,
}

/// What is told of all states of a run.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Scores {
    pub(super) last: Option<Last>,
    pub(super) best: Option<Best>,
    /// How many of how many test images were scored, where that is not all.
    pub(super) test_part: Option<Counts>,
}

/// The state that a run ended in or stopped at.
const LAST: &str = "last";

/// The scores of every state that was scored.
pub(super) fn of(folder: &RunFolder) -> Scores {
    let entries = std::fs::read_dir(folder.checkpoints().snapshots()).into_iter().flatten().flatten();
    let mut reports: Vec<_> = entries.map(|entry| entry.path()).collect();
    reports.sort();
    let snapshots = reports.into_iter().filter_map(|path| {
        let state = path.file_name()?.to_str()?.strip_suffix(".report.json")?.to_owned();
        Some((state, path))
    });
    let mut scores = Scores::default();
    for (state, path) in snapshots.chain([(LAST.to_owned(), folder.report(None))]) {
        // A state without a report, or with a damaged one, was not scored.
        let Ok(report) = read_json::<Value>(&path) else { continue };
        let top1 = |probe: &str| {
            let rows = report["rows"].as_array()?;
            rows.iter().find(|row| row["encoder"] == "trained" && row["probe"] == probe)?["top1"].as_f64()
        };
        let test = serde_json::from_value::<Counts>(report["partial_counts"]["test"].clone()).ok();
        scores.test_part = scores.test_part.or(test.filter(|test| test.is_part()));
        if state == LAST {
            scores.last = Some(Last { linear: top1("linear"), knn: top1("knn") });
        }
        if let Some(linear) = top1("linear")
            && scores.best.as_ref().is_none_or(|best| linear > best.linear)
        {
            scores.best = Some(Best { linear, state });
        }
    }
    scores
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_last_state_and_the_best_of_all_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        let (folder, _lock) = RunFolder::create(root.path(), false).unwrap();
        assert_eq!(of(&folder), Scores::default());
        let report = |linear: f64, knn: f64| {
            let row = |encoder: &str, probe: &str, top1: f64| serde_json::json!({ "encoder": encoder, "probe": probe, "top1": top1 });
            let rows = [row("untrained", "linear", 99.0), row("trained", "linear", linear), row("trained", "knn", knn)];
            let counts = serde_json::json!({ "test": { "found": 1017, "expected": 10000 } });
            serde_json::json!({ "rows": rows, "partial_counts": counts }).to_string()
        };
        fs::write(folder.report(None), report(50.0, 41.0)).unwrap();
        let expected = Last { linear: Some(50.0), knn: Some(41.0) };
        assert_eq!(of(&folder).last, Some(expected.clone()));
        assert_eq!(of(&folder).test_part, Some(Counts { found: 1017, expected: 10000 }));
        assert_eq!(of(&folder).best.unwrap().state, "last");
        fs::create_dir(folder.checkpoints().snapshots()).unwrap();
        fs::write(folder.report(Some(3)), report(52.5, 1.0)).unwrap();
        fs::write(folder.report(Some(4)), "torn").unwrap();
        assert_eq!(of(&folder).last, Some(expected));
        assert_eq!(of(&folder).best, Some(Best { linear: 52.5, state: "epoch-0003".to_owned() }));
    }
}
