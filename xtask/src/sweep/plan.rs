//! What a sweep consists of: tables of groups of cells.
//!
//! A cell is one training with all its scores; its key is a digest of the resolved recipe, the seed, the images and the
//! sources, so whatever is equal in all of them is one cell, in whichever table it stands.

use std::iter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use empssl_report::outline::{FeatureCost, Outline};

use super::Request;
use crate::failure::{Failure, Outcome};
use crate::reproduce::args::Table;
use crate::reproduce::images::{ImageSet, MayFetch};
use crate::reproduce::program::{Program, digest};
use crate::reproduce::recipe_file;
use crate::workspace::Workspace;

/// Digits of a key: enough that two cells never share one.
const KEY_DIGITS: usize = 16;

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
    /// Those of its cells.
    pub(crate) keys: Vec<String>,
}

/// A table of the report.
pub(crate) struct TablePlan {
    pub(crate) table: Table,
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
        let wanted = if request.tables.is_empty() { &[Table::Runs] } else { &request.tables[..] };
        let tables = wanted.iter().map(|&table| planner.table(table)).collect::<Outcome<_>>()?;
        let mut cells = planner.cells;
        // So that every row of a table has a figure early.
        cells.sort_by_key(|cell| cell.seed);
        Ok(Self { tables, cells })
    }

    /// The groups of every table.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.tables.iter().flat_map(|table| &table.groups)
    }

    /// The cells of a group, by seed.
    pub(crate) fn cells_of<'a>(&'a self, group: &'a Group) -> impl Iterator<Item = &'a Cell> {
        self.cells.iter().filter(|cell| group.keys.contains(&cell.key))
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
    fn table(&mut self, table: Table) -> Outcome<TablePlan> {
        let request = self.request;
        let mut groups = Vec::new();
        for set in &request.sets {
            for (recipe, file) in self.recipes(table, set)? {
                for changes in table.variants(&request.args.set, &request.args.sweep.patches) {
                    groups.push(self.group(table, set, &recipe, &file, changes)?);
                }
            }
        }
        Ok(TablePlan { table, groups })
    }

    /// The recipes of a table that a set has, or those that were asked for.
    fn recipes(&self, table: Table, set: &ImageSet) -> Outcome<Vec<(String, PathBuf)>> {
        let (request, workspace) = (self.request, self.workspace);
        let find = |recipe: &str| Ok((recipe.to_owned(), recipe_file(&set.name, recipe, workspace)?));
        if !request.recipes.is_empty() {
            return request.recipes.iter().map(|recipe| find(recipe)).collect();
        }
        let found: Vec<_> = table.recipes().iter().filter_map(|recipe| find(recipe).ok()).collect();
        if found.is_empty() {
            let (set, name, recipes) = (&set.name, table.name(), table.recipes().join(", "));
            let lacks = format!("configs/{set}/ has none of the recipes of the table {name} ({recipes})");
            return Err(Failure::usage(format!("{lacks}: name one with --recipe")));
        }
        Ok(found)
    }

    fn group(
        &mut self,
        table: Table,
        set: &ImageSet,
        recipe: &str,
        file: &Path,
        changes: Vec<String>,
    ) -> Outcome<Group> {
        let outline = self.outline(set, file, &changes)?;
        let targets = if table == Table::Transfer { self.targets(set)? } else { Vec::new() };
        let mut keys = Vec::new();
        for seed in self.request.seeds() {
            let key = key(&outline, seed, &self.program.revision, self.request);
            // A known key is a cell of another table, too.
            let index = self.cells.iter().position(|cell| cell.key == key).unwrap_or_else(|| {
                let name = format!("{}-{recipe}-s{seed}-{key}", set.name);
                self.cells.push(Cell {
                    folder: self.request.out.join("cells").join(&name),
                    name,
                    key: key.clone(),
                    set: set.clone(),
                    recipe: file.to_path_buf(),
                    changes: changes.clone(),
                    seed,
                    states: outline.states(),
                    targets: Vec::new(),
                });
                self.cells.len() - 1
            });
            let known = &mut self.cells[index].targets;
            let new: Vec<_> = targets.iter().filter(|target| !known.contains(target)).cloned().collect();
            known.extend(new);
            keys.push(key);
        }
        Ok(Group { recipe: recipe.to_owned(), changes, outline, keys })
    }

    /// The other sets, with the settings by which each is scored: those of its own recipe of the same name.
    fn targets(&mut self, set: &ImageSet) -> Outcome<Vec<Target>> {
        let others: Vec<_> = self.request.sets.iter().filter(|other| *other != set).cloned().collect();
        if others.is_empty() {
            return Err(Failure::usage("the table transfer needs at least two sets: --dataset A=DIR --dataset B=DIR"));
        }
        let mut targets = Vec::new();
        for other in others {
            let (_, file) = self.recipes(Table::Transfer, &other)?.remove(0);
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
        let may_fetch = MayFetch::new(self.request.args.fetch);
        let outline = Arc::new(set.outline(file, changes, self.program, may_fetch, self.workspace)?);
        self.outlines.push((set.clone(), file.to_path_buf(), changes.to_vec(), outline.clone()));
        Ok(outline)
    }
}

/// What a cell's result depends on. The number of processes is part of it only where each normalises by itself.
fn key(outline: &Outline, seed: u64, revision: &str, request: &Request) -> String {
    let (seed, prints) = (seed.to_string(), outline.data.fingerprints.join(" "));
    let mut parts = vec![outline.recipe_toml.clone(), seed, prints, revision.to_owned()];
    if request.args.gpus > 1 && outline.depends_on_ranks() {
        parts.push(format!("{} ranks", request.args.gpus));
    }
    if request.args.deterministic {
        parts.push("deterministic".to_owned());
    }
    digest(parts)[..KEY_DIGITS].to_owned()
}
