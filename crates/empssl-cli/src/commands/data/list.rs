//! `empssl data list`

use empssl_data::{ImageSet, SETS, Split};
use serde::Serialize;

use crate::print::output;

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

pub(super) fn run(json: bool) {
    let sets = SETS.map(Listed::new);
    if json {
        return output(serde_json::to_string_pretty(&sets).expect("names and numbers"));
    }
    let number = |number: Option<usize>| number.map_or("-".to_owned(), |number| number.to_string());
    output(format_args!("{:<14} {:>8} {:>8} {:>8}  ", "name", "train", "test", "classes"));
    for set in sets {
        let way = if set.urls.is_empty() { set.instead_of_fetching } else { "`empssl data fetch`" };
        let [train, test, classes] = [set.train_images, set.test_images, set.n_classes].map(number);
        output(format_args!("{:<14} {train:>8} {test:>8} {classes:>8}  {way}", set.name));
    }
}
