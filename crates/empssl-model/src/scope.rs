//! Names for tensors: layers ask a [`Scope`] for their parameters and buffers, the [`Registry`] keeps them in the order
//! in which they were asked for, which is torch's `state_dict` order.

use tch::{Device, Kind, Tensor};

/// All tensors of a network, by name, in order.
pub(crate) struct Registry {
    kind: Kind,
    device: Device,
    parameters: Vec<(String, Tensor)>,
    state: Vec<(String, Tensor)>,
}

impl Registry {
    /// An empty registry whose tensors will be of `kind` on `device`.
    pub(crate) fn new(kind: Kind, device: Device) -> Self {
        Self { kind, device, parameters: Vec::new(), state: Vec::new() }
    }

    /// The scope without a name.
    pub(crate) fn root(&mut self) -> Scope<'_> {
        Scope { registry: self, prefix: String::new() }
    }

    /// The trainable tensors.
    pub(crate) fn parameters(&self) -> &[(String, Tensor)] {
        &self.parameters
    }

    /// Parameters and buffers.
    pub(crate) fn state(&self) -> &[(String, Tensor)] {
        &self.state
    }

    /// The type of parameters and floating-point buffers.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Where the parameters are.
    pub(crate) fn device(&self) -> Device {
        self.device
    }
}

/// A place in the tree of names.
pub(crate) struct Scope<'a> {
    registry: &'a mut Registry,
    prefix: String,
}

impl Scope<'_> {
    /// The scope `name` inside this one.
    pub(crate) fn sub(&mut self, name: impl std::fmt::Display) -> Scope<'_> {
        let prefix = self.path(name) + ".";
        Scope { registry: self.registry, prefix }
    }

    /// Registers a trainable tensor, drawn on the CPU in float32, and moves it to where the network lives.
    pub(crate) fn parameter(&mut self, name: &str, drawn: Tensor) -> Tensor {
        let moved = self.moved(drawn).set_requires_grad(true);
        let path = self.path(name);
        self.registry.parameters.push((path.clone(), moved.shallow_clone()));
        self.registry.state.push((path, moved.shallow_clone()));
        moved
    }

    /// Registers a floating-point tensor that is not trained.
    pub(crate) fn buffer(&mut self, name: &str, value: Tensor) -> Tensor {
        let value = self.moved(value);
        self.keep(name, value)
    }

    /// Registers a counter. It stays on the CPU, where counting costs a device nothing.
    pub(crate) fn counter(&mut self, name: &str) -> Tensor {
        self.keep(name, Tensor::zeros([], (Kind::Int64, Device::Cpu)))
    }

    fn keep(&mut self, name: &str, tensor: Tensor) -> Tensor {
        let path = self.path(name);
        self.registry.state.push((path, tensor.shallow_clone()));
        tensor
    }

    fn moved(&self, tensor: Tensor) -> Tensor {
        tensor.to_device(self.registry.device).to_kind(self.registry.kind)
    }

    fn path(&self, name: impl std::fmt::Display) -> String {
        format!("{}{name}", self.prefix)
    }
}
