//! How a node is set up.

use std::{path::PathBuf, time::Duration};

use crate::{
    receipt::Controller, tlog::policy::Policy, tree::WitnessFail, vault::Kek, web::target::Targets,
};

/// How a node is set up. Every limit has a name.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Name of the ledger, used when it is created, for example `consent.example.org/eu`.
    pub origin: String,
    /// The key-encryption key, if it is given; else it is read from, or created in, `kek_file`.
    pub kek: Option<Kek>,
    /// File of the key-encryption key; none means `kek` in the data directory.
    pub kek_file: Option<PathBuf>,
    /// The greatest size of a segment file, in bytes.
    pub segment_bytes_max: u64,
    /// The greatest number of appends in flight.
    pub appends_max: usize,
    /// The greatest number of entries in one group commit.
    pub batch_entries_max: usize,
    /// Memory for hot state, in bytes.
    pub hot_bytes_max: u64,
    /// Memory for sled's page cache, in bytes.
    pub sled_cache_bytes: u64,
    /// The greatest number of recent events that are kept in memory for watchers.
    pub recent_events_max: usize,
    /// How fast older segments are re-verified in the background, in bytes a second; 0 means not.
    pub scrub_bytes_per_second: u64,
    /// How long a read waits for a revision that the node has not reached.
    pub revision_wait: Duration,
    /// How long a confirmation token is good, unless the act says.
    pub confirmation_validity: Duration,
    /// How long a decision token is good at most.
    pub decision_token_validity: Duration,
    /// Which witnesses must have cosigned a checkpoint before it is released.
    pub witness_policy: Policy,
    /// What becomes of a checkpoint that they do not cosign.
    pub witness_fail: WitnessFail,
    /// How long a checkpoint waits for them before it is released without, where it may be.
    pub witness_wait: Duration,
    /// File of the signing key; none means `signing-key` in the data directory.
    pub signing_key_file: Option<PathBuf>,
    /// Whether a signing key that is missing is made, although another one has signed.
    pub new_signing_key: bool,
    /// Whether a signing key without a book of what it has signed may be taken.
    pub unused_signing_key: bool,
    /// The shortest time from one checkpoint to the next.
    pub checkpoint_interval: Duration,
    /// How long a caller waits for a checkpoint.
    pub checkpoint_wait: Duration,
    /// Who answers for the processing, as receipts name them.
    pub controller: Controller,
    /// The greatest number of durable subscriptions.
    pub subscriptions_max: usize,
    /// How long acknowledgements of subscribers gather before they are written down.
    pub receipt_interval: Duration,
    /// How many acknowledgements of subscribers gather before they are written down at once.
    pub receipt_acks_max: usize,
    /// Where webhooks may lead.
    pub webhook_targets: Targets,
}
