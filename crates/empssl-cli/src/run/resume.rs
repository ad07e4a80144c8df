//! Going on with a run: what must be as it was, what may differ, and what is reported of it.

use std::collections::BTreeMap;
use std::path::Path;

use empssl_train::{BatchNormOver, Checkpoint, Versions};

use crate::config::leaves;
use crate::error::CliError;

/// Keys, and sections, of a recipe that no result of training depends on.
const FREE: [&str; 4] = ["evaluation", "checks", "published", "training.snapshot_epochs"];
/// Keys of which some values give the same result, but for the rounding that another thread count brings too, and
/// those values.
const SAME_RESULT: [(&str, &[&str]); 1] = [("training.memory", &["\"whole\"", "\"by-stage\""])];
/// Keys that older recipes do not have, and what they meant.
const IMPLIED: [(&str, &str); 1] = [("training.batch_norm", "\"global\"")];
/// What stands for the value of a key that is not there.
const UNSET: &str = "not set";

/// Refuses what lies at `path` when it was written under another recipe, with each key that matters and both of its
/// values.
pub(crate) fn demand_same_recipe(path: &Path, written: &str, recipe: &str) -> Result<(), CliError> {
    let read = |text: &str| keys(text).map_err(|reason| CliError::file("cannot use", path, reason));
    let (theirs, ours) = (read(written)?, read(recipe)?);
    let unset = UNSET.to_owned();
    let value = |keys: &BTreeMap<String, String>, key: &str| keys.get(key).unwrap_or(&unset).clone();
    let all = theirs.keys().chain(ours.keys().filter(|key| !theirs.contains_key(*key)));
    let differing = all.map(|key| (key, value(&theirs, key), value(&ours, key)));
    let differing = differing.filter(|(key, theirs, ours)| theirs != ours && !is_free(key, theirs, ours));
    let named: Vec<String> =
        differing.map(|(key, theirs, ours)| format!("`{key}` is {theirs} there and {ours} here")).collect();
    if named.is_empty() {
        return Ok(());
    }
    let reason = format!("it was written under another recipe: {}; put back what was, or train anew", named.join("; "));
    Err(CliError::file("cannot use", path, reason))
}

fn is_free(key: &str, theirs: &str, ours: &str) -> bool {
    let within =
        |section: &&str| key.strip_prefix(*section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let same = |(name, values): &(&str, &[&str])| *name == key && values.contains(&theirs) && values.contains(&ours);
    // A term of the loss that a recipe does not name has no weight.
    let is_weight = key.starts_with("loss.") && key.ends_with("_weight");
    let no_term = is_weight && [theirs, ours].iter().all(|value| [UNSET, "0.0"].contains(value));
    no_term || FREE.iter().any(within) || SAME_RESULT.iter().any(same)
}

/// The values of a recipe by dotted key.
fn keys(recipe: &str) -> Result<BTreeMap<String, String>, String> {
    let table: toml::Table = recipe.parse().map_err(|error: toml::de::Error| {
        format!("the recipe in it cannot be understood: {}", error.message().replace('\n', " "))
    })?;
    let mut found: BTreeMap<_, _> = leaves(&table).into_iter().map(|(key, value)| (key, value.to_string())).collect();
    for (key, value) in IMPLIED {
        found.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }
    Ok(found)
}

/// What differs from the process before in ways that may show in the last bits, one line each.
pub(crate) fn notes(checkpoint: &Checkpoint, threads: u64, running: &Versions) -> Vec<String> {
    let before = &checkpoint.versions;
    let versions = [("libtorch", &running.libtorch, &before.libtorch), ("empssl", &running.empssl, &before.empssl)];
    let versions = versions.into_iter().filter(|(_, now, then)| now != then);
    let versions =
        versions.map(|(what, now, then)| format!("{what} {now} now, {then} before: the last bits may differ"));
    let then = checkpoint.threads;
    let threads = (threads != then).then(|| {
        format!("{threads} threads now, {then} before: sums are split by thread, so the last bits may differ")
    });
    threads.into_iter().chain(versions).collect()
}

/// What is reported of, or refused, a run that goes on with another number of ranks.
pub(crate) fn note_on_ranks(then: u64, now: u64, norms: BatchNormOver) -> Result<Option<String>, CliError> {
    match norms {
        _ if then == now => Ok(None),
        BatchNormOver::Global => {
            Ok(Some(format!("{now} ranks now, {then} before: sums are split by rank, so the last bits may differ")))
        }
        BatchNormOver::PerRank => Err(CliError::Run(format!(
            "this run was trained by {then} ranks, and with batch_norm = \"per-rank\" its result depends on their number; \
             go on with as many, not with {now}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use empssl_train::Position;

    use super::*;

    const RECIPE: &str = "dataset = \"folder\"\n[training]\nmemory = \"whole\"\nlayout = \"contiguous\"\nn_patches = 4\n\
                          snapshot_epochs = []\nlength = { epochs = 1 }\n[evaluation]\nbatch_size = 5\n[evaluation.knn]\nk = 20\n";

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            step: 4,
            position: Position { epoch: 0, batch: 4, schedule_steps: 9 },
            seed: 0,
            threads: 2,
            world: 1,
            versions: Versions { empssl: "1.0.0".to_owned(), libtorch: "2.11.0+cpu".to_owned() },
            recipe: RECIPE.to_owned(),
            network: Vec::new(),
            momentum: Vec::new(),
        }
    }

    fn demand(recipe: &str) -> Result<(), String> {
        demand_same_recipe(Path::new("c.safetensors"), RECIPE, recipe).map_err(|error| error.to_string())
    }

    #[test]
    fn keys_that_shape_the_training_must_be_equal_and_others_need_not() {
        assert_eq!(demand(RECIPE), Ok(()));
        for (from, to) in [
            ("k = 20", "k = 5"),
            ("snapshot_epochs = []", "snapshot_epochs = [1, 10]"),
            ("memory = \"whole\"", "memory = \"by-stage\""),
            ("[evaluation]", "[checks]\nmax_minutes = 1.0\n[[published]]\ntop1 = 85.1\n[evaluation]"),
        ] {
            assert_eq!(demand(&RECIPE.replace(from, to)), Ok(()), "{to}");
        }
        for (from, to, named) in [
            ("n_patches = 4", "n_patches = 5", "`training.n_patches` is 4 there and 5 here"),
            ("\"contiguous\"", "\"channels-last\"", "`training.layout` is \"contiguous\" there"),
            ("\"whole\"", "{ by-patches = 5 }", "`training.memory.by-patches` is not set there and 5 here"),
            ("epochs = 1 }", "epochs = 2 }", "`training.length.epochs` is 1 there and 2 here"),
            ("memory = \"whole\"\n", "", "`training.memory` is \"whole\" there and not set here"),
            ("[training]", "[training]\nbatch_size = 9", "`training.batch_size` is not set there and 9 here"),
            ("dataset = \"folder\"", "dataset = \"cifar10\"", "`dataset` is \"folder\" there and \"cifar10\" here"),
        ] {
            let error = demand(&RECIPE.replace(from, to)).unwrap_err();
            assert!(error.starts_with("cannot use c.safetensors: ") && error.contains(named), "{error}");
        }
        let two = RECIPE.replace("n_patches = 4", "n_patches = 5").replace("folder", "cifar10");
        assert!(demand(&two).unwrap_err().contains("\"cifar10\" here; `training.n_patches`"));
        let global = RECIPE.replace("[training]", "[training]\nbatch_norm = \"global\"");
        assert_eq!(demand(&global), Ok(()), "what a recipe without the key means");
        let no_term = format!("{RECIPE}[loss]\nother_weight = 0.0\n");
        assert_eq!(demand(&no_term), Ok(()), "a term that has no weight");
        assert!(demand(&no_term.replace("0.0", "0.5")).unwrap_err().contains("is not set there and 0.5 here"));
        let per_rank = global.replace("global", "per-rank");
        assert!(
            demand(&per_rank).unwrap_err().contains("`training.batch_norm` is \"global\" there and \"per-rank\" here")
        );
        assert!(demand("a = ").unwrap_err().contains("cannot be understood"));
    }

    #[test]
    fn another_number_of_ranks_is_told_or_refused() {
        let note = |then, now, norms| note_on_ranks(then, now, norms).map_err(|error| error.to_string());
        assert_eq!(note(2, 2, BatchNormOver::PerRank), Ok(None));
        assert!(note(2, 1, BatchNormOver::Global).unwrap().unwrap().starts_with("1 ranks now, 2 before"));
        assert!(note(2, 4, BatchNormOver::PerRank).unwrap_err().contains("go on with as many, not with 4"));
    }

    #[test]
    fn another_thread_count_or_version_is_told() {
        let same = checkpoint().versions;
        assert!(notes(&checkpoint(), 2, &same).is_empty());
        let other = Versions { libtorch: "2.11.0+cu130".to_owned(), empssl: "1.0.1".to_owned() };
        let notes = notes(&checkpoint(), 8, &other);
        let expected = ["8 threads now, 2 before", "libtorch 2.11.0+cu130 now, 2.11.0+cpu before", "empssl 1.0.1 now"];
        assert_eq!(notes.len(), expected.len());
        assert!(notes.iter().zip(expected).all(|(note, begin)| note.starts_with(begin) && note.contains("may differ")));
    }
}
