//! GPUs by name: memory, speed and rent.
//!
//! Datasheet values (dense), rents on demand in 2026; efficiencies are applied by the presets.

use sagellm_types::Usd;

/// What matters of a GPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gpu {
    /// Words of which each must occur in a name, in lower case.
    pub words: &'static [&'static str],
    /// Memory, in GB.
    pub memory_gb: f64,
    /// Memory bandwidth, in GB/s.
    pub bandwidth: f64,
    /// Dense bf16 rate, in TFLOP/s.
    pub bf16: f64,
    /// Dense fp8 (else int8) rate, in TFLOP/s; equal to bf16 where there is none.
    pub fp8: f64,
    /// One all-reduce of a decode step within a node, in microseconds.
    pub all_reduce_us: f64,
    /// Typical rent of one GPU hour.
    pub price_per_hour: Usd,
}

const fn gpu(
    words: &'static [&'static str],
    [memory_gb, bandwidth, bf16, fp8, all_reduce_us, price]: [f64; 6],
) -> Gpu {
    Gpu { words, memory_gb, bandwidth, bf16, fp8, all_reduce_us, price_per_hour: Usd(price) }
}

/// The known GPUs; of several that match a name, the first counts.
pub const GPUS: &[Gpu] = &[
    gpu(&["a10g"], [24.0, 600.0, 70.0, 140.0, 27.0, 1.0]),
    gpu(&["l40s"], [48.0, 864.0, 362.0, 733.0, 27.0, 1.1]),
    gpu(&["l4"], [24.0, 300.0, 121.0, 242.0, 27.0, 0.7]),
    gpu(&["4090"], [24.0, 1_008.0, 165.0, 330.0, 27.0, 0.4]),
    gpu(&["a100", "40"], [40.0, 1_555.0, 312.0, 312.0, 6.5, 1.3]),
    gpu(&["a100"], [80.0, 2_039.0, 312.0, 312.0, 6.5, 1.5]),
    gpu(&["h100", "pcie"], [80.0, 2_000.0, 756.0, 1_513.0, 20.0, 2.0]),
    gpu(&["h100"], [80.0, 3_350.0, 989.0, 1_979.0, 5.3, 2.95]),
    gpu(&["h200"], [141.0, 4_800.0, 989.0, 1_979.0, 5.3, 3.5]),
    gpu(&["b200"], [180.0, 7_700.0, 2_250.0, 4_500.0, 8.1, 5.0]),
    gpu(&["mi300"], [192.0, 5_300.0, 1_307.0, 2_615.0, 8.0, 2.5]),
];

impl Gpu {
    /// Returns the GPU that `name` means ("NVIDIA H100 80GB HBM3", "a100-40g"), if it is known.
    pub fn find(name: &str) -> Option<&'static Self> {
        let name = name.to_ascii_lowercase();
        GPUS.iter().find(|gpu| gpu.words.iter().all(|word| name.contains(word)))
    }

    /// Returns the GPU that stands for an unknown one: an A100 of 80 GB.
    pub fn typical() -> &'static Self {
        Self::find("a100").expect("the table holds the A100")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_drivers_print_them_are_found() {
        let check = |name: &str, memory: f64| {
            assert_eq!(Gpu::find(name).map(|gpu| gpu.memory_gb), Some(memory), "{name}");
        };
        check("NVIDIA H100 80GB HBM3", 80.0);
        check("NVIDIA A100-SXM4-40GB", 40.0);
        check("A100", 80.0);
        check("NVIDIA L40S", 48.0);
        check("NVIDIA L4", 24.0);
        check("AMD Instinct MI300X", 192.0);
        assert_eq!(Gpu::find("abacus"), None);
    }
}
