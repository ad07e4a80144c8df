//! What every rank gets.

use empssl_torch::processes::{GroupError, ProcessGroup};
use tch::{Device, Kind, Tensor};

use crate::ranks;

#[test]
fn sums_gathers_and_broadcasts_reach_every_rank() {
    ranks::everywhere("collectives::sums_gathers_and_broadcasts_reach_every_rank", 3, |group| {
        let rank = group.rank() as f64;
        for kind in [Kind::Float, Kind::Double, Kind::Int64] {
            let own = (Tensor::arange(4, (Kind::Double, Device::Cpu)) + rank).to_kind(kind);
            let expected = (Tensor::arange(4, (Kind::Double, Device::Cpu)) * 3.0 + 3.0).to_kind(kind);
            let sum = own.copy();
            group.sum(&sum).unwrap();
            assert_eq!(sum, expected);
            let largest = own.copy();
            group.largest(&largest).unwrap();
            assert_eq!(largest, (Tensor::arange(4, (Kind::Double, Device::Cpu)) + 2.0).to_kind(kind));
        }
        gathers(group);
        let given = Tensor::from_slice(&[rank * 10.0, 1.0]);
        group.broadcast(&given, 2).unwrap();
        assert_eq!(given, Tensor::from_slice(&[20.0, 1.0]));
        assert!(matches!(group.broadcast(&given, 3), Err(GroupError::Collective(_))));
        group.barrier().unwrap();
    });
}

fn gathers(group: &ProcessGroup) {
    let rank = group.rank() as i64;
    // Not contiguous, and of no dimension.
    let own = (Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]) + rank * 100).transpose(0, 1);
    let all = group.gather(&own).unwrap();
    assert_eq!(all.size(), [3, 3, 2]);
    for other in 0..3 {
        assert_eq!(all.get(other), &own + (other - rank) * 100);
    }
    let ranks = group.gather(&Tensor::from(rank)).unwrap();
    assert_eq!(Vec::<i64>::try_from(ranks).unwrap(), [0, 1, 2]);
}

#[test]
fn collectives_are_counted() {
    ranks::everywhere("collectives::collectives_are_counted", 2, |group| {
        let before = group.traffic();
        (0..8).for_each(|_| group.sum(&Tensor::ones([1 << 16], (Kind::Double, Device::Cpu))).unwrap());
        let _ = group.gather(&Tensor::from_slice(&[group.rank() as i32])).unwrap();
        let after = group.traffic();
        assert_eq!((after.calls - before.calls, after.bytes - before.bytes), (9, 8 * 8 * (1 << 16) + 4));
        assert!(after.nanoseconds > before.nanoseconds);
    });
}

#[test]
fn ranks_that_begin_with_something_else_are_named() {
    ranks::everywhere("collectives::ranks_that_begin_with_something_else_are_named", 3, |group| {
        let seed = if group.rank() == 2 { 8 } else { 7 };
        group.demand_alike(&[("recipe", u64::MAX), ("world", 3)]).unwrap();
        let error = group.demand_alike(&[("recipe", u64::MAX), ("seed", seed)]).unwrap_err();
        assert_eq!(error, GroupError::Unlike { rank: 2, what: "seed".to_owned() });
        assert!(error.to_string().starts_with("rank 2 began with another seed than rank 0"), "{error}");
    });
}
