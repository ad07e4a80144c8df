//! `empssl data`: getting a data set, checking it, and what the network sees of it.

mod fetch;
mod info;
mod list;
mod show;
mod verify;
mod watch;

use empssl_data::{DataError, ImageSet, Split};

use crate::args::{BadImage, DataArgs, DataCommand, ImageArgs};
use crate::config::{AUTO, RunConfig};
use crate::error::CliError;
use crate::images::ImageSource;

pub(crate) fn run(args: &DataArgs) -> Result<(), CliError> {
    match &args.command {
        DataCommand::List { json } => {
            list::run(*json);
            Ok(())
        }
        DataCommand::Fetch { name, data } => fetch::run(name, data),
        DataCommand::Verify { name, data, partial } => {
            let images = ImageArgs { data: data.clone(), partial: *partial, on_bad_image: BadImage::Skip };
            verify::run(&source(name, &images)?)
        }
        DataCommand::Info { name, images } => info::run(&source(name, images)?),
        DataCommand::Show { name, images, out, recipe, split, seed } => {
            let source = source(name, images)?;
            let patches = match recipe {
                Some(recipe) => RunConfig::read(recipe, &[])?.patches,
                None => (ImageSet::named(&source.name)?.patches)(),
            };
            show::run(&source, &patches, (*split).map(Split::from), *seed, out)
        }
    }
}

/// The set of this name or, without one, what the files are.
fn source(name: &Option<String>, images: &ImageArgs) -> Result<ImageSource, CliError> {
    ImageSource::new(name.as_deref().unwrap_or(AUTO), images)
}

/// Whether the images are not there, rather than wrong.
fn is_missing(error: &CliError) -> bool {
    matches!(error, CliError::Data(DataError::MissingFolder { .. } | DataError::MissingFile { .. }))
}
