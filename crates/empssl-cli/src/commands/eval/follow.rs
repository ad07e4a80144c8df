//! A rank that helps rank 0: it computes its share of features, as often as it is told to.

use empssl_eval::{FeatureExtractor, Kept, pixels, walk_among};
use empssl_model::Network;
use empssl_torch::catch;
use empssl_torch::processes::ProcessGroup;

use super::Subject;
use super::crew::{FeatureOrder, Order};
use super::encoders::NetworkFeatures;
use super::pass::Pass;
use crate::commands::train;
use crate::error::CliError;
use crate::report::Encoder;

/// Follows the orders of rank 0 until it has no more.
pub(super) fn run(subject: &Subject<'_>, workers: usize, group: &ProcessGroup) -> Result<(), CliError> {
    let mut follower = Follower::new(subject, workers, group)?;
    loop {
        match parse(&group.next_order()?)? {
            Order::Features(order) => follower.compute(&order)?,
            Order::End => return Ok(()),
        }
    }
}

fn parse(text: &str) -> Result<Order, CliError> {
    let fault =
        |error| CliError::Run(format!("an order of rank 0 is not understood, start one empssl everywhere: {error}"));
    serde_json::from_str(text).map_err(fault)
}

struct Follower<'a> {
    subject: &'a Subject<'a>,
    group: &'a ProcessGroup,
    workers: usize,
    network: Network,
    /// Whose weights the network has.
    state: Encoder,
}

impl<'a> Follower<'a> {
    fn new(subject: &'a Subject<'a>, workers: usize, group: &'a ProcessGroup) -> Result<Self, CliError> {
        let network = train::initial_network(subject.run, subject.identity.seed, subject.device)?;
        Ok(Self { subject, group, workers, network, state: Encoder::Untrained })
    }

    fn compute(&mut self, order: &FeatureOrder) -> Result<(), CliError> {
        self.become_encoder(order.encoder)?;
        let Subject { run, identity, sets, device, .. } = *self.subject;
        let network = NetworkFeatures(&self.network, identity.portion());
        let extractor: &dyn FeatureExtractor = if order.encoder == Encoder::Pixels { &pixels } else { &network };
        let pass = Pass {
            run,
            set: if order.split == "train" { &sets.train } else { &sets.test },
            seed: identity.seed,
            view: order.view,
            n_patches: order.n_patches,
            n_classes: sets.n_classes,
            device,
            workers: self.workers,
        };
        let kept = Kept { outputs: order.outputs.clone(), counts: order.counts.clone() };
        let (loader, options, n_images) = (pass.loader(Some(self.group))?, pass.options(), pass.set.len());
        let walk = || walk_among(self.group, extractor, loader, &kept, &options, n_images, &mut |_| Ok(()));
        catch(walk)??;
        Ok(())
    }

    fn become_encoder(&mut self, encoder: Encoder) -> Result<(), CliError> {
        let Subject { run, identity, checkpoint, device, .. } = *self.subject;
        match encoder {
            Encoder::Trained if self.state != Encoder::Trained => {
                self.network.load_portion_state_dict(identity.portion(), &checkpoint.network)?;
            }
            Encoder::Untrained if self.state != Encoder::Untrained => {
                self.network = train::initial_network(run, identity.seed, device)?;
            }
            // Pixels need no network.
            _ => return Ok(()),
        }
        self.state = encoder;
        Ok(())
    }
}
