//! The one check of a recipe, which every command makes before it opens a device: what is impossible is refused with its
//! key in full. It costs nothing, whatever the sizes are.

use std::fmt::Display;

use empssl_data::ImageSet;

use super::RunConfig;
use crate::error::CliError;

/// The name that stands for whatever set the files are.
pub(crate) const AUTO: &str = "auto";

/// The largest whole numbers of a recipe, for the keys that may have more than [`LARGEST`].
const LARGER: [(&str, i64); 2] =
    [("evaluation.labelled_images", 1_000_000_000), ("training.length.steps", 1_000_000_000)];
/// Larger whole numbers are slips of the hand, and products of sizes below it are far from the largest of 64 bits.
const LARGEST: i64 = 1_000_000;
/// The same for keys whose sizes are squared.
const SMALLER: [(&str, i64); 2] = [("patches.side", 4096), ("network.base_width", 65_536)];
/// Patches in a batch.
const MOST_PATCHES: usize = 1_000_000_000;
/// The sizes of numbers other than 0: float32, in which a run computes, holds them and their products and quotients.
const SIZES: [f64; 2] = [1e-20, 1e20];

/// Refuses a recipe with a number out of any range, or an unknown data set.
pub(super) fn check(config: &RunConfig) -> Result<(), CliError> {
    let table = toml::Table::try_from(config).expect("a recipe has only tables, text and numbers");
    leaves(&table).iter().try_for_each(|(key, value)| check_value(key, value)).map_err(CliError::Recipe)?;
    let (training, evaluation) = (&config.training, &config.evaluation);
    check_product("training", training.n_patches, training.batch_size)?;
    check_product("evaluation", evaluation.n_patches, evaluation.batch_size)?;
    if config.dataset != AUTO {
        ImageSet::named(&config.dataset)?;
    }
    Ok(())
}

fn check_value(key: &str, value: &toml::Value) -> Result<(), String> {
    match value {
        toml::Value::Float(number) => {
            let [least, most] = SIZES;
            let holds = *number == 0.0 || (least..=most).contains(&number.abs());
            let rule = format!("0 or of a size from {least:e} to {most:e}, which float32 can compute with");
            if holds { Ok(()) } else { Err(must_be(key, &rule, number)) }
        }
        toml::Value::Integer(number) => {
            let special = LARGER.iter().chain(&SMALLER).find(|(special, _)| *special == key);
            let most = special.map_or(LARGEST, |(_, most)| *most);
            if *number <= most { Ok(()) } else { Err(must_be(key, &format!("at most {most}"), number)) }
        }
        toml::Value::Array(values) => values.iter().try_for_each(|value| check_value(key, value)),
        _ => Ok(()),
    }
}

fn check_product(section: &str, n_patches: usize, batch_size: usize) -> Result<(), CliError> {
    let patches = n_patches.saturating_mul(batch_size);
    let key = format!("{section}.n_patches");
    let rule = format!("such that n_patches x batch_size is at most {MOST_PATCHES}");
    let found = format!("{n_patches} with {batch_size} images");
    if patches <= MOST_PATCHES { Ok(()) } else { Err(CliError::Recipe(must_be(&key, &rule, found))) }
}

/// The sentence in which all crates refuse a setting.
pub(super) fn must_be(key: &str, rule: &str, found: impl Display) -> String {
    format!("`{key}` must be {rule}, found {found}")
}

/// What a library refuses by the name of its own key, with the section of the recipe before it.
pub(crate) fn in_section(section: &str, refusal: impl Display) -> CliError {
    CliError::Recipe(refusal.to_string().replacen('`', &format!("`{section}."), 1))
}

/// The values of a recipe by their keys in full.
pub(crate) fn leaves(table: &toml::Table) -> Vec<(String, &toml::Value)> {
    let inner = table.iter().map(|(key, value)| match value {
        toml::Value::Table(inner) => {
            leaves(inner).into_iter().map(|(rest, value)| (format!("{key}.{rest}"), value)).collect()
        }
        value => vec![(key.clone(), value)],
    });
    inner.flatten().collect()
}
