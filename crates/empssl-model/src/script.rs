//! A network as TorchScript: modules with torchvision's names, and the source of each.
//!
//! Nothing is traced: a trace has no names and holds for one batch size. Every layer says in source what it computes, so
//! the program takes any number of patches of any side that the stem allows, follows `.half()` and `.to()`, and in
//! training mode BatchNorm looks at the batch.

use tch::Tensor;

/// A module of TorchScript: what is needed to build it.
#[derive(Debug)]
pub struct ScriptModule {
    /// The name of its class.
    pub class: String,
    /// What it learns, by name.
    pub parameters: Vec<(String, Tensor)>,
    /// What it keeps besides, by name.
    pub buffers: Vec<(String, Tensor)>,
    /// The modules within it, by name; they are built before it.
    pub children: Vec<(String, ScriptModule)>,
    /// Its methods, in the language of TorchScript.
    pub source: String,
}

impl ScriptModule {
    /// A module that holds nothing.
    pub(crate) fn new(class: &str, source: String) -> Self {
        let (parameters, buffers, children) = (Vec::new(), Vec::new(), Vec::new());
        Self { class: class.to_owned(), parameters, buffers, children, source }
    }
}

/// Tensors without graph, for a module.
pub(crate) fn named<const N: usize>(tensors: [(&str, &Tensor); N]) -> Vec<(String, Tensor)> {
    tensors.map(|(name, tensor)| (name.to_owned(), tensor.detach())).into()
}

/// The method `forward` of one tensor: lines, then the result.
pub(crate) fn function(lines: &[String], result: &str) -> String {
    method("forward", "x: Tensor", "Tensor", lines, result)
}

pub(crate) fn method(name: &str, arguments: &str, returns: &str, lines: &[String], result: &str) -> String {
    let body: String = lines.iter().map(|line| format!("    {line}\n")).collect();
    format!("def {name}(self, {arguments}) -> {returns}:\n{body}    return {result}\n")
}

/// Modules that follow one another, named by their places as in PyTorch's `Sequential`.
pub(crate) fn sequential(modules: Vec<ScriptModule>) -> ScriptModule {
    let lines: Vec<_> = (0..modules.len()).map(|i| format!("x = getattr(self, \"{i}\").forward(x)")).collect();
    let children = modules.into_iter().enumerate().map(|(i, module)| (i.to_string(), module)).collect();
    ScriptModule { children, ..ScriptModule::new("Sequential", function(&lines, "x")) }
}

/// The method `prepare`, which makes of pixels from 0 to 255 what the network takes: the numbers of its weights' type, on
/// their device, from -1 to 1.
pub(crate) fn prepare(conv: &str) -> String {
    let lines = [format!("w = self.{conv}.weight")];
    method("prepare", "pixels: Tensor", "Tensor", &lines, "(pixels.to(w.device).float() / 127.5 - 1.0).to(w.dtype)")
}
