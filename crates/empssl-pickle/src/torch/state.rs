//! Where in a file the weights are.

use super::dialect::{Object, Pickled, Torch, Value};
use super::tensor::View;
use crate::bytes::{Fault, shown};

/// The keys under which programs keep weights beside other things, the most telling first: PyTorch Lightning and most
/// training scripts, then habits of others.
const CONTAINERS: [&str; 5] = ["state_dict", "model_state_dict", "model", "network", "net"];
/// The longest name of a tensor.
const MAX_NAME: usize = 200;
/// The most other keys that are told.
const MAX_BESIDE: usize = 100;

/// Named views, in order, and what they lay among.
pub(super) struct State {
    pub(super) beside: Vec<String>,
    pub(super) tensors: Vec<(String, View)>,
}

/// Finds the weights: the whole file, or what is under a key that says so.
pub(super) fn find(pickled: &Pickled<'_>, dialect: &Torch) -> Result<State, Fault> {
    let reader = Reader { pickled, dialect };
    let Value::Dict(entries) = pickled.root() else {
        return Err(Fault::new(format!("it holds {}, and weights are a dict of tensors", reader.kind(pickled.root))));
    };
    let is_tensor = |id: usize| matches!(pickled.values[id], Value::Own(Object::Tensor(_)));
    if entries.iter().any(|&(_, value)| is_tensor(value)) {
        if let Some(foreign) = dialect.foreign().first() {
            return Err(Fault::new(format!("it names `{foreign}`, and a file of weights needs nothing but tensors")));
        }
        return Ok(State { beside: Vec::new(), tensors: reader.tensors(entries)? });
    }
    let holds_tensors = |id: usize| match &pickled.values[id] {
        Value::Dict(entries) => entries.iter().any(|&(_, value)| is_tensor(value)),
        _ => false,
    };
    let keys: Vec<String> = entries.iter().take(MAX_BESIDE).map(|&(key, _)| reader.text(key)).collect();
    let under = |name: &str| entries.iter().zip(&keys).find(|((_, value), key)| *key == name && holds_tensors(*value));
    let Some((&(_, id), container)) = CONTAINERS.iter().find_map(|name| under(name)) else {
        let looked = CONTAINERS.join("`, `");
        return Err(Fault::new(format!(
            "it holds no dict of tensors, neither itself nor under `{looked}`; its keys are {}",
            keys.join(", ")
        )));
    };
    let Value::Dict(inner) = &pickled.values[id] else { return Err(Fault::new("it holds no dict of tensors")) };
    let beside = keys.iter().filter(|key| *key != container).cloned().collect();
    Ok(State { beside, tensors: reader.tensors(inner)? })
}

struct Reader<'p, 'a> {
    pickled: &'p Pickled<'a>,
    dialect: &'p Torch,
}

impl Reader<'_, '_> {
    /// The views of a dict that must hold nothing else.
    fn tensors(&self, entries: &[(usize, usize)]) -> Result<Vec<(String, View)>, Fault> {
        let mut tensors = Vec::with_capacity(entries.len());
        for &(key, value) in entries {
            let name = match &self.pickled.values[key] {
                Value::Text(name) if name.len() <= MAX_NAME => name.to_string(),
                Value::Bytes(name) if name.len() <= MAX_NAME => String::from_utf8_lossy(name).into_owned(),
                _ => return Err(Fault::new(format!("a tensor's name is {}", self.kind(key)))),
            };
            match &self.pickled.values[value] {
                Value::Own(Object::Tensor(view)) => tensors.push((name, (**view).clone())),
                _ => return Err(Fault::new(format!("`{name}` is {}, no tensor", self.kind(value)))),
            }
        }
        Ok(tensors)
    }

    /// A key for people to read.
    fn text(&self, id: usize) -> String {
        self.pickled.values[id].as_bytes().map_or_else(|| self.kind(id), shown)
    }

    /// What an object is, in words.
    fn kind(&self, id: usize) -> String {
        match &self.pickled.values[id] {
            Value::None => "None".to_owned(),
            Value::Int(number) => format!("the number {number}"),
            Value::Wide | Value::Float => "a number".to_owned(),
            Value::Bytes(_) | Value::Text(_) => "a text".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Tuple(_) => "a tuple".to_owned(),
            Value::Set(_) => "a set".to_owned(),
            Value::Dict(_) => "a dict".to_owned(),
            Value::Own(Object::Tensor(_)) => "a tensor".to_owned(),
            Value::Own(Object::Storage { .. }) => "a storage".to_owned(),
            Value::Own(Object::Known(_)) => "a function".to_owned(),
            Value::Own(Object::Foreign(name)) => format!("a `{}`", self.dialect.foreign_name(*name)),
        }
    }
}
