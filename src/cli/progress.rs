//! Progress of long work: on standard error, and only on a terminal.

use std::{borrow::Cow, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar of `total` steps; without a total, a spinner that counts.
#[must_use]
pub fn bar(total: Option<u64>, what: impl Into<Cow<'static, str>>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => {
            (ProgressBar::new(total), "{msg} {wide_bar} {human_pos}/{human_len} {per_sec} {eta}")
        }
        None => (ProgressBar::no_length(), "{spinner} {msg} {human_pos} {per_sec}"),
    };
    styled(bar, template, what)
}

/// A bar of `total` bytes.
#[must_use]
pub fn bytes(total: u64, what: impl Into<Cow<'static, str>>) -> ProgressBar {
    let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    styled(ProgressBar::new(total), template, what)
}

fn styled(bar: ProgressBar, template: &str, what: impl Into<Cow<'static, str>>) -> ProgressBar {
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style);
    bar.set_message(what);
    if !bar.is_hidden() {
        bar.enable_steady_tick(Duration::from_millis(200));
    }
    bar
}
