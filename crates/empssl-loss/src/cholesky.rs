//! The inverse Cholesky factor of a batch of small matrices.
//!
//! LAPACK factors matrices of this size one after the other, at a few percent of the rate at which libtorch multiplies
//! a whole batch of them. So on the CPU a matrix is halved,
//!
//! ```text
//! A = [A11  .  ]        L11 L11^T = A11      L21 = A21 L11^-T      L22 L22^T = A22 - L21 L21^T
//!     [A21  A22]        L^-1 = [      L11^-1            0    ]
//!                              [-L22^-1 L21 L11^-1    L22^-1 ]
//! ```
//!
//! until the halves are so small that what remains for LAPACK does not count; everything else is batched products.

use tch::{Device, Kind, Tensor};

/// Up to this size LAPACK is as fast as halving once more.
const SMALL: i64 = 32;

/// What is needed of the factors `L` of a batch of matrices.
pub(crate) struct InverseFactor {
    /// `L^-1`, `[n, m, m]`, zero above the diagonal.
    pub(crate) inverse: Tensor,
    /// `log det L`, `[n]`.
    pub(crate) log_det: Tensor,
    /// `[n]`, not 0 where a matrix has no factor; what the other two hold there is meaningless.
    pub(crate) info: Tensor,
}

impl InverseFactor {
    /// Factors `[n, m, m]` symmetric matrices, of which the lower triangles are read.
    pub(crate) fn new(matrices: &Tensor) -> Self {
        let size = matrices.size()[1];
        // A GPU's library factors the whole batch at once, and every call more is a launch more.
        let is_small = size <= SMALL || matrices.device() != Device::Cpu;
        if is_small { Self::whole(matrices) } else { Self::halved(matrices, size / 2) }
    }

    fn whole(matrices: &Tensor) -> Self {
        let (lower, info) = matrices.linalg_cholesky_ex(false, false);
        let identity = Tensor::eye(matrices.size()[1], (matrices.kind(), matrices.device()));
        // A triangular solve reports nothing to the host and therefore never waits for a device.
        let inverse = lower.linalg_solve_triangular(&identity.expand_as(&lower), false, true, false);
        let log_det = lower.diagonal(0, -2, -1).log().sum_dim_intlist([-1i64].as_slice(), false, None::<Kind>);
        Self { inverse, log_det, info }
    }

    fn halved(matrices: &Tensor, half: i64) -> Self {
        let rest = matrices.size()[1] - half;
        let rows = matrices.narrow(1, half, rest);
        let first = Self::new(&matrices.narrow(1, 0, half).narrow(2, 0, half));
        let below = rows.narrow(2, 0, half).bmm(&first.inverse.transpose(1, 2));
        let second = Self::new(&rows.narrow(2, half, rest).baddbmm(&below, &below.transpose(1, 2), 1.0, -1.0));

        let inverse = matrices.zeros_like();
        inverse.narrow(1, 0, half).narrow(2, 0, half).copy_(&first.inverse);
        let rows = inverse.narrow(1, half, rest);
        rows.narrow(2, half, rest).copy_(&second.inverse);
        rows.narrow(2, 0, half).copy_(&second.inverse.bmm(&below.bmm(&first.inverse)).negative());
        Self { inverse, log_det: first.log_det + second.log_det, info: first.info + second.info }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Well-conditioned matrices without randomness: `I + X X^T`.
    fn matrices(n: i64, size: i64) -> Tensor {
        let x = Tensor::arange(n * size * size, (Kind::Double, Device::Cpu)).sin().view([n, size, size]);
        Tensor::eye(size, (Kind::Double, Device::Cpu)) + x.bmm(&x.transpose(1, 2))
    }

    fn largest(tensor: &Tensor) -> f64 {
        tensor.abs().max().double_value(&[])
    }

    #[test]
    fn halving_changes_nothing_but_the_time() {
        for size in [SMALL + 1, 2 * SMALL, 100, 5 * SMALL + 3] {
            let matrices = matrices(3, size);
            let (halved, whole) = (InverseFactor::new(&matrices), InverseFactor::whole(&matrices));
            assert!(largest(&(&halved.inverse - &whole.inverse)) < 1e-12, "size {size}");
            assert!(largest(&(&halved.log_det - &whole.log_det)) < 1e-10, "size {size}");
            assert_eq!(largest(&halved.info), 0.0);
        }
    }

    #[test]
    fn a_matrix_without_a_factor_is_reported_wherever_it_fails() {
        let size = 2 * SMALL + 1;
        for index in [0, SMALL - 1, SMALL, size - 1] {
            let matrices = matrices(2, size);
            let _ = matrices.get(1).get(index).get(index).fill_(-1.0);
            let info: Vec<i64> = InverseFactor::new(&matrices).info.to_kind(Kind::Int64).try_into().unwrap();
            assert!(info[0] == 0 && info[1] != 0, "index {index}: {info:?}");
        }
    }
}
