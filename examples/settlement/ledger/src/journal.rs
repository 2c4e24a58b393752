//! The append-only file. One thread writes: it takes all waiting settlements, appends them, syncs once, and only then
//! answers.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader, Seek, Write},
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    thread,
};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

/// Settlements that wait for the disk at most; more callers wait for a place.
const WAITING_MAX: usize = 1024;

/// One line of the journal.
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

/// Why nothing was appended.
#[derive(Debug)]
pub enum AppendError {
    /// The key has settled already; this is what it settled.
    Duplicate(Box<Settlement>),
    /// The disk refused; nothing after it is acknowledged either.
    Storage,
}

type Answer = oneshot::Sender<Result<Settlement, AppendError>>;

#[derive(Default)]
struct Entries {
    in_order: Vec<Settlement>,
    by_key: HashMap<String, usize>,
}

/// Handle of the journal; cheap to clone.
#[derive(Clone)]
pub struct Journal {
    entries: Arc<RwLock<Entries>>,
    waiting: mpsc::Sender<(Settlement, Answer)>,
}

impl Journal {
    /// Reads the file, cuts off a line that a crash left unfinished, and starts the writer.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::options().read(true).append(true).create(true).open(path)?;
        let entries = read(&mut file)?;
        let entries = Arc::new(RwLock::new(entries));
        let (waiting, queue) = mpsc::channel(WAITING_MAX);
        let shared = entries.clone();
        thread::Builder::new().name("journal".to_owned()).spawn(move || write(&file, &shared, queue))?;
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

    /// Returns once the settlement is on the disk.
    pub async fn append(&self, settlement: Settlement) -> Result<Settlement, AppendError> {
        let (answer, answered) = oneshot::channel();
        self.waiting.send((settlement, answer)).await.map_err(|_| AppendError::Storage)?;
        answered.await.unwrap_or(Err(AppendError::Storage))
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Entries> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(file: &mut File) -> io::Result<Entries> {
    let (mut entries, mut good) = (Entries::default(), 0);
    let mut reader = BufReader::new(&mut *file);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        if !line.ends_with('\n') {
            break;
        }
        let settlement: Settlement = serde_json::from_str(&line)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("at byte {good}: {e}")))?;
        good += line.len() as u64;
        entries.push(settlement);
        line.clear();
    }
    file.set_len(good)?;
    file.seek(io::SeekFrom::End(0))?;
    Ok(entries)
}

/// Ends at the first storage error: after a failed sync nobody knows what the disk holds, so the process must read it
/// again.
fn write(file: &File, entries: &RwLock<Entries>, mut queue: mpsc::Receiver<(Settlement, Answer)>) {
    let mut batch = Vec::new();
    while queue.blocking_recv_many(&mut batch, WAITING_MAX) > 0 {
        let (accepted, lines) = choose(&mut batch, &entries.read().unwrap_or_else(PoisonError::into_inner));
        let mut out = file;
        if let Err(error) = out.write_all(&lines).and_then(|()| file.sync_data()) {
            tracing::error!(%error, "the journal cannot be written");
            std::process::exit(1);
        }
        let mut entries = entries.write().unwrap_or_else(PoisonError::into_inner);
        for (settlement, _) in &accepted {
            entries.push(settlement.clone());
        }
        drop(entries);
        for (settlement, answer) in accepted {
            let _ = answer.send(Ok(settlement));
        }
    }
}

/// Answers the duplicates, and returns the rest with the lines to append.
fn choose(batch: &mut Vec<(Settlement, Answer)>, entries: &Entries) -> (Vec<(Settlement, Answer)>, Vec<u8>) {
    let (mut accepted, mut lines): (Vec<(Settlement, Answer)>, _) = (Vec::new(), Vec::new());
    for (settlement, answer) in batch.drain(..) {
        let key = &settlement.idempotency_key;
        let settled = entries.by_key.get(key).map(|&at| &entries.in_order[at]);
        let settled = settled.or_else(|| accepted.iter().map(|(s, _)| s).find(|s| s.idempotency_key == *key));
        if let Some(settled) = settled {
            let _ = answer.send(Err(AppendError::Duplicate(Box::new(settled.clone()))));
        } else if serde_json::to_writer(&mut lines, &settlement).is_ok() {
            lines.push(b'\n');
            accepted.push((settlement, answer));
        }
    }
    (accepted, lines)
}

impl Entries {
    fn push(&mut self, settlement: Settlement) {
        self.by_key.insert(settlement.idempotency_key.clone(), self.in_order.len());
        self.in_order.push(settlement);
    }
}

#[cfg(test)]
mod tests {
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

    #[tokio::test]
    async fn a_key_settles_once_also_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let journal = Journal::open(&path).unwrap();
        journal.append(settlement("k")).await.unwrap();
        assert!(matches!(journal.append(settlement("k")).await, Err(AppendError::Duplicate(_))));
        let reopened = Journal::open(&path).unwrap();
        assert!(matches!(reopened.append(settlement("k")).await, Err(AppendError::Duplicate(_))));
        assert_eq!(reopened.all(), [settlement("k")]);
    }

    #[tokio::test]
    async fn of_concurrent_duplicates_one_wins() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(&directory.path().join("journal")).unwrap();
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
        let path = directory.path().join("journal");
        Journal::open(&path).unwrap().append(settlement("k")).await.unwrap();
        File::options().append(true).open(&path).unwrap().write_all(b"{\"idempotency_key\":\"torn").unwrap();
        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.len(), 1);
        journal.append(settlement("next")).await.unwrap();
        assert_eq!(Journal::open(&path).unwrap().len(), 2);
    }
}
