//! A bar, or plain lines, for work that may take minutes, and Ctrl-C.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::Instant;

use empssl_data::progress::{Progress, Stage};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::error::CliError;
use crate::print;
use crate::progress::LINE_EVERY;
use crate::signals::Stop;

/// Shows how far the work has come, and stops it after Ctrl-C.
pub(super) struct Watch {
    stop: Stop,
    /// What is shown now: stage and file, and how much there is.
    subject: Option<(Stage, String, Option<u64>)>,
    bar: ProgressBar,
    last_line: Instant,
}

impl Watch {
    /// The first Ctrl-C asks the work to leave everything in order and end; the second ends it at once.
    pub(super) fn new() -> Result<Self, CliError> {
        let stop = Stop::watch("stopping; press Ctrl-C again to leave at once")?;
        Ok(Self { stop, subject: None, bar: ProgressBar::hidden(), last_line: Instant::now() })
    }

    /// The observer that the data crate calls.
    pub(super) fn see(&mut self, progress: &Progress<'_>) -> ControlFlow<()> {
        let subject = (progress.stage, progress.what.to_owned(), progress.total);
        if self.subject.as_ref() != Some(&subject) {
            self.begin(progress);
            self.subject = Some(subject);
        }
        self.bar.set_position(progress.done);
        if self.bar.is_hidden() && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            print::line(format_args!("{} {}: {}", verb(progress.stage), progress.what, amount(progress)));
        }
        if self.stop.flag().load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn begin(&mut self, progress: &Progress<'_>) {
        self.bar.finish_and_clear();
        self.bar = ProgressBar::with_draw_target(progress.total, ProgressDrawTarget::stderr());
        let counted = match (progress.stage, progress.total) {
            (stage, Some(_)) if counts_images(stage) => "{bar:30} {pos}/{len} images  {eta} left",
            (stage, None) if counts_images(stage) => "{spinner}",
            (_, Some(_)) => "{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left",
            (_, None) => "{spinner} {bytes}  {bytes_per_sec}",
        };
        let template = format!("{} {{msg}} {counted}", verb(progress.stage));
        self.bar.set_style(ProgressStyle::with_template(&template).expect("a valid template"));
        self.bar.set_message(progress.what.to_owned());
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn verb(stage: Stage) -> &'static str {
    match stage {
        Stage::Download => "downloading",
        Stage::Checksum => "summing",
        Stage::Decode => "decoding",
    }
}

/// Others count bytes.
fn counts_images(stage: Stage) -> bool {
    stage == Stage::Decode
}

/// `3 of 170 MB`, `400 of 50000 images`.
fn amount(progress: &Progress<'_>) -> String {
    let (unit, name) = if counts_images(progress.stage) { (1, "images") } else { (1_000_000, "MB") };
    let unit = |n: u64| n / unit;
    match progress.total {
        Some(total) => format!("{} of {} {name}", unit(progress.done), unit(total)),
        None => format!("{} {name}", unit(progress.done)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_their_unit() {
        let at = |stage, total| amount(&Progress { stage, what: "a", done: 3_500_000, total });
        assert_eq!(at(Stage::Download, Some(170_052_171)), "3 of 170 MB");
        assert_eq!(at(Stage::Checksum, None), "3 MB");
        assert_eq!(at(Stage::Decode, Some(4_000_000)), "3500000 of 4000000 images");
        assert_eq!(at(Stage::Decode, None), "3500000 images");
    }
}
