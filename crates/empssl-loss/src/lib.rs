//! The EMP-SSL objective: how far each image's patches agree, and how much room the images take up.
//!
//! For the projections of `n` patches of each of `b` images, `z` of shape `[n, b, d]`, the training loss is
//! (arXiv 2304.03977; tsb0601/EMP-SSL `main.py:76-102`, `loss.py:76-90`)
//!
//! ```text
//! loss = - invariance_weight  * mean over patches and images of cos(z_ij, m_j)        m_j = mean of image j's patches
//!        - coding_rate_weight * mean over patches of R(Z_i)        R(Z) = 1/2 log det(I + d / (b eps_sq) Z^T Z)
//! ```
//!
//! [`EmpSslLoss`] computes the value *and* the gradient in closed form, batched over the patches: one Cholesky
//! factorisation of a `b x b` (or `d x d`, whichever is smaller) matrix per patch serves both, and no graph is built.
//! The parts stand alone as [`TotalCodingRate`] and [`PatchInvariance`].
//!
//! # Use with an encoder of your own
//!
//! The crate knows tensors only: no network, data set, file or optimizer. Rows need not be normalised, though the
//! method normalises them. A batch that was gathered from several processes is simply a larger `b`: see below.
//!
//! ```
//! use empssl_loss::{EmpSslLoss, EmpSslLossConfig};
//! use tch::{Device, Kind, Tensor};
//!
//! # let (n, b, d) = (4, 8, 16);
//! # let wave = |rows, columns| Tensor::arange(rows * columns, (Kind::Float, Device::Cpu)).sin().view([rows, columns]);
//! # let weight = wave(12, d).set_requires_grad(true);
//! # let encoder = |patches: &Tensor| patches.matmul(&weight);
//! # let patches = wave(n * b, 12);
//! let loss = EmpSslLoss::new(&EmpSslLossConfig::paper())?;
//! let z = encoder(&patches); // [n * b, d], patch-major: row i * b + j is patch i of image j
//! let z = z.view([n, b, d]);
//! let terms = loss.backward(&z)?; // the gradient now sits in the encoder's parameters
//! println!("{:.3} = total, {:.3} nats of coding rate", terms.total.double_value(&[]), terms.part("coding_rate").double_value(&[]));
//! # assert!(weight.grad().abs().sum(Kind::Float).double_value(&[]) > 0.0);
//! # assert!(terms.total.double_value(&[]).is_finite());
//! # Ok::<(), empssl_loss::LossError>(())
//! ```
//!
//! # Use on gathered batches
//!
//! The coding rate is one of the whole batch, so processes that share a batch each gather the projections of all, ask
//! for the gradient with respect to them, and send the part that is their own down their own graph.
//!
//! ```
//! use empssl_loss::{EmpSslLoss, EmpSslLossConfig};
//! use tch::{Device, Kind, Tensor};
//!
//! # let wave = |b| Tensor::arange(4 * b * 16, (Kind::Float, Device::Cpu)).sin().view([4, b, 16]);
//! # let (own, others) = (wave(3).set_requires_grad(true), wave(5));
//! let loss = EmpSslLoss::new(&EmpSslLossConfig::paper())?;
//! let gathered = Tensor::cat(&[&own.detach(), &others], 1); // [n, images of all processes, d], own images first
//! let (terms, gradient) = loss.value_and_gradient(&gathered)?;
//! let own_gradient = gradient.narrow(1, 0, own.size()[1]);
//! (&own * own_gradient).sum(Kind::Float).backward(); // the derivative of sum(z * G) with respect to z is G
//! # let whole = gathered.set_requires_grad(true);
//! # loss.backward(&whole)?;
//! # assert_eq!(own.grad(), whole.grad().narrow(1, 0, 3));
//! # assert!(terms.total.double_value(&[]).is_finite());
//! # Ok::<(), empssl_loss::LossError>(())
//! ```
//!
//! A package outside this workspace depends on the crate by path, on the same tch, and on torch-sys for one line of
//! build script, by which its programs find libtorch without `LD_LIBRARY_PATH`; `LIBTORCH` names the folder of libtorch
//! 2.11.0 while it is built.
//!
//! ```toml
//! [dependencies]
//! empssl-loss = { path = "../empssl/crates/empssl-loss" }
//! tch = "=0.24.0"
//! torch-sys = "=0.24.0"
//! ```
//!
//! ```no_run
//! // The body of `main` in build.rs.
//! println!("cargo:rustc-link-arg=-Wl,-rpath,{}", std::env::var("DEP_TCH_LIBTORCH_LIB").unwrap());
//! ```
//!
//! # Precision and devices
//!
//! Float64 input is computed in float64; float32, half and bfloat16 input in float32. A gradient has the type of its
//! input. Everything stays on the input's device and nothing is read back to the host, so shapes and types are checked
//! but values are not: projections that are not finite give terms and gradients that are not finite (see
//! [`LossTerms`]), never an error or a panic. On CUDA, leave TF32 off for matrix products while the loss runs: its ten
//! bits are too few for the Gram matrices. The switch belongs to the process, so a training loop that allows TF32 for
//! its network turns it off around the loss.

mod cholesky;
mod coding_rate;
mod error;
mod input;
mod invariance;
mod objective;

pub use coding_rate::TotalCodingRate;
pub use error::LossError;
pub use invariance::PatchInvariance;
pub use objective::{EmpSslLoss, EmpSslLossConfig, LossTerms};
