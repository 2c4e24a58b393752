//! Many like requests of one reconcile: in growing batches where all may fail alike, or bounded in number.

use std::future::Future;

use futures::stream::{self, StreamExt};

/// Requests in the first batch, upstream's value; batches double while all goes well, so a template that cannot be created
/// costs one request, not five hundred.
const FIRST_BATCH: usize = 1;
/// Requests under way at once: enough to keep the API server busy, few enough to leave room for others.
const AT_ONCE: usize = 32;

/// Runs `request` for every item in batches of 1, 2, 4 and so on. A batch with an error is the last one; its first error
/// is the result.
pub(crate) async fn slow_start<T, E, F>(items: impl IntoIterator<Item = T>, request: impl Fn(T) -> F) -> Result<(), E>
where
    F: Future<Output = Result<(), E>>,
{
    let mut items = items.into_iter();
    let mut size = FIRST_BATCH;
    loop {
        let batch: Vec<T> = items.by_ref().take(size).collect();
        if batch.is_empty() {
            return Ok(());
        }
        all(batch, &request).await?;
        size = size.saturating_mul(2);
    }
}

/// Runs `request` for every item, whatever becomes of the others; the first error is the result.
pub(crate) async fn all<T, E, F>(items: impl IntoIterator<Item = T>, request: impl Fn(T) -> F) -> Result<(), E>
where
    F: Future<Output = Result<(), E>>,
{
    let mut results = stream::iter(items.into_iter().map(request)).buffer_unordered(AT_ONCE);
    let mut outcome = Ok(());
    while let Some(result) = results.next().await {
        outcome = outcome.and(result);
    }
    outcome
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn batches_grow_until_one_fails() {
        for (bad, asked, outcome) in
            [(None, 10, Ok(())), (Some(0), 1, Err(0)), (Some(2), 3, Err(2)), (Some(3), 7, Err(3))]
        {
            let asked_for = Cell::new(0);
            let result = slow_start(0..10, |item| {
                asked_for.set(asked_for.get() + 1);
                async move { if Some(item) == bad { Err(item) } else { Ok(()) } }
            })
            .await;
            assert_eq!((asked_for.get(), result), (asked, outcome), "{bad:?}");
        }
    }
}
