//! The processes that share an evaluation.
//!
//! Rank 0 does what a process alone does. Where features are computed, it orders the others to
//! take part, and they do ([`super::follow`]); meanwhile they wait, and it may take as long as it likes over the rest.

use empssl_torch::processes::ProcessGroup;
use serde::{Deserialize, Serialize};
use tch::Device;

use super::encoders::checksum_of;
use super::{Subject, follow, score};
use crate::args::{DeviceArgs, EvalArgs};
use crate::commands;
use crate::config::EvalView;
use crate::error::CliError;
use crate::ranks::{self, is_first};
use crate::report::{Encoder, RunReport};

/// What rank 0 lets the others do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Order {
    /// Compute a share of the features of a split.
    Features(FeatureOrder),
    /// There is nothing more to do.
    End,
}

/// Which features.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FeatureOrder {
    pub(super) encoder: Encoder,
    /// `train` or `test`.
    pub(super) split: String,
    pub(super) view: EvalView,
    pub(super) n_patches: usize,
    pub(super) outputs: Vec<String>,
    pub(super) counts: Vec<i64>,
    /// The name of the file that rank 0 writes.
    pub(super) file: String,
}

/// A process alone, or rank 0 with the others at its command.
#[derive(Clone, Copy)]
pub(crate) struct Crew<'a> {
    group: Option<&'a ProcessGroup>,
    /// Threads while all work, and while this process does alone.
    threads: [i32; 2],
    /// Threads that cut patches.
    pub(super) workers: usize,
}

impl<'a> Crew<'a> {
    /// Sets up the device of this process, and what it needs to know of the others.
    pub(super) fn prepare(args: &EvalArgs, among: ranks::Among<'a>) -> Result<(Device, Self), CliError> {
        let member = among.map(|(member, _)| member);
        let shared = ranks::compute(&args.compute, member)?;
        let together = shared.threads;
        // What rank 0 does alone it does by all processors, while the others wait.
        let own = DeviceArgs { threads: if is_first(member) { args.compute.threads } else { together }, ..shared };
        let device = commands::prepare(&own)?;
        let alone = tch::get_num_threads();
        let together = together.map_or(alone, |threads| threads as i32);
        let workers = commands::n_workers(ranks::workers(args.workers, member));
        Ok((device, Self { group: among.map(|(_, group)| group), threads: [together, alone], workers }))
    }

    /// This one and the others.
    pub(crate) fn n_processes(&self) -> usize {
        self.group.map_or(1, ProcessGroup::world)
    }

    /// Does something with all others, which are told to by `order`; a process alone just does it.
    pub(super) fn together<T>(
        &self,
        order: impl FnOnce() -> Order,
        work: impl FnOnce(Option<&ProcessGroup>) -> Result<T, CliError>,
    ) -> Result<T, CliError> {
        let Some(group) = self.group else { return work(None) };
        give(group, &order())?;
        let [together, alone] = self.threads;
        tch::set_num_threads(together);
        let done = work(Some(group));
        tch::set_num_threads(alone);
        done
    }
}

fn give(group: &ProcessGroup, order: &Order) -> Result<(), CliError> {
    let text = serde_json::to_string(order).map_err(|error| CliError::Run(format!("an order of rank 0: {error}")))?;
    Ok(group.give_order(&text)?)
}

/// Scores the subject, or helps rank 0 to do so; the report is rank 0's.
pub(super) fn evaluate(
    subject: &Subject<'_>,
    args: &EvalArgs,
    crew: Crew<'_>,
    among: ranks::Among<'_>,
) -> Result<Option<RunReport>, CliError> {
    let Some((member, group)) = among else { return score(subject, args, crew).map(Some) };
    meet(subject, group)?;
    if !member.is_first() {
        return follow::run(subject, crew.workers, group).map(|()| None);
    }
    eprintln!("{} ranks, {} of them on this host, share features", group.world(), group.local_world());
    let report = score(subject, args, crew)?;
    give(group, &Order::End)?;
    Ok(Some(report))
}

/// Makes sure that all ranks are about to score the same weights on the same images.
fn meet(subject: &Subject<'_>, group: &ProcessGroup) -> Result<(), CliError> {
    let Subject { run, identity, checkpoint, sets, device, .. } = *subject;
    let images = format!("{:?} {:?} {:?}", sets.train.fingerprint(), sets.test.fingerprint(), sets.train_ids);
    let facts = [
        ("recipe", ranks::fingerprint(&run.config.to_toml())),
        ("seed", identity.seed),
        ("data set", ranks::fingerprint(&images)),
        ("checkpoint", ranks::fingerprint(&checksum_of(&checkpoint.network)?)),
        ("kind of device", u64::from(device.is_cuda())),
    ];
    Ok(group.demand_alike(&facts)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_come_over_as_they_were_given() {
        let features = FeatureOrder {
            encoder: Encoder::Untrained,
            split: "test".to_owned(),
            view: EvalView::GridFlip,
            n_patches: 8,
            outputs: vec!["features".to_owned()],
            counts: vec![4, 8],
            file: "untrained-grid-flip-8.test.safetensors".to_owned(),
        };
        for order in [Order::Features(features), Order::End] {
            let text = serde_json::to_string(&order).unwrap();
            assert_eq!(serde_json::from_str::<Order>(&text).unwrap(), order, "{text}");
        }
    }
}
