//! How busy are the GPUs of an instance? Asks a DCGM exporter for its metrics page.
//!
//! Apart from [`crate::Probe`]: an engine is as healthy as it says, whatever is known of its GPUs.

use http::StatusCode;
use reqwest::Url;
use sagellm_api::{DcgmGpu, DcgmPage};
use sagellm_types::GpuSample;
use thiserror::Error;

use crate::probe::LONGEST_PAGE;
use crate::{
    BoxFuture, Call, Clients, Engine, EngineError, HttpEngine, ProbeConfig, SettingsError, Timeouts,
};

/// Samples the GPUs of one instance.
///
/// ```
/// # use sagellm_executor::GpuReader;
/// fn dyn_safe(_: &dyn GpuReader) {}
/// ```
pub trait GpuReader: Send + Sync {
    /// Returns a sample of now.
    fn read(&self) -> BoxFuture<'_, Result<GpuSample, GpuError>>;
}

/// Why nothing is known of the GPUs of an instance.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GpuError {
    /// The page did not come.
    #[error("{url}: no answer")]
    NoAnswer {
        /// The page.
        url: String,
        /// Why.
        source: EngineError,
    },
    /// There is no such page.
    #[error("{url} answers {status}")]
    Status {
        /// The page.
        url: String,
        /// The HTTP status.
        status: StatusCode,
    },
    /// It is another page.
    #[error(
        "{url} tells nothing of GPUs: expected a DCGM exporter's page with DCGM_FI_DEV_GPU_UTIL"
    )]
    NotDcgm {
        /// The page.
        url: String,
    },
    /// There are too few GPUs of that name, or too many.
    #[error(
        "{place} knows {found} GPUs called {name:?}: expected one, by index, PCI bus id or UUID"
    )]
    Unclear {
        /// What was asked.
        place: String,
        /// The name.
        name: String,
        /// How many there are.
        found: usize,
    },
    /// The instance has not as many GPUs as are there.
    #[error(
        "{place} has {found} GPUs and the instance {expected}: name those that are its own in gpu_ids"
    )]
    Count {
        /// What was asked.
        place: String,
        /// How many there are, or are named.
        found: usize,
        /// `gpu_count` of the instance.
        expected: u32,
    },
    /// The driver does not tell.
    #[error("{reason}")]
    Driver {
        /// Why not.
        reason: String,
    },
}

/// The metrics page of a DCGM exporter, as far as it is of one instance's GPUs.
#[derive(Clone, Debug)]
pub struct DcgmExporter {
    url: String,
    exporter: HttpEngine,
    path: String,
    gpus: Vec<String>,
    gpu_count: u32,
    limits: Timeouts,
}

impl DcgmExporter {
    /// Returns the page at `url` for an instance of `gpu_count` GPUs, which are called `gpus`; all on
    /// the page if none is named.
    ///
    /// # Errors
    /// If `url` is no absolute URL of http.
    pub fn new(
        url: &str,
        gpus: Vec<String>,
        gpu_count: u32,
        clients: &Clients,
        probes: &ProbeConfig,
    ) -> Result<Self, SettingsError> {
        let bad = |_| SettingsError::Url { url: url.to_owned() };
        let mut base = Url::parse(url).map_err(bad)?;
        let path = match base.query() {
            Some(query) => format!("{}?{query}", base.path()),
            None => base.path().to_owned(),
        };
        base.set_query(None);
        base.set_path("");
        let exporter = HttpEngine::new(base.as_str(), None, clients)?;
        Ok(Self { url: url.to_owned(), exporter, path, gpus, gpu_count, limits: probes.limits() })
    }

    async fn sample(&self) -> Result<GpuSample, GpuError> {
        let url = || self.url.clone();
        let no_answer = |source| GpuError::NoAnswer { url: url(), source };
        let call = Call::probe(self.path.clone(), self.limits);
        let reply = self.exporter.call(call).await.map_err(no_answer)?;
        let status = reply.status;
        let body = reply.body.collect(LONGEST_PAGE).await.map_err(no_answer)?;
        if status != StatusCode::OK {
            return Err(GpuError::Status { url: url(), status });
        }
        let page = DcgmPage::parse(&String::from_utf8_lossy(&body))
            .ok_or_else(|| GpuError::NotDcgm { url: url() })?;
        self.of(&page)
    }

    /// Returns the sample of those GPUs of a page that are the instance's.
    fn of(&self, page: &DcgmPage) -> Result<GpuSample, GpuError> {
        let place = || self.url.clone();
        let mut own: Vec<&DcgmGpu> = Vec::new();
        if self.gpus.is_empty() {
            own.extend(&page.gpus);
        }
        for name in &self.gpus {
            let mut found: Vec<_> = page.named(name).collect();
            if found.len() != 1 {
                let (name, found) = (name.clone(), found.len());
                return Err(GpuError::Unclear { place: place(), name, found });
            }
            own.append(&mut found);
        }
        if own.len() as u64 != u64::from(self.gpu_count) {
            let (found, expected) = (own.len(), self.gpu_count);
            return Err(GpuError::Count { place: place(), found, expected });
        }
        let sample = |gpu: &&DcgmGpu| GpuSample {
            utilization: gpu.utilization,
            memory_used_gb: gpu.memory_used_mib.map(|mib| mib / 1024.0),
        };
        let samples: Vec<GpuSample> = own.iter().map(sample).collect();
        Ok(GpuSample::of_all(&samples))
    }
}

impl GpuReader for DcgmExporter {
    fn read(&self) -> BoxFuture<'_, Result<GpuSample, GpuError>> {
        Box::pin(self.sample())
    }
}

#[cfg(test)]
mod tests {
    use sagellm_types::clock::Clock;

    use super::*;
    use crate::HttpConfig;

    fn exporter(url: &str, gpus: &[&str], gpu_count: u32) -> Result<DcgmExporter, SettingsError> {
        let clients = Clients::new(&HttpConfig::default(), Clock::real()).expect("the defaults");
        let gpus = gpus.iter().map(|&name| name.to_owned()).collect();
        DcgmExporter::new(url, gpus, gpu_count, &clients, &ProbeConfig::default())
    }

    fn check(gpus: &[&str], gpu_count: u32, expected: Result<GpuSample, &str>) {
        let page = "DCGM_FI_DEV_GPU_UTIL{gpu=\"0\"} 100\nDCGM_FI_DEV_FB_USED{gpu=\"0\"} 2048\n\
                    DCGM_FI_DEV_GPU_UTIL{gpu=\"1\"} 50\n";
        let page = DcgmPage::parse(page).expect("GPUs");
        let url = "http://h:9400/metrics";
        let found = exporter(url, gpus, gpu_count).expect("a URL").of(&page);
        let found = found.map_err(|error| error.to_string());
        assert_eq!(found, expected.map_err(|rest| format!("{url} {rest}")));
    }

    #[test]
    fn the_gpus_of_an_instance_are_those_that_it_names_or_all() {
        let sample = |utilization, memory_used_gb| Ok(GpuSample { utilization, memory_used_gb });
        check(&["0"], 1, sample(Some(1.0), Some(2.0)));
        check(&["1"], 1, sample(Some(0.5), None));
        check(&[], 2, sample(Some(0.75), None));
        let several = "has 2 GPUs and the instance 1: name those that are its own in gpu_ids";
        check(&[], 1, Err(several));
        check(
            &["1"],
            2,
            Err("has 1 GPUs and the instance 2: name those that are its own in gpu_ids"),
        );
        let strange = r#"knows 0 GPUs called "7": expected one, by index, PCI bus id or UUID"#;
        check(&["7"], 1, Err(strange));
    }

    #[test]
    fn the_page_is_where_the_url_says() {
        let page = exporter("http://h:9400/gpu/metrics?a=b", &[], 1).expect("a URL");
        assert_eq!((page.exporter.base_url(), &*page.path), ("http://h:9400", "/gpu/metrics?a=b"));
        for wrong in ["", "h:9400", "ftp://h/metrics", "http://"] {
            let refused = exporter(wrong, &[], 1);
            assert!(matches!(refused, Err(SettingsError::Url { .. })), "{wrong}");
        }
    }
}
