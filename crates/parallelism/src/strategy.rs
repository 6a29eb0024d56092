//! Ways to lay a model over GPUs, each of which proposes what a loader would accept.

use sagellm_perf::{Gpu, Layout, ModelSpec};
use sagellm_types::ParallelismType;

/// Proposes layouts of one kind.
pub trait ParallelismStrategy {
    /// Returns which kind it is.
    fn kind(&self) -> ParallelismType;

    /// Returns the legal layouts of `model` over as many GPUs of a type as an instance may have, which are
    /// `sizes`; in ascending order. Whether they fit into memory is not its question.
    fn layouts(&self, model: &ModelSpec, gpu: &Gpu, sizes: &[u32]) -> Vec<Layout>;
}

/// A strategy is used through a trait object.
const _: Option<&dyn ParallelismStrategy> = None;

/// Every GPU holds a part of every layer. Only within the domain of the fastest links: each layer is
/// exchanged twice.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tensor;

/// Every GPU holds some layers. For links that are too slow for tensor parallelism.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pipeline;

/// Every GPU computes the attention of its own requests; experts are cut over all of them. A model
/// without experts is replicated instead.
#[derive(Clone, Copy, Debug, Default)]
pub struct Data;

/// Experts are spread over GPUs as a whole.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expert;

/// Several of these at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hybrid;

/// Returns all strategies, as the seed names them (`supported_strategies`).
pub fn supported_strategies() -> [&'static dyn ParallelismStrategy; 5] {
    [&Tensor, &Pipeline, &Data, &Expert, &Hybrid]
}

/// Returns of how many GPUs an instance may be, where there are `gpus` on machines of `each`, ascending: any
/// number that fits on a machine, up to four whole machines, and of more of them powers of two and
/// whatever divides `gpus`.
pub fn sizes(each: u32, gpus: u32) -> Vec<u32> {
    /// So many machines are tried in any number.
    const FEW: u32 = 4;
    let each = each.max(1);
    let whole = (2..=gpus / each).filter(|machines| {
        let size = machines * each;
        *machines <= FEW || size.is_power_of_two() || gpus.is_multiple_of(size)
    });
    (1..=each.min(gpus)).chain(whole.map(|machines| machines * each)).collect()
}

/// Returns the numbers that divide `whole`, ascending.
fn divisors(whole: u32) -> impl Iterator<Item = u32> {
    (1..=whole).filter(move |part| whole.is_multiple_of(*part))
}

/// Returns which strategy proposes a layout.
pub(crate) fn kind_of(layout: Layout) -> ParallelismType {
    let Layout { tensor, pipeline, data, expert } = layout;
    match [tensor > 1, pipeline > 1, data > 1] {
        [_, false, false] | [false, false, true] if expert => ParallelismType::ExpertParallel,
        [_, false, false] => ParallelismType::TensorParallel,
        [false, true, false] if !expert => ParallelismType::PipelineParallel,
        [false, false, true] => ParallelismType::DataParallel,
        _ => ParallelismType::Hybrid,
    }
}

/// Returns the sizes inside of the domain of the fastest links.
fn within(gpu: &Gpu, sizes: &[u32]) -> impl Iterator<Item = u32> {
    sizes.iter().copied().filter(|size| *size <= gpu.node)
}

/// Returns the sizes of more than one GPU.
fn several(sizes: &[u32]) -> impl Iterator<Item = u32> {
    sizes.iter().copied().filter(|size| *size > 1)
}

fn legal(model: &ModelSpec, layouts: impl Iterator<Item = Layout>) -> Vec<Layout> {
    let mut legal: Vec<Layout> = layouts.filter(|layout| layout.check(model).is_ok()).collect();
    legal.sort();
    legal.dedup();
    legal
}

impl ParallelismStrategy for Tensor {
    fn kind(&self) -> ParallelismType {
        ParallelismType::TensorParallel
    }

    fn layouts(&self, model: &ModelSpec, gpu: &Gpu, sizes: &[u32]) -> Vec<Layout> {
        legal(model, within(gpu, sizes).map(Layout::tensor))
    }
}

impl ParallelismStrategy for Pipeline {
    fn kind(&self) -> ParallelismType {
        ParallelismType::PipelineParallel
    }

    fn layouts(&self, model: &ModelSpec, _: &Gpu, sizes: &[u32]) -> Vec<Layout> {
        let staged = |pipeline| Layout { pipeline, ..Layout::tensor(1) };
        legal(model, several(sizes).map(staged))
    }
}

impl ParallelismStrategy for Data {
    fn kind(&self) -> ParallelismType {
        ParallelismType::DataParallel
    }

    fn layouts(&self, model: &ModelSpec, _: &Gpu, sizes: &[u32]) -> Vec<Layout> {
        let ranks = |data| Layout { data, ..Layout::tensor(1) };
        legal(model, several(sizes).map(ranks))
    }
}

impl ParallelismStrategy for Expert {
    fn kind(&self) -> ParallelismType {
        ParallelismType::ExpertParallel
    }

    fn layouts(&self, model: &ModelSpec, gpu: &Gpu, sizes: &[u32]) -> Vec<Layout> {
        let spread = |tensor| Layout { expert: true, ..Layout::tensor(tensor) };
        let ranks = |data| Layout { data, expert: true, ..Layout::tensor(1) };
        let cut = several(sizes).filter(|size| *size <= gpu.node).map(spread);
        legal(model, cut.chain(several(sizes).map(ranks)))
    }
}

impl ParallelismStrategy for Hybrid {
    fn kind(&self) -> ParallelismType {
        ParallelismType::Hybrid
    }

    fn layouts(&self, model: &ModelSpec, gpu: &Gpu, sizes: &[u32]) -> Vec<Layout> {
        let hybrid = |layout: &Layout| {
            let kinds = [layout.tensor > 1, layout.pipeline > 1, layout.data > 1];
            kinds.iter().filter(|kind| **kind).count() > 1
        };
        let of_size = |size: u32| {
            let tensors = divisors(size).filter(|tensor| *tensor <= gpu.node);
            tensors.flat_map(move |tensor| {
                divisors(size / tensor).flat_map(move |pipeline| {
                    let data = size / tensor / pipeline;
                    [false, true].map(|expert| Layout { tensor, pipeline, data, expert })
                })
            })
        };
        legal(model, sizes.iter().copied().flat_map(of_size).filter(hybrid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(strategy: &dyn ParallelismStrategy, model: &str, gpu: &str, gpus: u32) -> String {
        let model = ModelSpec::named(model).expect("known");
        let gpu = Gpu::named(gpu).expect("known");
        let layouts = strategy.layouts(&model, gpu, &sizes(gpu.per_host(), gpus));
        layouts.iter().map(Layout::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_proposes_what_is_its_own() {
        assert_eq!(written(&Tensor, "llama-3.1-70b", "H100", 16), "tp1 tp2 tp4 tp8");
        assert_eq!(written(&Tensor, "qwen2.5-7b", "H100", 8), "tp1 tp2 tp4", "28 heads");
        assert_eq!(
            written(&Pipeline, "llama-3.1-8b", "L40S", 8),
            "tp1pp2 tp1pp3 tp1pp4 tp1pp5 tp1pp6 tp1pp7 tp1pp8"
        );
        assert_eq!(written(&Data, "llama-3.1-8b", "H100", 8), "", "it has no experts");
        assert_eq!(written(&Data, "qwen3-30b-a3b", "H100", 4), "tp1dp2 tp1dp3 tp1dp4");
        assert_eq!(
            written(&Expert, "qwen3-30b-a3b", "H100", 4),
            "tp1dp2ep tp1dp3ep tp1dp4ep tp2ep tp4ep"
        );
        assert_eq!(written(&Hybrid, "llama-3.1-70b", "H100", 8), "tp2pp2 tp2pp3 tp2pp4 tp4pp2");
        assert_eq!(
            written(&Hybrid, "qwen3-30b-a3b", "H100", 4),
            "tp1pp2dp2 tp1pp2dp2ep tp2dp2 tp2dp2ep tp2pp2 tp2pp2ep"
        );
    }

    #[test]
    fn instances_are_parts_of_a_machine_or_whole_machines() {
        assert_eq!(sizes(8, 6), [1, 2, 3, 4, 5, 6]);
        assert_eq!(sizes(8, 80), [1, 2, 3, 4, 5, 6, 7, 8, 16, 24, 32, 40, 64, 80]);
        assert_eq!(sizes(4, 12), [1, 2, 3, 4, 8, 12]);
        assert_eq!((sizes(8, 0), sizes(8, 1)), (vec![], vec![1]));
        assert!(written(&Hybrid, "llama-3.1-70b", "H100", 48).contains("tp8pp3"));
        assert_eq!(
            written(&Tensor, "qwen2.5-7b", "H100", 7),
            "tp1 tp2 tp4",
            "28 heads, 4 for keys"
        );
    }

    #[test]
    fn a_layout_is_of_the_strategy_that_proposes_it() {
        for model in ["llama-3.1-8b", "qwen3-30b-a3b", "deepseek-v3"] {
            for strategy in supported_strategies() {
                for layout in written(strategy, model, "H200", 12).split_whitespace() {
                    let layout = layout.parse().expect("as written");
                    assert_eq!(kind_of(layout), strategy.kind(), "{layout}");
                }
            }
        }
    }

    #[test]
    fn tensor_parallelism_stays_within_the_fastest_links() {
        assert_eq!(written(&Tensor, "llama-3.1-405b", "GB200", 32), "tp1 tp2 tp4 tp8 tp16 tp32");
        assert!(written(&Hybrid, "llama-3.1-405b", "H100", 32).contains("tp8pp4"));
    }
}
