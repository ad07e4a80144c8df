//! `empssl data`: getting a data set, checking it, and what the network sees of it.

mod info;
mod show;
mod watch;

use std::path::Path;

use empssl_data::verify::Verdict;
use empssl_data::{DataError, ImageSet, SETS, Split};
use serde::Serialize;

use self::watch::Watch;
use crate::args::{BadImage, DataArgs, DataCommand, ImageArgs};
use crate::config::{AUTO, RunConfig};
use crate::error::CliError;
use crate::images::ImageSource;
use crate::print;
use crate::print::output;

pub(crate) fn run(args: &DataArgs) -> Result<(), CliError> {
    match &args.command {
        DataCommand::List { json } => list(*json),
        DataCommand::Fetch { name, data } => fetch(name, data),
        DataCommand::Verify { name, data, partial } => {
            let images = ImageArgs { data: data.clone(), partial: *partial, on_bad_image: BadImage::Skip };
            verify(&source(name, &images)?)
        }
        DataCommand::Info { name, images } => info::run(&source(name, images)?),
        DataCommand::Show { name, images, out, recipe, split, seed } => {
            let source = source(name, images)?;
            let patches = match recipe {
                Some(recipe) => RunConfig::read(recipe, &[])?.patches,
                None => (ImageSet::named(&source.name)?.patches)(),
            };
            show::run(&source, &patches, *split, *seed, out)
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

/// `empssl data fetch`
fn fetch(name: &str, data: &Path) -> Result<(), CliError> {
    let mut watch = Watch::new()?;
    let fetched = empssl_data::fetch::fetch(name, data, &mut |progress| watch.see(progress))?;
    drop(watch);
    for part in &fetched {
        let how = if part.was_there { "already complete" } else { "complete" };
        output(format_args!("{}: {how}", part.path.display()));
    }
    print::line(format_args!("next: empssl data verify {name} --data {}", data.display()));
    Ok(())
}

/// `empssl data verify`
fn verify(source: &ImageSource) -> Result<(), CliError> {
    let mut watch = Watch::new()?;
    let report = empssl_data::verify::verify(&source.options(), &mut |progress| watch.see(progress))?;
    drop(watch);
    for check in &report.checks {
        let (mark, words) = match &check.verdict {
            Verdict::Good(words) => ("ok  ", words),
            Verdict::Note(words) => ("note", words),
            Verdict::Bad(words) => ("BAD ", words),
        };
        output(format_args!("{mark}  {}: {words}", check.what));
    }
    match report.faults().count() {
        0 => Ok(()),
        faults => Err(CliError::Faults { name: source.name.clone(), faults, checks: report.checks.len() }),
    }
}

/// A data set as `empssl data list --json` describes it; the whole is an array of these, in the order of `--help`.
#[derive(Debug, Serialize)]
struct Listed {
    /// The name that commands and recipes take.
    name: &'static str,
    /// The name as its publishers write it.
    display_name: &'static str,
    /// The official number of images of the train split; null where there is none.
    train_images: Option<usize>,
    /// The same of the test split.
    test_images: Option<usize>,
    /// The number of classes; null where it depends on the files.
    n_classes: Option<usize>,
    /// The names of the classes in the order of the labels; empty where only the files know them.
    class_names: Vec<&'static str>,
    /// Whether the images are generated and need no files.
    is_generated: bool,
    /// What `empssl data fetch` downloads; empty where there is no address that is open to everyone.
    urls: Vec<String>,
    /// What to do where there is nothing to fetch; empty elsewhere.
    instead_of_fetching: &'static str,
}

impl Listed {
    fn new(set: &ImageSet) -> Self {
        Self {
            name: set.name,
            display_name: set.title,
            train_images: set.count(Split::Train),
            test_images: set.count(Split::Test),
            n_classes: set.n_classes,
            class_names: (set.class_names)(),
            is_generated: set.is_generated,
            urls: set.files.iter().map(|published| published.url()).collect(),
            instead_of_fetching: set.instead_of_fetching,
        }
    }
}

/// `empssl data list`
fn list(json: bool) -> Result<(), CliError> {
    let sets = SETS.map(Listed::new);
    if json {
        return print::json(&sets);
    }
    let number = |number: Option<usize>| number.map_or("-".to_owned(), |number| number.to_string());
    output(format_args!("{:<14} {:>8} {:>8} {:>8}  ", "name", "train", "test", "classes"));
    for set in sets {
        let way = if set.urls.is_empty() { set.instead_of_fetching } else { "`empssl data fetch`" };
        let [train, test, classes] = [set.train_images, set.test_images, set.n_classes].map(number);
        output(format_args!("{:<14} {train:>8} {test:>8} {classes:>8}  {way}", set.name));
    }
    Ok(())
}
