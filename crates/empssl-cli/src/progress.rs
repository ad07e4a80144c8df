//! What a user sees while a run goes on, and the metrics file that stays.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use empssl_model::Network;
use empssl_train::{Observer, StepRecord, TrainError};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::error::CliError;
use crate::monitor::{Check, Monitor};
use crate::print;
use crate::run::metrics::keep_up_to;

/// Steps before a time to the end is worth showing.
const STEPS_BEFORE_ETA: u64 = 10;
/// How often a plain line is printed when nobody watches a terminal.
pub(crate) const LINE_EVERY: Duration = Duration::from_secs(60);

/// Shows training and appends to `metrics.jsonl`.
pub(crate) struct TrainProgress {
    bar: Bar,
    metrics: File,
    path: String,
    began: Instant,
    first_step: Option<u64>,
    monitor: Option<Monitor>,
    /// The check of that step, for its record.
    check: Option<Check>,
    /// Top-1 of the last check, in percent.
    knn: Option<f64>,
    /// Seconds that the checks of this process took.
    pub(crate) seconds_of_checks: f64,
    /// Seconds of training by the kept lines.
    pub(crate) seconds_before: f64,
    /// The last record of this process.
    pub(crate) last: Option<StepRecord>,
    /// What the evaluation that follows takes, in steps of training, where that is known.
    pub(crate) evaluation_steps: Option<f64>,
}

/// A line of `metrics.jsonl`.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    record: &'a StepRecord,
    #[serde(skip_serializing_if = "Option::is_none")]
    monitor: Option<Check>,
}

impl TrainProgress {
    /// Continues the file after `first_step` steps: lines of later steps, left by a run that was killed after its last
    /// checkpoint, are dropped, so that each step is there once.
    pub(crate) fn new(
        metrics: &Path,
        first_step: u64,
        n_steps: u64,
        monitor: Option<Monitor>,
    ) -> Result<Self, CliError> {
        let seconds_before = keep_up_to(metrics, first_step)?;
        let file = OpenOptions::new().create(true).append(true).open(metrics);
        let file = file.map_err(|e| CliError::file("cannot write", metrics, e))?;
        let bar = Bar::new("training", n_steps, "steps");
        bar.bar.set_position(first_step);
        Ok(Self {
            bar,
            metrics: file,
            path: metrics.display().to_string(),
            began: Instant::now(),
            first_step: None,
            monitor,
            check: None,
            knn: None,
            seconds_of_checks: 0.0,
            seconds_before,
            last: None,
            evaluation_steps: None,
        })
    }

    /// Once in a run: what this machine will take for all of it, and whether it computes or waits for images.
    fn expect(&self, a_step: Duration, steps_left: u64) {
        let evaluation = self.evaluation_steps.map_or(String::new(), |steps| {
            format!(", then {} for the features that are scored", text_of(a_step.mul_f64(steps)))
        });
        let waited = self.last.as_ref().filter(|last| Some(last.step) > self.first_step);
        let waited = waited
            .map_or(String::new(), |last| format!("; {:.0} % of a step is waiting for images", 100.0 * last.waited));
        let training = text_of(a_step.mul_f64(steps_left as f64));
        self.bar.bar.suspend(|| print::line(format_args!("about {training} of training{evaluation}{waited}")));
    }
}

impl Observer for TrainProgress {
    fn on_step(&mut self, step: u64, n_steps: u64) {
        // The clock starts after the first step, which pays for what is set up once.
        let first = *self.first_step.get_or_insert_with(|| {
            self.began = Instant::now();
            step
        });
        let done = step - first;
        if done >= STEPS_BEFORE_ETA {
            let a_step = self.began.elapsed().div_f64(done as f64);
            self.bar.left(a_step.mul_f64((n_steps - step) as f64));
            if done == STEPS_BEFORE_ETA && step < n_steps {
                self.expect(a_step, n_steps - step);
            }
        }
        self.bar.advance(step);
    }

    fn wants_network(&mut self, step: u64, _n_steps: u64) -> bool {
        self.monitor.as_ref().is_some_and(|monitor| monitor.is_due(step))
    }

    /// A check that fails ends the checks, never the run.
    fn on_network(&mut self, network: &Network) -> Result<(), TrainError> {
        match self.monitor.as_ref().map(|monitor| monitor.check(network)) {
            None => {}
            Some(Ok(check)) => {
                self.seconds_of_checks += check.seconds;
                (self.check, self.knn) = (Some(check), Some(check.knn_top1));
            }
            Some(Err(error)) => {
                self.monitor = None;
                self.bar.note(&format!("the features are not scored any more: {error}"));
            }
        }
        Ok(())
    }

    fn on_record(&mut self, record: &StepRecord) -> Result<(), TrainError> {
        self.last = Some(record.clone());
        let failed = |reason: String| TrainError::Observer(format!("cannot write {}: {reason}", self.path));
        let line = Line { record, monitor: self.check.take() };
        let line = serde_json::to_string(&line).map_err(|e| failed(e.to_string()))?;
        writeln!(self.metrics, "{line}").map_err(|e| failed(e.to_string()))?;
        let knn = self.knn.map_or(String::new(), |top1| format!("  kNN {top1:.1} %"));
        self.bar.message(format!(
            "loss {:.2}{}{knn}  {:.0} patches/s",
            record.loss,
            parts_of(record),
            record.patches_per_s
        ));
        Ok(())
    }

    fn before_save(&mut self) -> Result<(), TrainError> {
        self.metrics.sync_data().map_err(|e| TrainError::Observer(format!("cannot write {}: {e}", self.path)))
    }
}

/// The terms of the objective, each after two spaces.
fn parts_of(record: &StepRecord) -> String {
    record.parts.iter().map(|(name, value)| format!("  {} {value:.3}", name.replace('_', " "))).collect()
}

/// A bar on a terminal; elsewhere a plain line now and then.
pub(crate) struct Bar {
    bar: ProgressBar,
    what: &'static str,
    unit: &'static str,
    last_line: Instant,
    message: String,
    left: Option<Duration>,
}

impl Bar {
    pub(crate) fn new(what: &'static str, length: u64, unit: &'static str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
        let template = format!("{what} {{bar:30}} {{pos}}/{{len}} {unit}  {{prefix}}{{wide_msg}}");
        bar.set_style(ProgressStyle::with_template(&template).expect("a valid template"));
        Self { bar, what, unit, last_line: Instant::now(), message: String::new(), left: None }
    }

    /// Moves on to `position`.
    pub(crate) fn advance(&mut self, position: u64) {
        self.bar.set_position(position);
        let due = self.last_line.elapsed() >= LINE_EVERY || Some(position) == self.bar.length();
        if self.bar.is_hidden() && due {
            self.last_line = Instant::now();
            let length = self.bar.length().unwrap_or_default();
            let left = self
                .left
                .filter(|left| !left.is_zero())
                .map_or(String::new(), |left| format!("  {} left", text_of(left)));
            let message = if self.message.is_empty() { String::new() } else { format!("  {}", self.message) };
            print::line(format_args!("{} {position}/{length} {}{left}{message}", self.what, self.unit));
        }
    }

    fn left(&mut self, left: Duration) {
        self.left = Some(left);
        self.bar.set_prefix(format!("{} left  ", text_of(left)));
    }

    /// Prints a line of its own.
    fn note(&self, text: &str) {
        self.bar.suspend(|| print::note(text));
    }

    fn message(&mut self, message: String) {
        self.bar.set_message(message.clone());
        self.message = message;
    }

    /// Removes the bar.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for TrainProgress {
    fn drop(&mut self) {
        self.bar.finish();
    }
}

/// A time in its two largest units.
fn text_of(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (hours, minutes, _) => format!("{hours} h {minutes:02} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::metrics::seconds_at;

    fn record(step: u64) -> StepRecord {
        let parts = vec![("invariance", -0.5), ("coding_rate", 9.0)];
        StepRecord { step, epoch: 0, lr: 0.3, loss: -1.0, parts, patches_per_s: 1.0, waited: 0.25, seconds: 2.0 }
    }

    fn line(step: u64) -> String {
        serde_json::to_string(&record(step)).unwrap() + "\n"
    }

    #[test]
    fn every_term_of_the_objective_has_its_key_and_its_place() {
        let keys = r#"{"step":1,"epoch":0,"lr":0.3,"loss":-1.0,"invariance":-0.5,"coding_rate":9.0,"patches_per_s":1.0,"waited":0.25,"#;
        assert_eq!(line(1), keys.to_owned() + "\"seconds\":2.0}\n");
        assert_eq!(parts_of(&record(1)), "  invariance -0.500  coding rate 9.000");
    }

    #[test]
    fn a_continued_metrics_file_holds_each_step_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, format!("{}{}{}{}", line(1), line(10), line(20), &line(30)[..7])).unwrap();
        let mut progress = TrainProgress::new(&path, 10, 40, None).unwrap();
        assert_eq!(progress.seconds_before, 2.0);
        progress.on_record(&record(20)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}{}{}", line(1), line(10), line(20)));
    }

    #[test]
    fn a_check_is_part_of_its_steps_line_and_read_over_when_a_run_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut progress = TrainProgress::new(&path, 0, 40, None).unwrap();
        progress.check = Some(Check { knn_top1: 41.5, knn_top5: 90.0, images: 1000, patches: 1, seconds: 0.25 });
        progress.on_record(&record(1)).unwrap();
        progress.on_record(&record(10)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let monitor = r#","monitor":{"knn_top1":41.5,"knn_top5":90.0,"images":1000,"patches":1,"seconds":0.25}}"#;
        let checked = line(1).trim_end().strip_suffix('}').unwrap().to_owned() + monitor + "\n";
        assert_eq!(text, checked.clone() + &line(10));
        assert_eq!(keep_up_to(&path, 9).unwrap(), 2.0);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), checked);
    }

    #[test]
    fn a_damaged_line_before_the_checkpoint_is_named_and_one_after_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let torn = "{\"step\":2\u{0}\u{0}\n".to_owned();
        for middle in [&torn, &line(1), "\n"] {
            std::fs::write(&path, line(1) + middle + &line(10) + &line(20)).unwrap();
            let before = std::fs::read(&path).unwrap();
            let error = keep_up_to(&path, 10).unwrap_err().to_string();
            assert!(error.contains("metrics.jsonl") && error.contains("line 2"), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), before);
            assert_eq!(keep_up_to(&path, 9).unwrap(), 2.0);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), line(1));
        }
        assert_eq!(seconds_at(&path, 5).unwrap(), 2.0);
        assert_eq!(seconds_at(&folder.path().join("absent"), 5).unwrap(), 0.0);
        assert!(keep_up_to(folder.path(), 5).unwrap_err().to_string().starts_with("cannot read"));
    }

    #[test]
    fn times_are_short() {
        assert_eq!(text_of(Duration::from_secs(59)), "59 s");
        assert_eq!(text_of(Duration::from_secs(61)), "1 min 01 s");
        assert_eq!(text_of(Duration::from_secs(3 * 3600 + 120)), "3 h 02 min");
    }
}
