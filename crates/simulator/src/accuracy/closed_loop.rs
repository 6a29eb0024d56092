//! The closed loop under which engines were measured, replayed on the engine model.
//!
//! `c` clients ask at the start, and each asks again as soon as it is answered, until ten requests
//! per client are done. Lengths are drawn uniformly from the whole numbers between 0.8 and 1 times
//! the nominal ones, answers never end early, and nothing of a prompt is found in a cache.

use std::collections::{BTreeMap, VecDeque};

use sagellm_engine_model::{Engine, EngineConfig, Event, EventKind, Pace, Sequence};
use sagellm_perf::{
    Calibration, Dtype, Factor, Gpu, Layout, Memory, ModelSpec, OperatorCost, Seen, Work,
};
use sagellm_types::{Rng, Seed, Timestamp};
use thiserror::Error;

use super::Measured;

/// Why a row cannot be replayed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Unsupported(String);

/// A measured run, ready to be replayed.
#[derive(Clone, Debug)]
pub struct Replay {
    gpu: &'static Gpu,
    model: ModelSpec,
    layout: Layout,
    kv_tokens: u64,
    clients: u32,
    prompt: u32,
    output: u32,
    seed: u64,
}

/// What the replay says of a run: means over its requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Predicted {
    /// Time to first token.
    pub ttft_ms: f64,
    /// Time per output token after the first.
    pub tpot_ms: f64,
    /// By which work the time to first token was filled, in seconds per unit of each factor.
    pub ttft_work: Work,
    /// The same of the time per output token.
    pub tpot_work: Work,
}

const BLOCK: u32 = 16;

impl Replay {
    /// Requests per client.
    pub(super) const ROUNDS: u32 = 10;
    /// Tokens that one step computes at most.
    pub(super) const BUDGET: u32 = 8_192;

    /// Returns the replay of a row.
    ///
    /// # Errors
    /// If the model or the GPU is not known, it does not fit, or it ran in a way that is not
    /// modelled; with what it is.
    pub fn of(row: &Measured) -> Result<Self, Unsupported> {
        let reject = |why: String| Err(Unsupported(why));
        if row.mode != "agg" {
            return reject(format!("mode `{}`: expected agg", row.mode));
        }
        if row.backend != "vllm" {
            return reject(format!("backend `{}`: expected vllm", row.backend));
        }
        if row.attention_dp_size.is_some_and(|ranks| ranks > 1.0) {
            return reject("attention data parallelism: the row does not say what ran".to_owned());
        }
        let model = ModelSpec::named(&row.model_path).map_err(|e| Unsupported(e.to_string()))?;
        let gpu = Gpu::named(&row.system).map_err(|e| Unsupported(e.to_string()))?;
        let model = match row.precision.as_str() {
            "" => model.in_dtype(Dtype::Bf16),
            name => match Dtype::parse(name) {
                Some(dtype) => model.in_dtype(dtype),
                None => return reject(format!("precision `{name}`")),
            },
        };
        let layout = Layout {
            tensor: row.tp_size as u32,
            pipeline: row.pp_size.unwrap_or(1.0).max(1.0) as u32,
            data: 1,
            expert: row.moe_ep_size.unwrap_or(1.0) > 1.0,
        };
        // Engines on GPUs with arithmetic in four bits kept keys and values in eight.
        let small = gpu.peak(Dtype::Fp4) > gpu.peak(Dtype::Bf16) && model.weights != Dtype::Bf16;
        let kv = if small { Dtype::Fp8 } else { Dtype::Bf16 };
        let memory = Memory::of(&model, gpu, layout, kv, Self::BUDGET);
        let kv_tokens =
            memory.kv_tokens(&model, gpu, layout).map_err(|e| Unsupported(e.to_string()))?;
        let longest = (row.isl + row.osl) as u64;
        if kv_tokens < longest {
            return reject(format!("{kv_tokens} KV tokens fit, one request needs {longest}"));
        }
        Ok(Self {
            gpu,
            model,
            layout,
            kv_tokens,
            clients: row.batch_size as u32,
            prompt: row.isl as u32,
            output: row.osl as u32,
            seed: sagellm_types::PrefixHash::of(row.id.as_bytes()).0,
        })
    }

    /// Returns the GPU on which it ran.
    pub fn gpu(&self) -> &'static Gpu {
        self.gpu
    }

    /// Returns how it was laid out.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Returns the KV tokens that fitted.
    pub fn kv_tokens(&self) -> u64 {
        self.kv_tokens
    }

    /// Returns the model that it ran.
    pub fn model(&self) -> &ModelSpec {
        &self.model
    }

    /// Returns the mark of what ran.
    pub fn seen(&self) -> Seen {
        Seen::new(&self.model, self.gpu, self.layout)
    }

    /// Replays the run with these numbers of its GPU.
    pub fn run(&self, calibration: &Calibration) -> Predicted {
        let cost = OperatorCost::new(&self.model, self.gpu, self.layout, *calibration);
        let config = EngineConfig {
            block_size: BLOCK,
            num_blocks: u32::try_from(self.kv_tokens / u64::from(BLOCK)).unwrap_or(u32::MAX),
            max_num_seqs: self.clients.max(1),
            max_num_batched_tokens: Self::BUDGET,
            max_model_len: self.prompt + self.output + BLOCK,
            enable_prefix_caching: false,
            pace: Pace::Leap,
            ..EngineConfig::default()
        };
        let mut engine = Engine::new(config, cost);
        engine.meter();
        let mut run = Loop {
            rng: Seed(self.seed).stream("lengths"),
            cost: &cost,
            replay: self,
            left: self.clients * Replay::ROUNDS,
            asked: 0,
            coming: BTreeMap::new(),
            open: VecDeque::new(),
            sums: Predicted {
                ttft_ms: 0.0,
                tpot_ms: 0.0,
                ttft_work: [0.0; Factor::COUNT],
                tpot_work: [0.0; Factor::COUNT],
            },
            ended: (0, 0),
        };
        (0..self.clients).for_each(|_| run.ask(Timestamp::ZERO));
        let mut events = Vec::new();
        loop {
            let coming = run.coming.first_key_value().map(|(&(at, _), _)| at);
            let boundary = engine.next_boundary();
            let Some(now) = [coming, boundary].into_iter().flatten().min() else { break };
            engine.advance(now, &mut events);
            let metered = engine.metered();
            for event in events.drain(..) {
                run.heard(&event, &metered);
            }
            while let Some(entry) = run.coming.first_entry().filter(|entry| entry.key().0 <= now) {
                let id = entry.key().1;
                let sequence = entry.remove();
                let place = (id - run.first_open()) as usize;
                run.open[place].work = metered;
                engine.submit(sequence, now).expect("it fits, alone at least");
            }
        }
        run.means()
    }
}

/// A request that has been asked.
#[derive(Clone, Debug)]
struct Open {
    id: u64,
    asked: Timestamp,
    prompt: u32,
    output: u32,
    first: Option<Timestamp>,
    /// What the engine had done when the request reached it, then when its first token came.
    work: Work,
    done: bool,
}

struct Loop<'a> {
    rng: Rng,
    cost: &'a OperatorCost,
    replay: &'a Replay,
    left: u32,
    asked: u64,
    /// On their way to the engine.
    coming: BTreeMap<(Timestamp, u64), Sequence>,
    /// By id, without those at the front that are done.
    open: VecDeque<Open>,
    sums: Predicted,
    /// Requests with a first token, and with more than one.
    ended: (u64, u64),
}

impl Loop<'_> {
    fn first_open(&self) -> u64 {
        self.open.front().map_or(self.asked, |open| open.id)
    }

    /// A client asks, if requests are left.
    fn ask(&mut self, now: Timestamp) {
        if self.left == 0 {
            return;
        }
        self.left -= 1;
        let mut length = |nominal: u32| {
            let least = (f64::from(nominal) * 0.8) as u32;
            (least + self.rng.below((nominal - least + 1) as usize) as u32).max(1)
        };
        let (prompt, output) = (length(self.replay.prompt), length(self.replay.output));
        let id = self.asked;
        self.asked += 1;
        let way = std::time::Duration::from_secs_f64(self.cost.overhead(u64::from(prompt)));
        let sequence =
            Sequence { id, prompt_tokens: prompt, output_tokens: output, ..Sequence::default() };
        self.coming.insert((now + way, id), sequence);
        let work = [0.0; Factor::COUNT];
        self.open.push_back(Open {
            id,
            asked: now,
            prompt,
            output,
            first: None,
            work,
            done: false,
        });
    }

    fn heard(&mut self, event: &Event, metered: &Work) {
        let first_open = self.first_open();
        let open = &mut self.open[(event.id - first_open) as usize];
        match event.kind {
            EventKind::FirstToken { .. } => {
                open.first = Some(event.at);
                self.sums.ttft_ms += event.at.since(open.asked).as_secs_f64() * 1e3;
                for (place, sum) in self.sums.ttft_work.iter_mut().enumerate() {
                    *sum += metered[place] - open.work[place];
                }
                self.sums.ttft_work[Factor::Request as usize] += 1e-3;
                self.sums.ttft_work[Factor::PromptToken as usize] += 1e-6 * f64::from(open.prompt);
                open.work = *metered;
                self.ended.0 += 1;
            }
            EventKind::Finished => {
                let first = open.first.expect("a first token came before the last");
                if open.output > 1 {
                    let gaps = f64::from(open.output - 1);
                    self.sums.tpot_ms += event.at.since(first).as_secs_f64() * 1e3 / gaps;
                    for (place, sum) in self.sums.tpot_work.iter_mut().enumerate() {
                        *sum += (metered[place] - open.work[place]) / gaps;
                    }
                    self.ended.1 += 1;
                }
                open.done = true;
                while self.open.front().is_some_and(|open| open.done) {
                    self.open.pop_front();
                }
                self.ask(event.at);
            }
            EventKind::Tokens(_) | EventKind::Preempted | EventKind::Received => {}
        }
    }

    fn means(self) -> Predicted {
        let (first, more) = (self.ended.0.max(1) as f64, self.ended.1.max(1) as f64);
        Predicted {
            ttft_ms: self.sums.ttft_ms / first,
            tpot_ms: self.sums.tpot_ms / more,
            ttft_work: self.sums.ttft_work.map(|sum| sum / first),
            tpot_work: self.sums.tpot_work.map(|sum| sum / more),
        }
    }
}
