//! What is measured of a GPU: how far from its datasheet each kind of work runs, and what is paid
//! per call.
//!
//! A factor multiplies the time that the datasheet allows: 1.25 is 80 % of the peak. A price is in
//! microseconds. Each is keyed by the kind of work and the dtype, none by a model or by a version of
//! an engine, so that they carry over to models that were never measured.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::{Dtype, Gpu};

macro_rules! factors {
    ($($(#[$doc:meta])* $name:ident = $key:literal, $prior:literal;)*) => {
        /// One calibrated number.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Factor { $($(#[$doc])* $name,)* }

        impl Factor {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Returns the name in files.
            pub const fn key(self) -> &'static str {
                match self { $(Self::$name => $key,)* }
            }

            /// Returns what is believed before anything was measured.
            pub const fn prior(self) -> f64 {
                match self { $(Self::$name => $prior,)* }
            }
        }
    };
}

factors! {
    /// Microseconds per step: scheduling, input, sampling, output.
    Step = "step_us", 1500.0;
    /// Microseconds per layer: launches and small kernels.
    Layer = "layer_us", 25.0;
    /// Microseconds more per layer of a step with prompt tokens, which runs outside of the graphs.
    EagerLayer = "eager_layer_us", 15.0;
    /// Microseconds per layer with experts: choosing, sorting and joining.
    ExpertLayer = "expert_layer_us", 15.0;
    /// Microseconds per sequence and step: sampling, detokenising, streaming.
    Sequence = "sequence_us", 8.0;
    /// Microseconds per all-reduce of two GPUs.
    AllReduce = "all_reduce_us", 8.0;
    /// Moving the bytes of an all-reduce.
    AllReduceBytes = "all_reduce_bytes", 1.6;
    /// Reading weights in 16 bits.
    ReadBf16 = "read_bf16", 1.15;
    /// Reading weights in 8 bits.
    ReadFp8 = "read_fp8", 1.3;
    /// Reading weights in 4 bits.
    ReadFp4 = "read_fp4", 1.6;
    /// Multiplying by weights in 16 bits.
    GemmBf16 = "gemm_bf16", 1.3;
    /// Multiplying by weights in 8 bits.
    GemmFp8 = "gemm_fp8", 1.6;
    /// Multiplying by weights in 4 bits.
    GemmFp4 = "gemm_fp4", 2.0;
    /// Reading experts in 16 or 8 bits.
    ExpertRead = "expert_read", 1.5;
    /// Reading experts in 4 bits.
    ExpertReadFp4 = "expert_read_fp4", 1.8;
    /// Multiplying by experts in 16 or 8 bits.
    ExpertGemm = "expert_gemm", 2.2;
    /// Multiplying by experts in 4 bits.
    ExpertGemmFp4 = "expert_gemm_fp4", 2.5;
    /// Reading keys and values to decode.
    DecodeAttention = "decode_attention", 1.3;
    /// Attention of prompts.
    PrefillAttention = "prefill_attention", 2.0;
    /// Reading and writing what flows between the kernels.
    Activations = "activations", 1.5;
    /// Milliseconds per request: its way to the engine and the first token's way back.
    Request = "request_ms", 15.0;
    /// Microseconds per prompt token on that way: parsing, tokenising.
    PromptToken = "prompt_token_us", 2.0;
}

/// The calibrated numbers of one GPU, by [`Factor`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration(pub [f64; Factor::COUNT]);

impl Default for Calibration {
    fn default() -> Self {
        Self(std::array::from_fn(|place| Factor::ALL[place].prior()))
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct File {
    #[serde(default)]
    gpu: Vec<Entry>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    name: String,
    factors: indexmap::IndexMap<String, f64>,
}

static FILE: LazyLock<File> = LazyLock::new(|| {
    toml::from_str(include_str!("../data/calibration.toml")).expect("a test reads the file")
});

/// The GPU whose numbers stand for one that was not measured.
const STANDARD: &str = "H100";

impl Calibration {
    /// Returns the numbers of `gpu`; of one that was not measured, those of the H100, which are
    /// relative to the datasheet.
    pub fn of(gpu: &Gpu) -> Self {
        Self::measured(&gpu.name).or_else(|| Self::measured(STANDARD)).unwrap_or_default()
    }

    /// Returns the numbers that were measured on the GPU of this name.
    pub fn measured(name: &str) -> Option<Self> {
        let entry = FILE.gpu.iter().find(|entry| entry.name == name)?;
        let number = |factor: &Factor| entry.factors.get(factor.key()).copied();
        let mut numbers = Self::default();
        for (place, factor) in Factor::ALL.iter().enumerate() {
            if let Some(number) = number(factor) {
                numbers.0[place] = number;
            }
        }
        Some(numbers)
    }

    /// Returns one number.
    pub fn get(&self, factor: Factor) -> f64 {
        self.0[factor as usize]
    }

    /// Returns the numbers as an entry of the file that [`Calibration::of`] reads.
    pub fn to_toml(&self, name: &str) -> String {
        let mut text = format!("[[gpu]]\nname = \"{name}\"\n\n[gpu.factors]\n");
        for factor in Factor::ALL {
            text += &format!("{} = {:.4}\n", factor.key(), self.get(*factor));
        }
        text
    }
}

impl Factor {
    /// Returns the number for reading dense weights of `dtype`.
    pub const fn read(dtype: Dtype) -> Self {
        match dtype {
            Dtype::Bf16 => Self::ReadBf16,
            Dtype::Fp8 | Dtype::Int8 => Self::ReadFp8,
            Dtype::Fp4 | Dtype::Int4 => Self::ReadFp4,
        }
    }

    /// Returns the number for multiplying by dense weights of `dtype`.
    pub const fn gemm(dtype: Dtype) -> Self {
        match dtype {
            Dtype::Bf16 => Self::GemmBf16,
            Dtype::Fp8 | Dtype::Int8 => Self::GemmFp8,
            Dtype::Fp4 | Dtype::Int4 => Self::GemmFp4,
        }
    }

    /// Returns the number for reading experts of `dtype`.
    pub const fn expert_read(dtype: Dtype) -> Self {
        match dtype {
            Dtype::Fp4 | Dtype::Int4 => Self::ExpertReadFp4,
            _ => Self::ExpertRead,
        }
    }

    /// Returns the number for multiplying by experts of `dtype`.
    pub const fn expert_gemm(dtype: Dtype) -> Self {
        match dtype {
            Dtype::Fp4 | Dtype::Int4 => Self::ExpertGemmFp4,
            _ => Self::ExpertGemm,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_no_more_numbers_than_promised() {
        let keys: std::collections::BTreeSet<_> = Factor::ALL.iter().map(|f| f.key()).collect();
        assert!(keys.len() == Factor::COUNT && keys.len() <= 24, "{keys:?}");
    }

    #[test]
    fn the_file_names_known_gpus_and_factors() {
        for entry in &FILE.gpu {
            assert!(Gpu::find(&entry.name).is_some(), "{}", entry.name);
            for (key, value) in &entry.factors {
                assert!(Factor::ALL.iter().any(|factor| factor.key() == key), "{key}");
                assert!(value.is_finite() && *value >= 0.0, "{key} = {value}");
            }
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let written = Calibration::default();
        let file: File = toml::from_str(&written.to_toml("H100")).expect("as written");
        assert_eq!(file.gpu[0].factors["step_us"], written.get(Factor::Step));
    }
}
