//! Filter of events: the options that `watch` and `subscription create` share.

use clap::Args;

use super::{near::Keys, words};
use crate::proto::{EventKind, WatchFilter};

/// Options of a filter.
#[derive(Debug, Clone, Args)]
pub struct FilterArgs {
    /// Only events of this purpose, or of a class such as marketing.*; may be given many times
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    purpose: Vec<String>,
    /// Only events of this channel; may be given many times
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    channel: Vec<String>,
    /// Only events of this kind; may be given many times
    #[arg(long, value_delimiter = ',', value_parser = words::parser::<EventKind>())]
    kind: Vec<EventKind>,
    /// Only subjects of this namespace; may be given many times
    #[arg(long, value_name = "NAMESPACE", value_delimiter = ',')]
    namespace: Vec<String>,
}

impl FilterArgs {
    /// The keys that the catalogue should have. A filter may name one that comes later, so one that is
    /// missing is no error.
    pub(super) fn keys(&self) -> Keys {
        Keys {
            purposes: self.purpose.clone(),
            channels: self.channel.clone(),
            // The server takes a namespace in any case of its letters.
            namespaces: self.namespace.iter().map(|key| key.to_ascii_lowercase()).collect(),
        }
    }
}

impl From<FilterArgs> for WatchFilter {
    fn from(args: FilterArgs) -> Self {
        Self {
            purposes: args.purpose,
            channels: args.channel,
            kinds: args.kind.into_iter().map(Into::into).collect(),
            namespaces: args.namespace,
        }
    }
}
