//! Named tensors in and out: which keys belong, and copying them once all do.

use std::collections::{BTreeMap, BTreeSet};

use tch::{Kind, Tensor};

use crate::{ModelError, StateMismatch};

/// Named tensors, in order.
pub(crate) type State = Vec<(String, Tensor)>;

/// The prefix of the backbone's keys in the whole network.
const BACKBONE: &str = "backbone.";

/// The same tensors without graph.
pub(crate) fn detached(state: &[(String, Tensor)]) -> State {
    state.iter().map(|(key, tensor)| (key.clone(), tensor.detach())).collect()
}

/// The backbone's tensors, under the keys that the backbone alone has.
pub(crate) fn backbone_part(state: &[(String, Tensor)]) -> State {
    let inner = state.iter().filter_map(|(key, tensor)| Some((key.strip_prefix(BACKBONE)?, tensor)));
    inner.map(|(key, tensor)| (key.to_owned(), tensor.shallow_clone())).collect()
}

/// The same tensors without the `module.` that `DataParallel` puts in front of every key.
pub(crate) fn without_module_prefix(state: &[(String, Tensor)]) -> State {
    let stripped = state.iter().map(|(key, tensor)| Some((key.strip_prefix("module.")?, tensor)));
    let stripped: Option<Vec<_>> = stripped.collect();
    let renamed = stripped.unwrap_or_else(|| state.iter().map(|(key, tensor)| (key.as_str(), tensor)).collect());
    renamed.into_iter().map(|(key, tensor)| (key.to_owned(), tensor.shallow_clone())).collect()
}

/// Copies `given` into the tensors of `ours`, once it is known that every key and shape fits.
pub(crate) fn load(ours: &[(String, Tensor)], given: &[(String, Tensor)]) -> Result<(), ModelError> {
    let by_key: BTreeMap<&str, &Tensor> = given.iter().map(|(key, tensor)| (key.as_str(), tensor)).collect();
    let mismatch = compare(ours, given, &by_key);
    if !mismatch.is_empty() {
        return Err(ModelError::State(mismatch));
    }
    let _no_graph = tch::no_grad_guard();
    for (key, target) in ours {
        target.shallow_clone().copy_(by_key[key.as_str()]);
    }
    Ok(())
}

fn compare(ours: &[(String, Tensor)], given: &[(String, Tensor)], by_key: &BTreeMap<&str, &Tensor>) -> StateMismatch {
    let known: BTreeSet<&str> = ours.iter().map(|(key, _)| key.as_str()).collect();
    let mut mismatch = StateMismatch::default();
    for (key, target) in ours {
        match by_key.get(key.as_str()) {
            None => mismatch.missing.push(key.clone()),
            Some(tensor) if Form::of(tensor) != Form::of(target) => {
                mismatch.unlike.push((key.clone(), Form::of(target).to_string(), Form::of(tensor).to_string()));
            }
            Some(_) => {}
        }
    }
    let mut seen = BTreeSet::new();
    for (key, _) in given {
        if !known.contains(key.as_str()) {
            mismatch.unexpected.push(key.clone());
        } else if !seen.insert(key) {
            mismatch.repeated.push(key.clone());
        }
    }
    mismatch
}

/// What must agree for a tensor to be copied into another; the width of floating-point numbers may differ.
#[derive(PartialEq)]
struct Form {
    size: Vec<i64>,
    numbers: Numbers,
}

#[derive(PartialEq)]
enum Numbers {
    Float,
    Whole,
    Other(Kind),
}

impl Form {
    fn of(tensor: &Tensor) -> Self {
        let numbers = match tensor.kind() {
            Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double => Numbers::Float,
            Kind::Uint8 | Kind::Int8 | Kind::Int16 | Kind::Int | Kind::Int64 => Numbers::Whole,
            other => Numbers::Other(other),
        };
        Self { size: tensor.size(), numbers }
    }
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let numbers = match self.numbers {
            Numbers::Float => "floats".to_owned(),
            Numbers::Whole => "whole numbers".to_owned(),
            Numbers::Other(kind) => format!("{kind:?} numbers"),
        };
        write!(f, "{numbers} {:?}", self.size)
    }
}
