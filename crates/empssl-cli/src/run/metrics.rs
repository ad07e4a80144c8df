//! `metrics.jsonl`: what it says up to a step.

use std::io::ErrorKind;
use std::path::Path;

use empssl_report::metrics::Progress;

use super::folder::write_file;
use crate::error::CliError;

/// The lines of a metrics file up to a step, with what they say.
fn records(path: &Path, last_step: u64) -> Result<Vec<(String, Progress)>, CliError> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(|e| CliError::file("cannot read", path, e))?,
    };
    let text = String::from_utf8_lossy(&bytes);
    let mut kept: Vec<(String, Progress)> = Vec::new();
    let mut damage = None;
    for (index, line) in text.lines().enumerate() {
        let record = serde_json::from_str::<Progress>(line).ok();
        let expected = kept.last().map_or(1, |(_, last)| last.step + 1);
        match (record.filter(|record| record.step >= expected), damage) {
            (Some(record), _) if record.step > last_step => break,
            (Some(record), None) => kept.push((line.to_owned(), record)),
            // What follows a damaged line is needed: the damage is not the end of a line that a kill cut short.
            (Some(_), Some(index)) => {
                let reason = format!("line {} is damaged or out of order; mend or remove it", index + 1);
                return Err(CliError::file("cannot go on with", path, reason));
            }
            (None, _) => damage = damage.or(Some(index)),
        }
    }
    Ok(kept)
}

/// Drops the lines of a metrics file that lie after `last_step`, and a line cut short by a kill; returns the seconds of
/// training up to the last line kept.
pub(crate) fn keep_up_to(path: &Path, last_step: u64) -> Result<f64, CliError> {
    let kept = records(path, last_step)?;
    let text: String = kept.iter().map(|(line, _)| format!("{line}\n")).collect();
    write_file(path, text.as_bytes())?;
    Ok(kept.last().map_or(0.0, |(_, record)| record.seconds))
}

/// Seconds of training up to a step, by the last record up to there.
pub(crate) fn seconds_at(metrics: &Path, step: u64) -> Result<f64, CliError> {
    Ok(records(metrics, step)?.last().map_or(0.0, |(_, record)| record.seconds))
}

/// The last step that was logged; 0 when none was.
pub(crate) fn last_step(metrics: &Path) -> Result<u64, CliError> {
    Ok(records(metrics, u64::MAX)?.last().map_or(0, |(_, record)| record.step))
}
