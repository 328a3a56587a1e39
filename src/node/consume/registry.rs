//! Who consumes which shard: one at a time.
//!
//! A new consumer has the seat at once. The older one can acknowledge nothing from then on, and is
//! told why. An acknowledgement holds its own seat while it is taken, so the older consumer is
//! gone for good before the newer one looks where to begin.

use std::sync::Arc;

use hashbrown::{HashMap, hash_map::Entry};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{domain::SubscriptionId, fold::Subscriptions};

use crate::node::ConsumeError;

/// A shard of a subscription.
type Shard = (SubscriptionId, u32);

/// The present consumers.
#[derive(Debug, Default)]
pub(in crate::node) struct Consumers {
    seats: Mutex<HashMap<Shard, Arc<Seat>>>,
    /// Held while one takes over from another. Not `seats`: taking over may wait for an acknowledgement
    /// that is being taken, and a caller that only asks for a name must not wait for that.
    entering: Mutex<()>,
}

#[derive(Debug)]
struct Seat {
    /// What the consumer calls itself.
    consumer: String,
    /// Why it has to go, once it has.
    ended: watch::Sender<Option<ConsumeError>>,
}

impl Consumers {
    /// Gives a consumer the seat of a shard. The older consumer is gone when this returns.
    pub(super) fn enter(self: &Arc<Self>, shard: Shard, consumer: String) -> Seated {
        let _entering = self.entering.lock();
        let seat = Arc::new(Seat { consumer, ended: watch::Sender::new(None) });
        let older = self.seats.lock().insert(shard, Arc::clone(&seat));
        let took_over = older.is_some();
        if let Some(older) = older {
            older.end(ConsumeError::TakenOver { consumer: seat.consumer.clone() });
        }
        let ended = seat.ended.subscribe();
        Seated { consumers: Arc::clone(self), shard, seat, ended, took_over }
    }

    /// What the present consumer of a shard calls itself; none if there is none.
    pub(in crate::node) fn present(&self, id: SubscriptionId, shard: u32) -> Option<String> {
        self.seats.lock().get(&(id, shard)).map(|seat| seat.consumer.clone())
    }

    /// Sends all consumers away: what they acknowledge would not go on record.
    pub(in crate::node) fn end_all(&self, why: &ConsumeError) {
        let seats: Vec<Arc<Seat>> = self.seats.lock().drain().map(|(_, seat)| seat).collect();
        for seat in seats {
            seat.end(why.clone());
        }
    }

    /// Sends the consumers away whose subscription was ended.
    pub(in crate::node) fn end_deleted(&self, subscriptions: &Subscriptions) {
        let ended: Vec<Arc<Seat>> = {
            let mut seats = self.seats.lock();
            let is_ended = |(id, _): &Shard, _: &mut Arc<Seat>| {
                subscriptions.get(*id).is_none_or(|own| own.deleted.is_some())
            };
            seats.extract_if(is_ended).map(|(_, seat)| seat).collect()
        };
        for seat in ended {
            seat.end(ConsumeError::Deleted);
        }
    }
}

impl Seat {
    /// Waits for an acknowledgement that is being taken; the first reason stays.
    fn end(&self, why: ConsumeError) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert(why);
            first
        });
    }
}

/// A place, for as long as its consumer stays.
#[derive(Debug)]
pub(super) struct Seated {
    consumers: Arc<Consumers>,
    shard: Shard,
    seat: Arc<Seat>,
    ended: watch::Receiver<Option<ConsumeError>>,
    /// Whether another one had to go.
    pub(super) took_over: bool,
}

impl Seated {
    /// Does something for as long as the place can not be taken, if it was not taken before.
    ///
    /// # Errors
    /// Why the consumer has to go.
    pub(super) fn holding<T>(&self, act: impl FnOnce() -> T) -> Result<T, ConsumeError> {
        let ended = self.ended.borrow();
        match &*ended {
            None => Ok(act()),
            Some(why) => Err(why.clone()),
        }
    }

    /// As [`Self::ended`], for a caller that does not hold the seat.
    pub(super) fn when_ended(&self) -> impl Future<Output = ConsumeError> + Send + use<> {
        let mut ended = self.ended.clone();
        async move {
            let why = ended.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
            match why {
                Some(why) => why,
                // The place was left.
                None => std::future::pending().await,
            }
        }
    }

    /// Waits until the consumer has to go, and answers why. Cancel-safe.
    pub(super) async fn ended(&mut self) -> ConsumeError {
        loop {
            if let Some(why) = &*self.ended.borrow_and_update() {
                return why.clone();
            }
            // The sender is in `seat`, and so is never gone before.
            drop(self.ended.changed().await);
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
    fn the_newest_has_the_place_and_whoever_leaves_it_leaves_only_their_own() {
        let consumers = Arc::<Consumers>::default();
        let present = || consumers.present(SHARD.0, SHARD.1);
        assert_eq!(present(), None);
        let mut first = enter(&consumers, "a");
        assert!(!first.took_over);
        assert_eq!(present(), Some("a".to_owned()));
        assert_eq!(first.ended().now_or_never(), None);
        assert_eq!(first.holding(|| 1), Ok(1));
        let second = enter(&consumers, "b");
        assert!(second.took_over);
        let taken_over = TakenOver { consumer: "b".to_owned() };
        assert_eq!(first.ended().now_or_never(), Some(taken_over.clone()));
        assert_eq!(first.holding(|| 1), Err(taken_over.clone()));
        assert_eq!(first.when_ended().now_or_never(), Some(taken_over));
        drop(first);
        assert_eq!(present(), Some("b".to_owned()));
        drop(second);
        assert_eq!(present(), None);
        assert!(!enter(&consumers, "c").took_over);
    }

    #[test]
    fn whoever_takes_over_waits_for_an_acknowledgement_that_is_being_taken() {
        let consumers = Arc::<Consumers>::default();
        let first = enter(&consumers, "a");
        let (entered, newer) = std::sync::mpsc::channel();
        let own = Arc::clone(&consumers);
        let thread = first.holding(|| {
            let thread = std::thread::spawn(move || {
                let second = enter(&own, "b");
                entered.send(()).unwrap();
                drop(second);
            });
            // The newer one has the place by name, and still waits.
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
    async fn the_end_of_a_subscription_is_the_end_of_its_consumers() {
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
        let mut crm = consumers.enter((SubscriptionId(3), 1), "a".to_owned());
        let mut mail = consumers.enter((SubscriptionId(4), 0), "b".to_owned());
        consumers.end_deleted(&both);
        assert_eq!(crm.ended().now_or_never(), None);
        let deleted = SubscriptionDeleted { subscription: SubscriptionId(3) };
        consumers.end_deleted(&fold(5, SubscriptionEntry::Deleted(deleted)));
        assert_eq!(crm.ended().await, Deleted);
        assert_eq!(consumers.present(SubscriptionId(3), 1), None);
        assert_eq!(mail.when_ended().now_or_never(), None);
        let stopped = ConsumeError::WritesStopped("a test says so".to_owned());
        consumers.end_all(&stopped);
        assert_eq!(mail.ended().await, stopped);
        assert_eq!(consumers.present(SubscriptionId(4), 0), None);
    }
}
