//! `catalog`: applies and lists purposes and channels.

use clap::Subcommand;
use tonic::transport::Channel;

use super::{Context, Exit, error::CliError};
use crate::proto::{
    self, ListChannelsRequest, ListPurposesRequest, catalog_service_client::CatalogServiceClient,
};

mod apply;
pub mod file;
mod list;
mod preview;

/// The subcommands of `catalog`.
#[derive(Debug, Subcommand)]
pub enum CatalogCommand {
    /// Bring the catalogue to what a file says; what the file does not name is left alone
    Apply(apply::ApplyArgs),
    /// Count the answers that a file would change, before it is applied
    Preview(preview::PreviewArgs),
    /// List purposes and channels
    List(list::ListArgs),
}

pub(super) async fn run(command: CatalogCommand, context: &mut Context) -> Result<Exit, CliError> {
    match command {
        CatalogCommand::Apply(args) => Box::pin(apply::run(args, context)).await,
        CatalogCommand::Preview(args) => Box::pin(preview::run(args, context)).await,
        CatalogCommand::List(args) => Box::pin(list::run(args, context)).await,
    }
}

/// Entries on one page.
const PAGE_SIZE: i32 = 1_000;

type Client = CatalogServiceClient<Channel>;

async fn purposes(client: &mut Client, retired: bool) -> Result<Vec<proto::Purpose>, CliError> {
    let mut purposes = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListPurposesRequest {
            page_size: PAGE_SIZE,
            page_token,
            show_retired: retired,
            at_least_revision: None,
        };
        let page = client.list_purposes(request).await?.into_inner();
        purposes.extend(page.purposes);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(purposes);
        }
    }
}

async fn channels(client: &mut Client, retired: bool) -> Result<Vec<proto::Channel>, CliError> {
    let mut channels = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListChannelsRequest {
            page_size: PAGE_SIZE,
            page_token,
            show_retired: retired,
            at_least_revision: None,
        };
        let page = client.list_channels(request).await?.into_inner();
        channels.extend(page.channels);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(channels);
        }
    }
}
