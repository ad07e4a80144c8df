//! Energy of GPUs, where their driver tells: the power it draws, read every half second by the driver's own tool.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two readings.
const EVERY: Duration = Duration::from_millis(500);

/// Reads the power of GPUs until it is asked for the sum.
pub(crate) struct Meter {
    n_gpus: usize,
    tool: Child,
    reader: Option<JoinHandle<()>>,
    readings: Arc<Mutex<Vec<(Instant, f64)>>>,
}

impl Meter {
    /// Begins to read the power of a GPU, or of several with commas between them; nothing where the tool is not there.
    pub(crate) fn start(tool: &str, gpu: &str) -> Option<Self> {
        let mut command = Command::new(tool);
        command.args(["--query-gpu=power.draw", "--format=csv,noheader,nounits"]);
        command.arg(format!("--id={gpu}")).arg(format!("--loop-ms={}", EVERY.as_millis()));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut tool = command.spawn().ok()?;
        let lines = BufReader::new(tool.stdout.take()?).lines();
        let readings = Arc::new(Mutex::new(Vec::new()));
        let kept = readings.clone();
        let reader = thread::spawn(move || {
            for watts in lines.map_while(Result::ok).filter_map(|line| watts(&line)) {
                if let Ok(mut kept) = kept.lock() {
                    kept.push((Instant::now(), watts));
                }
            }
        });
        Some(Self { n_gpus: gpu.split(',').count(), tool, reader: Some(reader), readings })
    }

    /// Joules from the first reading to the last; nothing from fewer than two of each GPU.
    pub(crate) fn stop(mut self) -> Option<f64> {
        self.end();
        let readings = self.readings.lock().ok()?;
        joules(&readings, self.n_gpus)
    }

    fn end(&mut self) {
        // It may have ended by itself, which leaves nothing to do.
        let _ = self.tool.kill();
        let _ = self.tool.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.end();
    }
}

/// One line of the tool; a GPU that does not tell prints words.
fn watts(line: &str) -> Option<f64> {
    line.trim().parse().ok().filter(|watts: &f64| watts.is_finite())
}

/// The power between two readings of a GPU is taken to be their mean; the tool tells of one GPU after the other.
fn joules(readings: &[(Instant, f64)], n_gpus: usize) -> Option<f64> {
    let between =
        |[(from, before), (to, after)]: [&(Instant, f64); 2]| (*to - *from).as_secs_f64() * (before + after) / 2.0;
    let earlier_and_later = readings.iter().zip(readings.iter().skip(n_gpus));
    (readings.len() >= 2 * n_gpus).then(|| earlier_and_later.map(|(a, b)| between([a, b])).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process;

    #[test]
    fn power_is_summed_over_time() {
        let start = Instant::now();
        let at = |seconds: u64, watts: f64| (start + Duration::from_secs(seconds), watts);
        let one = [at(0, 100.0), at(2, 300.0), at(3, 300.0)];
        assert_eq!(joules(&one, 1), Some(400.0 + 300.0));
        assert_eq!((joules(&one[..1], 1), joules(&one, 2)), (None, None));
        let two = [at(0, 100.0), at(0, 10.0), at(2, 300.0), at(2, 10.0), at(3, 300.0), at(3, 30.0)];
        assert_eq!(joules(&two, 2), Some(400.0 + 300.0 + 20.0 + 20.0));
        assert_eq!([" 71.25", "[N/A]", "nan"].map(watts), [Some(71.25), None, None]);
    }

    #[test]
    fn a_tool_that_tells_is_read_and_one_that_is_missing_or_silent_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, body: &str| {
            let path = folder.path().join(name);
            process::write_script(&path, &format!("#!/bin/sh\n{body}\n"));
            path.display().to_string()
        };
        let telling = write("telling", "[ \"$3\" = --id=1 ] && while echo 50.0; do sleep 0.02; done");
        let meter = Meter::start(&telling, "1").unwrap();
        thread::sleep(Duration::from_millis(300));
        let joules = meter.stop().unwrap();
        assert!((2.0..50.0).contains(&joules), "50 W for less than a third of a second: {joules} J");
        assert_eq!(Meter::start(&write("silent", "echo '[N/A]'"), "0").unwrap().stop(), None);
        assert!(Meter::start("no-such-tool-here", "0").is_none());
    }
}
