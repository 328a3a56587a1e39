//! The present consumers: at most one for each shard.
//!
//! A new consumer takes the seat at once. From then on the older one can acknowledge nothing, and its
//! calls return the reason. An acknowledgement keeps the seat from being taken, so the older consumer
//! has ended when the newer one reads where to begin.

use std::sync::Arc;

use hashbrown::{HashMap, hash_map::Entry};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    domain::SubscriptionId,
    fold::Subscriptions,
    node::{ConsumeError, delivery::Shard},
};

/// The present consumers.
#[derive(Debug, Default)]
pub(in crate::node) struct Consumers {
    seats: Mutex<HashMap<Shard, Arc<Seat>>>,
    /// Held while a consumer takes a seat. It is not `seats`, because taking a seat may wait for an
    /// acknowledgement of the older consumer, and [`Self::present`] must not wait for that.
    entering: Mutex<()>,
}

#[derive(Debug)]
struct Seat {
    /// Name of the consumer.
    consumer: String,
    /// Why the consumer must end; none while it holds the seat.
    ended: watch::Sender<Option<ConsumeError>>,
}

impl Consumers {
    /// Gives a consumer the seat of a shard. The older consumer has ended when this returns.
    pub(super) fn enter(self: &Arc<Self>, shard: Shard, consumer: String) -> Seated {
        let _entering = self.entering.lock();
        let seat = Arc::new(Seat { consumer, ended: watch::Sender::new(None) });
        let older = self.seats.lock().insert(shard, Arc::clone(&seat));
        let took_over = older.is_some();
        if let Some(older) = older {
            older.end(ConsumeError::TakenOver { consumer: seat.consumer.clone() });
        }
        Seated { consumers: Arc::clone(self), shard, seat, took_over }
    }

    /// Name of the present consumer of a shard; none if there is none.
    pub(in crate::node) fn present(&self, id: SubscriptionId, shard: u32) -> Option<String> {
        self.seats.lock().get(&(id, shard)).map(|seat| seat.consumer.clone())
    }

    /// Ends all consumers: their acknowledgements could not be written to the ledger.
    pub(in crate::node) fn end_all(&self, reason: &ConsumeError) {
        let seats: Vec<Arc<Seat>> = self.seats.lock().drain().map(|(_, seat)| seat).collect();
        for seat in seats {
            seat.end(reason.clone());
        }
    }

    /// Ends the consumers of subscriptions that were ended.
    pub(in crate::node) fn end_deleted(&self, subscriptions: &Subscriptions) {
        let ended: Vec<Arc<Seat>> = {
            let mut seats = self.seats.lock();
            let is_ended = |(id, _): &Shard, _: &mut Arc<Seat>| {
                subscriptions.get(*id).is_none_or(|subscription| subscription.deleted.is_some())
            };
            seats.extract_if(is_ended).map(|(_, seat)| seat).collect()
        };
        for seat in ended {
            seat.end(ConsumeError::Deleted);
        }
    }
}

impl Seat {
    /// Ends the consumer; waits for an acknowledgement in progress. The first reason stays.
    fn end(&self, reason: ConsumeError) {
        self.ended.send_if_modified(|ended| {
            let is_first = ended.is_none();
            ended.get_or_insert(reason);
            is_first
        });
    }
}

/// The seat of a consumer, which leaves it on drop.
#[derive(Debug)]
pub(super) struct Seated {
    consumers: Arc<Consumers>,
    shard: Shard,
    seat: Arc<Seat>,
    /// Whether it replaced another consumer.
    pub(super) took_over: bool,
}

impl Seated {
    /// Runs `act` unless the seat was taken. It cannot be taken meanwhile.
    ///
    /// # Errors
    /// Why the consumer must end.
    pub(super) fn holding<T>(&self, act: impl FnOnce() -> T) -> Result<T, ConsumeError> {
        let ended = self.seat.ended.borrow();
        match &*ended {
            None => Ok(act()),
            Some(reason) => Err(reason.clone()),
        }
    }

    /// Waits until the consumer must end, and returns the reason. The future does not borrow the seat.
    pub(super) fn ended(&self) -> impl Future<Output = ConsumeError> + Send + use<> {
        let mut ended = self.seat.ended.subscribe();
        async move {
            let reason = ended.wait_for(Option::is_some).await.ok().and_then(|ended| ended.clone());
            match reason {
                Some(reason) => reason,
                // The consumer left the seat by itself.
                None => std::future::pending().await,
            }
        }
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        if let Entry::Occupied(present) = self.consumers.seats.lock().entry(self.shard)
            && Arc::ptr_eq(present.get(), &self.seat)
        {
            present.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::{
        domain::{
            Filter, Key, Millis, SubscriptionCreated, SubscriptionDeleted, SubscriptionEntry,
        },
        entry::{Fact, Place},
        node::consume::ConsumeError::{Deleted, TakenOver},
    };

    const SHARD: Shard = (SubscriptionId(3), 0);

    fn enter(consumers: &Arc<Consumers>, consumer: &str) -> Seated {
        consumers.enter(SHARD, consumer.to_owned())
    }

    #[test]
    fn the_newest_consumer_has_the_seat_and_an_older_one_leaves_it_alone() {
        let consumers = Arc::<Consumers>::default();
        let present = || consumers.present(SHARD.0, SHARD.1);
        assert_eq!(present(), None);
        let first = enter(&consumers, "a");
        assert!(!first.took_over);
        assert_eq!(present(), Some("a".to_owned()));
        assert_eq!(first.ended().now_or_never(), None);
        assert_eq!(first.holding(|| 1), Ok(1));
        let second = enter(&consumers, "b");
        assert!(second.took_over);
        let taken_over = TakenOver { consumer: "b".to_owned() };
        assert_eq!(first.ended().now_or_never(), Some(taken_over.clone()));
        assert_eq!(first.holding(|| 1), Err(taken_over.clone()));
        assert_eq!(first.ended().now_or_never(), Some(taken_over));
        drop(first);
        assert_eq!(present(), Some("b".to_owned()));
        drop(second);
        assert_eq!(present(), None);
        assert!(!enter(&consumers, "c").took_over);
    }

    #[test]
    fn taking_a_seat_waits_for_an_acknowledgement_in_progress() {
        let consumers = Arc::<Consumers>::default();
        let first = enter(&consumers, "a");
        let (entered, newer) = std::sync::mpsc::channel();
        let for_thread = Arc::clone(&consumers);
        let thread = first.holding(|| {
            let thread = std::thread::spawn(move || {
                let second = enter(&for_thread, "b");
                entered.send(()).unwrap();
                drop(second);
            });
            // The newer consumer is registered, and still waits.
            while consumers.present(SHARD.0, SHARD.1).as_deref() != Some("b") {
                std::thread::yield_now();
            }
            assert!(newer.recv_timeout(std::time::Duration::from_millis(20)).is_err());
            thread
        });
        newer.recv().unwrap();
        assert!(first.holding(|| ()).is_err());
        thread.unwrap().join().unwrap();
    }

    #[tokio::test]
    async fn the_end_of_a_subscription_ends_its_consumers() {
        let mut subscriptions = Subscriptions::default();
        let created = |name: &str| SubscriptionCreated {
            name: Key::parse(name).unwrap(),
            owner: String::new(),
            filter: Filter::default(),
            start_index: 0,
            snapshot: None,
            shards: 2,
            deadline_ms: None,
            webhook_url: None,
        };
        let mut fold = |index, body: SubscriptionEntry| {
            let place = Place { index, recorded_at: Millis(0) };
            subscriptions.fold(Fact { place, kind: body.kind() }).unwrap();
            subscriptions.clone()
        };
        fold(3, SubscriptionEntry::Created(Box::new(created("crm"))));
        let both = fold(4, SubscriptionEntry::Created(Box::new(created("mail"))));
        let consumers = Arc::<Consumers>::default();
        let crm = consumers.enter((SubscriptionId(3), 1), "a".to_owned());
        let mail = consumers.enter((SubscriptionId(4), 0), "b".to_owned());
        consumers.end_deleted(&both);
        assert_eq!(crm.ended().now_or_never(), None);
        let deleted = SubscriptionDeleted { subscription: SubscriptionId(3) };
        consumers.end_deleted(&fold(5, SubscriptionEntry::Deleted(deleted)));
        assert_eq!(crm.ended().await, Deleted);
        assert_eq!(consumers.present(SubscriptionId(3), 1), None);
        assert_eq!(mail.ended().now_or_never(), None);
        let stopped = ConsumeError::WritesStopped("a test says so".to_owned());
        consumers.end_all(&stopped);
        assert_eq!(mail.ended().await, stopped);
        assert_eq!(consumers.present(SubscriptionId(4), 0), None);
    }
}
