//! `empssl export`: the weights of a run, under PyTorch's names.

use std::collections::BTreeMap;

use empssl_model::{Network, weights};
use tch::{Device, Kind};

use crate::args::{ExportArgs, Part};
use crate::commands::{SavedRun, say};
use crate::error::CliError;

pub(crate) fn run(args: &ExportArgs) -> Result<(), CliError> {
    let saved = SavedRun::open(&args.run, None, &[])?;
    let mut network = Network::new(&saved.run.network, Kind::Float, Device::Cpu)?;
    network.load_state_dict(&saved.checkpoint(args.snapshot.epochs)?.network)?;
    let tensors = match args.part {
        Part::Network => network.state_dict(),
        Part::Backbone => network.backbone_state_dict(),
    };
    let metadata = [("format", "pt"), ("recipe", &saved.run.recipe), ("dataset", &saved.identity.data.name)];
    let metadata: BTreeMap<String, String> = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    weights::write(&args.out, &tensors, &metadata)?;
    say(format_args!("{} tensors in {}", tensors.len(), args.out.display()));
    Ok(())
}
