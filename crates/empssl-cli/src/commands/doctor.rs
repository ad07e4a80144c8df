//! `empssl doctor`: what this program would run on, and what stands in its way.

use empssl_torch::device::{self, CudaProblem, DeviceChoice, DeviceError};
use empssl_torch::failure::Bytes;
use empssl_torch::processes::nccl;
use empssl_torch::{memory, precision, version};
use empssl_train::MemoryMode;
use empssl_train::memory::room;
use tch::Device;

use crate::args::{DeviceArgs, DoctorArgs};
use crate::config::{Run, RunConfig};
use crate::error::CliError;
use crate::host;
use crate::machine;
use crate::print::output;

pub(crate) fn run(args: &DoctorArgs) -> Result<(), CliError> {
    let recipe = args.recipe.as_deref();
    let recipe = recipe.map(|path| Run::new(RunConfig::read(path, &args.set)?, Run::name_of(path))).transpose()?;
    let device = check_machine(&args.compute)?;
    recipe.map_or(Ok(()), |run| print_what_fits(&run, device))
}

/// Reports the machine, and fails when it cannot be used as asked.
fn check_machine(args: &DeviceArgs) -> Result<Device, CliError> {
    output(format_args!("empssl        {}", env!("CARGO_PKG_VERSION")));
    let running = version::running().unwrap_or_else(|| "of unknown version".to_owned());
    output(format_args!("libtorch      {running} (built for {})", version::built_for()));
    output(format_args!(
        "loaded from   {}",
        version::library_path().map_or("unknown".to_owned(), |path| path.display().to_string())
    ));
    let cuda = device::open();
    output(format_args!("CUDA          {}", cuda_text(&cuda)));
    output(format_args!("NCCL          {}", nccl_text(&cuda)));
    let broken = cuda.as_ref().is_err_and(|problem| *problem != CudaProblem::NoDriver);
    let auto = args.choice() == DeviceChoice::Auto;
    let device = Some(if broken && auto { DeviceChoice::Cpu } else { args.choice() });
    let device = machine::prepare(&DeviceArgs { device, ..args.clone() })?;
    output(format_args!("device        {} ({})", machine::device_text(device), device::name(device)));
    if let Some(memory) = memory::device_memory(device)? {
        output(format_args!("device memory {} free of {}", Bytes(memory.free), Bytes(memory.total)));
    }
    let (tf32, on_off) = (precision::tf32()?, |on| if on { "on" } else { "off" });
    output(format_args!(
        "TF32          convolutions {}, products {} (on only in training with precision tf32)",
        on_off(tf32.convolutions),
        on_off(tf32.products)
    ));
    output(format_args!("threads       {} of {} processors", tch::get_num_threads(), host::n_processors()));
    match cuda {
        Err(problem) if broken && auto => Err(DeviceError::Unusable(problem).into()),
        _ if version::matches() == Some(false) => {
            let (running, built_for) = (version::running().unwrap_or_default(), version::built_for());
            Err(CliError::Run(format!(
                "this program was built for libtorch {built_for} and runs on {running}; set LIBTORCH to a {built_for}"
            )))
        }
        _ => Ok(device),
    }
}

/// What a step of a recipe needs in every memory mode, and whether that is free.
fn print_what_fits(run: &Run, device: Device) -> Result<(), CliError> {
    let training = &run.config.training;
    let (n, b, need) = (training.n_patches, training.batch_size, run.step_memory(device)?);
    let room = room(device)?;
    let free = room.map_or("an unknown amount".to_owned(), |bytes| Bytes(bytes).to_string());
    output(format_args!(
        "recipe        {}: {n} x {b} patches a step, has memory = {}; {free} free",
        run.recipe, training.memory
    ));
    for mode in MemoryMode::all(n, b) {
        let needed = need.total(mode, n, b);
        let verdict = match room {
            Some(room) if needed > room => "does not fit",
            Some(_) => "fits",
            None => "",
        };
        output(format_args!("  {:<20}{:>12}  {verdict}", mode.to_string(), Bytes(needed).to_string()));
    }
    Ok(())
}

fn cuda_text(cuda: &Result<usize, CudaProblem>) -> String {
    match cuda {
        Ok(1) => "usable, 1 device".to_owned(),
        Ok(count) => format!("usable, {count} devices"),
        Err(problem) => format!("not usable: {problem}"),
    }
}

/// Whether several GPUs could train together.
fn nccl_text(cuda: &Result<usize, CudaProblem>) -> String {
    match (cuda, nccl::check()) {
        (Err(_), _) => "not usable: it connects CUDA devices".to_owned(),
        (Ok(_), Ok(path)) => format!("usable, by {}", path.display()),
        (Ok(_), Err(problem)) => format!("not usable: {problem}"),
    }
}
