//! What a sweep consists of: tables of groups of cells.
//!
//! A cell is one training with all its scores; its key is a digest of the resolved recipe, the seed, the images and the
//! sources, so whatever is equal in all of them is one cell, in whichever table it stands.

use std::iter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;
use empssl_report::outline::{FeatureCost, Outline};

use super::Request;
use super::outline::outline;
use crate::failure::{Failure, Outcome};
use crate::reproduce::images::ImageSet;
use crate::reproduce::program::{Program, digest};
use crate::reproduce::recipe_file;
use crate::workspace::Workspace;

/// Digits of a key: enough that two cells never share one.
const KEY_DIGITS: usize = 16;

/// A table of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Table {
    /// One epoch, in the three readings of it: a cosine over one epoch, the first of two epochs, both of two
    OneEpoch,
    /// 1, 10 and 30 epochs with 20 and with 200 patches
    Main,
    /// Trained on one set, scored on the others that are given
    Transfer,
    /// Accuracy by the number of patches an image
    Patches,
    /// Seconds and memory of every recipe with a published figure
    Time,
}

/// Numbers of patches of the table `patches`, where none are asked for.
const PATCHES: [usize; 6] = [5, 10, 20, 50, 100, 200];

/// Patches of each image that BatchNorm sees at once in the table `patches`: as many as fit a card of 80 GB at 224 pixels,
/// and what the official code lets each of ten GPUs see of 200.
const AT_ONCE: usize = 20;

impl Table {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OneEpoch => "one-epoch",
            Self::Main => "main",
            Self::Transfer => "transfer",
            Self::Patches => "patches",
            Self::Time => "time",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::OneEpoch => "One epoch",
            Self::Main => "Epochs and patches",
            Self::Transfer => "Transfer to other sets",
            Self::Patches => "Patches an image",
            Self::Time => "Time and memory",
        }
    }

    /// Recipes it is made of, as far as a set has them.
    pub(crate) fn recipes(self) -> &'static [&'static str] {
        match self {
            Self::OneEpoch => &["one-epoch", "two-epochs", "one-epoch-200"],
            Self::Main => &["thirty-epochs", "thirty-epochs-200", "ten-epochs-200"],
            Self::Transfer | Self::Patches => &["one-epoch"],
            Self::Time => {
                &["one-epoch", "two-epochs", "one-epoch-200", "thirty-epochs", "thirty-epochs-200", "ten-epochs-200"]
            }
        }
    }

    /// Changes of a recipe, one list for each row of the table.
    pub(crate) fn variants(self, changes: &[String], patches: &[usize]) -> Vec<Vec<String>> {
        if self != Self::Patches {
            return vec![changes.to_vec()];
        }
        let counts = if patches.is_empty() { &PATCHES[..] } else { patches };
        counts.iter().map(|&n| in_parts(n).into_iter().chain(changes.iter().cloned()).collect()).collect()
    }
}

/// So many patches an image, at most [`AT_ONCE`] of them at once.
fn in_parts(n: usize) -> Vec<String> {
    let count = format!("training.n_patches={n}");
    match (1..=AT_ONCE).rev().find(|part| n.is_multiple_of(*part)) {
        Some(part) if part < n => vec![count, format!("training.memory={{ by-patches = {part} }}")],
        _ => vec![count],
    }
}

/// One training and its scores.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) key: String,
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) set: ImageSet,
    pub(crate) recipe: PathBuf,
    pub(crate) changes: Vec<String>,
    pub(crate) seed: u64,
    pub(crate) states: Vec<Option<u64>>,
    /// Other sets that the end is scored on.
    pub(crate) targets: Vec<Target>,
}

/// A set that another set's encoder is scored on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    pub(crate) set: ImageSet,
    /// Of the set's own images and settings, so that another set under the same name gets its own scores.
    pub(crate) key: String,
    /// Of scoring on it.
    cost: FeatureCost,
}

/// The cells of one recipe on one set: one for each seed.
pub(crate) struct Group {
    pub(crate) recipe: String,
    pub(crate) changes: Vec<String>,
    pub(crate) outline: Arc<Outline>,
    /// Places in [`Plan::cells`], by seed.
    pub(crate) cells: Vec<usize>,
}

/// A table of the report.
pub(crate) struct TablePlan {
    /// Nothing where runs were asked for by their recipes.
    pub(crate) table: Option<Table>,
    pub(crate) groups: Vec<Group>,
}

/// Everything that is to be run.
pub(crate) struct Plan {
    pub(crate) tables: Vec<TablePlan>,
    /// Every cell once; first those of the first seed.
    pub(crate) cells: Vec<Cell>,
}

impl Cell {
    /// What its features take: of every state, and of the end on other sets.
    pub(crate) fn feature_cost(&self, outline: &Outline) -> FeatureCost {
        let others = self.targets.iter().map(|target| target.cost);
        iter::once(outline.feature_cost(self.states.len())).chain(others).sum()
    }
}

impl Plan {
    /// Lays out what was asked for; the program opens every set once for every recipe.
    pub(crate) fn new(request: &Request, program: &Program, workspace: &Workspace) -> Outcome<Self> {
        let mut planner = Planner { request, program, workspace, outlines: Vec::new(), cells: Vec::new() };
        let wanted: Vec<Option<Table>> = match request.tables.is_empty() {
            true => vec![None],
            false => request.tables.iter().map(|&table| Some(table)).collect(),
        };
        let tables: Outcome<Vec<_>> = wanted.into_iter().map(|table| planner.table(table)).collect();
        let mut plan = Self { tables: tables?, cells: planner.cells };
        plan.put_first_seeds_first();
        Ok(plan)
    }

    /// So that every row of a table has a figure early.
    fn put_first_seeds_first(&mut self) {
        let mut order: Vec<usize> = (0..self.cells.len()).collect();
        order.sort_by_key(|&index| self.cells[index].seed);
        let mut place = vec![0; order.len()];
        order.iter().enumerate().for_each(|(new, &old)| place[old] = new);
        self.cells = order.iter().map(|&old| self.cells[old].clone()).collect();
        let groups = self.tables.iter_mut().flat_map(|table| &mut table.groups);
        groups.for_each(|group| group.cells.iter_mut().for_each(|cell| *cell = place[*cell]));
    }
}

struct Planner<'a> {
    request: &'a Request,
    program: &'a Program,
    workspace: &'a Workspace,
    outlines: Vec<(ImageSet, PathBuf, Vec<String>, Arc<Outline>)>,
    cells: Vec<Cell>,
}

impl Planner<'_> {
    fn table(&mut self, table: Option<Table>) -> Outcome<TablePlan> {
        let request = self.request;
        let mut groups = Vec::new();
        for set in &request.sets {
            for (recipe, file) in self.recipes(table, set)? {
                let variants = match table {
                    Some(table) => table.variants(&request.changes, &request.patches),
                    None => vec![request.changes.clone()],
                };
                for changes in variants {
                    groups.push(self.group(table, set, &recipe, &file, changes)?);
                }
            }
        }
        Ok(TablePlan { table, groups })
    }

    /// The recipes of a table that a set has, or those that were asked for.
    fn recipes(&self, table: Option<Table>, set: &ImageSet) -> Outcome<Vec<(String, PathBuf)>> {
        let (request, workspace) = (self.request, self.workspace);
        let find = |recipe: &str| Ok((recipe.to_owned(), recipe_file(&set.name, recipe, workspace)?));
        let Some(table) = table.filter(|_| request.recipes.is_empty()) else {
            return request.recipes.iter().map(|recipe| find(recipe)).collect();
        };
        let found: Vec<_> = table.recipes().iter().filter_map(|recipe| find(recipe).ok()).collect();
        match found.is_empty() {
            false => Ok(found),
            true => Err(Failure::usage(format!(
                "configs/{}/ has none of the recipes of the table {} ({}): name one with --recipe",
                set.name,
                table.name(),
                table.recipes().join(", ")
            ))),
        }
    }

    fn group(
        &mut self,
        table: Option<Table>,
        set: &ImageSet,
        recipe: &str,
        file: &Path,
        changes: Vec<String>,
    ) -> Outcome<Group> {
        let outline = self.outline(set, file, &changes)?;
        let targets = match table {
            Some(Table::Transfer) => self.targets(set)?,
            _ => Vec::new(),
        };
        let seeds = self.request.first_seed..self.request.first_seed.saturating_add(self.request.n_seeds);
        let cells = seeds.map(|seed| self.cell(set, recipe, file, &changes, seed, &outline, &targets)).collect();
        Ok(Group { recipe: recipe.to_owned(), changes, outline, cells })
    }

    /// The other sets, with the settings by which each is scored: those of its own recipe of the same name.
    fn targets(&mut self, set: &ImageSet) -> Outcome<Vec<Target>> {
        let others: Vec<_> = self.request.sets.iter().filter(|other| *other != set).cloned().collect();
        if others.is_empty() {
            return Err(Failure::usage("the table transfer needs at least two sets: --dataset A=DIR --dataset B=DIR"));
        }
        let mut targets = Vec::new();
        for other in others {
            let (_, file) = self.recipes(Some(Table::Transfer), &other)?.remove(0);
            let outline = self.outline(&other, &file, &[])?;
            let key = digest(&outline.data.fingerprints)[..KEY_DIGITS].to_owned();
            targets.push(Target { set: other, key, cost: outline.feature_cost(1) });
        }
        Ok(targets)
    }

    fn outline(&mut self, set: &ImageSet, file: &Path, changes: &[String]) -> Outcome<Arc<Outline>> {
        let known = self.outlines.iter().find(|(s, f, c, _)| s == set && f == file && c == changes);
        if let Some((.., outline)) = known {
            return Ok(outline.clone());
        }
        let may_fetch = self.request.may_fetch;
        let outline = Arc::new(outline(set, file, changes, self.program, may_fetch, self.workspace)?);
        self.outlines.push((set.clone(), file.to_path_buf(), changes.to_vec(), outline.clone()));
        Ok(outline)
    }

    /// The place of a cell, which is a new one unless its key is known.
    #[expect(clippy::too_many_arguments, reason = "they are the cell")]
    fn cell(
        &mut self,
        set: &ImageSet,
        recipe: &str,
        file: &Path,
        changes: &[String],
        seed: u64,
        outline: &Outline,
        targets: &[Target],
    ) -> usize {
        let key = key(outline, seed, &self.program.revision, self.request);
        let index = self.cells.iter().position(|cell| cell.key == key).unwrap_or_else(|| {
            let name = format!("{}-{recipe}-s{seed}-{key}", set.name);
            self.cells.push(Cell {
                folder: self.request.out.join("cells").join(&name),
                name,
                key,
                set: set.clone(),
                recipe: file.to_path_buf(),
                changes: changes.to_vec(),
                seed,
                states: outline.states(),
                targets: Vec::new(),
            });
            self.cells.len() - 1
        });
        let cell = &mut self.cells[index];
        let new: Vec<_> = targets.iter().filter(|target| !cell.targets.contains(target)).cloned().collect();
        cell.targets.extend(new);
        index
    }
}

/// What a cell's result depends on. The number of processes is part of it only where each normalises by itself.
fn key(outline: &Outline, seed: u64, revision: &str, request: &Request) -> String {
    let (seed, prints) = (seed.to_string(), outline.data.fingerprints.join(" "));
    let mut parts = vec![outline.recipe_toml.clone(), seed, prints, revision.to_owned()];
    if request.ranks > 1 && outline.depends_on_ranks() {
        parts.push(format!("{} ranks", request.ranks));
    }
    if request.deterministic {
        parts.push("deterministic".to_owned());
    }
    digest(parts)[..KEY_DIGITS].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_patches_go_through_in_equal_parts() {
        let memory = |n: usize| in_parts(n).get(1).cloned();
        assert_eq!([5, 10, 20].map(memory), [None, None, None]);
        let parts = |part: usize| Some(format!("training.memory={{ by-patches = {part} }}"));
        assert_eq!([50, 100, 200, 30].map(memory), [10, 20, 20, 15].map(parts));
        assert_eq!(Table::Patches.variants(&["a=1".to_owned()], &[4]), [["training.n_patches=4", "a=1"]]);
        assert_eq!(Table::Main.variants(&["a=1".to_owned()], &[4]), [["a=1"]]);
    }
}
