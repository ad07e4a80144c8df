//! The commands, a file each: what they are given is opened, handed on and written. None uses another.

pub(crate) mod bench;
pub(crate) mod completions;
pub(crate) mod data;
pub(crate) mod doctor;
pub(crate) mod embed;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod neighbours;
pub(crate) mod recipe;
pub(crate) mod runs;
pub(crate) mod train;
