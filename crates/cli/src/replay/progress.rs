//! How far a run is: counters that every stream adds to, shown as a bar or as lines.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sagellm_types::Ending;
use sagellm_types::clock::Clock;
use tokio::task::JoinHandle;

/// Counters of a run. Statistics only: they order nothing.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    sent: AtomicU64,
    finished: AtomicU64,
    ended: AtomicU64,
    tokens: AtomicU64,
}

impl Counters {
    pub(crate) fn sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn tokens(&self, count: u32) {
        self.tokens.fetch_add(u64::from(count), Ordering::Relaxed);
    }

    pub(crate) fn ended(&self, ending: &Ending) {
        self.ended.fetch_add(1, Ordering::Relaxed);
        self.finished.fetch_add(u64::from(*ending == Ending::Finished), Ordering::Relaxed);
    }

    /// Returns how many requests are under way.
    pub(crate) fn open(&self) -> u64 {
        let ended = self.ended.load(Ordering::Relaxed);
        self.sent.load(Ordering::Relaxed).saturating_sub(ended)
    }
}

/// Shows a run until it is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    task: JoinHandle<()>,
}

/// How often a terminal is drawn.
const DRAWN_EVERY: Duration = Duration::from_millis(250);
/// How often a line is written where there is no terminal.
const WRITTEN_EVERY: Duration = Duration::from_secs(10);

impl Progress {
    /// Shows the run called `name` of `total` requests on standard error; `more` adds what else is
    /// known. Must be called inside a tokio runtime.
    pub(crate) fn show(
        name: &str,
        total: usize,
        counters: Arc<Counters>,
        clock: Clock,
        more: impl Fn() -> String + Send + 'static,
    ) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target =
            if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total as u64), target);
        let style = ProgressStyle::with_template("{prefix:>10} {wide_bar} {pos}/{len} {msg}")
            .expect("the template is sound");
        bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
        bar.set_prefix(name.to_owned());
        let shown = bar.clone();
        let name = name.to_owned();
        let every = if terminal { DRAWN_EVERY } else { WRITTEN_EVERY };
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(every);
            ticks.tick().await;
            let (mut then, mut tokens_then) = (clock.now(), 0);
            loop {
                ticks.tick().await;
                let tokens = counters.tokens.load(Ordering::Relaxed);
                let (now, ended) = (clock.now(), counters.ended.load(Ordering::Relaxed));
                let seconds = now.since(then).as_secs_f64().max(1e-9);
                let rate = (tokens - tokens_then) as f64 / seconds;
                (then, tokens_then) = (now, tokens);
                let failed = ended - counters.finished.load(Ordering::Relaxed);
                let open = counters.open();
                let at = now.as_secs_f64();
                let text = format!(
                    "at {at:.0} s: {open} open, {rate:.0} tokens/s, {failed} not finished{}",
                    more()
                );
                shown.set_position(ended);
                shown.set_message(text.clone());
                if !terminal {
                    eprintln!("{name}: {ended}/{total} {text}");
                }
            }
        });
        Self { bar, task }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.task.abort();
        self.bar.finish_and_clear();
    }
}
