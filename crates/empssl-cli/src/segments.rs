//! The history of a run: one segment for each process that took part in it.

use serde::{Deserialize, Serialize};

use crate::args::TrainOptions;
use crate::host;
use crate::report::Machine;

/// What one process did, and under which settings of its own, none of which changes the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Segment {
    /// When training began, in UTC.
    pub(crate) began: String,
    /// When it ended; missing for a process that was killed or failed.
    pub(crate) ended: Option<String>,
    pub(crate) host: String,
    pub(crate) machine: Machine,
    pub(crate) workers: usize,
    /// Processes that shared every batch; how many moves the last bits.
    #[serde(default = "one")]
    pub(crate) ranks: usize,
    /// What was asked for, in this call or in those before it.
    #[serde(default)]
    pub(crate) options: TrainOptions,
    /// Keys changed with `--set`; at a resume only such as do not change the result.
    pub(crate) changes: Vec<String>,
    pub(crate) command: String,
    /// Steps that were done before.
    pub(crate) from_step: u64,
    /// Steps that were done after it and that later processes built on; missing while it runs.
    pub(crate) to_step: Option<u64>,
}

/// Segments of runs from before there could be several say nothing.
fn one() -> usize {
    1
}

/// Begins a segment at `segment.from_step`: what earlier ones did beyond that step is lost and done again.
pub(crate) fn begin(segments: &mut Vec<Segment>, segment: Segment) {
    let step = segment.from_step;
    for earlier in segments.iter_mut() {
        earlier.from_step = earlier.from_step.min(step);
        earlier.to_step = Some(earlier.to_step.unwrap_or(step).min(step));
    }
    segments.push(segment);
}

/// Ends the last segment at a step.
pub(crate) fn end(segments: &mut [Segment], step: u64) {
    if let Some(last) = segments.last_mut() {
        (last.ended, last.to_step) = (Some(host::utc_now()), Some(step));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Versions;

    fn segment(from_step: u64) -> Segment {
        let versions = Versions { empssl: "0".to_owned(), libtorch: "0".to_owned() };
        Segment {
            began: host::utc_now(),
            ended: None,
            host: host::name(),
            machine: Machine {
                device: "cpu".to_owned(),
                device_name: String::new(),
                threads: 1,
                versions,
                commit: None,
            },
            workers: 1,
            ranks: 1,
            options: TrainOptions::default(),
            changes: Vec::new(),
            command: "empssl train".to_owned(),
            from_step,
            to_step: None,
        }
    }

    #[test]
    fn segments_meet_where_a_later_process_went_on() {
        let mut segments = Vec::new();
        begin(&mut segments, segment(0));
        end(&mut segments, 30);
        begin(&mut segments, segment(30)); // killed
        begin(&mut segments, segment(40)); // killed, and both its checkpoints turn out to be damaged
        begin(&mut segments, segment(20));
        end(&mut segments, 60);
        let steps: Vec<_> = segments.iter().map(|s| (s.from_step, s.to_step.unwrap())).collect();
        assert_eq!(steps, [(0, 20), (20, 20), (20, 20), (20, 60)]);
        let ended: Vec<_> = segments.iter().map(|s| s.ended.is_some()).collect();
        assert_eq!(ended, [true, false, false, true]);
    }
}
