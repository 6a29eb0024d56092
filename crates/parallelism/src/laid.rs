//! Layouts that are legal, fit and can be paid for, ready to be computed; and why there is none.

use sagellm_perf::{
    DoesNotFit, Dtype, Gpu, IllegalLayout, Interval, Layout, Memory, OperatorCost, Prompts,
};
use sagellm_types::ParallelismType;

use crate::plan::Rejected;
use crate::question::{PlanError, Question, Seating};
use crate::strategy::{kind_of, sizes, supported_strategies};

/// A layout that fits.
pub(crate) struct Laid<'a> {
    pub(crate) strategy: ParallelismType,
    /// Which of the question's GPUs.
    pub(crate) kind: usize,
    pub(crate) gpu: &'a Gpu,
    pub(crate) layout: Layout,
    pub(crate) cost: OperatorCost,
    /// Most instances, if there is nothing else.
    pub(crate) instances: u32,
    /// Tokens per step of a rank, ascending, each with the KV tokens that then fit.
    pub(crate) budgets: Vec<(u32, u64)>,
    pub(crate) interval: Interval,
}

/// What keeps a question from having a layout.
#[derive(Default)]
pub(crate) struct Obstacles {
    /// The layout that lacks the least memory.
    lacking: Option<(DoesNotFit, Layout)>,
    /// The least rent of one instance that fits and is too dear, in US dollars per hour.
    too_dear: Option<f64>,
    /// Why one that fits cannot be seated.
    apart: Option<String>,
}

/// Returns all layouts that are legal, fit and can be paid for, in the order of their names.
pub(crate) fn lay_out<'a>(
    question: &Question<'a>,
    rejected: &mut Vec<Rejected>,
    obstacles: &mut Obstacles,
) -> Vec<Laid<'a>> {
    let mut laid = Vec::new();
    for (kind, &(gpu, count)) in question.gpus.iter().enumerate() {
        for (strategy, layout) in question.layouts(gpu, count) {
            let mut reject = |why: String| {
                let (gpu, layout) = (gpu.name.clone(), layout.to_string());
                rejected.push(Rejected { gpu, layout, why });
            };
            let budgets = match question.fits(gpu, layout) {
                Ok(budgets) => budgets,
                Err(error) => {
                    reject(error.to_string());
                    let least = obstacles.lacking.as_ref().map_or(f64::INFINITY, |l| l.0.lacking);
                    if error.lacking < least {
                        obstacles.lacking = Some((error, layout));
                    }
                    continue;
                }
            };
            let mut seatings = question.seatings(gpu, layout, count);
            let refused = seatings.iter().find_map(|seating| seating.refuses(layout));
            seatings.retain(|seating| seating.refuses(layout).is_none());
            if seatings.is_empty() {
                let why = refused.unwrap_or_else(|| {
                    let each = question.per_machine(gpu);
                    format!(
                        "{layout} takes as many GPUs on each of its machines, which have {each}"
                    )
                });
                reject(why.clone());
                obstacles.apart.get_or_insert(why);
                continue;
            }
            let hour = gpu.price_per_hour.0 * f64::from(layout.gpus());
            let paid = question.demand.affords(hour, 0.0);
            if paid == 0 {
                reject(format!("one instance costs {hour:.2} US dollars per hour"));
                obstacles.too_dear = Some(obstacles.too_dear.map_or(hour, |least| least.min(hour)));
                continue;
            }
            laid.extend(seatings.iter().map(|seating| Laid {
                strategy,
                kind,
                gpu,
                layout,
                cost: question.cost(gpu, layout, seating),
                instances: seating.instances.min(paid),
                budgets: budgets.clone(),
                interval: Interval::of(question.model, gpu, layout),
            }));
        }
    }
    laid.sort_by_key(|laid| laid.layout.to_string());
    laid
}

impl Obstacles {
    /// Returns why no layout is there.
    pub(crate) fn told(self, question: &Question<'_>) -> PlanError {
        if let (Some(least), Some(budget)) = (self.too_dear, question.demand.usd_per_hour) {
            return PlanError::TooDear { budget, least };
        }
        if let Some(why) = self.apart {
            return PlanError::Apart { why };
        }
        if let Some((error, layout)) = self.lacking {
            let (error, enough) = (Box::new(error), question.enough());
            return PlanError::TooLarge { error, layout: layout.to_string(), enough };
        }
        if let Some(kind) = question.hint {
            return PlanError::NoneOfKind { kind };
        }
        let all = question.gpus.iter().map(|(_, count)| *count).max().unwrap_or(1);
        let illegal: Option<IllegalLayout> = Layout::tensor(all).check(question.model).err();
        illegal.map_or(PlanError::NoGpu, PlanError::Illegal)
    }
}

impl Question<'_> {
    /// Returns the legal layouts of the strategies that are asked, over at most `count` GPUs.
    fn layouts(&self, gpu: &Gpu, count: u32) -> Vec<(ParallelismType, Layout)> {
        if let Some(layout) = self.layout {
            let fitting = layout.gpus() <= count;
            return fitting.then_some((kind_of(layout), layout)).into_iter().collect();
        }
        let sizes = sizes(self.per_machine(gpu), count);
        let wanted = |kind| self.hint.is_none_or(|hint| hint == kind);
        let asked = supported_strategies().into_iter().filter(|strategy| wanted(strategy.kind()));
        let proposed = asked.flat_map(|strategy| {
            let layouts = strategy.layouts(self.model, gpu, &sizes);
            layouts.into_iter().map(move |layout| (strategy.kind(), layout))
        });
        if count == 0 { Vec::new() } else { proposed.collect() }
    }

    /// Returns the budgets of tokens per step beside which at least one request fits, ascending, with
    /// the KV tokens of an instance.
    fn fits(&self, gpu: &Gpu, layout: Layout) -> Result<Vec<(u32, u64)>, DoesNotFit> {
        let mut budgets = self.engine.max_num_batched_tokens.clone();
        budgets.sort_unstable();
        budgets.dedup();
        let mut fitting = Vec::new();
        for budget in budgets {
            let memory = Memory::of(self.model, gpu, layout, Dtype::Bf16, budget);
            match memory.kv_tokens_for(self.model, gpu, layout, self.longest() as u64) {
                Ok(kv_tokens) => fitting.push((budget, kv_tokens)),
                Err(error) if fitting.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        Ok(fitting)
    }

    /// Returns the smallest fleet of the same GPUs that would do.
    fn enough(&self) -> String {
        let any = Question { layout: None, ..self.clone() };
        /// More GPUs than are worth telling of.
        const MOST: u32 = 512;
        let enough = self.gpus.iter().filter_map(|(gpu, _)| {
            let fits = |count: &u32| {
                let layouts = any.layouts(gpu, *count).into_iter().map(|(_, layout)| layout);
                let mut whole = layouts.filter(|layout| layout.gpus() == *count);
                whole.any(|layout| {
                    let seating = Seating::on_machines(any.per_machine(gpu), *count, *count);
                    let started = seating.is_some_and(|s| s.refuses(layout).is_none());
                    started && any.fits(gpu, layout).is_ok()
                })
            };
            let found = (1..=MOST).find(fits)?;
            Some((found, gpu.name.clone()))
        });
        match enough.min() {
            Some((count, name)) => format!("{count} × {name} would do"),
            None => format!("not even {MOST} of these GPUs would do"),
        }
    }
}

impl Laid<'_> {
    /// Returns what an instance gives that computes prompts only, with the tokens per step with which it
    /// computes most: no decode waits for them. Prompts that it cannot keep are not computed together.
    pub(crate) fn prompts(&self, question: &Question<'_>) -> (u32, Prompts) {
        let workload = &question.workload;
        let of = |&(step_tokens, kv_tokens): &(u32, u64)| {
            let (prompt, cached) = (workload.prompt, workload.cached);
            (step_tokens, Prompts::of(&self.cost, step_tokens, kv_tokens, prompt, cached))
        };
        let all = self.budgets.iter().map(of);
        let best = all.min_by(|a, b| a.1.each.total_cmp(&b.1.each));
        best.expect("a layout has a budget")
    }

    /// Returns the rent of one instance, in US dollars per hour.
    pub(crate) fn usd_per_hour(&self) -> f64 {
        self.gpu.price_per_hour.0 * f64::from(self.layout.gpus())
    }
}
