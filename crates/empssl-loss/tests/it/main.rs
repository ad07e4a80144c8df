//! Tests of the whole objective, through the public interface.
//!
//! - `golden`: against the values of the official code.
//! - `properties`: what must hold for any projections, and the closed form against finite differences and autograd.
//! - `refusals`: input that no loss is computed for, and input that is not finite.

mod golden;
mod properties;
mod refusals;

use tch::{Kind, Tensor};

/// All values of a tensor, in row-major order.
fn values(tensor: &Tensor) -> Vec<f64> {
    let flat = tensor.detach().to_kind(Kind::Double).contiguous().view([-1]);
    Vec::try_from(&flat).expect("a flat float64 tensor becomes a vector")
}

/// Both types that losses are computed in, by the names of the golden index.
const KINDS: [(Kind, &str); 2] = [(Kind::Double, "float64"), (Kind::Float, "float32")];
