//! How a model is laid over GPUs, and the ways between them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use crate::{Dtype, Gpu, ModelSpec};

/// How a model is laid over GPUs: one instance.
///
/// Written as `tp4`, `tp2pp2` or `tp1dp8ep`, in this order.
///
/// ```
/// use sagellm_perf::Layout;
///
/// let layout: Layout = "tp2dp4ep".parse()?;
/// assert_eq!((layout.gpus(), layout.to_string().as_str()), (8, "tp2dp4ep"));
/// # Ok::<(), sagellm_perf::LayoutError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Layout {
    /// GPUs that share every layer (TP).
    pub tensor: u32,
    /// Groups of layers, one after the other (PP).
    pub pipeline: u32,
    /// Ranks that each compute the attention of their own sequences, and share the experts (DP).
    pub data: u32,
    /// Whether experts are spread over the GPUs of all ranks instead of being cut (EP).
    pub expert: bool,
}

/// A layout that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("layout `{0}`: expected tpT, then ppP, dpD and ep where wanted, such as tp2 or tp1dp8ep")]
pub struct LayoutError(String);

/// A model that cannot be laid out as asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{layout} cannot hold {model}: {reason}")]
pub struct IllegalLayout {
    layout: Layout,
    model: String,
    reason: String,
}

impl Layout {
    /// Checks that `model` can be laid out so: what vLLM's loader demands.
    ///
    /// # Errors
    /// The first thing that cannot be divided, with what would do.
    pub fn check(&self, model: &ModelSpec) -> Result<(), IllegalLayout> {
        let Self { tensor, pipeline, data, expert } = self.sound();
        let whole = |a: u32, b: u32| a.is_multiple_of(b) || b.is_multiple_of(a);
        let reason = if !model.heads.is_multiple_of(tensor) {
            let heads = model.heads;
            format!("{tensor} GPUs do not divide its {heads} heads: expected {}", divisors(heads))
        } else if model.mla.is_none() && !whole(model.kv_heads, tensor) {
            let heads = model.kv_heads;
            format!(
                "{tensor} GPUs neither divide its {heads} key-value heads nor are a multiple of them"
            )
        } else if pipeline > model.layers {
            format!("it has {} layers for {pipeline} stages", model.layers)
        } else if let Some(moe) = model.moe {
            match (expert, tensor * data) {
                (true, group) if group > moe.experts => {
                    format!("its {} experts are fewer than {group} GPUs", moe.experts)
                }
                (false, group) if !moe.ffn.is_multiple_of(group) => {
                    format!("{group} GPUs do not divide its experts' width of {}", moe.ffn)
                }
                (spread, group) => {
                    // Layers without experts, and experts that all tokens use, are cut over a rank's GPUs.
                    let dense = if moe.dense_layers > 0 { model.ffn } else { 0 };
                    let experts = if spread { 0 } else { moe.ffn };
                    let widths =
                        [(experts, group), (moe.shared * moe.ffn, tensor), (dense, tensor)];
                    let cut = |(width, parts): (u32, u32)| {
                        Some((width, parts, model.cuts_blocks(width, parts)?))
                    };
                    match widths.into_iter().find_map(cut) {
                        Some((width, parts, block)) => format!(
                            "{parts} GPUs cut a width of {width} within blocks of {block} that share a scale"
                        ),
                        None => return Ok(()),
                    }
                }
            }
        } else if data > 1 || expert {
            "it has no experts to share: run replicas instead of ranks".to_owned()
        } else if !model.ffn.is_multiple_of(tensor) {
            format!("{tensor} GPUs do not divide its feed-forward width of {}", model.ffn)
        } else if let Some(block) = model.cuts_blocks(model.ffn, tensor) {
            let ffn = model.ffn;
            format!(
                "{tensor} GPUs cut its feed-forward width of {ffn} within blocks of {block} that share a scale"
            )
        } else {
            return Ok(());
        };
        Err(IllegalLayout { layout: *self, model: model.name.clone(), reason })
    }

    /// Returns tensor parallelism over `gpus` GPUs.
    pub const fn tensor(gpus: u32) -> Self {
        Self { tensor: gpus, pipeline: 1, data: 1, expert: false }
    }

    /// Returns how many GPUs it takes.
    pub const fn gpus(&self) -> u32 {
        self.tensor * self.pipeline * self.data
    }

    /// Returns the share of a model's layers in its longest stage.
    pub(crate) fn longest_stage(&self, model: &ModelSpec) -> f64 {
        let layers = model.layers.max(1);
        f64::from(layers.div_ceil(self.pipeline.max(1))) / f64::from(layers)
    }

    /// Returns how many GPUs share the experts of a layer.
    pub const fn expert_group(&self) -> u32 {
        self.tensor * self.data
    }

    /// Returns it with every part at least one.
    pub(crate) fn sound(self) -> Self {
        let Self { tensor, pipeline, data, expert } = self;
        Self { tensor: tensor.max(1), pipeline: pipeline.max(1), data: data.max(1), expert }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tp{}", self.tensor)?;
        if self.pipeline > 1 {
            write!(f, "pp{}", self.pipeline)?;
        }
        if self.data > 1 {
            write!(f, "dp{}", self.data)?;
        }
        f.write_str(if self.expert { "ep" } else { "" })
    }
}

impl FromStr for Layout {
    type Err = LayoutError;

    fn from_str(text: &str) -> Result<Self, LayoutError> {
        /// More GPUs than one model is ever laid over.
        const MOST: u32 = 4_096;
        let read = || {
            let mut layout = Self::tensor(1);
            let mut rest = text.strip_prefix("tp")?;
            let (tensor, after) = number(rest)?;
            (layout.tensor, rest) = (tensor, after);
            if let Some(after) = rest.strip_prefix("pp") {
                (layout.pipeline, rest) = number(after)?;
            }
            if let Some(after) = rest.strip_prefix("dp") {
                (layout.data, rest) = number(after)?;
            }
            layout.expert = rest == "ep";
            let parts = [layout.tensor, layout.pipeline, layout.data];
            let fits = parts.iter().try_fold(1_u32, |all, &part| all.checked_mul(part))? <= MOST;
            let read = layout.expert || rest.is_empty();
            (fits && read && !parts.contains(&0)).then_some(layout)
        };
        read().ok_or_else(|| LayoutError(text.to_owned()))
    }
}

/// Returns the numbers that divide `whole`, up to those of a large domain.
fn divisors(whole: u32) -> String {
    let all = (1..=64.min(whole)).filter(|&part| whole.is_multiple_of(part));
    all.map(|part| part.to_string()).collect::<Vec<_>>().join(", ")
}

/// Reads the number at the beginning of `text`.
fn number(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// A way from one GPU's memory to another's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Bytes per second in one direction, all lanes together.
    pub bytes_per_second: f64,
    /// What a transfer takes before its first byte has come.
    pub latency: Duration,
}

impl Link {
    /// Returns how long the keys and values of `tokens` tokens of `model`, kept in `kv`, take from one
    /// instance to another, latency apart, in seconds: layers × width × bytes × tokens / bandwidth.
    pub fn kv_seconds(&self, model: &ModelSpec, kv: Dtype, tokens: u64) -> f64 {
        let bytes = f64::from(model.layers) * model.kv_width() * kv.bytes() * tokens as f64;
        bytes / self.bytes_per_second.max(1.0)
    }

    /// Returns the way between `gpus` GPUs of a type that lie together: inside a node over its fast
    /// links, beyond over the network.
    pub fn among(gpu: &Gpu, gpus: u32) -> Self {
        /// What a message takes through network cards and switches more than inside a node (RDMA).
        const NETWORK: Duration = Duration::from_micros(10);
        match gpus <= gpu.node {
            true => Self { bytes_per_second: gpu.peer_bandwidth(), latency: Duration::ZERO },
            false => Self { bytes_per_second: gpu.nic * 1e9, latency: NETWORK },
        }
    }
}

/// The ways between the GPUs of an instance. A latency is what an exchange takes more than one
/// between GPUs of the same node, for which it is calibrated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fabric {
    /// Between the GPUs that share a layer.
    pub tensor: Link,
    /// Between those that share the experts.
    pub expert: Link,
    /// Between the stages.
    pub stage: Link,
}

impl Fabric {
    /// Returns the ways between GPUs of one type that lie as near to each other as their nodes allow.
    pub fn of(gpu: &Gpu, layout: Layout) -> Self {
        Self {
            tensor: Link::among(gpu, layout.tensor),
            expert: Link::among(gpu, layout.expert_group()),
            stage: Link::among(gpu, layout.gpus()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_read_as_they_are_written() {
        for text in ["tp1", "tp8", "tp2pp4", "tp1dp8", "tp2pp2dp4ep", "tp4ep"] {
            assert_eq!(
                text.parse::<Layout>().map(|layout| layout.to_string()),
                Ok(text.to_owned())
            );
        }
        for wrong in
            ["", "8", "tp", "tp0", "tp2dp0", "tp2ep4", "pp2", "tp2dp2pp2", "tp9999", "tp2 "]
        {
            assert!(wrong.parse::<Layout>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_a_loader_refuses_is_illegal() {
        let check = |model: &str, layout: &str| {
            let model = ModelSpec::named(model).expect("known");
            layout.parse::<Layout>().expect("a layout").check(&model).map_err(|e| e.to_string())
        };
        for (model, layout) in [
            ("llama-3.1-70b", "tp16"),
            ("llama-3.1-70b", "tp8pp4"),
            ("qwen3-235b-a22b", "tp1dp8ep"),
            ("deepseek-v3", "tp1dp64ep"),
            ("minimax-m2", "tp4"),
            ("minimax-m2", "tp8ep"),
            ("minimax-m2-fp4", "tp8"),
            ("deepseek-v3", "tp16"),
        ] {
            assert_eq!(check(model, layout), Ok(()), "{model} {layout}");
        }
        for (model, layout, why) in [
            ("qwen2.5-7b", "tp8", "do not divide its 28 heads: expected 1, 2, 4, 7, 14, 28"),
            ("llama-3.1-8b", "tp1pp64", "32 layers for 64 stages"),
            ("llama-3.1-8b", "tp1dp2", "no experts"),
            ("mixtral-8x7b", "tp4dp4ep", "8 experts are fewer than 16"),
            ("minimax-m2", "tp8", "within blocks of 128"),
            ("deepseek-v3", "tp4dp8", "32 GPUs cut a width of 2048 within blocks of 128"),
            ("deepseek-v3", "tp32ep", "32 GPUs cut a width of 2048 within blocks of 128"),
        ] {
            let error = check(model, layout).expect_err(layout);
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_cache_takes_its_bytes_over_the_link() {
        // 131,072 bytes per token of Llama-3.1-8B over 50 GB/s.
        let link = Link { bytes_per_second: 50e9, latency: Duration::from_micros(20) };
        let model = ModelSpec::named("llama-3.1-8b").expect("known");
        let took = link.kv_seconds(&model, Dtype::Bf16, 4_000);
        let expected = 131_072.0 * 4_000.0 / 50e9;
        assert!((took / expected - 1.0).abs() < 1e-6, "{took}");
    }

    #[test]
    fn beyond_a_node_the_network_is_the_way() {
        let h100 = Gpu::named("H100").expect("known");
        let layout: Layout = "tp8pp2".parse().expect("a layout");
        let fabric = Fabric::of(h100, layout);
        assert_eq!((fabric.tensor.bytes_per_second, fabric.stage.bytes_per_second), (450e9, 50e9));
    }
}
