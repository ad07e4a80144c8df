//! `empssl export`: the weights of a run, under PyTorch's names.

use std::collections::BTreeMap;

use empssl_model::{Network, weights};
use tch::{Device, Kind};

use crate::args::{ExportArgs, Part};
use crate::commands::{self, say};
use crate::config::{Run, RunConfig};
use crate::error::CliError;
use crate::report::RunIdentity;
use crate::run_folder::{RunFolder, read_json};

pub(crate) fn run(args: &ExportArgs) -> Result<(), CliError> {
    let folder = RunFolder::open(&args.run)?;
    let identity: RunIdentity = read_json(&folder.identity())?;
    let run = Run::new(RunConfig::read(&folder.recipe(), &[])?, identity.recipe)?;
    let mut network = Network::new(&run.network, Kind::Float, Device::Cpu)?;
    network.load_state_dict(&commands::load_checkpoint(&folder, &run)?.network)?;
    let tensors = match args.part {
        Part::Network => network.state_dict(),
        Part::Backbone => network.backbone_state_dict(),
    };
    let metadata = [("format", "pt"), ("recipe", &run.recipe), ("dataset", &identity.data.name)];
    let metadata: BTreeMap<String, String> = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    weights::write(&args.out, &tensors, &metadata)?;
    say(format_args!("{} tensors in {}", tensors.len(), args.out.display()));
    Ok(())
}
