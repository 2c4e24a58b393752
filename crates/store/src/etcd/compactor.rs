//! Compaction of etcd's history by one of the servers, in the way upstream's servers agree on it, so that both can share
//! an etcd.

use std::{sync::Arc, time::Duration};

use tracing::{debug, warn};

use super::{
    client::Client,
    connection::{CallError, OUT_OF_RANGE},
    messages::{Range, Txn},
    slots,
};

/// The key on which the servers agree. Its version counts the rounds: who takes it to the next one compacts.
const KEY: &[u8] = b"compact_rev_key";
/// Keys of ended servers removed in one round.
const REMOVED_MAX: u64 = 1000;

/// What a server knows of the rounds.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    /// Version of the key when it was last seen.
    version: u64,
    /// etcd's revision then.
    revision: u64,
}

/// Compacts for ever.
pub(super) async fn run(client: Arc<Client>, interval: Duration) {
    let mut round = Round::default();
    loop {
        tokio::time::sleep(interval).await;
        match compact(&client, round).await {
            Ok(next) => round = next,
            Err(error) => warn!(%error, "cannot compact etcd's history, the next round tries again"),
        }
    }
}

/// Takes the next round where nobody else did, and compacts up to the revision of the one before: watches have at least
/// the interval to catch up.
async fn compact(client: &Client, round: Round) -> Result<Round, CallError> {
    let txn = Txn::default()
        .if_version(KEY, round.version)
        .put(KEY, round.revision.to_string().as_bytes())
        .or_read(KEY)
        .into_bytes();
    let response = client.txn(&txn).await?;
    if !response.succeeded {
        let version = response.read.into_iter().next().flatten().map_or(0, |kv| kv.version);
        return Ok(Round { version, revision: response.revision });
    }
    let next = Round { version: round.version + 1, revision: response.revision };
    if round.revision == 0 {
        return Ok(next);
    }
    match client.compact(round.revision).await {
        // somebody compacted further
        Ok(()) | Err(CallError::Refused { code: OUT_OF_RANGE, .. }) => {}
        Err(error) => return Err(error),
    }
    debug!(revision = round.revision, "compacted etcd's history");
    clean(client, round.revision).await?;
    Ok(next)
}

/// Removes the writers' keys that nobody used since a revision: those of servers that ended.
async fn clean(client: &Client, before: u64) -> Result<(), CallError> {
    let (start, end) = (slots::prefix(), slots::prefix_end());
    let range = Range {
        key: start.as_bytes(),
        end: Some(end.as_bytes()),
        limit: REMOVED_MAX,
        keys_only: true,
        max_mod_revision: before,
        ..Range::default()
    };
    for kv in client.range(&range).await?.kvs {
        let txn = Txn::default().if_changed_at(&kv.key, kv.mod_revision).delete(&kv.key).into_bytes();
        client.txn(&txn).await?;
    }
    Ok(())
}
