//! A node in a temporary directory, and short helpers for acts.

use std::{path::Path, sync::Arc, time::Duration};

use consent_ledger::{
    config::ServeConfig,
    domain::{
        Action, Actor, Change, ChannelPut, ContactChange, Effect, Evidence, Key, LegalBasis,
        PurposeVersion, Reason, ScopeKeys, Subject,
    },
    node::{Act, Idempotency, Node, NodeConfig, OpenError, PurposeDraft, Question, init},
    telemetry::Metrics,
    vault::Kek,
};

use super::{PATIENCE, wait_until};

/// The key-encryption key of every node of a test.
pub fn kek() -> Kek {
    Kek::parse(&"5a".repeat(32)).unwrap()
}

pub fn config(dir: &Path) -> NodeConfig {
    NodeConfig {
        data_dir: dir.to_owned(),
        origin: Some("consent.example.org/test".to_owned()),
        kek: Some(kek()),
        segment_bytes_max: 64 << 10,
        appends_max: 1_024,
        batch_entries_max: 256,
        hot_bytes_max: 16 << 20,
        view_cache_bytes: 16 << 20,
        recent_events_max: 100,
        scrub_bytes_per_second: 1 << 30,
        revision_wait: Duration::from_millis(50),
        checkpoint_interval: Duration::from_millis(10),
        ..ServeConfig::default().node
    }
}

/// Opens a node in a directory, which gets a ledger if it is empty.
pub fn open(dir: &Path) -> Arc<Node> {
    let config = config(dir);
    init_if_empty(&config);
    once_free(|| Node::open(&config, Arc::new(Metrics::default()))).unwrap()
}

/// Opens a node once its directory is free: children that other tests start hold the lock of this process
/// until they are another program.
pub fn once_free(open: impl Fn() -> Result<Arc<Node>, OpenError>) -> Result<Arc<Node>, OpenError> {
    wait_until("the lock", PATIENCE, || match open() {
        Err(OpenError::InUse { .. }) => None,
        opened => Some(opened),
    })
}

/// Makes a ledger in the data directory, if that is empty.
pub fn init_if_empty(config: &NodeConfig) {
    if std::fs::read_dir(&config.data_dir).unwrap().next().is_none() {
        init(config).unwrap();
    }
}

pub fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

pub fn subject(text: &str) -> Subject {
    Subject::parse(text).unwrap()
}

pub fn change(action: Action, purpose: &str, channel: &str) -> Change {
    let one_or_all = |text: &str| (text != "*").then(|| key(text));
    Change {
        action,
        scope: ScopeKeys {
            purpose: one_or_all(purpose).map(Into::into),
            channel: one_or_all(channel),
        },
        purpose_version: None,
        expires_at: None,
        data_categories: Vec::new(),
    }
}

pub fn act(who: &str, changes: Vec<Change>) -> Act {
    Act {
        subject: subject(who),
        actor: Actor::Subject,
        changes,
        contact: ContactChange::default(),
        effective_at: None,
        record_only_news: false,
        confirmation_validity_ms: None,
        reported_late: false,
        evidence: Evidence { touchpoint: "onboarding".to_owned(), ..Evidence::default() },
        idempotency: None,
    }
}

pub fn grant(who: &str) -> Act {
    act(who, vec![change(Action::Grant, "newsletter", "email")])
}

pub fn withdraw(who: &str) -> Act {
    act(who, vec![change(Action::Withdraw, "newsletter", "email")])
}

pub fn with_key(mut act: Act, key: &str) -> Act {
    let request = format!("{:?}", act.changes).into_bytes();
    act.idempotency = Some(Idempotency { key: key.to_owned(), request });
    act
}

pub fn draft(title: &str) -> PurposeDraft {
    PurposeDraft {
        key: key("newsletter"),
        content: PurposeVersion {
            title: title.to_owned(),
            description: String::new(),
            legal_basis: LegalBasis::Consent,
            basis_by_region: std::collections::BTreeMap::new(),
            data_categories: vec!["user.contact".to_owned()],
            default_validity_ms: None,
            double_opt_in: false,
            obligations: Vec::new(),
            controller: None,
            recipients: None,
        },
        oldest_compatible: None,
        requires_reconsent: false,
        retired: false,
    }
}

pub async fn put_catalog(node: &Node) {
    for channel in ["email", "sms"] {
        let put = ChannelPut { key: key(channel), title: String::new(), retired: false };
        node.put_channel(put).await.unwrap();
    }
    node.put_purpose(draft("Newsletter")).await.unwrap();
}

pub fn check(node: &Node, who: &str, channel: &str) -> (Effect, Reason, u64) {
    let subject = subject(who);
    let question = Question {
        subject: &subject,
        purpose: "newsletter",
        channel,
        data_categories: &[],
        region: None,
        ignore_obligations: false,
    };
    let checked = node.check(&question).unwrap();
    (checked.decision.effect(), checked.decision.reason, checked.revision)
}
