//! What questions cost: the reference question, and a mixture of experts on 64 GPUs.

use criterion::{Criterion, criterion_group, criterion_main};
use sagellm_parallelism::{Limits, Question, Split, Workload, plan};
use sagellm_perf::{Gpu, ModelSpec};

fn questions(c: &mut Criterion) {
    for (id, model, gpus, ttft) in [
        ("plan/qwen3_32b_8xh200", "qwen3-32b", 8, 1.0),
        ("plan/deepseek_v3_64xh200_split", "deepseek-v3", 64, 2.0),
    ] {
        let model = ModelSpec::named(model).expect("known");
        let question = Question {
            limits: Limits { ttft: Some(ttft), tpot: Some(0.050), e2e: None },
            split: if gpus > 8 { Split::Also } else { Split::Never },
            ..Question::new(
                &model,
                &[(Gpu::named("H200").expect("known"), gpus)],
                Workload::new(4_000.0, 500.0),
            )
        };
        c.bench_function(id, |b| b.iter(|| plan(&question).expect("it fits")));
    }
}

criterion_group!(benches, questions);
criterion_main!(benches);
