//! What an instance gives under a constant load: a closed form, in microseconds of computing.
//!
//! So many requests are always there, each of which is followed by the next: `life` = what one takes =
//! the decode steps of its answer + the prompts of all that run, since in one life each of the others
//! brings one prompt, too. What prompts take of the time is waited for by those that come (a queue
//! with one server and constant service: Khinchin and Pollaczek) and stretches the answers of those
//! that are there. What does not fit into the KV cache waits outside (Little).

use crate::{Batch, OperatorCost};

/// A constant load: `requests` at a time, each of the same size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SteadyLoad {
    /// Requests that are there at once, running or waiting.
    pub requests: f64,
    /// Prompt tokens, without those found in a prefix cache.
    pub prompt: f64,
    /// Prompt tokens found in a prefix cache.
    pub cached: f64,
    /// Output tokens.
    pub output: f64,
    /// Requests per client after which a closed loop ends that began all at once, as in measured runs;
    /// infinite in the long run.
    pub rounds: f64,
}

/// What an instance allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SteadyLimits {
    /// KV tokens that fit.
    pub kv_tokens: f64,
    /// Sequences in a step.
    pub sequences: f64,
    /// Tokens computed in a step of a rank.
    pub step_tokens: f64,
}

/// What every request sees, and what the instance gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Steady {
    /// Seconds to the first token.
    pub ttft: f64,
    /// Seconds per output token after the first.
    pub tpot: f64,
    /// Seconds of a decode step without prompts: no request gets its tokens faster.
    pub decode: f64,
    /// Requests that run at once.
    pub running: f64,
    /// Requests per second.
    pub per_s: f64,
    /// Share of the time that prompts take.
    pub prompts: f64,
}

impl Steady {
    /// Returns what an instance gives whose steps take `cost`.
    ///
    /// ```
    /// use sagellm_perf::{Layout, OperatorCost, Steady, SteadyLimits, SteadyLoad};
    ///
    /// let cost = OperatorCost::preset("llama-3.1-70b-fp8", Some("H100"), Layout::tensor(4));
    /// let limits = SteadyLimits { kv_tokens: 700_000.0, sequences: 256.0, step_tokens: 8_192.0 };
    /// let load = |requests| SteadyLoad { requests, prompt: 1_000.0, cached: 0.0, output: 200.0, rounds: f64::INFINITY };
    /// let (few, many) = (Steady::of(&cost, &limits, &load(4.0)), Steady::of(&cost, &limits, &load(64.0)));
    /// assert!(many.per_s > 2.0 * few.per_s && many.tpot > few.tpot && many.ttft > few.ttft);
    /// ```
    pub fn of(cost: &OperatorCost, limits: &SteadyLimits, load: &SteadyLoad) -> Self {
        let SteadyLoad { requests, prompt, cached, output, rounds } = *load;
        let context = prompt + cached + 0.5 * output;
        let fitting = (limits.kv_tokens / context).min(limits.sequences).max(1.0);
        let running = requests.min(fitting).max(1.0);
        let decode = |sequences: f64| cost.seconds(&cost.decode_batch(sequences.max(1.0), context));
        // What one prompt takes more than the steps that it is computed in: in chunks, beside decodes.
        let chunks = (prompt / limits.step_tokens).max(1.0);
        let mixed = |tokens: f64, before: f64, decodes: f64| {
            cost.seconds(&Batch {
                prefill_tokens: tokens as u64,
                prefill_sequences: 1,
                prefill_pairs: (tokens * (before + 0.5 * tokens)) as u64,
                completing: 1,
                ..cost.decode_batch(decodes, context)
            })
        };
        let one = (prompt / chunks, cached + 0.5 * (chunks - 1.0) * prompt / chunks);
        let step = decode(running);
        let beside = mixed(one.0, one.1, running - 1.0);
        let more = chunks * (beside - step).max(0.0);
        // A prompt goes through all stages, however busy others keep them.
        let through = beside.max(mixed(one.0, one.1, 0.0));
        let gaps = (output - 1.0).max(0.0);
        let life = (gaps + chunks) * step + running * more;
        let busy = (running * more / life).min(0.98);
        // Who comes meets others' prompts, and the rest of a step, if others are there.
        let met = ((running - 1.0) * more / life).min(0.98);
        let wait = 0.5 * met / (1.0 - met) * more + 0.5 * (1.0 - 1.0 / running) * step;
        let ways = cost.overhead((prompt + cached) as u64);
        let first = wait + chunks * through;
        let tpot = if gaps > 0.0 { (life - first).max(gaps * step) / gaps } else { 0.0 };
        let served = first + gaps * tpot;
        // A loop that began at once has a first round in which all prompts wait for each other.
        let burst = 0.5 * (running - 1.0) * more / rounds;
        // Those that do not fit wait for a place: as long as all of them take, but for their own time.
        let outside = (requests / running - 1.0).max(0.0) * (served + ways);
        let ttft = ways + first + burst + outside;
        let per_s = requests / (ttft + gaps * tpot);
        Self { ttft, tpot, decode: step, running, per_s, prompts: busy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layout;

    const LIMITS: SteadyLimits =
        SteadyLimits { kv_tokens: 400_000.0, sequences: 256.0, step_tokens: 8_192.0 };

    fn load(requests: f64) -> SteadyLoad {
        let (prompt, output, rounds) = (1_000.0, 200.0, f64::INFINITY);
        SteadyLoad { requests, prompt, cached: 0.0, output, rounds }
    }

    #[test]
    fn a_lone_request_takes_its_steps() {
        let cost = OperatorCost::preset("llama-3.1-8b", Some("H100"), Layout::tensor(1));
        let alone = Steady::of(&cost, &LIMITS, &load(1.0));
        let step = cost.seconds(&Batch { decode_sequences: 1, kv_tokens: 1_100, ..Batch::EMPTY });
        assert!((alone.tpot / step - 1.0).abs() < 0.02, "{alone:?} {step}");
        let prompt = cost.seconds(&Batch {
            prefill_tokens: 1_000,
            prefill_sequences: 1,
            prefill_pairs: 500_000,
            completing: 1,
            ..Batch::EMPTY
        });
        assert!((alone.ttft - cost.overhead(1_000) - prompt).abs() < step, "{alone:?}");
        assert!((alone.per_s * (alone.ttft + 199.0 * alone.tpot) - 1.0).abs() < 1e-9);
        // Nobody waits for itself: neither the length of the answer nor of the prompt makes a queue.
        let long = |prompt, output| {
            Steady::of(&cost, &LIMITS, &SteadyLoad { prompt, output, ..load(1.0) }).ttft
        };
        let (short_answer, long_answer) = (long(32_000.0, 1.0), long(32_000.0, 10_000.0));
        assert!((short_answer / long_answer - 1.0).abs() < 0.05, "{short_answer} {long_answer}");
        assert!(long(128_000.0, 1.0) < 12.0 * short_answer, "prompts cost by their square at most");
    }

    #[test]
    fn more_requests_give_more_until_nothing_more_fits() {
        let cost = OperatorCost::preset("llama-3.1-8b", Some("H100"), Layout::tensor(1));
        let all: Vec<Steady> = [1.0, 4.0, 16.0, 64.0, 256.0, 1_024.0]
            .map(|requests| Steady::of(&cost, &LIMITS, &load(requests)))
            .to_vec();
        for pair in all.windows(2) {
            assert!(
                pair[1].ttft > pair[0].ttft && pair[1].per_s > 0.99 * pair[0].per_s,
                "{pair:?}"
            );
        }
        // Little: what waits outside is served no faster.
        assert_eq!(all[4].running, all[5].running);
        assert!((all[5].per_s / all[4].per_s - 1.0).abs() < 0.05, "{all:?}");
    }

    #[test]
    fn what_is_found_in_a_cache_is_not_computed() {
        let cost = OperatorCost::preset("llama-3.1-8b", Some("H100"), Layout::tensor(1));
        let cached = SteadyLoad { prompt: 100.0, cached: 900.0, ..load(32.0) };
        let (with, without) =
            (Steady::of(&cost, &LIMITS, &cached), Steady::of(&cost, &LIMITS, &load(32.0)));
        assert!(with.ttft < without.ttft && with.per_s > 1.1 * without.per_s);
    }
}
