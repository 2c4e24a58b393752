//! API priority and fairness: who is served when the server has more to do than it can do at once.
//!
//! A request is matched against the FlowSchemas in order of precedence; the first that fits names its priority level and
//! its flow. A level has a share of the server's seats, which grows and shrinks with what others need; who finds no
//! seat waits in the level's queues, which are shared fairly among flows, or is refused. Components of this process do
//! not take part: they keep the cluster alive that everybody else waits for.
//!
//! A request that finds a seat costs the match and a few atomic operations; nothing is locked while one is served.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName};
use parking_lot::Mutex;
use serde_json::Value;
use store::Store;
use tokio::sync::Notify;

mod allocation;
mod level;
mod maintenance;
mod queues;
mod report;
mod schema;

use crate::{authorization::Attributes, codec, status::ApiError};
use allocation::{Claim, Shares};
use level::{Asked, InQueue, Level, Rejected, Response, Seats};
use queues::Queuing;
use schema::Counts;
pub(crate) use schema::FlowSchema;
use strategy::flow::objects::{self, LEVELS, SCHEMAS};
use strategy::tree::{int, text, text_at};

/// Seats of the whole server unless configured: upstream's 400 reading and 200 writing requests at once.
pub const SEATS: u32 = 600;
/// How long a request waits for a seat, as upstream: a quarter of the time it may take.
const WAIT_MAX: Duration = Duration::from_secs(15);
/// Seats of a list at most, and the objects that one seat stands for; upstream's numbers.
const LIST_SEATS_MAX: u32 = 10;
const OBJECTS_PER_SEAT: u64 = 100;
/// The part of a level that one request may take, in percent; upstream's number.
const WIDEST_PERCENT: u64 = 15;
/// When a refused client may try again, in seconds.
const RETRY_AFTER_SECONDS: u32 = 1;

const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// The configuration in force.
#[derive(Default)]
struct Table {
    /// In order of precedence.
    schemas: Vec<Arc<FlowSchema>>,
    levels: Vec<Arc<Level>>,
}

/// Decides which requests go on.
pub(crate) struct FlowControl {
    seats: u32,
    table: ArcSwap<Table>,
    changing: Mutex<HashMap<(String, String), Arc<Counts>>>,
    /// Something was changed that maintenance has to look at.
    changed: Notify,
}

/// A request that may go on, for as long as this lives.
pub(crate) struct Admitted {
    schema: Arc<FlowSchema>,
    width: u32,
    _seats: Seats,
}

impl Admitted {
    fn new(schema: Arc<FlowSchema>, width: u32, seats: Seats) -> Self {
        let counts = &schema.counts;
        counts.dispatched.fetch_add(1, Relaxed);
        counts.executing.fetch_add(1, Relaxed);
        counts.executing_seats.fetch_add(i64::from(width), Relaxed);
        Self { schema, width, _seats: seats }
    }

    /// Whether it holds a seat that others may wait for.
    pub(crate) fn is_limited(&self) -> bool {
        !self.schema.level.is_exempt()
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let counts = &self.schema.counts;
        counts.executing.fetch_sub(1, Relaxed);
        counts.executing_seats.fetch_sub(i64::from(self.width), Relaxed);
    }
}

/// A request at the gate.
pub(crate) struct Gate {
    schema: Arc<FlowSchema>,
    width: u32,
    asked: Asked,
}

impl Gate {
    /// Which schema it is of.
    pub(crate) fn schema(&self) -> Arc<FlowSchema> {
        self.schema.clone()
    }

    /// Goes through when its turn comes.
    pub(crate) async fn pass(self) -> Result<Admitted, ApiError> {
        let Self { schema, width, asked } = self;
        match asked {
            Asked::Seated(seats) => Ok(Admitted::new(schema, width, seats)),
            Asked::Refused(why) => Err(refused(&schema, why)),
            // boxed, so that the future of a request that does not wait stays small
            Asked::Queued(queued) => Box::pin(wait(schema, width, queued)).await,
        }
    }
}

async fn wait(schema: Arc<FlowSchema>, width: u32, mut queued: InQueue) -> Result<Admitted, ApiError> {
    let since = Instant::now();
    let waiting = Waiting::new(&schema.counts);
    let turn = tokio::time::timeout(WAIT_MAX, queued.turn()).await;
    waiting.over(matches!(turn, Ok(Some(_))), since.elapsed());
    match turn {
        Ok(Some(seats)) => Ok(Admitted::new(schema.clone(), width, seats)),
        Ok(None) | Err(_) => Err(refused(&schema, Rejected::TimeOut)),
    }
}

impl FlowSchema {
    /// Says in an answer which schema and level its request was of.
    pub(crate) fn stamp(&self, headers: &mut HeaderMap) {
        headers.insert(SCHEMA_UID, self.uid.clone());
        headers.insert(LEVEL_UID, self.level.uid.clone());
    }
}

impl FlowControl {
    /// For a server with so many seats.
    pub(crate) fn new(seats: u32) -> Self {
        Self { seats, table: ArcSwap::default(), changing: Mutex::default(), changed: Notify::new() }
    }

    /// Takes over what a commit changed.
    pub(crate) fn committed(&self, collection: &str, name: &str, store: &Store) {
        let object = store.snapshot().get(collection, name).and_then(|object| codec::stored(&object.bytes).ok());
        // a schema's status is written by the server itself, for each of them at a first start
        if collection == SCHEMAS
            && object.is_some_and(|object| self.table.load().schemas.iter().any(|schema| schema.is(name, &object)))
        {
            self.changed.notify_one();
        } else {
            self.reload(store);
        }
    }

    /// Takes over the objects as they are now.
    pub(crate) fn reload(&self, store: &Store) {
        let mut counts = self.changing.lock();
        // read under the lock, so that of two concurrent changes the later state wins
        let snapshot = store.snapshot();
        let stored = |collection: &str, fallback: &[Value]| -> Vec<Value> {
            let objects = snapshot.range(collection, "", None);
            let mut objects: Vec<Value> = objects.filter_map(|(_, object)| codec::stored(&object.bytes).ok()).collect();
            // the mandatory ones are in force also while they are missing
            let missing = fallback.iter().filter(|wanted| {
                let name = text_at(wanted, &["metadata", "name"]);
                objects::mandatory(collection, name).is_some()
                    && objects.iter().all(|object| text_at(object, &["metadata", "name"]) != name)
            });
            let missing: Vec<Value> = missing.cloned().collect();
            objects.extend(missing);
            objects
        };
        let levels = self.levels(&stored(LEVELS, objects::levels()));
        let mut schemas = Vec::new();
        for object in stored(SCHEMAS, objects::schemas()) {
            let wanted = text_at(&object, &["spec", "priorityLevelConfiguration", "name"]);
            // a schema without its level is out of force, and says so in its status
            let Some(level) = levels.iter().find(|level| level.name == wanted) else { continue };
            let key = (text_at(&object, &["metadata", "name"]).to_owned(), wanted.to_owned());
            let counts = counts.entry(key).or_default().clone();
            schemas.push(Arc::new(FlowSchema::decode(&object, level.clone(), counts)));
        }
        counts.retain(|_, counts| Arc::strong_count(counts) > 1);
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        self.table.store(Arc::new(Table { schemas, levels }));
        self.changed.notify_one();
    }

    fn levels(&self, objects: &[Value]) -> Vec<Arc<Level>> {
        let before = self.table.load();
        let shares: Vec<Shares> = objects.iter().map(shares).collect();
        let claims = allocation::nominal(self.seats, &shares);
        let level = |(object, claim): (&Value, Claim)| {
            let name = text_at(object, &["metadata", "name"]);
            let (uid, response) = (schema::uid(object), response(object));
            let known = before.levels.iter().find(|level| level.name == name && level.uid == uid);
            match known.filter(|level| level.is_exempt() == (response == Response::Exempt)) {
                Some(level) => {
                    level.reconfigure(response, claim);
                    level.clone()
                }
                None => Arc::new(Level::new(name, uid, response, claim)),
            }
        };
        objects.iter().zip(claims).map(level).collect()
    }

    /// Asks for a request to be let in. `objects` is how many objects a list goes over.
    pub(crate) fn enter(&self, attributes: &Attributes<'_>, objects: impl FnOnce() -> u64) -> Option<Gate> {
        let table = self.table.load();
        // without a match nothing is limited: the catch-all schema takes everybody there is
        let schema = table.schemas.iter().find(|schema| schema.matches(attributes))?;
        let level = &schema.level;
        let (flow, width) = match level.is_exempt() {
            true => (0, 1),
            false => (schema.flow(attributes), width(objects(), level.nominal())),
        };
        Some(Gate { asked: level.ask(flow, width), schema: schema.clone(), width })
    }

    /// Gives each level the seats it needs, as far as they go round.
    fn rebalance(&self) {
        let table = self.table.load();
        let limited: Vec<(&Arc<Level>, Claim)> =
            table.levels.iter().filter_map(|level| Some((level, level.claim()?))).collect();
        let claims: Vec<Claim> = limited.iter().map(|(_, claim)| *claim).collect();
        for ((level, _), seats) in limited.iter().zip(allocation::by_demand(self.seats, &claims)) {
            level.allot(seats);
        }
    }
}

/// Counts a waiting request while it waits.
struct Waiting<'a>(&'a Counts);

impl<'a> Waiting<'a> {
    fn new(counts: &'a Counts) -> Self {
        counts.waiting.fetch_add(1, Relaxed);
        Self(counts)
    }

    fn over(self, is_seated: bool, took: Duration) {
        self.0.waits[usize::from(is_seated)].took(took);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

fn refused(schema: &FlowSchema, why: Rejected) -> ApiError {
    schema.counts.rejected[why as usize].fetch_add(1, Relaxed);
    ApiError::overloaded(RETRY_AFTER_SECONDS)
}

/// Seats of a request that goes over so many objects, on a level of so many.
fn width(objects: u64, nominal: u32) -> u32 {
    let widest = (u64::from(nominal) * WIDEST_PERCENT).div_ceil(100).clamp(1, u64::from(LIST_SEATS_MAX));
    objects.div_ceil(OBJECTS_PER_SEAT).clamp(1, widest) as u32
}

fn shares(level: &Value) -> Shares {
    let spec = &level["spec"];
    let (numbers, default) = if text(spec, "type") == "Exempt" { (&spec["exempt"], 0) } else { (&spec["limited"], 30) };
    let number = |key: &str| int(numbers, key).and_then(|number| u32::try_from(number).ok());
    Shares {
        shares: number("nominalConcurrencyShares").unwrap_or(default),
        lendable_percent: number("lendablePercent").unwrap_or(0),
        borrowing_percent: number("borrowingLimitPercent"),
    }
}

fn response(level: &Value) -> Response {
    let spec = &level["spec"];
    if text(spec, "type") == "Exempt" {
        return Response::Exempt;
    }
    let response = &spec["limited"]["limitResponse"];
    if text(response, "type") != "Queue" {
        return Response::Reject;
    }
    let number = |key: &str, default: usize| {
        int(&response["queuing"], key).and_then(|number| usize::try_from(number).ok()).unwrap_or(default)
    };
    // queues are made at once, unlike upstream's, so that a bound keeps a configuration from taking all memory
    let queues = number("queues", 64).clamp(1, QUEUES_MAX);
    Response::Queue(Queuing { queues, hand_size: number("handSize", 8), length_max: number("queueLengthLimit", 50) })
}

/// Queues of a level at most: a thousand times what is of use, and some 500 KiB.
const QUEUES_MAX: usize = 10_000;

#[cfg(test)]
mod tests;
