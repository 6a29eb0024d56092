//! Which phase dominates a request.

use std::time::Duration;

use sagellm_types::{PdRoutingPolicy, PdSeparationConfig, Phase, Request, RequestPriority};

/// A more urgent request than this, with a short output, is decode work at once.
const SHORT_OUTPUT: u64 = 500;
/// A deadline below this leaves no time for a hand-over.
const TIGHT: Duration = Duration::from_millis(100);

/// Returns the phase that dominates `request`, by its forecast: prompt tokens exact or learnt, not
/// characters / 4.
///
/// `threshold`: a prompt above `prefilling_threshold_input_tokens`, or one that is more than
/// `prefilling_threshold_ratio` × its output, is prefill work; the rest decodes. `adaptive`:
/// critical requests with a short output and those with a deadline under 100 ms decode; the rest
/// by threshold. Disabled: neither.
pub fn phase(config: &PdSeparationConfig, request: &Request) -> Phase {
    if !config.enabled {
        return Phase::Hybrid;
    }
    let (prompt, output) = (request.forecast.prompt.0, request.forecast.output.0.max(1));
    let urgent = request.priority == RequestPriority::Critical && output < SHORT_OUTPUT;
    let tight = request.objectives.e2e.is_some_and(|e2e| e2e < TIGHT);
    if config.routing_policy == PdRoutingPolicy::Adaptive && (urgent || tight) {
        Phase::Decoding
    } else if prompt > config.prefilling_threshold_input_tokens
        || prompt as f64 / output as f64 > config.prefilling_threshold_ratio
    {
        Phase::Prefilling
    } else {
        Phase::Decoding
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sagellm_types::{Objectives, Tokens};

    fn check(policy: PdRoutingPolicy, edit: impl Fn(&mut Request), expected: Phase) {
        let config = PdSeparationConfig { routing_policy: policy, ..Default::default() };
        let mut request = Request::example(0);
        edit(&mut request);
        assert_eq!(phase(&config, &request), expected);
    }

    #[test]
    fn thresholds_tell_long_prompts_from_the_rest() {
        use PdRoutingPolicy::Threshold;
        check(Threshold, |r| r.forecast.prompt = Tokens(801), Phase::Prefilling);
        check(Threshold, |r| r.forecast.prompt = Tokens(400), Phase::Decoding);
        check(Threshold, |r| r.forecast.prompt = Tokens(401), Phase::Prefilling);
        check(
            Threshold,
            |r| (r.forecast.prompt, r.forecast.output) = (Tokens(800), Tokens(1000)),
            Phase::Decoding,
        );
    }

    #[test]
    fn adaptive_lets_urgent_and_tight_requests_decode() {
        use PdRoutingPolicy::Adaptive;
        let long = |r: &mut Request| r.forecast.prompt = Tokens(5_000);
        check(Adaptive, long, Phase::Prefilling);
        let critical = |r: &mut Request| {
            long(r);
            r.priority = RequestPriority::Critical;
        };
        check(Adaptive, critical, Phase::Decoding);
        let high = |r: &mut Request| {
            long(r);
            r.priority = RequestPriority::High;
        };
        check(Adaptive, high, Phase::Prefilling);
        let tight = |r: &mut Request| {
            long(r);
            r.objectives = Objectives { e2e: Some(Duration::from_millis(50)), ..Objectives::NONE };
        };
        check(Adaptive, tight, Phase::Decoding);
    }

    #[test]
    fn disabled_means_neither() {
        let config = PdSeparationConfig { enabled: false, ..Default::default() };
        assert_eq!(phase(&config, &Request::example(0)), Phase::Hybrid);
    }
}
