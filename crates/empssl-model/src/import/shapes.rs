//! How large a network is, from the shapes of its weights.

use std::collections::BTreeMap;

use tch::Tensor;

use crate::config::{Block, ResNetConfig, Stem};

/// Sizes by key.
pub(super) struct Shapes<'a>(BTreeMap<&'a str, Vec<i64>>);

impl<'a> Shapes<'a> {
    pub(super) fn of(tensors: &'a [(String, Tensor)]) -> Self {
        Self(tensors.iter().map(|(key, tensor)| (key.as_str(), tensor.size())).collect())
    }

    /// The first size of a matrix of weights: how many numbers a linear layer puts out.
    pub(super) fn rows(&self, key: &str) -> Result<i64, String> {
        match self.get(key)?[..] {
            [rows, _] => Ok(rows),
            ref size => Err(format!("`{key}` is of size {size:?}, no matrix")),
        }
    }

    /// The residual network whose keys begin with `prefix`; of the stems with the same weights the commoner.
    pub(super) fn resnet(&self, prefix: &str) -> Result<ResNetConfig, String> {
        let key = format!("{prefix}conv1.weight");
        let (base_width, stem) = match self.get(&key)?[..] {
            [width, 3, 3, 3] => (width, Stem::Cifar),
            [width, 3, 7, 7] => (width, Stem::Imagenet),
            ref size => {
                return Err(format!(
                    "`{key}` is of size {size:?}; known are 3x3 and 7x7 convolutions of three colours"
                ));
            }
        };
        let block = match self.0.contains_key(format!("{prefix}layer1.0.conv3.weight").as_str()) {
            true => Block::Bottleneck,
            false => Block::Basic,
        };
        let mut layers = [0; 4];
        for (stage, blocks) in layers.iter_mut().enumerate() {
            let first = |block: i64| format!("{prefix}layer{}.{block}.conv1.weight", stage + 1);
            *blocks = (0..).take_while(|&block| self.0.contains_key(first(block).as_str())).count() as i64;
            if *blocks == 0 {
                return Err(format!("it has no `{}`, and a ResNet here has four stages", first(0)));
            }
        }
        Ok(ResNetConfig { block, layers, base_width, stem })
    }

    fn get(&self, key: &str) -> Result<&Vec<i64>, String> {
        self.0.get(key).ok_or_else(|| format!("it has no `{key}`"))
    }
}
