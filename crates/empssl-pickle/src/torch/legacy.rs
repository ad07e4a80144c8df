//! What `torch.save` wrote before PyTorch 1.6, and still does on request: one pickle after the other, then the storages.
//!
//! A magic number, the version of the form, facts about the machine, the object itself, the keys of its storages; then
//! for each key the count of its numbers and the numbers.

use std::collections::BTreeMap;

use super::dialect::{Pickled, Stored, Torch, Value};
use crate::bytes::{Cursor, Fault, shown};

/// The pickle of the number 0x1950a86a20f9469cfc6c in protocol 2, with which such a file begins.
pub(super) const MAGIC: &[u8] = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.";
/// The one version there was.
const VERSION: i64 = 1001;

/// A file of this form.
pub(super) struct Legacy<'a> {
    pub(super) pickled: Pickled<'a>,
    storages: BTreeMap<String, &'a [u8]>,
}

impl<'a> Legacy<'a> {
    /// Reads what comes after the magic number.
    pub(super) fn read(bytes: &'a [u8], dialect: &mut Torch) -> Result<Self, Fault> {
        let mut input = Cursor::new(bytes);
        let version = next(&mut input, dialect)?;
        if version.root().as_integer() != Some(VERSION) {
            return Err(Fault::new(format!("it is of another version than {VERSION}")));
        }
        demand_little_endian(&next(&mut input, dialect)?)?;
        let pickled = next(&mut input, dialect)?;
        let keys = next(&mut input, dialect)?;
        let storages = storages(&mut input, &keys, dialect)?;
        Ok(Self { pickled, storages })
    }

    /// The bytes of a storage.
    pub(super) fn storage(&self, stored: &Stored) -> Result<&'a [u8], Fault> {
        let found = self.storages.get(&stored.key).copied();
        found.ok_or_else(|| Fault::new(format!("it lacks its storage `{}`", stored.key)))
    }
}

/// The next pickle.
fn next<'a>(input: &mut Cursor<'a>, dialect: &mut Torch) -> Result<Pickled<'a>, Fault> {
    let pickled = crate::load(input.rest(), dialect)?;
    input.take(pickled.length)?;
    Ok(pickled)
}

fn demand_little_endian(facts: &Pickled<'_>) -> Result<(), Fault> {
    let Value::Dict(entries) = facts.root() else { return Err(Fault::new("it says nothing of its machine")) };
    let order = entries.iter().find(|(key, _)| facts.values[*key].as_bytes() == Some(b"little_endian"));
    match order.and_then(|&(_, value)| facts.values[value].as_integer()) {
        Some(1) => Ok(()),
        _ => Err(Fault::new("its numbers have their highest byte first; save it on a little-endian machine")),
    }
}

/// The storages, in the order of the keys; none but those that the object named.
fn storages<'a>(
    input: &mut Cursor<'a>,
    keys: &Pickled<'_>,
    dialect: &Torch,
) -> Result<BTreeMap<String, &'a [u8]>, Fault> {
    let Value::List(ids) = keys.root() else { return Err(Fault::new("it has no list of its storages")) };
    let mut storages = BTreeMap::new();
    for &id in ids {
        let key = keys.values[id].as_bytes().map(shown).unwrap_or_default();
        let stored =
            dialect.by_key(&key).ok_or_else(|| Fault::new(format!("its storage `{key}` belongs to nothing")))?;
        let length = u64::from_le_bytes(input.array()?);
        if usize::try_from(length) != Ok(stored.length) {
            let reason = format!("its storage `{key}` has {length} numbers, {} were announced", stored.length);
            return Err(Fault::new(reason));
        }
        let bytes = input.take(stored.bytes())?;
        if storages.insert(key.clone(), bytes).is_some() {
            return Err(Fault::new(format!("its storage `{key}` is there twice")));
        }
    }
    Ok(storages)
}
