//! How streams run with their connection.

use tokio::sync::Notify;

use super::*;

/// A stream made of a future that is never quiet.
struct Runs(futures::future::BoxFuture<'static, ()>);

impl Run for Runs {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }

    fn is_quiet(&self) -> bool {
        false
    }
}

/// One that is quiet from its second poll on.
struct Falls(usize);

impl Run for Falls {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0 += 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn is_quiet(&self) -> bool {
        self.0 == 2
    }
}

fn runs(stream: impl Future<Output = ()> + Send + 'static) -> Runs {
    Runs(Box::pin(stream))
}

async fn turn<S: Run>(streams: &mut Streams<S>) {
    poll_fn(|cx| {
        streams.poll(cx);
        Poll::Ready(())
    })
    .await;
}

#[tokio::test]
async fn all_that_a_change_wakes_go_on_in_one_turn_and_the_others_sleep() {
    let mut streams = Streams::new(Arc::default(), 8);
    let (news, polls) = (Arc::<Notify>::default(), Arc::<AtomicUsize>::default());
    for _ in 0..5 {
        let (news, polls) = (news.clone(), polls.clone());
        streams.add(runs(async move {
            loop {
                polls.fetch_add(1, Relaxed);
                news.notified().await;
            }
        }));
    }
    turn(&mut streams).await;
    assert_eq!(polls.load(Relaxed), 5);
    news.notify_waiters();
    assert!(streams.are_ready());
    turn(&mut streams).await;
    assert_eq!(polls.load(Relaxed), 10);
    assert!(!streams.are_ready());
    turn(&mut streams).await;
    assert_eq!(polls.load(Relaxed), 10);
}

#[tokio::test]
async fn places_of_streams_that_are_over_or_panicked_are_taken_again() {
    let mut streams = Streams::new(Arc::default(), 8);
    streams.add(runs(async {}));
    streams.add(runs(async { panic!("a bug in an answer") }));
    streams.add(runs(std::future::pending()));
    turn(&mut streams).await;
    streams.add(runs(std::future::pending()));
    streams.add(runs(std::future::pending()));
    turn(&mut streams).await;
    assert_eq!((streams.places.len(), streams.free.len()), (3, 0));
}

#[tokio::test]
async fn a_stream_that_runs_as_a_task_moves_in_once_it_is_quiet() {
    let mut streams = Streams::new(Arc::default(), 8);
    streams.send_abroad(Falls(0));
    assert!(streams.are_abroad());
    while streams.are_abroad() {
        assert!(streams.places.is_empty());
        tokio::task::yield_now().await;
    }
    turn(&mut streams).await;
    assert_eq!(streams.places.len(), 1);
}
