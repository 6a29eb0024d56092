//! GPUs by name: memory, speed, links and rent.

use sagellm_types::Usd;
use serde::Deserialize;

use crate::Dtype;
use crate::catalogue::{self, UnknownName};

/// What matters of a GPU. Rates are dense.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// Its name here.
    pub name: String,
    words: Vec<String>,
    /// Where the figures were read.
    pub source: String,
    /// Memory as the driver shows it, in GiB.
    pub memory_gib: f64,
    /// Memory bandwidth, in GB/s.
    pub bandwidth: f64,
    /// bf16 rate, in TFLOP/s.
    pub bf16: f64,
    #[serde(default)]
    int8: Option<f64>,
    #[serde(default)]
    fp8: Option<f64>,
    #[serde(default)]
    fp4: Option<f64>,
    /// NVLink or Infinity Fabric bandwidth, both directions together, in GB/s; `None`: PCIe only.
    #[serde(default)]
    pub link: Option<f64>,
    /// PCIe bandwidth, one direction, in GB/s.
    pub pcie: f64,
    /// Network bandwidth of one GPU beyond its node, one direction, in GB/s.
    pub nic: f64,
    /// GPUs that the fast links join.
    pub node: u32,
    /// GPUs of a machine, where the fast links join several.
    #[serde(default)]
    host: Option<u32>,
    /// Whether it runs CUDA.
    #[serde(default = "yes")]
    pub cuda: bool,
    /// Typical rent of one GPU hour.
    #[serde(rename = "price")]
    pub price_per_hour: Usd,
}

/// What most GPUs do.
const fn yes() -> bool {
    true
}

impl Gpu {
    /// Returns the GPU that `name` means ("NVIDIA H100 80GB HBM3", "a100-40g"), if it is known.
    pub fn find(name: &str) -> Option<&'static Self> {
        /// What such a word stands beside is less than the GPU.
        const LESS: [&str; 2] = ["mig", "laptop"];
        let name = name.to_ascii_lowercase();
        let mut words = name.split(|c: char| !c.is_ascii_alphanumeric());
        // "8xA100" is a number of them.
        let many = |word: &str| {
            let rest = word.trim_start_matches(|c: char| c.is_ascii_digit());
            rest.len() < word.len() && rest.starts_with('x')
        };
        if words.any(|word| LESS.contains(&word) || many(word)) {
            return None;
        }
        let mut meant = catalogue::gpus().iter().filter(|gpu| catalogue::means(&gpu.words, &name));
        let first = meant.next()?;
        // A name that means two GPUs means none.
        meant.all(|other| other.words[0] == first.words[0]).then_some(first)
    }

    /// Returns the GPU that `name` means.
    ///
    /// # Errors
    /// If none is meant; with the nearest names.
    pub fn named(name: &str) -> Result<&'static Self, UnknownName> {
        let known = || catalogue::gpus().iter().map(|gpu| gpu.name.as_str());
        Self::find(name).ok_or_else(|| catalogue::unknown("GPU", name, known()))
    }

    /// Returns the GPU that stands for an unknown one: an A100 of 80 GB.
    pub fn typical() -> &'static Self {
        Self::find("a100").expect("the catalogue holds the A100")
    }

    /// Returns how many of them a machine usually has.
    pub fn per_host(&self) -> u32 {
        self.host.unwrap_or(self.node).max(1)
    }

    /// Returns the memory, in bytes.
    pub fn memory(&self) -> f64 {
        self.memory_gib * 1_073_741_824.0
    }

    /// Returns the rate of arithmetic for weights of `dtype`, in FLOP/s: that of the next wider
    /// dtype where the GPU has none for it.
    pub fn peak(&self, dtype: Dtype) -> f64 {
        let wider = match dtype {
            Dtype::Bf16 => None,
            Dtype::Fp8 => self.fp8,
            Dtype::Int8 => self.int8.or(self.fp8),
            // Weights in four bits without arithmetic for them are widened to 16 bits.
            Dtype::Fp4 => self.fp4,
            Dtype::Int4 => None,
        };
        wider.unwrap_or(self.bf16) * 1e12
    }

    /// Returns the bandwidth of one GPU towards its peers, one direction, in bytes per second.
    pub fn peer_bandwidth(&self) -> f64 {
        self.link.map_or(self.pcie, |link| link / 2.0) * 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_drivers_print_them_are_found() {
        let check = |name: &str, expected: &str| {
            assert_eq!(Gpu::find(name).map(|gpu| gpu.name.as_str()), Some(expected), "{name}");
        };
        check("NVIDIA H100 80GB HBM3", "H100");
        check("NVIDIA A100-SXM4-40GB", "A100-40GB");
        check("A100", "A100-80GB");
        check("NVIDIA L40S", "L40S");
        check("NVIDIA L4", "L4");
        check("NVIDIA GB200", "GB200");
        check("AMD Instinct MI300X", "MI300X");
        check("h100_sxm", "H100");
        for unknown in [
            "abacus",
            "H1000",
            "GB2000",
            "H2000",
            "H100;8xA100",
            "foo-L4-H100",
            "GH200 480GB",
            "GB300",
            "MI300A",
            "A100 MIG 3g.40gb",
        ] {
            assert_eq!(Gpu::find(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn what_has_no_arithmetic_computes_in_the_next_wider() {
        let peak = |name, dtype| Gpu::find(name).expect("known").peak(dtype) * 1e-12;
        assert_eq!(peak("H100", Dtype::Fp8), 1_979.0);
        assert_eq!(peak("H100", Dtype::Fp4), 989.0);
        assert_eq!(peak("B200", Dtype::Fp4), 9_000.0);
        assert_eq!(peak("A100", Dtype::Fp8), 312.0);
        assert_eq!(peak("A100", Dtype::Int8), 624.0);
    }
}
