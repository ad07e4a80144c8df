//! The command line of what uses the features of a trained encoder.

use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Args as ClapArgs, ValueEnum};
use empssl_report::report::View;

use super::{BadImage, DeviceArgs, ImageArgs, at_least_one, one_of};

/// A trained encoder, and what it sees of an image.
#[derive(Debug, ClapArgs)]
pub(crate) struct EncodeArgs {
    /// The folder of a run, or one checkpoint file.
    #[arg(long, value_name = "RUN|FILE")]
    pub(crate) checkpoint: PathBuf,
    /// Which features.
    #[arg(long, value_enum, default_value_t = FeatureChoice::Features)]
    pub(crate) features: FeatureChoice,
    /// What is seen of an image [default: the view that the recipe evaluates with, grid where that is random].
    #[arg(long, value_parser = view())]
    pub(crate) view: Option<View>,
    /// Patches of an image, whose features are averaged [default: as many as the recipe evaluates with].
    #[arg(long, value_name = "N")]
    pub(crate) patches: Option<usize>,
    #[command(flatten)]
    pub(crate) compute: DeviceArgs,
    /// Threads that cut patches [default: one per core, at most 16].
    #[arg(long, value_name = "W", value_parser = at_least_one())]
    pub(crate) workers: Option<usize>,
}

/// `--view`
fn view() -> impl TypedValueParser<Value = View> {
    let word = |view: View, help| (view, PossibleValue::new(view.name()).help(help));
    one_of([
        word(
            View::Published,
            "Random patches under the full training augmentation, as published; by the seed of the run",
        ),
        word(View::Grid, "Patches in fixed places, without any change of colour"),
        word(View::GridFlip, "Half as many places, each as it is and mirrored"),
        word(View::Whole, "The whole image, resized to the side of a patch"),
    ])
}

/// `--features`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FeatureChoice {
    /// The pooled output of the ResNet.
    Backbone,
    /// The output of the pre-feature layer, which is what the scores are of.
    Features,
    /// The output of the projector, rows of length 1 before they are averaged.
    Projection,
}

/// `empssl embed`
#[derive(Debug, ClapArgs)]
pub(crate) struct EmbedArgs {
    /// Image files, and folders of JPEG and PNG files at any depth.
    #[arg(required = true, value_name = "FILE|DIR")]
    pub(crate) inputs: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) encode: EncodeArgs,
    /// What an unreadable image does.
    #[arg(long, value_enum, default_value_t = BadImage::Fail, value_name = "WHAT")]
    pub(crate) on_bad_image: BadImage,
    /// The file to write, in the form that its ending names: .npy or .safetensors, each with the images' names in
    /// NAME.paths.txt beside it, or .csv with the names in its first column.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: RowsFile,
}

/// A file for rows of features.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowsFile {
    pub(crate) path: PathBuf,
    pub(crate) form: RowsForm,
}

/// How rows of features are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowsForm {
    Npy,
    Safetensors,
    Csv,
}

impl FromStr for RowsFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let path = PathBuf::from(text);
        let form = match path.extension().and_then(|ending| ending.to_str()) {
            Some("npy") => RowsForm::Npy,
            Some("safetensors") => RowsForm::Safetensors,
            Some("csv") => RowsForm::Csv,
            _ => return Err("name a file that ends in .npy, .safetensors or .csv".to_owned()),
        };
        Ok(Self { path, form })
    }
}

/// `empssl neighbours`
#[derive(Debug, ClapArgs)]
pub(crate) struct NeighboursArgs {
    /// The image whose neighbours are looked for.
    pub(crate) image: PathBuf,
    #[command(flatten)]
    pub(crate) encode: EncodeArgs,
    /// The data set whose training images are searched [default: the run's own].
    #[arg(long, value_name = "NAME")]
    pub(crate) dataset: Option<String>,
    #[command(flatten)]
    pub(crate) images: ImageArgs,
    /// At most so many of them, drawn by the run's seed [default: as many as the recipe evaluates with].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) among: Option<u64>,
    /// Neighbours to draw.
    #[arg(long, default_value_t = 12, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) count: u32,
    /// The PNG file to write.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}
