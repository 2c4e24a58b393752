//! The append-only file. One thread writes: it takes all waiting settlements, appends them, syncs once, and only then
//! answers.
//!
//! A settlement belongs to the day on which it was written. A closed day takes nothing more and is closed once.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, BufRead, BufReader, Seek, Write},
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    thread,
    time::Duration,
};

use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::format::{self, Found, Header, Lock};

/// Requests that wait for the disk at most; more callers wait for a place.
const WAITING_MAX: usize = 1024;

/// What settles an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settlement {
    /// Settles once.
    pub idempotency_key: String,
    /// The order that is settled.
    pub order_id: String,
    /// Who pays.
    pub debtor: String,
    /// Who is paid.
    pub creditor: String,
    /// What is paid, in the currency's smallest unit.
    pub amount_minor: i64,
    /// ISO 4217.
    pub currency: String,
}

/// What was settled on a day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// How many orders.
    pub settlements: u64,
    /// How much, by currency.
    pub amounts_minor: BTreeMap<String, i128>,
}

/// One line of the journal after the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Entry {
    /// An order was settled.
    Settled {
        /// On this day.
        day: Date,
        /// So.
        settlement: Settlement,
    },
    /// A day was closed.
    Closed {
        /// This one.
        day: Date,
        /// With these sums.
        totals: Totals,
    },
}

/// A day as the ledger knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Day {
    /// Whether nothing more can come.
    pub closed: bool,
    /// What was settled.
    #[serde(flatten)]
    pub totals: Totals,
}

/// Why nothing was appended.
#[derive(Debug)]
pub enum AppendError {
    /// The key has settled already; this is what it settled.
    Duplicate(Box<Settlement>),
    /// The disk refused; nothing after it is acknowledged either.
    Storage,
}

/// Why no day was closed.
#[derive(Debug, PartialEq, Eq)]
pub enum CloseError {
    /// The day goes on.
    NotOver,
    /// As [`AppendError::Storage`].
    Storage,
}

type Settled = oneshot::Sender<Result<Settlement, AppendError>>;
type Closed = oneshot::Sender<Result<Vec<Date>, CloseError>>;

enum Request {
    Settle(Settlement, Settled),
    Close(Date, Closed),
}

#[derive(Default)]
struct Entries {
    in_order: Vec<Settlement>,
    by_key: HashMap<String, usize>,
    days: BTreeMap<Date, Day>,
}

/// Handle of the journal; cheap to clone.
#[derive(Clone)]
pub struct Journal {
    entries: Arc<RwLock<Entries>>,
    waiting: mpsc::Sender<Request>,
}

impl Journal {
    /// Takes the directory for this process, reads its journal, cuts off a line that a crash left unfinished, and starts
    /// the writer. Waits for the migration of an old journal, and for another writer as long as `patience`.
    pub fn open(directory: &Path, patience: Duration, today: impl Fn() -> Date + Send + 'static) -> io::Result<Self> {
        let lock = Lock::take_when_current(directory, patience)?;
        if format::found(directory)? == Found::Nothing {
            format::begin(directory)?;
        }
        let mut file = File::options().read(true).append(true).open(format::journal(directory))?;
        let entries = Arc::new(RwLock::new(read(&mut file)?));
        let (waiting, queue) = mpsc::channel(WAITING_MAX);
        let writer = Writer { file, entries: entries.clone(), today: Box::new(today), _lock: lock };
        thread::Builder::new().name("journal".to_owned()).spawn(move || writer.run(queue))?;
        Ok(Self { entries, waiting })
    }

    /// How many settlements there are.
    pub fn len(&self) -> usize {
        self.read().in_order.len()
    }

    /// Every settlement, oldest first.
    pub fn all(&self) -> Vec<Settlement> {
        self.read().in_order.clone()
    }

    /// The settlement of a key.
    pub fn get(&self, key: &str) -> Option<Settlement> {
        let entries = self.read();
        entries.by_key.get(key).map(|&at| entries.in_order[at].clone())
    }

    /// Every day on which something was settled or closed.
    pub fn days(&self) -> BTreeMap<Date, Day> {
        self.read().days.clone()
    }

    /// Returns once the settlement is on the disk.
    pub async fn append(&self, settlement: Settlement) -> Result<Settlement, AppendError> {
        let (answer, answered) = oneshot::channel();
        self.waiting.send(Request::Settle(settlement, answer)).await.map_err(|_| AppendError::Storage)?;
        answered.await.unwrap_or(Err(AppendError::Storage))
    }

    /// Closes a day and the open ones before it; returns those that were not closed before, once that is on the disk.
    pub async fn close(&self, day: Date) -> Result<Vec<Date>, CloseError> {
        let (answer, answered) = oneshot::channel();
        self.waiting.send(Request::Close(day, answer)).await.map_err(|_| CloseError::Storage)?;
        answered.await.unwrap_or(Err(CloseError::Storage))
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Entries> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(file: &mut File) -> io::Result<Entries> {
    let mut reader = BufReader::new(&mut *file);
    let mut line = String::new();
    let mut good = reader.read_line(&mut line)? as u64;
    serde_json::from_str::<Header>(&line)?;
    let mut entries = Entries::default();
    line.clear();
    while reader.read_line(&mut line)? > 0 {
        if !line.ends_with('\n') {
            break;
        }
        let entry: Entry = serde_json::from_str(&line)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("at byte {good}: {e}")))?;
        good += line.len() as u64;
        entries.push(entry);
        line.clear();
    }
    file.set_len(good)?;
    file.seek(io::SeekFrom::End(0))?;
    Ok(entries)
}

struct Writer {
    file: File,
    entries: Arc<RwLock<Entries>>,
    today: Box<dyn Fn() -> Date + Send>,
    _lock: Lock,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let mut batch = Vec::new();
        while queue.blocking_recv_many(&mut batch, WAITING_MAX) > 0 {
            let mut settling = Vec::new();
            for request in batch.drain(..) {
                match request {
                    Request::Settle(settlement, answer) => settling.push((settlement, answer)),
                    Request::Close(day, answer) => {
                        self.settle(std::mem::take(&mut settling));
                        self.close(day, answer);
                    }
                }
            }
            self.settle(settling);
        }
    }

    fn settle(&mut self, wanted: Vec<(Settlement, Settled)>) {
        let accepted = choose(wanted, &self.entries.read().unwrap_or_else(PoisonError::into_inner));
        if accepted.is_empty() {
            return;
        }
        let day = self.open_day();
        let entry = |settlement: &Settlement| Entry::Settled { day, settlement: settlement.clone() };
        self.append(accepted.iter().map(|(settlement, _)| entry(settlement)).collect());
        for (settlement, answer) in accepted {
            let _ = answer.send(Ok(settlement));
        }
    }

    fn close(&mut self, through: Date, answer: Closed) {
        if through >= (self.today)() {
            let _ = answer.send(Err(CloseError::NotOver));
            return;
        }
        let closing = to_close(&self.entries.read().unwrap_or_else(PoisonError::into_inner).days, through);
        let days = closing.iter().map(|(day, _)| *day).collect();
        self.append(closing.into_iter().map(|(day, totals)| Entry::Closed { day, totals }).collect());
        let _ = answer.send(Ok(days));
    }

    /// Today, or the first day after it that is not closed: the clock may have been put back.
    fn open_day(&self) -> Date {
        let today = (self.today)();
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let closed = entries.days.iter().rev().find(|(_, day)| day.closed).map(|(date, _)| *date);
        closed.and_then(|closed| closed.tomorrow().ok()).map_or(today, |first| first.max(today))
    }

    /// Ends the process at the first storage error: after a failed sync nobody knows what the disk holds, so it must be
    /// read again.
    fn append(&mut self, new: Vec<Entry>) {
        let lines: io::Result<Vec<u8>> = new.iter().try_fold(Vec::new(), |mut lines, entry| {
            lines.extend(format::line(entry)?);
            Ok(lines)
        });
        if let Err(error) = lines.and_then(|lines| self.file.write_all(&lines)).and_then(|()| self.file.sync_data()) {
            tracing::error!(%error, "the journal cannot be written");
            std::process::exit(1);
        }
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        new.into_iter().for_each(|entry| entries.push(entry));
    }
}

/// Answers the duplicates, and returns the rest.
fn choose(wanted: Vec<(Settlement, Settled)>, entries: &Entries) -> Vec<(Settlement, Settled)> {
    let mut accepted: Vec<(Settlement, Settled)> = Vec::new();
    for (settlement, answer) in wanted {
        let key = &settlement.idempotency_key;
        let settled = entries.by_key.get(key).map(|&at| &entries.in_order[at]);
        let settled = settled.or_else(|| accepted.iter().map(|(s, _)| s).find(|s| s.idempotency_key == *key));
        match settled {
            Some(settled) => drop(answer.send(Err(AppendError::Duplicate(Box::new(settled.clone()))))),
            None => accepted.push((settlement, answer)),
        }
    }
    accepted
}

/// The days up to one that are still open, and that one itself.
fn to_close(days: &BTreeMap<Date, Day>, through: Date) -> Vec<(Date, Totals)> {
    let mut closing: BTreeMap<Date, Totals> =
        days.range(..=through).filter(|(_, day)| !day.closed).map(|(date, day)| (*date, day.totals.clone())).collect();
    if !days.contains_key(&through) {
        closing.insert(through, Totals::default());
    }
    closing.into_iter().collect()
}

impl Entries {
    fn push(&mut self, entry: Entry) {
        match entry {
            Entry::Settled { day, settlement } => {
                let totals = &mut self.days.entry(day).or_default().totals;
                totals.settlements += 1;
                *totals.amounts_minor.entry(settlement.currency.clone()).or_default() +=
                    i128::from(settlement.amount_minor);
                self.by_key.insert(settlement.idempotency_key.clone(), self.in_order.len());
                self.in_order.push(settlement);
            }
            Entry::Closed { day, .. } => self.days.entry(day).or_default().closed = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use jiff::civil::date;

    use super::*;

    fn settlement(key: &str) -> Settlement {
        let text = |t: &str| t.to_owned();
        let (order_id, currency) = (text("o-1"), text("EUR"));
        Settlement {
            idempotency_key: text(key),
            order_id,
            debtor: text("a"),
            creditor: text("b"),
            amount_minor: 5,
            currency,
        }
    }

    fn open(directory: &Path) -> Journal {
        // the writer of a journal that was dropped ends a moment later
        Journal::open(directory, Duration::from_secs(60), || date(2026, 11, 22)).unwrap()
    }

    #[tokio::test]
    async fn a_key_settles_once_also_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let journal = open(directory.path());
        journal.append(settlement("k")).await.unwrap();
        assert!(matches!(journal.append(settlement("k")).await, Err(AppendError::Duplicate(_))));
        drop(journal);
        let reopened = open(directory.path());
        assert!(matches!(reopened.append(settlement("k")).await, Err(AppendError::Duplicate(_))));
        assert_eq!(reopened.all(), [settlement("k")]);
    }

    #[tokio::test]
    async fn of_concurrent_duplicates_one_wins() {
        let directory = tempfile::tempdir().unwrap();
        let journal = open(directory.path());
        let tries: Vec<_> = (0..50)
            .map(|_| {
                tokio::spawn({
                    let journal = journal.clone();
                    async move { journal.append(settlement("k")).await.is_ok() }
                })
            })
            .collect();
        let mut won = 0;
        for one in tries {
            won += usize::from(one.await.unwrap());
        }
        assert_eq!((won, journal.len()), (1, 1));
    }

    #[tokio::test]
    async fn an_unfinished_last_line_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let journal = open(directory.path());
        journal.append(settlement("k")).await.unwrap();
        drop(journal);
        let path = format::journal(directory.path());
        File::options().append(true).open(path).unwrap().write_all(b"{\"settled\":{\"day\":\"20").unwrap();
        let journal = open(directory.path());
        assert_eq!(journal.len(), 1);
        journal.append(settlement("next")).await.unwrap();
        drop(journal);
        assert_eq!(open(directory.path()).len(), 2);
    }

    #[tokio::test]
    async fn a_day_is_closed_once_with_its_sums_and_takes_nothing_more() {
        let directory = tempfile::tempdir().unwrap();
        let now = Arc::new(Mutex::new(date(2026, 11, 22)));
        let today = now.clone();
        let journal = Journal::open(directory.path(), Duration::ZERO, move || *today.lock().unwrap()).unwrap();
        journal.append(settlement("first")).await.unwrap();
        assert_eq!(journal.close(date(2026, 11, 22)).await, Err(CloseError::NotOver));
        *now.lock().unwrap() = date(2026, 11, 24);
        let days = [date(2026, 11, 22), date(2026, 11, 23)];
        let (one, other) = tokio::join!(journal.close(days[1]), journal.close(days[1]));
        assert_eq!((one, other), (Ok(days.to_vec()), Ok(vec![])), "a missed day is closed with the next");
        // a clock that goes back puts nothing into a closed day
        *now.lock().unwrap() = days[0];
        journal.append(settlement("late")).await.unwrap();
        drop(journal);
        let known = open(directory.path()).days();
        let totals = Totals { settlements: 1, amounts_minor: BTreeMap::from([("EUR".to_owned(), 5)]) };
        assert_eq!(known[&days[0]], Day { closed: true, totals: totals.clone() });
        assert_eq!(known[&days[1]], Day { closed: true, totals: Totals::default() });
        assert_eq!(known[&date(2026, 11, 24)], Day { closed: false, totals });
    }
}
