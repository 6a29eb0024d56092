//! How busy the GPUs of this machine are, as the NVIDIA driver tells.

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use sagellm_types::GpuSample;

use crate::DiscoverError;
use crate::nvml::{no_driver, refused};

/// Samples GPUs through NVML, whose library is loaded at run time.
#[derive(Debug)]
pub struct Sampler {
    nvml: Nvml,
}

impl Sampler {
    /// Loads the driver's library.
    ///
    /// # Errors
    /// If there is no driver.
    pub fn new() -> Result<Self, DiscoverError> {
        Ok(Self { nvml: Nvml::init().map_err(no_driver)? })
    }

    /// Returns samples of the GPUs called `names`, by index, UUID or PCI bus id; of all GPUs if none
    /// is named. Asks the driver, which takes milliseconds.
    ///
    /// # Errors
    /// If there is no such GPU. What the driver does not tell of one that is there, as of one that is
    /// cut into parts (MIG), is not known.
    pub fn sample(&self, names: &[String]) -> Result<Vec<GpuSample>, DiscoverError> {
        if names.is_empty() {
            let count = self.nvml.device_count().map_err(no_driver)?;
            return (0..count).map(|index| self.one(&index.to_string())).collect();
        }
        names.iter().map(|name| self.one(name)).collect()
    }

    fn one(&self, name: &str) -> Result<GpuSample, DiscoverError> {
        const GIB: f64 = 1_073_741_824.0;
        let device = self.find(name).map_err(refused("where a GPU of this name is"))?;
        let percent = device.utilization_rates().ok().map(|rates| f64::from(rates.gpu));
        let memory = device.memory_info().ok();
        Ok(GpuSample {
            utilization: percent.map(|percent| percent / 100.0),
            memory_used_gb: memory.map(|memory| memory.used as f64 / GIB),
        })
    }

    fn find(&self, name: &str) -> Result<Device<'_>, NvmlError> {
        match name.parse() {
            Ok(index) => self.nvml.device_by_index(index),
            Err(_) if name.contains(':') => self.nvml.device_by_pci_bus_id(name),
            Err(_) => self.nvml.device_by_uuid(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_sampled_where_there_is_a_driver_and_their_lack_is_told_elsewhere() {
        let sampler = match Sampler::new() {
            Ok(sampler) => sampler,
            Err(error) => {
                assert!(error.to_string().contains("NVIDIA driver"), "{error}");
                return;
            }
        };
        let all = sampler.sample(&[]).expect("the driver tells of its own");
        assert!(!all.is_empty());
        for gpu in &all {
            assert!(gpu.utilization.is_none_or(|share| (0.0..=1.0).contains(&share)), "{gpu:?}");
        }
        assert_eq!(sampler.sample(&["0".into()]).expect("the first").len(), 1);
        let error = sampler.sample(&["GPU-none".into()]).expect_err("no such GPU").to_string();
        assert!(error.contains("a GPU of this name"), "{error}");
    }
}
