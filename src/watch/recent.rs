//! The latest events, decoded once, for the tailer and for whoever is not far behind.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;

use crate::event::Event;

/// An event on its way to watchers.
#[derive(Debug)]
pub struct Post {
    /// The event.
    pub event: Arc<Event>,
    /// The event, with all its changes, as the layer above sends it. Whoever is the first to need it
    /// makes it, once for all; this layer does not look at it.
    pub wire: OnceLock<Bytes>,
}

impl Post {
    /// An event that nobody has sent yet.
    #[must_use]
    pub fn new(event: Arc<Event>) -> Self {
        Self { event, wire: OnceLock::new() }
    }
}

/// The latest events. Every entry from `start` on, before `end`, is either here or no event.
#[derive(Debug)]
pub(super) struct Recent {
    start: u64,
    end: u64,
    posts: VecDeque<Arc<Post>>,
    posts_max: usize,
}

/// Events of the entries before `next`, beyond those gathered before.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub posts: VecDeque<Arc<Post>>,
    pub next: u64,
}

impl Recent {
    pub(super) fn new(head: u64, posts_max: usize) -> Self {
        Self { start: head, end: head, posts: VecDeque::new(), posts_max }
    }

    /// Adds the events among the entries before `head`.
    pub(super) fn extend(&mut self, events: Vec<Arc<Event>>, head: u64) {
        self.posts.extend(events.into_iter().map(|event| Arc::new(Post::new(event))));
        while self.posts.len() > self.posts_max {
            self.start = self.posts.pop_front().map_or(head, |post| post.event.index + 1);
        }
        self.end = head;
    }

    /// The index before which every entry was told of.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Events from `cursor` on, at most so many; none if memory does not reach back that far.
    pub(super) fn read(&self, cursor: u64, posts_max: usize) -> Option<Gathered> {
        if cursor < self.start {
            return None;
        }
        let from = self.posts.partition_point(|post| post.event.index < cursor);
        let posts: VecDeque<_> = self.posts.range(from..).take(posts_max).cloned().collect();
        let next = match posts.back() {
            Some(last) if posts.len() == posts_max => last.event.index + 1,
            _ => self.end.max(cursor),
        };
        Some(Gathered { posts, next })
    }
}
