//! Samples the GPUs of an instance whenever it is probed, and says in the log when they fall silent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sagellm_executor::GpuReader;
use sagellm_types::GpuSample;

/// The GPUs of one instance.
#[derive(Clone)]
pub(super) struct Gpus {
    reader: Arc<dyn GpuReader>,
    /// Whether the last sample failed: told once, not at every probe.
    silent: Arc<AtomicBool>,
}

impl Gpus {
    pub(super) fn new(reader: Arc<dyn GpuReader>) -> Self {
        Self { reader, silent: Arc::default() }
    }

    /// Returns what is known of them now: nothing if they cannot be read.
    pub(super) async fn sample(&self, instance: &str) -> GpuSample {
        match self.reader.read().await {
            Ok(sample) => {
                if self.silent.swap(false, Ordering::Relaxed) {
                    tracing::info!(instance, "GPU utilisation is known again");
                }
                sample
            }
            Err(error) => {
                if !self.silent.swap(true, Ordering::Relaxed) {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(instance, error, "GPU utilisation is unknown");
                }
                GpuSample::default()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use sagellm_executor::{BoxFuture, GpuError};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Level, Metadata, Subscriber};

    use super::*;

    /// Fails as long as it is told to.
    #[derive(Default)]
    struct Scripted(AtomicBool);

    impl GpuReader for Scripted {
        fn read(&self) -> BoxFuture<'_, Result<GpuSample, GpuError>> {
            let fails = self.0.load(Ordering::Relaxed);
            let sample = GpuSample { utilization: Some(0.5), memory_used_gb: None };
            let error = GpuError::Driver { reason: "scripted".into() };
            Box::pin(async move { if fails { Err(error) } else { Ok(sample) } })
        }
    }

    /// Counts warnings.
    struct Warnings(Arc<AtomicUsize>);

    impl Subscriber for Warnings {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() == Level::WARN
        }
        fn event(&self, _: &Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[tokio::test]
    async fn gpus_that_fall_silent_are_unknown_and_told_once_until_they_speak_again() {
        let warnings = Arc::new(AtomicUsize::new(0));
        let _guard = tracing::subscriber::set_default(Warnings(Arc::clone(&warnings)));
        let reader = Arc::new(Scripted::default());
        let gpus = Gpus::new(Arc::clone(&reader) as Arc<dyn GpuReader>);
        for (fails, told) in [(false, 0), (true, 1), (true, 1), (false, 1), (true, 2)] {
            reader.0.store(fails, Ordering::Relaxed);
            let expected = if fails { None } else { Some(0.5) };
            assert_eq!(gpus.sample("a").await.utilization, expected);
            assert_eq!(warnings.load(Ordering::Relaxed), told);
        }
    }
}
