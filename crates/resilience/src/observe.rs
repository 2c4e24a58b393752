//! Learning how a call ended, also when nobody waited for its end.
//!
//! What most mechanisms need of a call is the same: when it began, what its answer said, and that it is told exactly once,
//! even when the caller lost patience and dropped the future. [`Observed`] is that future, and the thin half of most
//! layers in this crate.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;

use crate::{
    classify::{Classify, Outcome},
    moment::{Moment, now},
    rejection::Rejection,
};

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With an answer, which says this.
    Answered(Outcome),
    /// Nobody waits for the answer any more. Whoever gave up may have done so because the service is slow, so that a
    /// mechanism which overlooks these overlooks a service that answers nobody.
    Abandoned,
}

/// Is told how a call ended, exactly once.
pub trait Observe {
    /// The call ended at `now`, `took` after it began.
    fn ended(self, now: Moment, took: Duration, ending: Ending);
}

/// A call under way, and who wants to know its end.
#[derive(Debug)]
struct Watch<O: Observe> {
    began: Moment,
    observer: Option<O>,
}

impl<O: Observe> Watch<O> {
    fn end(&mut self, ending: Ending) {
        if let Some(observer) = self.observer.take() {
            let now = now();
            observer.ended(now, now.since(self.began), ending);
        }
    }
}

impl<O: Observe> Drop for Watch<O> {
    fn drop(&mut self) {
        self.end(Ending::Abandoned);
    }
}

pin_project! {
    /// The future of a call that is observed, or of one that was refused.
    #[derive(Debug)]
    pub struct Observed<F, C, O: Observe> {
        #[pin]
        state: State<F>,
        classify: C,
        watch: Watch<O>,
    }
}

pin_project! {
    #[project = StateProjection]
    #[derive(Debug)]
    enum State<F> {
        Refused { rejection: Rejection },
        Running { #[pin] future: F },
    }
}

impl<F, C, O: Observe> Observed<F, C, O> {
    /// A call that began at a moment; `observer` is told of its end.
    pub fn running(future: F, classify: C, observer: O, began: Moment) -> Self {
        Self { state: State::Running { future }, classify, watch: Watch { began, observer: Some(observer) } }
    }

    /// A call that was refused; nobody is told of its end.
    pub fn refused(rejection: Rejection, classify: C) -> Self {
        let watch = Watch { began: Moment::default(), observer: None };
        Self { state: State::Refused { rejection }, classify, watch }
    }
}

impl<F, C, O, T, E> Future for Observed<F, C, O>
where
    F: Future<Output = Result<T, E>>,
    C: Classify<T, E>,
    O: Observe,
    E: From<Rejection>,
{
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.state.project() {
            StateProjection::Refused { rejection } => Poll::Ready(Err((*rejection).into())),
            StateProjection::Running { future } => {
                let result = ready!(future.poll(cx));
                this.watch.end(Ending::Answered(this.classify.classify(result.as_ref())));
                Poll::Ready(result)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::mpsc};

    use tower::BoxError;

    use super::*;
    use crate::classify::ByError;

    struct Tell(mpsc::Sender<(Duration, Ending)>);

    impl Observe for Tell {
        fn ended(self, _now: Moment, took: Duration, ending: Ending) {
            self.0.send((took, ending)).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_end_is_told_once() {
        let (tell, told) = mpsc::channel();
        let answer = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            Ok::<_, BoxError>(())
        };
        Observed::running(answer, ByError, Tell(tell.clone()), now()).await.unwrap();
        let never = Observed::running(pending::<Result<(), BoxError>>(), ByError, Tell(tell.clone()), now());
        tokio::time::timeout(Duration::from_secs(3), never).await.unwrap_err();
        let refused: Observed<std::future::Ready<Result<(), BoxError>>, _, Tell> =
            Observed::refused(Rejection::Full, ByError);
        assert_eq!(refused.await.unwrap_err().downcast_ref(), Some(&Rejection::Full));
        drop(tell);
        let told: Vec<_> = told.iter().collect();
        assert_eq!(
            told,
            [(Duration::from_secs(2), Ending::Answered(Outcome::Success)), (Duration::from_secs(3), Ending::Abandoned)]
        );
    }
}
