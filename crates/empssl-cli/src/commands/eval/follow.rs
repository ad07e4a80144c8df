//! A rank that helps rank 0: it computes its share of features and neighbours, as often as it is told to.

use std::collections::BTreeMap;

use empssl_eval::{BankFile, FEATURES, FeatureBank, FeatureExtractor, Kept, KnnGrid, WeightedKnn, pixels, walk_among};
use empssl_model::Network;
use empssl_torch::catch;
use empssl_torch::processes::ProcessGroup;

use super::Subject;
use super::crew::{BankNames, FeatureOrder, NeighbourOrder, Order, Votes, shared_by};
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
            Order::Neighbours(order) => follower.find_neighbours(&order)?,
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
    /// Files of rank 0 that were opened.
    files: BTreeMap<String, BankFile>,
    /// Those that neighbours were found in last.
    banks: Option<(BankNames, [FeatureBank; 2])>,
}

impl<'a> Follower<'a> {
    fn new(subject: &'a Subject<'a>, workers: usize, group: &'a ProcessGroup) -> Result<Self, CliError> {
        let network = train::initial_network(subject.run, subject.identity.seed, subject.device)?;
        let (files, banks) = (BTreeMap::new(), None);
        Ok(Self { subject, group, workers, network, state: Encoder::Untrained, files, banks })
    }

    fn compute(&mut self, order: &FeatureOrder) -> Result<(), CliError> {
        // Of the file that will be written an older one may be open, and a GPU may need the room.
        self.files.remove(&order.file);
        self.banks = None;
        self.become_encoder(order.encoder)?;
        let Subject { run, identity, sets, device, .. } = *self.subject;
        let network = NetworkFeatures(&self.network, identity.portion());
        let extractor: &dyn FeatureExtractor = if order.encoder == Encoder::Pixels { &pixels } else { &network };
        let pass = Pass {
            run,
            set: if order.split == "test" { &sets.test } else { &sets.train },
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

    /// The scores are rank 0's to tell.
    fn find_neighbours(&mut self, order: &NeighbourOrder) -> Result<(), CliError> {
        let (run, among) = (self.subject.run, shared_by(Some(self.group)));
        let [train, test] = self.banks(&order.among)?;
        match (order.votes, &run.config.evaluation.scores) {
            (Votes::Grid, Some(more)) => {
                catch(|| KnnGrid::new(&more.knn())?.score_among(among, train, test))??;
            }
            _ => {
                catch(|| WeightedKnn::new(&run.knn)?.score_among(among, train, test))??;
            }
        }
        Ok(())
    }

    fn banks(&mut self, names: &BankNames) -> Result<&[FeatureBank; 2], CliError> {
        let are_there = self.banks.as_ref().is_some_and(|(known, _)| known == names);
        if !are_there {
            self.banks = None;
            let (train, test) = (self.bank("training", &names.train, names)?, self.bank("test", &names.test, names)?);
            self.banks = Some((names.clone(), [train, test]));
        }
        self.banks.as_ref().map(|(_, banks)| banks).ok_or_else(|| CliError::Run("no banks were opened".to_owned()))
    }

    fn bank(&mut self, name: &str, file: &str, names: &BankNames) -> Result<FeatureBank, CliError> {
        if !self.files.contains_key(file) {
            let path = self.subject.features.join(file);
            let opened = BankFile::open(&path).map_err(|error| {
                CliError::Run(format!(
                    "{error}; rank 0 has written it: every rank must be able to read the run's folder"
                ))
            })?;
            self.files.insert(file.to_owned(), opened);
        }
        Ok(self.files[file].bank(name, FEATURES, names.count, self.subject.device)?)
    }
}
