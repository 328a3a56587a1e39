//! The cell that `check`, `use` and `audience` are about, and the data.

use clap::Args;

/// Purpose, channel, data and region.
#[derive(Debug, Args)]
pub struct CellArgs {
    /// Purpose key
    #[arg(long, value_name = "KEY")]
    pub purpose: String,
    /// Channel key
    #[arg(long, value_name = "KEY")]
    pub channel: String,
    /// Data category that is used; may be given many times
    #[arg(long, value_name = "CATEGORY", value_delimiter = ',')]
    pub data_category: Vec<String>,
    /// ISO 3166 region of the data subject, for example DE or US-CA
    #[arg(long, value_name = "REGION", default_value = "", hide_default_value = true)]
    pub region: String,
}
