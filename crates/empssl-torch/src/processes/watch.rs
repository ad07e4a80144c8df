//! Signs of life: how a process learns which other one is missing, when a collective fails.
//!
//! Gloo's errors name a connection, or a time that has passed. So every rank leaves a sign in the store again and again
//! from a thread of its own, with the step it is in and whether it is well; rank 0 makes a table of them, which the
//! others read. Nothing is asked of the network when a collective has failed: the answer is what was seen until then.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::error::seconds;
use crate::ffi::RawStore;

/// How often signs are given, and how long one waits for them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Between two signs.
    pub period: Duration,
    /// What a rank waits for, at most, to learn who is at fault.
    pub patience: Duration,
}

impl Pace {
    /// Signs that are missed until a rank counts as silent.
    const MISSED: u32 = 4;

    /// For a time-out within which everything must have ended.
    pub fn within(timeout: Duration) -> Self {
        let period = (timeout / 30).clamp(Duration::from_millis(50), Duration::from_secs(2));
        Self { period, patience: period * (Self::MISSED + 2) }
    }

    fn silence(self) -> Duration {
        self.period * Self::MISSED
    }

    /// Between two signs while somebody waits for them.
    fn hurry(self) -> Duration {
        self.period / 8
    }
}

/// What a rank says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Well,
    /// It lost touch with the others, by no fault of its own that it knows of.
    Lost,
    /// It ended as it should.
    Left,
    /// It failed, and why.
    Failed(String),
}

/// One sign as it is written: `COUNT STEP STATE`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sign {
    count: u64,
    step: u64,
    state: State,
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.count, self.step)?;
        match &self.state {
            State::Well => f.write_str("well"),
            State::Lost => f.write_str("lost"),
            State::Left => f.write_str("left"),
            State::Failed(why) => write!(f, "failed {}", why.replace(['\n', '\r'], " ")),
        }
    }
}

impl Sign {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.splitn(3, ' ');
        let (count, step) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let state = match words.next()? {
            "well" => State::Well,
            "lost" => State::Lost,
            "left" => State::Left,
            other => State::Failed(other.strip_prefix("failed ")?.to_owned()),
        };
        Some(Self { count, step, state })
    }
}

/// What is known of a rank.
#[derive(Debug, Clone)]
struct Seen {
    sign: Sign,
    /// When its last sign was new.
    at: Instant,
}

/// What the thread and its process share.
struct Board {
    notes: Mutex<Notes>,
    changed: Condvar,
}

struct Notes {
    step: u64,
    state: State,
    /// Signs given so far.
    count: u64,
    /// What the last sign said, when it had been given.
    told: State,
    /// Whether somebody waits for signs of others, which are then looked for more often.
    hurries: bool,
    /// Whether the thread shall end after the next sign.
    ends: bool,
    seen: Vec<Seen>,
}

/// Who is at fault, as far as one can see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) rank: usize,
    pub(super) what: String,
}

/// The thread that gives signs and sees those of others.
pub(super) struct Watch {
    board: Arc<Board>,
    pace: Pace,
    rank: usize,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("rank", &self.rank).field("pace", &self.pace).finish_non_exhaustive()
    }
}

impl Watch {
    /// Gives signs through a client of the store that nobody else uses.
    pub(super) fn begin(store: RawStore, prefix: String, rank: usize, world: usize, pace: Pace) -> Self {
        let seen = Seen { sign: Sign { count: 0, step: 0, state: State::Well }, at: Instant::now() };
        let notes = Notes {
            step: 0,
            state: State::Well,
            count: 0,
            told: State::Well,
            hurries: false,
            ends: false,
            seen: vec![seen; world],
        };
        let board = Arc::new(Board { notes: Mutex::new(notes), changed: Condvar::new() });
        let thread = Thread { board: Arc::clone(&board), store, prefix, rank, world, pace };
        let thread = thread::Builder::new().name("signs of life".to_owned()).spawn(move || thread.run());
        Self { board, pace, rank, thread: thread.ok() }
    }

    /// The step that this rank is in, for the others to know.
    pub(super) fn set_step(&self, step: u64) {
        self.notes().step = step;
    }

    /// Says how this rank is, and returns when it was said, or when it is clear that nobody listens.
    pub(super) fn tell(&self, state: State) {
        let mut notes = self.notes();
        // The first cause is the one to be told.
        if !matches!(notes.state, State::Failed(_)) {
            notes.state = state;
        }
        let until = Instant::now() + self.pace.period * 2;
        self.board.changed.notify_all();
        while notes.told != notes.state && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            notes = self.board.changed.wait_timeout(notes, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until somebody is seen to be at fault, or as long as patience lasts.
    pub(super) fn fault(&self) -> Option<Fault> {
        let until = Instant::now() + self.pace.patience;
        loop {
            let is_late = Instant::now() >= until;
            let fault = self.notes().fault(self.rank, self.pace, is_late);
            if fault.is_some() || is_late {
                return fault;
            }
            thread::sleep(self.pace.period / 4);
        }
    }

    /// Who failed, or has been silent for as long as `silence`, as far as one can see now.
    pub(super) fn seen_at_fault(&self, silence: Duration) -> Option<Fault> {
        let notes = self.notes();
        notes.failed(self.rank).or_else(|| notes.silent(self.rank, silence))
    }

    /// Whether the last sign of a rank, however old, says so.
    pub(super) fn is_well(&self, rank: usize) -> bool {
        self.notes().seen.get(rank).is_some_and(|seen| seen.sign.state == State::Well)
    }

    /// Stays until all others have said that they left or lost touch, or are silent: rank 0 keeps the table, and what
    /// nobody has read yet would be gone with it.
    pub(super) fn linger(&self) {
        self.wait_for_others();
        // And once more for those who read the table last.
        thread::sleep(self.pace.period * 2);
    }

    /// Waits until all others have left, for as long as patience lasts.
    pub(super) fn wait_for_others(&self) {
        let until = Instant::now() + self.pace.patience;
        self.notes().hurries = true;
        self.board.changed.notify_all();
        while Instant::now() < until && self.notes().somebody_is_well(self.rank, self.pace) {
            thread::sleep(self.pace.hurry());
        }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.board.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the thread, after one more sign.
    pub(super) fn end(&mut self) {
        self.notes().ends = true;
        self.board.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It ends at once, unless the store hangs; then it is left behind.
            let until = Instant::now() + self.pace.patience;
            while !thread.is_finished() && Instant::now() < until {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

impl Notes {
    /// A rank that failed comes first, then one that is silent, then one that left, then one that has not come as far.
    fn fault(&self, own: usize, pace: Pace, is_late: bool) -> Option<Fault> {
        let now = self.failed(own).or_else(|| self.silent(own, pace.silence()));
        if now.is_some() || !is_late {
            return now;
        }
        let left = self.others(own).find(|(_, seen)| seen.sign.state == State::Left);
        if let Some((rank, seen)) = left {
            return Some(Fault { rank, what: format!(" has left, after step {}", seen.sign.step) });
        }
        let behind = self.others(own).filter(|(_, seen)| seen.sign.step < self.step);
        behind.min_by_key(|(_, seen)| seen.sign.step).map(|(rank, seen)| {
            let what = format!(" is alive and still in step {}, this one in step {}", seen.sign.step, self.step);
            Fault { rank, what }
        })
    }

    fn others(&self, own: usize) -> impl Iterator<Item = (usize, &Seen)> {
        self.seen.iter().enumerate().filter(move |(rank, _)| *rank != own)
    }

    fn failed(&self, own: usize) -> Option<Fault> {
        self.others(own).find_map(|(rank, seen)| match &seen.sign.state {
            State::Failed(why) => Some(Fault { rank, what: format!(" failed: {why}") }),
            _ => None,
        })
    }

    /// The first rank that has given no sign for longer than `silence`, with how many others have not either.
    fn silent(&self, own: usize, silence: Duration) -> Option<Fault> {
        // The others' signs come through rank 0's table, so they are as old as they were when it was read last.
        let table = if own == 0 { Instant::now() } else { self.seen[0].at };
        let silent = self.others(own).filter(|(rank, seen)| {
            let age = if *rank == 0 { seen.at.elapsed() } else { table.saturating_duration_since(seen.at) };
            age > silence && seen.sign.state == State::Well
        });
        let silent: Vec<_> = silent.collect();
        let (rank, seen) = silent.first()?;
        let more = silent.len() - 1;
        let and = if more > 0 { format!(", as have {more} more ranks") } else { String::new() };
        let (since, step) = (seconds(seen.at.elapsed()), seen.sign.step);
        let what = format!(" has given no sign of life for {since}{and} (it was in step {step})");
        Some(Fault { rank: *rank, what })
    }

    fn somebody_is_well(&self, own: usize, pace: Pace) -> bool {
        let mut others = self.seen.iter().enumerate().filter(|(rank, _)| *rank != own);
        others.any(|(_, seen)| seen.sign.state == State::Well && seen.at.elapsed() <= pace.silence())
    }

    /// A sign of a rank, which is new when its number is; `age` is how old it was when it was read.
    fn see(&mut self, rank: usize, sign: Sign, age: Duration) {
        let Some(seen) = self.seen.get_mut(rank) else { return };
        if seen.sign.count != sign.count {
            let now = Instant::now();
            *seen = Seen { sign, at: now.checked_sub(age).unwrap_or(now) };
        }
    }

    /// `AGE_IN_MS SIGN`, one line for each rank.
    fn table(&self) -> String {
        let line = |seen: &Seen| format!("{} {}\n", seen.at.elapsed().as_millis(), seen.sign);
        self.seen.iter().map(line).collect()
    }

    fn read_table(&mut self, table: &str, own: usize) {
        let rows = table.lines().map(|line| {
            let (age, sign) = line.split_once(' ')?;
            Some((Duration::from_millis(age.parse().ok()?), Sign::parse(sign)?))
        });
        for (rank, row) in rows.enumerate().filter(|(rank, _)| *rank != own) {
            if let Some((age, sign)) = row {
                self.see(rank, sign, age);
            }
        }
    }
}

struct Thread {
    board: Arc<Board>,
    store: RawStore,
    prefix: String,
    rank: usize,
    world: usize,
    pace: Pace,
}

impl Thread {
    fn run(self) {
        loop {
            let (sign, ends) = {
                let notes = self.notes();
                let sign = Sign { count: notes.count + 1, step: notes.step, state: notes.state.clone() };
                (sign, notes.ends)
            };
            let told = sign.state.clone();
            // Where the store does not answer, nothing new is seen, and that is what the others' silence means.
            if self.rank == 0 {
                self.keep_table(sign)
            } else {
                self.give_sign(sign)
            }
            let mut notes = self.notes();
            notes.count += 1;
            notes.told = told.clone();
            self.board.changed.notify_all();
            if ends {
                return;
            }
            let hurries = notes.hurries;
            let pause = if hurries { self.pace.hurry() } else { self.pace.period };
            let is_said = |notes: &mut Notes| !notes.ends && notes.state == told && notes.hurries == hurries;
            let waited = self.board.changed.wait_timeout_while(notes, pause, is_said);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.board.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep_table(&self, own: Sign) {
        for rank in 1..self.world {
            let key = format!("{}sign/{rank}", self.prefix);
            // The ranks that have not begun to give signs are not waited for.
            let text = self.store.get(&key, Duration::from_millis(1)).ok();
            if let Some(sign) = text.and_then(|text| Sign::parse(&text)) {
                self.notes().see(rank, sign, Duration::ZERO);
            }
        }
        let table = {
            let mut notes = self.notes();
            notes.see(0, own, Duration::ZERO);
            notes.table()
        };
        let _ = self.store.set(&format!("{}table", self.prefix), &table);
    }

    fn give_sign(&self, own: Sign) {
        let _ = self.store.set(&format!("{}sign/{}", self.prefix, self.rank), &own.to_string());
        if let Ok(table) = self.store.get(&format!("{}table", self.prefix), self.pace.period) {
            self.notes().read_table(&table, self.rank);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign(count: u64, step: u64, state: State) -> Sign {
        Sign { count, step, state }
    }

    const PACE: Pace = Pace { period: Duration::from_millis(100), patience: Duration::from_millis(600) };

    /// Four ranks in step 7, all well and seen just now.
    fn notes() -> Notes {
        let seen = Seen { sign: sign(5, 7, State::Well), at: Instant::now() };
        let (state, told, seen) = (State::Well, State::Well, vec![seen; 4]);
        Notes { step: 7, state, count: 5, told, hurries: false, ends: false, seen }
    }

    fn ago(seconds: u64) -> Instant {
        Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap()
    }

    #[test]
    fn signs_and_tables_are_read_as_they_were_written() {
        for state in [State::Well, State::Lost, State::Left, State::Failed("out of memory at 3 x 4".to_owned())] {
            let sign = sign(3, 9, state);
            assert_eq!(Sign::parse(&sign.to_string()), Some(sign));
        }
        let torn = sign(1, 2, State::Failed("two\nlines".to_owned())).to_string();
        assert_eq!(torn, "1 2 failed two lines");
        for wrong in ["", "1", "1 2", "x 2 well", "1 2 fine", "1 2 fine x"] {
            assert_eq!(Sign::parse(wrong), None, "{wrong}");
        }
        let mut theirs = notes();
        theirs.see(2, sign(6, 3, State::Lost), Duration::from_secs(4));
        let mut ours = notes();
        ours.read_table(&theirs.table(), 3);
        assert_eq!(ours.seen[2].sign, theirs.seen[2].sign);
        assert!((4..6).contains(&ours.seen[2].at.elapsed().as_secs()));
        ours.read_table("nonsense\n\n9 9", 3);
    }

    #[test]
    fn a_sign_counts_once() {
        let mut notes = notes();
        notes.seen[1].at = ago(9);
        notes.see(1, sign(5, 7, State::Well), Duration::ZERO);
        assert!(notes.seen[1].at.elapsed() >= Duration::from_secs(9), "the same sign again is no life");
        notes.see(1, sign(6, 7, State::Well), Duration::ZERO);
        assert!(notes.seen[1].at.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn the_rank_at_fault_is_the_one_that_failed_or_is_silent_or_left_or_is_behind() {
        let fault = |notes: &Notes, own, is_late| notes.fault(own, PACE, is_late).map(|fault| (fault.rank, fault.what));
        let mut notes = notes();
        assert_eq!(fault(&notes, 0, true), None);
        notes.seen[3].sign.step = 6;
        assert_eq!(fault(&notes, 0, false), None, "it may still come");
        assert_eq!(
            fault(&notes, 0, true).unwrap(),
            (3, " is alive and still in step 6, this one in step 7".to_owned())
        );
        notes.seen[2].sign.state = State::Left;
        assert_eq!(fault(&notes, 0, true).unwrap(), (2, " has left, after step 7".to_owned()));
        notes.seen[1].at = ago(8);
        let (rank, what) = fault(&notes, 0, false).unwrap();
        assert!(
            rank == 1 && what.starts_with(" has given no sign of life for 8.") && what.ends_with("in step 7)"),
            "{what}"
        );
        notes.seen[3].sign.state = State::Failed("the disk is full".to_owned());
        assert_eq!(fault(&notes, 0, false).unwrap(), (3, " failed: the disk is full".to_owned()));
        assert_eq!(fault(&notes, 3, false).unwrap().0, 1, "nobody accuses itself");
    }

    #[test]
    fn without_the_table_only_rank_0_is_known_to_be_silent() {
        let mut notes = notes();
        notes.seen.iter_mut().for_each(|seen| seen.at = ago(3));
        assert_eq!(notes.fault(2, PACE, false).unwrap().rank, 0);
        assert_eq!(notes.fault(0, PACE, false).map(|fault| fault.rank), Some(1));
        assert!(notes.fault(0, PACE, false).unwrap().what.contains("as have 2 more ranks"));
        // The killed keeper of the table is not silent yet, and nobody is accused in its place of signs it did not pass on.
        let before = |share: f64| Instant::now().checked_sub(PACE.silence().mul_f64(share)).unwrap();
        notes.seen.iter_mut().for_each(|seen| seen.at = before(1.1));
        notes.seen[0].at = before(0.9);
        assert_eq!(notes.fault(2, PACE, false), None);
        // Who lost touch itself is no culprit, however long ago.
        notes.seen.iter_mut().for_each(|seen| seen.sign.state = State::Lost);
        assert_eq!(notes.fault(0, PACE, true), None);
        assert!(!notes.somebody_is_well(0, PACE));
    }

    #[test]
    fn the_pace_follows_the_time_out() {
        for timeout in [2, 10, 60, 600, 3600].map(Duration::from_secs) {
            let pace = Pace::within(timeout);
            assert!(pace.silence() < pace.patience && pace.patience <= timeout / 2, "{timeout:?}: {pace:?}");
        }
    }
}
