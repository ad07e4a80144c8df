//! What `torch.save` makes of tensors: functions that put them together from storages kept outside of the pickle.

use std::collections::BTreeMap;

use crate::bytes::shown;
use crate::dialect::{Dialect, Made};

use super::names::{Known, inert};
use super::tensor::{Element, View};

/// An object of a pickle of PyTorch.
pub(super) type Value<'a> = crate::Value<'a, Object>;
/// A read pickle of PyTorch.
pub(super) type Pickled<'a> = crate::Pickled<'a, Object>;

/// What only pickles of PyTorch hold.
#[derive(Debug)]
pub(super) enum Object {
    /// A function or class that is carried out.
    Known(Known),
    /// The numbers of a storage from some place on.
    Storage { storage: usize, offset: usize },
    /// A tensor.
    Tensor(Box<View>),
    /// A function or class that is not carried out, or whatever it would have made, by its place in the list of names.
    Foreign(usize),
}

/// A storage as the pickle announces it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// The name of its file, or its place in the order of the older form.
    pub(super) key: String,
    pub(super) element: Element,
    /// How many numbers it has.
    pub(super) length: usize,
}

impl Stored {
    /// How many bytes it has.
    pub(super) fn bytes(&self) -> usize {
        self.length * self.element.size()
    }
}

/// The longest key of a storage: the older form uses addresses in decimal digits, the newer one counts.
const MAX_KEY: usize = 40;
/// The most items of dicts that are made from lists of pairs.
const MAX_COPIED: usize = 1 << 20;
/// The most classes that are not carried out.
const MAX_FOREIGN: usize = 1_000;

/// Knows how tensors are stored.
#[derive(Debug, Default)]
pub(super) struct Torch {
    storages: Vec<Stored>,
    by_key: BTreeMap<String, usize>,
    foreign: Vec<String>,
    by_name: BTreeMap<String, usize>,
    /// How many items calls have copied.
    copied: usize,
}

impl Torch {
    /// A storage that a view names.
    pub(super) fn stored(&self, storage: usize) -> &Stored {
        &self.storages[storage]
    }

    /// The storage of this key.
    pub(super) fn by_key(&self, key: &str) -> Option<&Stored> {
        self.by_key.get(key).map(|&storage| &self.storages[storage])
    }

    /// Every class and function that was left as a name, in the order in which they were named.
    pub(super) fn foreign(&self) -> Vec<String> {
        self.foreign.clone()
    }

    /// One of them.
    pub(super) fn foreign_name(&self, foreign: usize) -> &str {
        &self.foreign[foreign]
    }

    fn left_as_name(&mut self, name: String) -> Result<Object, String> {
        if let Some(&known) = self.by_name.get(&name) {
            return Ok(Object::Foreign(known));
        }
        if self.foreign.len() == MAX_FOREIGN {
            return Err(format!("it names more than {MAX_FOREIGN} classes"));
        }
        self.foreign.push(name.clone());
        self.by_name.insert(name, self.foreign.len() - 1);
        Ok(Object::Foreign(self.foreign.len() - 1))
    }

    /// Notes a storage, which may be named again, but not otherwise.
    fn noted(&mut self, stored: Stored) -> Result<usize, String> {
        if stored.length.checked_mul(stored.element.size()).is_none() {
            return Err(format!("a storage of {} numbers", stored.length));
        }
        if let Some(&known) = self.by_key.get(&stored.key) {
            let same = self.storages[known] == stored;
            let differs = || format!("the storage `{}` is announced twice in different ways", stored.key);
            return if same { Ok(known) } else { Err(differs()) };
        }
        self.by_key.insert(stored.key.clone(), self.storages.len());
        self.storages.push(stored);
        Ok(self.storages.len() - 1)
    }

    fn tensor<'a>(&self, arguments: &[usize], values: &[Value<'a>]) -> Made<'a, Object> {
        let [storage, offset, sizes, steps, ..] = arguments else {
            return Err("a tensor with arguments missing".to_owned());
        };
        let Value::Own(Object::Storage { storage, offset: first }) = values[*storage] else {
            return Err("a tensor without a storage".to_owned());
        };
        let (Some(offset), Some(sizes), Some(steps)) =
            (values[*offset].as_size(), numbers(*sizes, values), numbers(*steps, values))
        else {
            return Err("a tensor of an impossible size, stride or offset".to_owned());
        };
        let view = View::new(storage, self.storages[storage].length, first.saturating_add(offset), &sizes, &steps)?;
        Ok(Value::Own(Object::Tensor(Box::new(view))))
    }

    /// An ordered dict: empty, or from a list of pairs as Python 2 stores it.
    fn ordered_dict<'a>(&mut self, arguments: &[usize], values: &[Value<'a>]) -> Made<'a, Object> {
        let Some(&items) = arguments.first() else { return Ok(Value::Dict(Vec::new())) };
        let refused = || "an ordered dict that is no list of pairs".to_owned();
        let Value::List(items) = &values[items] else { return Err(refused()) };
        self.copied += items.len();
        if self.copied > MAX_COPIED {
            return Err(format!("ordered dicts of more than {MAX_COPIED} items"));
        }
        let pair = |&id: &usize| match &values[id] {
            Value::List(pair) | Value::Tuple(pair) => match pair[..] {
                [key, value] => Some((key, value)),
                _ => None,
            },
            _ => None,
        };
        items.iter().map(pair).collect::<Option<Vec<_>>>().map(Value::Dict).ok_or_else(refused)
    }
}

/// The sizes in a tuple, as few as a tensor has axes.
fn numbers(id: usize, values: &[Value<'_>]) -> Option<Vec<usize>> {
    let (Value::Tuple(items) | Value::List(items)) = &values[id] else { return None };
    items.iter().take(100).map(|&id| values[id].as_size()).collect()
}

impl<'a> Dialect<'a> for Torch {
    type Own = Object;

    const HAS_OBJECTS: bool = true;

    fn named(&mut self, module: &[u8], name: &[u8]) -> Result<Object, String> {
        match Known::find(module, name) {
            Some(known) => Ok(Object::Known(known)),
            None => self.left_as_name(inert(module, name)?),
        }
    }

    fn call(&mut self, function: &Object, arguments: &[usize], values: &[Value<'a>]) -> Made<'a, Object> {
        match function {
            Object::Foreign(name) => Ok(Value::Own(Object::Foreign(*name))),
            Object::Known(Known::RebuildTensor) => self.tensor(arguments, values),
            Object::Known(Known::RebuildParameter) => match arguments.first().map(|&id| &values[id]) {
                Some(Value::Own(Object::Tensor(view))) => Ok(Value::Own(Object::Tensor(view.clone()))),
                _ => Err("a parameter that is no tensor".to_owned()),
            },
            Object::Known(Known::OrderedDict) => self.ordered_dict(arguments, values),
            _ => Err("a call of something that is no function".to_owned()),
        }
    }

    /// What a dict gets is its `_metadata`, versions of layers; whatever else may have attributes is left alone.
    fn filled(&mut self, object: usize, _state: usize, values: &[Value<'a>]) -> Result<Option<Value<'a>>, String> {
        match values[object] {
            Value::Dict(_) | Value::Own(Object::Foreign(_)) => Ok(None),
            _ => Err("a state for what has none".to_owned()),
        }
    }

    fn persistent(&mut self, id: usize, values: &[Value<'a>]) -> Made<'a, Object> {
        let announced = "something kept outside of the pickle that is no storage";
        let Value::Tuple(parts) = &values[id] else { return Err(announced.to_owned()) };
        let [kind, class, key, _device, length, rest @ ..] = &parts[..] else { return Err(announced.to_owned()) };
        if values[*kind].as_bytes() != Some(b"storage") {
            return Err(announced.to_owned());
        }
        let element = match &values[*class] {
            Value::Own(Object::Known(Known::Storage(element))) => *element,
            Value::Own(Object::Foreign(name)) => {
                let class = self.foreign_name(*name);
                return Err(format!("a storage of class `{class}`, whose numbers no weights here have,"));
            }
            _ => return Err("a storage without a class".to_owned()),
        };
        let key = values[*key].as_bytes().filter(|key| key.len() <= MAX_KEY).ok_or("a storage without a key")?;
        let length = values[*length].as_size().ok_or("a storage of an impossible length")?;
        let storage = self.noted(Stored { key: shown(key), element, length })?;
        // The older form's way to say that a storage is a part of another.
        let offset = match rest.first().map(|&id| &values[id]) {
            None | Some(Value::None) => 0,
            Some(Value::Tuple(part)) if part.len() == 3 => {
                values[part[1]].as_size().ok_or("a part of a storage at an impossible place")?
            }
            Some(_) => return Err("a part of a storage that is not understood".to_owned()),
        };
        Ok(Value::Own(Object::Storage { storage, offset }))
    }

    fn swallows_items(&self, object: &Object) -> bool {
        matches!(object, Object::Foreign(_))
    }
}
