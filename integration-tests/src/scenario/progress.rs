//! Progress bars on standard error, when that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a bar looks at what it follows.
const REFRESH: Duration = Duration::from_millis(100);

pub(crate) struct Progress {
    quiet: bool,
}

impl Progress {
    /// `quiet` for output that a machine reads.
    pub(crate) fn new(quiet: bool) -> Self {
        Self { quiet }
    }

    /// A bar from 0 to `total`. Invisible where standard error is no terminal.
    pub(crate) fn bar(&self, what: &str, total: u32) -> ProgressBar {
        let target = if self.quiet {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(Some(total.into()), target).with_message(what.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{msg:>22} {wide_bar} {pos}/{len} {per_sec} {eta}") {
            bar.set_style(style);
        }
        bar
    }

    /// Moves `bar` along with what `position` says.
    pub(crate) fn follow<F: Fn() -> usize>(&self, bar: ProgressBar, position: F) -> Follow<F> {
        Follow { bar, position }
    }
}

/// A bar that follows something.
pub(crate) struct Follow<F> {
    bar: ProgressBar,
    position: F,
}

impl<F: Fn() -> usize> Follow<F> {
    /// Follows while `work` is done.
    pub(crate) async fn during<T>(self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        let mut refresh = tokio::time::interval(REFRESH);
        let done = loop {
            tokio::select! {
                done = &mut work => break done,
                _ = refresh.tick(), if !self.bar.is_hidden() => self.bar.set_position((self.position)() as u64),
            }
        };
        self.bar.finish_and_clear();
        done
    }
}
