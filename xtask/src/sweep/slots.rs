//! Where cells run: a slot is a GPU, several for the processes of one cell, or a share of the processors.

use std::env;
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::failure::{Failure, Outcome};
use crate::reproduce::args::Args;
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
    /// The GPU that is all its cells see, by the system's number; several with commas between them.
    pub(crate) gpu: Option<String>,
    /// Processes of a cell.
    pub(crate) ranks: usize,
    /// Of each process.
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

/// The slots for what was asked for.
pub(crate) fn slots(args: &Args, machine: &Machine) -> Outcome<Vec<Slot>> {
    let jobs = args.sweep.jobs;
    if jobs == Some(0) {
        return Err(Failure::usage("--jobs 0 would run nothing"));
    }
    match args.device.as_deref() {
        Some("cpu") => Ok(shares(args, machine)),
        None | Some("auto") if machine.gpus.is_empty() => Ok(shares(args, machine)),
        None | Some("auto" | "cuda") if !machine.gpus.is_empty() => groups_of_gpus(args, machine),
        Some(one) if jobs.unwrap_or(1) > 1 => {
            Err(Failure::usage(format!("--device {one} is one device, so --jobs can only be 1")))
        }
        Some(one) if args.gpus > 1 && one != "cuda" => {
            Err(Failure::usage(format!("--device {one} is one device, so --gpus can only be 1")))
        }
        one => Ok(vec![Slot { name: one.unwrap_or("auto").to_owned(), ..Slot::of(args) }]),
    }
}

/// Equal shares of the processors, for as many processes a cell as it was to have GPUs.
fn shares(args: &Args, machine: &Machine) -> Vec<Slot> {
    let (jobs, ranks) = (args.sweep.jobs.unwrap_or(1), usize::from(args.gpus));
    let share = (jobs > 1).then_some((machine.processors / jobs / ranks).max(1));
    let processes = if ranks > 1 { format!(" by {ranks} processes") } else { String::new() };
    let slot = |number: usize| Slot {
        name: if jobs > 1 { format!("cpu, share {number} of {jobs}{processes}") } else { format!("cpu{processes}") },
        ..Slot::of(args).with_share(share)
    };
    (1..=jobs).map(slot).collect()
}

/// As many GPUs a cell as it has processes; what is left over stays idle.
fn groups_of_gpus(args: &Args, machine: &Machine) -> Outcome<Vec<Slot>> {
    let ranks = usize::from(args.gpus);
    let groups: Vec<&[String]> = machine.gpus.chunks_exact(ranks).collect();
    let (n, known) = (machine.gpus.len(), machine.gpus.join(", "));
    if groups.is_empty() {
        return Err(Failure::usage(format!("--gpus {ranks} is more than the {n} GPUs there are ({known})")));
    }
    let jobs = args.sweep.jobs.unwrap_or(groups.len());
    if jobs > groups.len() {
        let each = if ranks == 1 { "one cell a GPU".to_owned() } else { format!("{ranks} of them a cell") };
        return Err(Failure::usage(format!("--jobs {jobs} is more than the {n} GPUs there are ({known}): {each}")));
    }
    let share = (jobs > 1).then_some((machine.processors / jobs / ranks).clamp(1, MAX_WORKERS));
    let slot = |gpus: &&[String]| Slot {
        name: format!("GPU {}", gpus.join(" and ")),
        device: Some("cuda".to_owned()),
        gpu: Some(gpus.join(",")),
        ..Slot::of(args).with_share(share)
    };
    Ok(groups[..jobs].iter().map(slot).collect())
}

impl Slot {
    /// The device that was asked for, with all processors.
    pub(crate) fn of(args: &Args) -> Self {
        let (device, ranks) = (args.device.clone(), args.gpus.into());
        Self { name: String::new(), device, gpu: None, ranks, threads: None, workers: args.workers }
    }

    /// With so many threads and, unless their number was asked for, workers.
    fn with_share(self, share: Option<usize>) -> Self {
        Self { threads: share, workers: self.workers.or(share), ..self }
    }

    /// The flags and variables that keep a run of `empssl` in its place.
    pub(crate) fn add_to(&self, command: &mut Command) {
        if let Some(device) = &self.device {
            command.args(["--device", device]);
        }
        if let Some(gpu) = &self.gpu {
            // Numbers then mean the same to CUDA as to the driver's own tools.
            command.env("CUDA_DEVICE_ORDER", "PCI_BUS_ID").env("CUDA_VISIBLE_DEVICES", gpu);
        }
        let ranks = (self.ranks > 1).then_some(self.ranks);
        for (flag, count) in [("--threads", self.threads), ("--workers", self.workers), ("--nproc", ranks)] {
            if let Some(count) = count {
                command.args([flag, &count.to_string()]);
            }
        }
    }

    /// This slot for a program that is one process: its first GPU, and the processors of all processes.
    pub(crate) fn first(&self) -> Self {
        let gpu = self.gpu.as_ref().and_then(|gpus| gpus.split(',').next()).map(str::to_owned);
        let threads = self.threads.map(|threads| threads * self.ranks);
        Self { gpu, threads, ranks: 1, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process;

    fn machine(gpus: &[&str]) -> Machine {
        Machine { gpus: gpus.iter().map(|gpu| (*gpu).to_owned()).collect(), processors: 8 }
    }

    /// The commands that run in the slots of a command line, with the GPUs that they see.
    fn named(line: &str, gpus: &[&str]) -> Result<Vec<String>, String> {
        let args = Args::of_line(&line.split_whitespace().collect::<Vec<_>>());
        let slots = slots(&args, &machine(gpus)).map_err(|failure| failure.to_string())?;
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
        assert_eq!(named("", &["2", "5"]).unwrap(), both);
        assert_eq!(named("--device cuda --jobs 1", &["2", "5"]).unwrap(), ["empssl --device cuda [2]"]);
        assert!(named("--jobs 3", &["2", "5"]).unwrap_err().contains("more than the 2 GPUs there are (2, 5)"));
    }

    #[test]
    fn cells_of_several_processes_take_as_many_gpus_or_shares_of_the_processors() {
        let pair = |gpus| format!("empssl --device cuda --threads 2 --workers 2 --nproc 2 [{gpus}]");
        assert_eq!(named("--gpus 2", &["0", "3", "5", "6", "7"]).unwrap(), [pair("0,3"), pair("5,6")]);
        let all = named("--gpus 4", &["0", "3", "5", "6"]).unwrap();
        assert_eq!(all, ["empssl --device cuda --nproc 4 [0,3,5,6]"]);
        let refused = named("--gpus 3", &["2", "5"]).unwrap_err();
        assert!(refused.contains("--gpus 3 is more than the 2 GPUs there are (2, 5)"), "{refused}");
        let refused = named("--gpus 2 --jobs 2", &["2", "5", "6"]).unwrap_err();
        assert!(
            refused.contains("--jobs 2 is more than the 3 GPUs there are (2, 5, 6): 2 of them a cell"),
            "{refused}"
        );
        let refused = named("--gpus 2 --device cuda:1", &["0", "1"]).unwrap_err();
        assert!(refused.contains("--device cuda:1 is one device, so --gpus can only be 1"), "{refused}");
        assert_eq!(named("--gpus 2", &[]).unwrap(), ["empssl --nproc 2 []"]);
        let shares = named("--gpus 2 --device cpu --jobs 2", &["0"]).unwrap();
        assert_eq!(shares, ["empssl --device cpu --threads 2 --workers 2 --nproc 2 []"; 2]);
    }

    #[test]
    fn without_gpus_cells_share_the_processors() {
        assert_eq!(named("", &[]).unwrap(), ["empssl []"]);
        assert_eq!(
            named("--device cpu --jobs 4", &["0"]).unwrap(),
            vec!["empssl --device cpu --threads 2 --workers 2 []"; 4]
        );
        assert!(named("--jobs 0", &[]).is_err());
    }

    #[test]
    fn a_named_device_takes_one_cell_at_a_time() {
        assert_eq!(named("--device cuda:1", &["0", "1"]).unwrap(), ["empssl --device cuda:1 []"]);
        assert!(named("--device cuda:1 --jobs 2", &["0", "1"]).unwrap_err().contains("--jobs can only be 1"));
        assert_eq!(named("--device cuda", &[]).unwrap(), ["empssl --device cuda []"], "the program says why not");
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
