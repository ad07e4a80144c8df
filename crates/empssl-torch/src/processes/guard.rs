//! Looks after the collectives of a GPU.
//!
//! By NCCL the GPU waits for the others, not the host, and it waits without end: when a rank is lost, so is everybody
//! who waits for that GPU. So a thread looks at what is in flight. Where nothing has come to its end within the time-out,
//! or something failed there or among the hosts, it ends the connection: the GPU goes on, with numbers that are worth
//! nothing, and the next collective of this rank fails with the reason.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::error::seconds;
use crate::ffi::{Progress, RawGroup};

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(20);

/// How long the end of the thread is waited for, which may hang where the driver does.
const FAREWELL: Duration = Duration::from_secs(5);

/// The thread.
#[derive(Debug)]
pub(super) struct Guard {
    ends: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Guard {
    /// Looks after a group whose device may take `patience` from the end of one collective to that of the next.
    pub(super) fn begin(group: Arc<RawGroup>, patience: Duration) -> Self {
        let ends = Arc::new((Mutex::new(false), Condvar::new()));
        let shared = Arc::clone(&ends);
        let thread = thread::Builder::new().name("guard of the GPU".to_owned());
        let thread = thread.spawn(move || {
            if let Some(reason) = watch(&group, patience, &shared) {
                // What cannot be ended is left to the end of the process.
                let _ = group.break_off(&reason);
            }
        });
        Self { ends, thread: thread.ok() }
    }

    /// Ends the thread.
    pub(super) fn end(&mut self) {
        *self.ends.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.ends.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let until = Instant::now() + FAREWELL;
            while !thread.is_finished() && Instant::now() < until {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// Looks until the group fails, and says why, or until it is to end.
fn watch(group: &RawGroup, patience: Duration, ends: &(Mutex<bool>, Condvar)) -> Option<String> {
    let mut pulse = Pulse::new(Instant::now());
    loop {
        let ending = ends.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (ending, _) =
            ends.1.wait_timeout_while(ending, PERIOD, |ending| !*ending).unwrap_or_else(PoisonError::into_inner);
        if *ending {
            return None;
        }
        drop(ending);
        if group.is_broken() {
            return Some("a collective of the hosts failed".to_owned());
        }
        match group.progress() {
            Err(error) => return Some(error.0),
            Ok(progress) if pulse.is_lost(progress, Instant::now(), patience) => {
                return Some(format!("the GPU has waited for the others for {}", seconds(patience)));
            }
            Ok(_) => {}
        }
    }
}

/// When something in flight last came to its end, or nothing was in flight.
#[derive(Debug)]
struct Pulse {
    finished: u64,
    at: Instant,
}

impl Pulse {
    fn new(now: Instant) -> Self {
        Self { finished: 0, at: now }
    }

    /// Whether nothing has come to its end for longer than `patience` although something is in flight.
    fn is_lost(&mut self, progress: Progress, now: Instant, patience: Duration) -> bool {
        if progress.finished != self.finished || progress.finished == progress.asked {
            *self = Self { finished: progress.finished, at: now };
        }
        now.duration_since(self.at) > patience
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tch::{Device, Kind, Tensor};

    use super::*;
    use crate::ffi::{DeviceType, Listen, RawEngine, RawStore};
    use crate::processes::free_port;

    const PATIENCE: Duration = Duration::from_millis(500);
    const PLENTY: Duration = Duration::from_secs(60);

    #[test]
    fn a_pulse_is_lost_when_nothing_ends_although_something_is_in_flight() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start);
        let mut is_lost = |asked, finished, ms| {
            pulse.is_lost(Progress { asked, finished }, start + Duration::from_millis(ms), PATIENCE)
        };
        assert!(!is_lost(0, 0, 10_000), "nothing was asked for");
        assert!(!is_lost(2, 0, 10_400) && !is_lost(2, 1, 10_800), "one ended in time");
        assert!(!is_lost(9, 1, 11_200), "it counts from the last end");
        assert!(is_lost(9, 1, 11_400));
        assert!(!is_lost(9, 9, 20_000));
    }

    /// Two ranks in one process, whose tensors, on the CPU, count as a device's and travel by a Gloo of their own.
    fn pair() -> [Arc<RawGroup>; 2] {
        let port = free_port().unwrap();
        let open = move |rank: usize| {
            let store = RawStore::open("127.0.0.1", port, rank == 0, PLENTY).unwrap();
            let listen = Listen::Address("127.0.0.1".to_owned());
            let engine = |prefix: &str| RawEngine::gloo(&store, prefix, &listen, (rank, 2), PLENTY).unwrap();
            let (host, device) = (engine("host"), engine("device"));
            let group = RawGroup::new(&host, Some((&device, DeviceType::Cpu))).unwrap();
            // The table lives as long as rank 0's client, which the other may still need.
            std::mem::forget(store);
            Arc::new(group)
        };
        let other = thread::spawn(move || open(1));
        [open(0), other.join().unwrap()]
    }

    fn ones() -> Tensor {
        Tensor::ones([8], (Kind::Float, Device::Cpu))
    }

    #[track_caller]
    fn await_finished(group: &RawGroup, finished: u64) {
        let until = Instant::now() + PLENTY;
        while group.progress().unwrap().finished < finished {
            assert!(Instant::now() < until, "{:?}", group.progress());
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn what_a_device_has_finished_is_counted_and_what_never_ends_breaks_the_group() {
        let [here, there] = pair();
        let works = [&here, &there].map(|group| group.all_reduce(&ones(), false).unwrap());
        [&here, &there].into_iter().for_each(|group| await_finished(group, 1));
        assert_eq!(here.progress().unwrap(), Progress { asked: 1, finished: 1 });
        drop(works);
        let mut guard = Guard::begin(Arc::clone(&here), PATIENCE);
        thread::sleep(PATIENCE * 2);
        assert!(!here.is_broken(), "nothing is in flight");
        // The other never asks for this one.
        let _pending = here.all_reduce(&ones(), false).unwrap();
        let until = Instant::now() + PLENTY;
        while !here.is_broken() {
            assert!(Instant::now() < until, "it was not noticed");
            thread::sleep(Duration::from_millis(5));
        }
        // The reason is there before the mark.
        let error = here.all_reduce(&ones(), false).err().unwrap().0;
        assert_eq!(error, "the GPU has waited for the others for 0.5 s");
        guard.end();
        assert!(!there.is_broken());
    }

    #[test]
    fn a_failure_among_the_hosts_frees_the_device_and_the_guard_ends_when_it_is_told() {
        let [here, _there] = pair();
        let mut guard = Guard::begin(Arc::clone(&here), PLENTY);
        here.break_off("somebody is gone").unwrap();
        let (done, ended) = mpsc::channel();
        thread::spawn(move || {
            guard.end();
            done.send(()).unwrap();
        });
        ended.recv_timeout(PLENTY).unwrap();
        assert_eq!(here.all_reduce(&ones(), true).err().unwrap().0, "somebody is gone");
    }
}
