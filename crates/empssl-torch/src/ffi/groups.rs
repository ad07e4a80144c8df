//! The declarations of `shim/groups.cpp`, `shim/shared_norm.cpp` and `shim/buckets.cpp`: processes that compute together.
//! What those of GPUs travel by is in [`super::nccl`].

use std::ffi::{c_char, c_void};
use std::ptr::{NonNull, null_mut};
use std::time::Duration;

use tch::Tensor;

use super::{RawTensor, ShimError, c_text, check, owned, raw, raw_list, take_text};

unsafe extern "C" {
    fn empssl_store_open(
        host: *const c_char,
        port: u16,
        serves: i32,
        timeout_ms: i64,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    fn empssl_store_set(store: *mut c_void, key: *const c_char, value: *const c_char) -> *mut c_char;
    fn empssl_store_get(
        store: *mut c_void,
        key: *const c_char,
        timeout_ms: i64,
        value: *mut *mut c_char,
    ) -> *mut c_char;
    fn empssl_store_free(store: *mut c_void);
    fn empssl_group_new(
        store: *mut c_void,
        prefix: *const c_char,
        address: *const c_char,
        is_interface: i32,
        rank: i32,
        world: i32,
        timeout_ms: i64,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    fn empssl_group_add(group: *mut c_void, engine: *mut c_void);
    fn empssl_group_free(group: *mut c_void);
    fn empssl_group_all_reduce(group: *mut c_void, tensor: RawTensor, largest: i32) -> *mut c_char;
    fn empssl_group_all_gather(group: *mut c_void, to: RawTensor, tensor: RawTensor) -> *mut c_char;
    fn empssl_group_broadcast(group: *mut c_void, tensor: RawTensor, root: i64) -> *mut c_char;
    fn empssl_group_traffic(group: *mut c_void, out: *mut Traffic);
    fn empssl_group_batch_norm(
        group: *mut c_void,
        x: RawTensor,
        weight: RawTensor,
        bias: RawTensor,
        running_mean: RawTensor,
        running_variance: RawTensor,
        momentum: f64,
        eps: f64,
        out: *mut RawTensor,
    ) -> *mut c_char;
    fn empssl_buckets_new(
        group: *mut c_void,
        parameters: *const RawTensor,
        n: usize,
        bytes: usize,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    fn empssl_buckets_arm(buckets: *mut c_void);
    fn empssl_buckets_finish(buckets: *mut c_void) -> *mut c_char;
    fn empssl_buckets_free(buckets: *mut c_void);
}

pub(super) fn milliseconds(time: Duration) -> i64 {
    // Zero would mean that there is no limit.
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX).max(1)
}

pub(super) fn numbers((rank, world): (usize, usize)) -> Result<[i32; 2], ShimError> {
    let number = |n: usize| i32::try_from(n).map_err(|_| ShimError(format!("{n} processes are too many")));
    Ok([number(rank)?, number(world)?])
}

/// A client of the table of texts through which processes meet, and, in one of them, the table.
#[derive(Debug)]
pub(crate) struct RawStore(NonNull<c_void>);

// SAFETY: c10d's TCPStore guards every request by a lock of its own, so any thread may use it, several at once too.
unsafe impl Send for RawStore {}
// SAFETY: as above.
unsafe impl Sync for RawStore {}

impl RawStore {
    /// Opens the table at this port of this process, or reaches that of another within `timeout`.
    pub(crate) fn open(host: &str, port: u16, serves: bool, timeout: Duration) -> Result<Self, ShimError> {
        let (host, mut out) = (c_text(host)?, null_mut());
        // SAFETY: a null-terminated text that lives through the call, and a pointer to a live local.
        check(unsafe { empssl_store_open(host.as_ptr(), port, i32::from(serves), milliseconds(timeout), &mut out) })?;
        owned(out).map(Self)
    }

    pub(super) fn as_ptr(&self) -> *mut c_void {
        self.0.as_ptr()
    }

    pub(crate) fn set(&self, key: &str, value: &str) -> Result<(), ShimError> {
        let (key, value) = (c_text(key)?, c_text(value)?);
        // SAFETY: the store lives, and both texts are null-terminated and live through the call.
        check(unsafe { empssl_store_set(self.0.as_ptr(), key.as_ptr(), value.as_ptr()) })
    }

    /// Waits until somebody has set the key.
    pub(crate) fn get(&self, key: &str, timeout: Duration) -> Result<String, ShimError> {
        let (key, mut value) = (c_text(key)?, null_mut());
        // SAFETY: the store lives, the key is null-terminated, and the pointer is to a live local.
        check(unsafe { empssl_store_get(self.0.as_ptr(), key.as_ptr(), milliseconds(timeout), &mut value) })?;
        Ok(take_text(value).unwrap_or_default())
    }
}

impl Drop for RawStore {
    fn drop(&mut self) {
        // SAFETY: the store came from the shim and is given back once.
        unsafe { empssl_store_free(self.0.as_ptr()) }
    }
}

/// The processes of a run, for one of them.
#[derive(Debug)]
pub(crate) struct RawGroup(NonNull<c_void>);

// SAFETY: the shim lets one thread at a time ask for a collective, and its counters are atomic.
unsafe impl Send for RawGroup {}
// SAFETY: as above.
unsafe impl Sync for RawGroup {}

/// What a process has said to the others.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Collectives it took part in.
    pub calls: u64,
    /// Bytes that it put into them; what travels follows from the algorithm.
    pub bytes: u64,
    /// Nanoseconds that the host waited for them; what a GPU waits is not counted.
    pub nanoseconds: u64,
}

impl Traffic {
    /// What was said after `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            calls: self.calls - before.calls,
            bytes: self.bytes - before.bytes,
            nanoseconds: self.nanoseconds - before.nanoseconds,
        }
    }
}

/// Where a process listens for the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listen {
    /// At an address or under a name that resolves to one.
    Address(String),
    /// On a network interface.
    Interface(String),
}

impl RawGroup {
    /// Connects with all others by Gloo, through `store`; `place` is this rank and the number of all.
    pub(crate) fn gloo(
        store: &RawStore,
        prefix: &str,
        listen: &Listen,
        place: (usize, usize),
        timeout: Duration,
    ) -> Result<Self, ShimError> {
        let (Listen::Address(at) | Listen::Interface(at)) = listen;
        let (prefix, at, mut out) = (c_text(prefix)?, c_text(at)?, null_mut());
        let is_interface = i32::from(matches!(listen, Listen::Interface(_)));
        let ([rank, world], timeout) = (numbers(place)?, milliseconds(timeout));
        // SAFETY: the store lives, the texts are null-terminated and live through the call, and the last pointer is to
        // a live local.
        check(unsafe {
            let (store, prefix, at) = (store.as_ptr(), prefix.as_ptr(), at.as_ptr());
            empssl_group_new(store, prefix, at, is_interface, rank, world, timeout, &mut out)
        })?;
        owned(out).map(Self)
    }

    /// From now on tensors of GPUs travel by `engine`, which NCCL's object has made.
    pub(super) fn add(&mut self, engine: NonNull<c_void>) {
        // SAFETY: the group lives, and the engine is handed over.
        unsafe { empssl_group_add(self.0.as_ptr(), engine.as_ptr()) }
    }

    /// Sums over the ranks, or takes the largest of them, in place.
    pub(crate) fn all_reduce(&self, tensor: &Tensor, largest: bool) -> Result<(), ShimError> {
        // SAFETY: group and tensor live.
        check(unsafe { empssl_group_all_reduce(self.0.as_ptr(), raw(tensor), i32::from(largest)) })
    }

    pub(crate) fn all_gather(&self, to: &Tensor, tensor: &Tensor) -> Result<(), ShimError> {
        // SAFETY: group and tensors live.
        check(unsafe { empssl_group_all_gather(self.0.as_ptr(), raw(to), raw(tensor)) })
    }

    pub(crate) fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), ShimError> {
        // SAFETY: group and tensor live.
        check(unsafe { empssl_group_broadcast(self.0.as_ptr(), raw(tensor), root as i64) })
    }

    pub(crate) fn traffic(&self) -> Traffic {
        let mut traffic = Traffic::default();
        // SAFETY: the group lives, and `Traffic` is repr(C) with the fields of `empssl_traffic` in the same order.
        unsafe { empssl_group_traffic(self.0.as_ptr(), &mut traffic) };
        traffic
    }

    /// Normalises the batch of which `x` is this rank's part; the running statistics, where given, move.
    pub(crate) fn batch_norm(
        &self,
        x: &Tensor,
        [weight, bias]: [&Tensor; 2],
        running: Option<([&Tensor; 2], f64)>,
        eps: f64,
    ) -> Result<Tensor, ShimError> {
        let (running, momentum) = running.map_or(([null_mut(); 2], 0.0), |(two, by)| (two.map(raw), by));
        let mut out = null_mut();
        // SAFETY: group and tensors live, or are null where the shim allows it; the last pointer is to a live local.
        check(unsafe {
            let [mean, variance] = running;
            let (group, weight, bias) = (self.0.as_ptr(), raw(weight), raw(bias));
            empssl_group_batch_norm(group, raw(x), weight, bias, mean, variance, momentum, eps, &mut out)
        })?;
        // SAFETY: the shim made the tensor with `new`, as tch makes its own, and hands it over.
        Ok(unsafe { Tensor::from_ptr(out.cast()) })
    }
}

impl Drop for RawGroup {
    fn drop(&mut self) {
        // SAFETY: the group came from the shim and is given back once.
        unsafe { empssl_group_free(self.0.as_ptr()) }
    }
}

/// Gradients on their way to being summed.
#[derive(Debug)]
pub(crate) struct RawBuckets(NonNull<c_void>);

impl RawBuckets {
    pub(crate) fn new(group: &RawGroup, parameters: &[&Tensor], bytes: usize) -> Result<Self, ShimError> {
        let (parameters, mut out) = (raw_list(parameters), null_mut());
        // SAFETY: the group lives, the pointers are to live tensors of which the shim keeps references, the list is as
        // long as said, and the last pointer is to a live local.
        check(unsafe { empssl_buckets_new(group.0.as_ptr(), parameters.as_ptr(), parameters.len(), bytes, &mut out) })?;
        owned(out).map(Self)
    }

    pub(crate) fn arm(&mut self) {
        // SAFETY: the buckets live.
        unsafe { empssl_buckets_arm(self.0.as_ptr()) }
    }

    pub(crate) fn finish(&mut self) -> Result<(), ShimError> {
        // SAFETY: the buckets live.
        check(unsafe { empssl_buckets_finish(self.0.as_ptr()) })
    }
}

impl Drop for RawBuckets {
    fn drop(&mut self) {
        // SAFETY: the buckets came from the shim and are given back once.
        unsafe { empssl_buckets_free(self.0.as_ptr()) }
    }
}
