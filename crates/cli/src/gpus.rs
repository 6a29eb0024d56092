//! The engines of `sagellm serve`: over HTTP, and the GPUs of this machine for those that ask for it.

use std::sync::{Arc, OnceLock};

use sagellm_executor::{
    BoxFuture, Engine, GpuError, GpuReader, HttpConfig, ProbeConfig, SettingsError,
};
use sagellm_manager::{EngineFactory, HttpEngines};
use sagellm_topology::Sampler;
use sagellm_types::clock::Clock;
use sagellm_types::{ExecutionInstance, GpuSample, GpuSource};

/// Engines over HTTP, some of them on GPUs of this machine.
#[derive(Debug)]
pub(crate) struct Engines {
    http: HttpEngines,
}

impl Engines {
    /// Returns a factory with these settings.
    ///
    /// # Errors
    /// If the HTTP client cannot be built.
    pub(crate) fn new(config: &HttpConfig, clock: Clock) -> Result<Self, SettingsError> {
        Ok(Self { http: HttpEngines::new(config, clock)? })
    }
}

impl EngineFactory for Engines {
    fn engine(&self, instance: &ExecutionInstance) -> Result<Arc<dyn Engine>, SettingsError> {
        self.http.engine(instance)
    }

    fn gpus(
        &self,
        instance: &ExecutionInstance,
        probes: &ProbeConfig,
    ) -> Result<Option<Arc<dyn GpuReader>>, SettingsError> {
        match instance.gpu_metrics {
            Some(GpuSource::Nvml) => Ok(Some(Arc::new(LocalGpus(Arc::new(Local {
                sampler: OnceLock::new(),
                gpus: instance.gpus(),
                gpu_count: instance.gpu_count,
            }))))),
            _ => self.http.gpus(instance, probes),
        }
    }
}

/// GPUs of this machine.
struct LocalGpus(Arc<Local>);

struct Local {
    /// The driver's library, once it could be loaded.
    sampler: OnceLock<Sampler>,
    gpus: Vec<String>,
    gpu_count: u32,
}

impl Local {
    fn sample(&self) -> Result<GpuSample, GpuError> {
        let silent =
            |error: sagellm_topology::DiscoverError| GpuError::Driver { reason: error.to_string() };
        let sampler = match self.sampler.get() {
            Some(sampler) => sampler,
            None => {
                let loaded = Sampler::new().map_err(silent)?;
                self.sampler.get_or_init(|| loaded)
            }
        };
        let samples = sampler.sample(&self.gpus).map_err(silent)?;
        if samples.len() as u64 != u64::from(self.gpu_count) {
            let (found, expected) = (samples.len(), self.gpu_count);
            return Err(GpuError::Count { place: "this machine".to_owned(), found, expected });
        }
        Ok(GpuSample::of_all(&samples))
    }
}

impl GpuReader for LocalGpus {
    fn read(&self) -> BoxFuture<'_, Result<GpuSample, GpuError>> {
        let local = Arc::clone(&self.0);
        Box::pin(async move {
            // The driver may take its time, and requests must not wait for it.
            let sampled = tokio::task::spawn_blocking(move || local.sample()).await;
            sampled.unwrap_or_else(|error| Err(GpuError::Driver { reason: error.to_string() }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(metrics: Option<&str>) -> Result<Option<Arc<dyn GpuReader>>, SettingsError> {
        let engines = Engines::new(&HttpConfig::default(), Clock::real()).expect("the defaults");
        let source = metrics.map(|text| GpuSource::try_from(text.to_owned()).expect("a source"));
        let instance = ExecutionInstance {
            gpu_metrics: source,
            gpu_device_id: Some(0),
            ..ExecutionInstance::new("a", "h", 1, "m")
        };
        engines.gpus(&instance, &ProbeConfig::default())
    }

    #[tokio::test]
    async fn the_driver_is_asked_for_those_who_want_it_alone() {
        assert!(reader(None).expect("nothing to read").is_none());
        assert!(reader(Some("http://h:9400/metrics")).expect("a page").is_some());
        assert!(reader(Some("http://")).is_err());
        let local = reader(Some("nvml")).expect("asked later").expect("a reader");
        match local.read().await {
            Ok(sample) => assert!(sample.memory_used_gb.is_some_and(|gib| gib >= 0.0)),
            Err(error) => assert!(error.to_string().contains("NVIDIA driver"), "{error}"),
        }
    }
}
