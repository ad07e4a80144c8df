//! The folder of a run: what lies where ([`folder`]), opening it again ([`saved`]), going on with it ([`resume`]), the
//! processes that took part ([`segments`]) and its records ([`metrics`]).

pub(crate) mod folder;
pub(crate) mod metrics;
pub(crate) mod resume;
pub(crate) mod saved;
pub(crate) mod segments;
