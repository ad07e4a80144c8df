//! The network that EMP-SSL trains: a ResNet encoder and a projector, with PyTorch's names and initialisation.
//!
//! ```text
//! patches [N, 3, s, s] -> ResNet -> [N, 512] -> pre-feature -> features [N, h] -> projector, L2 norm -> [N, d]
//! ```
//!
//! `N = n * b` patches go through in one forward pass, patch-major, so that BatchNorm sees all patches of all images of
//! a step (arXiv 2304.03977; tsb0601/EMP-SSL `model/model.py`, `main.py:152`). The features are what is evaluated, the
//! projections are what is trained on.
//!
//! - [`Network`] holds it all; [`NetworkConfig`] and [`ResNetConfig`] say how large it is.
//! - Parameters carry torchvision's and the official encoder's names in their `state_dict` order, so that
//!   [`weights`] files move between this crate and PyTorch in both directions.
//! - [`import`] reads weights of other programs, PyTorch's own files among them, and says what network they belong to;
//!   [`Network::script`] describes the network as a TorchScript module.
//! - [`Network::stages`] runs it in parts, for steps that keep less than a whole pass in memory; [`Arithmetic`] says
//!   how convolutions and products are computed.
//! - Weights start as PyTorch's do, which is not how tch's own layers start, and are drawn on the CPU in float32
//!   whatever the device and type: a seed means one network everywhere.
//!
//! ```
//! use empssl_model::{Mode, Network, NetworkConfig, ResNetConfig, Stem};
//! use tch::{Device, Kind, Tensor};
//!
//! let resnet = ResNetConfig { base_width: 8, ..ResNetConfig::resnet18(Stem::Cifar) };
//! let network = Network::new(&NetworkConfig { resnet, hidden: 64, projection: 32 }, 0, Kind::Float, Device::Cpu)?;
//! let patches = Tensor::arange(6 * 3 * 32 * 32, (Kind::Float, Device::Cpu)).sin().view([6, 3, 32, 32]);
//! let embedding = network.forward(&patches, Mode::Train);
//! assert_eq!(embedding.features.size(), [6, 64]);
//! assert_eq!(embedding.projections.size(), [6, 32]);
//! # Ok::<(), empssl_model::ModelError>(())
//! ```

mod arithmetic;
mod config;
mod error;
mod footprint;
pub mod import;
mod init;
mod layers;
mod network;
mod resnet;
mod scope;
mod script;
mod state;
pub mod weights;

pub use arithmetic::{Arithmetic, Layout, Products};
pub use config::{Backbone, Block, NetworkConfig, Portion, ResNetConfig, Stem};
pub use error::{ModelError, StateMismatch};
pub use footprint::StageElements;
pub use layers::{Mode, Part, SharedNorm};
pub use network::{Embedding, Network, Stage, network_input};
pub use script::ScriptModule;
