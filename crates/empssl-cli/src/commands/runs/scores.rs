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

/// Scores of one state of a run.
pub(super) struct Scored {
    state: String,
    linear: Option<f64>,
    knn: Option<f64>,
    /// Of the test split, where it is not whole.
    test: Option<Counts>,
}

/// The state that a run ended in or stopped at.
const LAST: &str = "last";

/// Every state that was scored, snapshots first.
pub(super) fn of(folder: &RunFolder) -> Vec<Scored> {
    let snapshots = folder.checkpoints().snapshots();
    let mut reports: Vec<_> =
        std::fs::read_dir(snapshots).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    reports.retain(|path| path.to_string_lossy().ends_with(".report.json"));
    reports.sort();
    let state =
        |path: &std::path::Path| path.file_name().map(|name| name.to_string_lossy().replace(".report.json", ""));
    let snapshots = reports.iter().filter_map(|path| Some((state(path)?, path.clone())));
    let all = snapshots.chain([(LAST.to_owned(), folder.report(None))]);
    // A state without a report, or with a damaged one, was not scored.
    all.filter_map(|(state, path)| Some(scored(state, &read_json(&path).ok()?))).collect()
}

fn scored(state: String, report: &Value) -> Scored {
    let top1 = |probe: &str| {
        let rows = report["rows"].as_array()?;
        rows.iter().find(|row| row["encoder"] == "trained" && row["probe"] == probe)?["top1"].as_f64()
    };
    let test = serde_json::from_value::<Counts>(report["partial_counts"]["test"].clone()).ok();
    let test = test.filter(|test| test.found != test.expected);
    Scored { state, linear: top1("linear"), knn: top1("knn"), test }
}

/// How many of how many test images were scored, where that is not all.
pub(super) fn test_part(scores: &[Scored]) -> Option<Counts> {
    scores.iter().find_map(|scored| scored.test)
}

pub(super) fn last(scores: &[Scored]) -> Option<Last> {
    let last = scores.iter().find(|scored| scored.state == LAST)?;
    Some(Last { linear: last.linear, knn: last.knn })
}

pub(super) fn best(scores: &[Scored]) -> Option<Best> {
    let linear = scores.iter().filter_map(|scored| Some((scored.linear?, &scored.state)));
    let (linear, state) = linear.reduce(|best, next| if next.0 > best.0 { next } else { best })?;
    Some(Best { linear, state: state.clone() })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_last_state_and_the_best_of_all_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        let (folder, _lock) = RunFolder::create(root.path(), false).unwrap();
        assert!(of(&folder).is_empty());
        let report = |linear: f64, knn: f64| {
            let row = |encoder: &str, probe: &str, top1: f64| serde_json::json!({ "encoder": encoder, "probe": probe, "top1": top1 });
            let rows = [row("untrained", "linear", 99.0), row("trained", "linear", linear), row("trained", "knn", knn)];
            let counts = serde_json::json!({ "test": { "found": 1017, "expected": 10000 } });
            serde_json::json!({ "rows": rows, "partial_counts": counts }).to_string()
        };
        fs::write(folder.report(None), report(50.0, 41.0)).unwrap();
        let expected = Last { linear: Some(50.0), knn: Some(41.0) };
        assert_eq!(last(&of(&folder)), Some(expected.clone()));
        assert_eq!(test_part(&of(&folder)), Some(Counts { found: 1017, expected: 10000 }));
        assert_eq!(best(&of(&folder)).unwrap().state, "last");
        fs::create_dir(folder.checkpoints().snapshots()).unwrap();
        fs::write(folder.report(Some(3)), report(52.5, 1.0)).unwrap();
        fs::write(folder.report(Some(4)), "torn").unwrap();
        assert_eq!(last(&of(&folder)), Some(expected));
        assert_eq!(best(&of(&folder)), Some(Best { linear: 52.5, state: "epoch-0003".to_owned() }));
    }
}
