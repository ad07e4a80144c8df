//! `empssl embed`: the features of any images, written to a file as they come.

mod rows;

use std::path::Path;

use empssl_data::open_images;
use empssl_eval::{EvalError, embed};
use empssl_torch::catch;
use tch::Tensor;

use self::rows::{About, RowsWriter};
use crate::args::EmbedArgs;
use crate::error::CliError;
use crate::network::Encoder;
use crate::print;
use crate::print::output;
use crate::progress::Bar;

pub(crate) fn run(args: &EmbedArgs) -> Result<(), CliError> {
    let encoder = Encoder::open(&args.encode)?;
    let set = open_images(&args.inputs, args.on_bad_image.into())?;
    for bad in set.skipped() {
        print::line(format_args!("left out {}: {}", bad.path.display(), bad.reason));
    }
    let about = About {
        n_rows: set.len(),
        width: encoder.width(),
        text: [
            ("recipe", encoder.run.recipe.clone()),
            ("step", encoder.step.to_string()),
            ("features", format!("{:?}", args.encode.features).to_lowercase()),
            ("view", encoder.view_spec.text()),
        ],
    };
    let mut writer = RowsWriter::create(&args.out, about)?;
    let mut bar = Bar::new("features", set.len() as u64, "images");
    let mut done = 0;
    let mut sink = |images: &[usize], features: &Tensor| {
        let paths: Vec<&Path> = images
            .iter()
            .map(|&image| Ok(set.path(image)?.unwrap_or(Path::new(""))))
            .collect::<Result<_, CliError>>()?;
        writer.push(&paths, features)?;
        done += paths.len() as u64;
        bar.advance(done);
        Ok::<(), CliError>(())
    };
    let extractor = |patches: &Tensor| encoder.extract(patches);
    let embedded = catch(|| embed(&extractor, encoder.patches(&set)?, &encoder.options(), &mut sink));
    bar.finish();
    embedded?.map_err(|error| name_the_image(error, &set))?;
    for path in writer.finish()? {
        output(path.display());
    }
    Ok(())
}

/// Says which image has features that are not finite, rather than its number.
fn name_the_image(error: CliError, set: &empssl_data::Dataset) -> CliError {
    match error {
        CliError::Eval(EvalError::NonFinite { row, .. }) => match set.path(row as usize) {
            Ok(Some(path)) => EvalError::NonFinite { bank: path.display().to_string(), row: 0 }.into(),
            _ => error,
        },
        error => error,
    }
}
