//! How a connection learns that one of its links has something to do.
//!
//! However often a link is woken before the connection looks, it has one entry,
//! so the inbox needs no bound of its own. Links have their turns in the order
//! in which they were woken: one that wakes itself again comes after all others.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use amqp_wire::engine::LinkId;
use futures_util::task::AtomicWaker;

/// The links that want to be looked at.
#[derive(Default)]
pub(super) struct Inbox {
    links: Mutex<Links>,
    task: AtomicWaker,
}

#[derive(Default)]
struct Links {
    turns: VecDeque<LinkId>,
    known: BTreeSet<LinkId>,
}

impl Inbox {
    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the connection look at a link.
    pub(super) fn wake(&self, link: LinkId) {
        {
            let mut links = self.links();
            if !links.known.insert(link) {
                return;
            }
            links.turns.push_back(link);
        }
        self.task.wake();
    }

    /// A waker that does so.
    pub(super) fn waker(self: &Arc<Self>, link: LinkId) -> Waker {
        let inbox = self.clone();
        Waker::from(Arc::new(LinkWaker { inbox, link }))
    }

    /// Takes out the link that was woken first.
    pub(super) fn take(&self) -> Option<LinkId> {
        let mut links = self.links();
        let link = links.turns.pop_front()?;
        links.known.remove(&link);
        Some(link)
    }

    /// Ready while there is a link.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        self.task.register(cx.waker());
        if self.links().turns.is_empty() {
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
