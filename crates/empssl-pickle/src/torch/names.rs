//! What a file of weights may name.

use crate::bytes::shown;

use super::tensor::Element;

/// What the reader makes of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// `collections.OrderedDict`
    OrderedDict,
    /// `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`: a view of a storage.
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`: a tensor that is trained.
    RebuildParameter,
    /// `torch.FloatStorage` and its like.
    Storage(Element),
}

impl Known {
    /// The function or class of this name, if it is one of those that are carried out.
    pub(super) fn find(module: &[u8], name: &[u8]) -> Option<Self> {
        match (module, name) {
            (b"collections", b"OrderedDict") => Some(Self::OrderedDict),
            (b"torch._utils", b"_rebuild_tensor" | b"_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            (b"torch._utils", b"_rebuild_parameter") => Some(Self::RebuildParameter),
            (b"torch" | b"torch.storage", class) => Element::of_storage(class).map(Self::Storage),
            _ => None,
        }
    }
}

/// The longest name with its module that is kept.
const MAX_NAME: usize = 200;

/// Modules whose functions reach files, programs, the network or the interpreter itself.
#[rustfmt::skip]
const REFUSED: [&str; 42] = [
    "_aix_support", "_imp", "_io", "_posixsubprocess", "_pyrepl", "_winapi", "asyncio", "bdb", "builtins", "cProfile",
    "code", "codeop", "commands", "concurrent", "ctypes", "doctest", "ensurepip", "gc", "http", "idlelib",
    "importlib", "imp", "inspect", "io", "marshal", "multiprocessing", "nt", "os", "pdb", "pip", "pkgutil", "posix",
    "profile", "pty", "runpy", "shutil", "socket", "subprocess", "sys", "timeit", "urllib", "webbrowser",
];
/// Single functions of that kind in modules of which others are harmless.
#[rustfmt::skip]
const REFUSED_FUNCTIONS: [&str; 8] = [
    "functools.reduce", "operator.attrgetter", "operator.methodcaller", "pickle.loads", "torch.load", "torch.hub.load",
    "torch.jit.load", "types.FunctionType",
];
/// What a pickle may name of Python's own functions and types: plain types, which settings are made of.
#[rustfmt::skip]
const PLAIN: [&str; 14] = [
    "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "set", "slice",
    "str", "tuple",
];

/// The name as text, when it is harmless to leave it one.
pub(super) fn inert(module: &[u8], name: &[u8]) -> Result<String, String> {
    let text = format!("{}.{}", shown(module), shown(name));
    if module.len() + name.len() > MAX_NAME {
        return Err(format!("it names `{text}`, which is too long for a class,"));
    }
    let is_builtin = matches!(module, b"builtins" | b"__builtin__");
    let plain = is_builtin && PLAIN.iter().any(|plain| plain.as_bytes() == name);
    let root = module.split(|&byte| byte == b'.').next().unwrap_or_default();
    // Python 3.8 and later follow dots in a name from attribute to attribute.
    let reaches = is_builtin
        || REFUSED.iter().any(|refused| refused.as_bytes() == root)
        || REFUSED_FUNCTIONS.contains(&text.as_str())
        || name.contains(&b'.');
    if reaches && !plain {
        return Err(format!(
            "it would have Python reach for `{text}`, which is no part of any weights, and is refused"
        ));
    }
    Ok(text)
}
