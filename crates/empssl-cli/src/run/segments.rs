//! The history of a run: one segment for each process that took part in it.

use crate::host;
use crate::report::Segment;

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
    use crate::args::TrainOptions;
    use crate::report::{Machine, Versions};

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
