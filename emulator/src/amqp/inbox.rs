//! How a connection learns that one of its links has something to do.
//!
//! The inbox is a set of links: however often a link is woken before the
//! connection looks, it is one entry, so it needs no bound of its own.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use amqp_wire::engine::LinkId;
use futures_util::task::AtomicWaker;

/// The links that want to be looked at.
#[derive(Default)]
pub(super) struct Inbox {
    links: Mutex<BTreeSet<LinkId>>,
    task: AtomicWaker,
}

impl Inbox {
    fn links(&self) -> MutexGuard<'_, BTreeSet<LinkId>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the connection look at a link.
    pub(super) fn wake(&self, link: LinkId) {
        if self.links().insert(link) {
            self.task.wake();
        }
    }

    /// A waker that does so.
    pub(super) fn waker(self: &Arc<Self>, link: LinkId) -> Waker {
        let inbox = self.clone();
        Waker::from(Arc::new(LinkWaker { inbox, link }))
    }

    /// Takes out one link.
    pub(super) fn take(&self) -> Option<LinkId> {
        self.links().pop_first()
    }

    /// Ready while there is a link.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        self.task.register(cx.waker());
        if self.links().is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }
}

struct LinkWaker {
    inbox: Arc<Inbox>,
    link: LinkId,
}

impl Wake for LinkWaker {
    fn wake(self: Arc<Self>) {
        self.inbox.wake(self.link);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.inbox.wake(self.link);
    }
}
