//! Progress bars on standard error, shown only on a terminal.

use std::{borrow::Cow, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar of `total` steps, or a counting spinner if the total is unknown.
#[must_use]
pub fn bar(total: Option<u64>, message: impl Into<Cow<'static, str>>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => {
            (ProgressBar::new(total), "{msg} {wide_bar} {human_pos}/{human_len} {per_sec} {eta}")
        }
        None => (ProgressBar::no_length(), "{spinner} {msg} {human_pos} {per_sec}"),
    };
    styled(bar, template, message)
}

/// A bar of `total` bytes.
#[must_use]
pub fn bytes(total: u64, message: impl Into<Cow<'static, str>>) -> ProgressBar {
    let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    styled(ProgressBar::new(total), template, message)
}

fn styled(bar: ProgressBar, template: &str, message: impl Into<Cow<'static, str>>) -> ProgressBar {
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style);
    bar.set_message(message);
    if !bar.is_hidden() {
        bar.enable_steady_tick(Duration::from_millis(200));
    }
    bar
}
