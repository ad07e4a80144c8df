//! `empssl doctor`: what this program would run on, and what stands in its way.

use empssl_torch::device::{self, CudaProblem, DeviceChoice, DeviceError};
use empssl_torch::failure::Bytes;
use empssl_torch::{memory, precision, version};
use tch::Device;

use crate::args::DeviceArgs;
use crate::commands::say;
use crate::config::Precision;
use crate::error::CliError;
use crate::{commands, host};

pub(crate) fn run(args: &DeviceArgs) -> Result<(), CliError> {
    say(format_args!("empssl        {}", env!("CARGO_PKG_VERSION")));
    say(format_args!("libtorch      {}", libtorch_text()));
    say(format_args!(
        "loaded from   {}",
        version::library_path().map_or("unknown".to_owned(), |path| path.display().to_string())
    ));
    let cuda = device::open();
    say(format_args!("CUDA          {}", cuda_text(&cuda)));
    let broken = cuda.as_ref().is_err_and(|problem| *problem != CudaProblem::NoDriver);
    let choice = if broken && args.device == DeviceChoice::Auto { DeviceChoice::Cpu } else { args.device };
    let device = commands::prepare(&DeviceArgs { device: choice, ..*args }, Precision::Fp32)?;
    say(format_args!("device        {}", device_text(device)));
    if let Some(memory) = memory::device_memory(device)? {
        say(format_args!("device memory {} free of {}", Bytes(memory.free), Bytes(memory.total)));
    }
    let tf32 = precision::tf32()?;
    say(format_args!(
        "TF32          convolutions {}, products {} (precision fp32)",
        on_off(tf32.convolutions),
        on_off(tf32.products)
    ));
    say(format_args!("threads       {} of {} processors", tch::get_num_threads(), host::n_processors()));
    match cuda {
        Err(problem) if broken && args.device == DeviceChoice::Auto => Err(DeviceError::Unusable(problem).into()),
        _ if version::matches() == Some(false) => {
            let (running, built_for) = (version::running().unwrap_or_default(), version::built_for());
            Err(CliError::Run(format!(
                "this program was built for libtorch {built_for} and runs on {running}; set LIBTORCH to a {built_for}"
            )))
        }
        _ => Ok(()),
    }
}

fn libtorch_text() -> String {
    let running = version::running().unwrap_or_else(|| "of unknown version".to_owned());
    format!("{running} (built for {})", version::built_for())
}

fn cuda_text(cuda: &Result<usize, CudaProblem>) -> String {
    match cuda {
        Ok(1) => "usable, 1 device".to_owned(),
        Ok(count) => format!("usable, {count} devices"),
        Err(problem) => format!("not usable: {problem}"),
    }
}

fn device_text(device: Device) -> String {
    format!("{} ({})", commands::device_text(device), device::name(device))
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}
