//! Where cells run: a slot is a GPU, or a share of the processors.

use std::env;
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::failure::{Failure, Outcome};
use crate::setup;

/// Most threads that cut patches for one run, as `empssl` has it.
const MAX_WORKERS: usize = 16;

/// Room for one cell at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// For readers: `cpu`, `GPU 1`.
    pub(crate) name: String,
    /// `--device`
    device: Option<String>,
    /// The GPU that is all its cells see, by the system's number.
    pub(crate) gpu: Option<String>,
    threads: Option<usize>,
    workers: Option<usize>,
}

/// What the machine has.
pub(crate) struct Machine {
    /// GPUs that this process may use, by the names that `CUDA_VISIBLE_DEVICES` takes.
    pub(crate) gpus: Vec<String>,
    pub(crate) processors: usize,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let visible = env::var("CUDA_VISIBLE_DEVICES").ok();
        let gpus = if setup::has_driver() { gpus(visible.as_deref(), Path::new("/dev")) } else { Vec::new() };
        Self { gpus, processors }
    }
}

/// The GPUs by the variable that restricts them, else by their device files.
fn gpus(visible: Option<&str>, devices: &Path) -> Vec<String> {
    if let Some(visible) = visible {
        return visible.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    }
    let is_gpu = |n: &usize| devices.join(format!("nvidia{n}")).exists();
    let found: Vec<String> = (0..64).filter(is_gpu).map(|n| n.to_string()).collect();
    // A driver without such files, as Windows brings for its Linux, still has one.
    if found.is_empty() { vec!["0".to_owned()] } else { found }
}

/// The slots for `--device`, `--jobs` and `--workers`.
pub(crate) fn slots(
    device: Option<&str>,
    jobs: Option<usize>,
    workers: Option<usize>,
    machine: &Machine,
) -> Outcome<Vec<Slot>> {
    if jobs == Some(0) {
        return Err(Failure::usage("--jobs 0 would run nothing"));
    }
    match device {
        Some("cpu") => Ok(shares(jobs.unwrap_or(1), device, workers, machine)),
        None | Some("auto") if machine.gpus.is_empty() => Ok(shares(jobs.unwrap_or(1), device, workers, machine)),
        None | Some("auto" | "cuda") if !machine.gpus.is_empty() => one_a_gpu(jobs, workers, machine),
        Some(one) if jobs.unwrap_or(1) > 1 => {
            Err(Failure::usage(format!("--device {one} is one device, so --jobs can only be 1")))
        }
        one => Ok(vec![Slot {
            name: one.unwrap_or("auto").to_owned(),
            device: one.map(str::to_owned),
            gpu: None,
            threads: None,
            workers,
        }]),
    }
}

/// Equal shares of the processors.
fn shares(jobs: usize, device: Option<&str>, workers: Option<usize>, machine: &Machine) -> Vec<Slot> {
    let share = (jobs > 1).then_some((machine.processors / jobs).max(1));
    let slot = |number: usize| Slot {
        name: if jobs > 1 { format!("cpu, share {number} of {jobs}") } else { "cpu".to_owned() },
        device: device.map(str::to_owned),
        gpu: None,
        threads: share,
        workers: workers.or(share),
    };
    (1..=jobs).map(slot).collect()
}

fn one_a_gpu(jobs: Option<usize>, workers: Option<usize>, machine: &Machine) -> Outcome<Vec<Slot>> {
    let (n, jobs) = (machine.gpus.len(), jobs.unwrap_or(machine.gpus.len()));
    if jobs > n {
        let known = machine.gpus.join(", ");
        return Err(Failure::usage(format!(
            "--jobs {jobs} is more than the {n} GPUs there are ({known}): one cell a GPU"
        )));
    }
    let share = (jobs > 1).then_some((machine.processors / jobs).clamp(1, MAX_WORKERS));
    let slot = |gpu: &String| Slot {
        name: format!("GPU {gpu}"),
        device: Some("cuda".to_owned()),
        gpu: Some(gpu.clone()),
        threads: share,
        workers: workers.or(share),
    };
    Ok(machine.gpus[..jobs].iter().map(slot).collect())
}

impl Slot {
    /// The flags and variables that keep a run of `empssl` in its place.
    pub(crate) fn add_to(&self, command: &mut Command) {
        if let Some(device) = &self.device {
            command.args(["--device", device]);
        }
        if let Some(gpu) = &self.gpu {
            // Numbers then mean the same to CUDA as to the driver's own tools.
            command.env("CUDA_DEVICE_ORDER", "PCI_BUS_ID").env("CUDA_VISIBLE_DEVICES", gpu);
        }
        for (flag, count) in [("--threads", self.threads), ("--workers", self.workers)] {
            if let Some(count) = count {
                command.args([flag, &count.to_string()]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process;

    fn machine(gpus: &[&str]) -> Machine {
        Machine { gpus: gpus.iter().map(|gpu| (*gpu).to_owned()).collect(), processors: 8 }
    }

    fn named(device: Option<&str>, jobs: Option<usize>, gpus: &[&str]) -> Result<Vec<String>, String> {
        let slots = slots(device, jobs, None, &machine(gpus)).map_err(|failure| failure.to_string())?;
        let shown = |slot: Slot| {
            let mut command = Command::new("empssl");
            slot.add_to(&mut command);
            let envs = command.get_envs().filter(|(name, _)| *name == "CUDA_VISIBLE_DEVICES");
            let env = envs.map(|(_, value)| value.unwrap().to_string_lossy().into_owned()).next();
            format!("{} [{}]", process::shown(&command), env.unwrap_or_default())
        };
        Ok(slots.into_iter().map(shown).collect())
    }

    #[test]
    fn one_cell_a_gpu_with_its_share_of_the_threads() {
        let both =
            ["empssl --device cuda --threads 4 --workers 4 [2]", "empssl --device cuda --threads 4 --workers 4 [5]"];
        assert_eq!(named(None, None, &["2", "5"]).unwrap(), both);
        assert_eq!(named(Some("cuda"), Some(1), &["2", "5"]).unwrap(), ["empssl --device cuda [2]"]);
        assert!(named(None, Some(3), &["2", "5"]).unwrap_err().contains("more than the 2 GPUs there are (2, 5)"));
    }

    #[test]
    fn without_gpus_cells_share_the_processors() {
        assert_eq!(named(None, None, &[]).unwrap(), ["empssl []"]);
        assert_eq!(
            named(Some("cpu"), Some(4), &["0"]).unwrap(),
            vec!["empssl --device cpu --threads 2 --workers 2 []"; 4]
        );
        assert!(named(None, Some(0), &[]).is_err());
    }

    #[test]
    fn a_named_device_takes_one_cell_at_a_time() {
        assert_eq!(named(Some("cuda:1"), None, &["0", "1"]).unwrap(), ["empssl --device cuda:1 []"]);
        assert!(named(Some("cuda:1"), Some(2), &["0", "1"]).unwrap_err().contains("--jobs can only be 1"));
        assert_eq!(named(Some("cuda"), None, &[]).unwrap(), ["empssl --device cuda []"], "the program says why not");
    }

    #[test]
    fn gpus_are_those_that_may_be_seen() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(gpus(Some("3, GPU-abc"), folder.path()), ["3", "GPU-abc"]);
        assert!(gpus(Some(""), folder.path()).is_empty());
        assert_eq!(gpus(None, folder.path()), ["0"]);
        for name in ["nvidia0", "nvidia1", "nvidiactl"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(gpus(None, folder.path()), ["0", "1"]);
    }
}
