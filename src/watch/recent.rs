//! The latest events in memory, decoded once, for the tailer and for watchers that are a little behind.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;

use crate::event::Event;

/// An event for watchers, with its encoded form.
#[derive(Debug, PartialEq, Eq)]
pub struct Post {
    /// The event.
    pub event: Arc<Event>,
    /// The event with all its changes, as encoded by the layer above. The first sender encodes it, and
    /// all others share the bytes.
    pub wire: OnceLock<Bytes>,
}

impl Post {
    /// An event that is not encoded yet.
    #[must_use]
    pub fn new(event: Arc<Event>) -> Self {
        Self { event, wire: OnceLock::new() }
    }
}

/// The latest events. `posts` has the event of every entry from `start` to before `end` that has one.
#[derive(Debug)]
pub(super) struct Recent {
    start: u64,
    end: u64,
    posts: VecDeque<Arc<Post>>,
    posts_max: usize,
}

/// The events of a step of reading, which ends before the entry `next`.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub posts: VecDeque<Arc<Post>>,
    pub next: u64,
}

impl Recent {
    pub(super) fn new(head: u64, posts_max: usize) -> Self {
        Self { start: head, end: head, posts: VecDeque::new(), posts_max }
    }

    /// Adds the events of the entries before `head`.
    pub(super) fn extend(&mut self, events: Vec<Arc<Event>>, head: u64) {
        self.posts.extend(events.into_iter().map(|event| Arc::new(Post::new(event))));
        while self.posts.len() > self.posts_max {
            self.start = self.posts.pop_front().map_or(head, |post| post.event.index + 1);
        }
        self.end = head;
    }

    /// The index of the first entry that is not published.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Up to `posts_max` events from `cursor` on; none if they are older than memory.
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
