//! `empssl export`: the network of a run for PyTorch, as weights by name or as a TorchScript module.

use std::collections::BTreeMap;

use empssl_model::{Network, Portion, ScriptModule, weights};
use empssl_torch::script::Module;
use tch::{Device, Kind};

use crate::args::{ExportArgs, Format};
use crate::error::CliError;
use crate::print::output;
use crate::run::folder::write_file;
use crate::run::saved::SavedRun;

pub(crate) fn run(args: &ExportArgs) -> Result<(), CliError> {
    let saved = SavedRun::open(&args.run, None, &[])?;
    let portion = args.part;
    demand_portion(&saved, portion)?;
    let mut network = Network::new(&saved.run.config.network, 0, Kind::Float, Device::Cpu)?;
    saved.load(&mut network, &saved.checkpoint(args.snapshot.epochs)?)?;
    match args.format {
        Format::Safetensors => {
            let tensors = match portion {
                Portion::Backbone => network.backbone_state_dict(),
                Portion::Encoder | Portion::Full => network.portion_state_dict(portion),
            };
            let stem = network.config().resnet.stem.name();
            let metadata = [
                ("format", "pt"),
                ("recipe", &saved.run.recipe),
                ("dataset", &saved.identity.data.name),
                ("stem", stem),
            ];
            let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
            weights::write(&args.out, &tensors, &BTreeMap::from(metadata))?;
            output(format_args!("{} tensors in {}", tensors.len(), args.out.display()));
        }
        Format::Torchscript => {
            write_file(&args.out, &build(&network.script(portion))?.to_bytes()?)?;
            output(format_args!("a module for torch.jit.load in {}", args.out.display()));
        }
    }
    Ok(())
}

/// An imported run need not have all parts.
fn demand_portion(saved: &SavedRun, portion: Portion) -> Result<(), CliError> {
    let (run, held) = (saved.folder.path().display(), saved.portion());
    let parts = match (held, portion) {
        (Portion::Backbone, Portion::Encoder | Portion::Full) => "--part backbone",
        (Portion::Encoder, Portion::Full) => "--part encoder or --part backbone",
        _ => return Ok(()),
    };
    Err(CliError::Run(format!("{run} holds imported weights without the other parts of the network; export {parts}")))
}

/// The module as libtorch has it, parts first.
fn build(script: &ScriptModule) -> Result<Module, CliError> {
    let mut module = Module::new(&script.class)?;
    for (name, tensor) in &script.parameters {
        module.parameter(name, tensor)?;
    }
    for (name, tensor) in &script.buffers {
        module.buffer(name, tensor)?;
    }
    for (name, child) in &script.children {
        module.child(name, build(child)?)?;
    }
    module.define(&script.source)?;
    Ok(module)
}
