//! Which requests are sent when: a trace, a workload file, or a process described by flags.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use sagellm_types::{RequestPriority, Seed, Tokens};
use sagellm_workload::{
    Arrivals, Gaps, Length, Origin, Rate, SloClass, Source, Workload, WorkloadConfig,
    read_trace_file, three_classes,
};

/// The arrivals of a replay.
#[derive(Args, Clone, Debug)]
pub(crate) struct SourceArgs {
    /// Replay a trace: Azure CSV, or Mooncake JSONL by its ending .jsonl
    #[arg(long, value_name = "FILE", conflicts_with_all = ["workload", "rate"])]
    pub(crate) trace: Option<PathBuf>,
    /// Workload file (TOML): arrivals, lengths, classes; see `sagellm docs config`
    #[arg(long, value_name = "FILE", conflicts_with = "rate")]
    pub(crate) workload: Option<PathBuf>,
    /// Requests per second of a drawn workload [default: 5]
    #[arg(long, value_name = "PER_S")]
    pub(crate) rate: Option<f64>,
    /// How regular the gaps between drawn requests are [default: poisson]
    #[arg(long, value_enum)]
    pub(crate) gaps: Option<GapLaw>,
    /// Coefficient of variation of gamma gaps [default: 2]
    #[arg(long, value_name = "CV")]
    pub(crate) cv: Option<f64>,
    /// Length of a drawn workload, in seconds of model time; a trace is cut to it
    #[arg(long, value_name = "SECONDS")]
    pub(crate) duration: Option<f64>,
    /// Most requests
    #[arg(long, value_name = "NUMBER")]
    pub(crate) requests: Option<usize>,
    /// Prompt tokens: `128`, `uniform:50-500` or `lognormal:MEAN,CV,MAX` [default:
    /// lognormal:512,0.8,4096]
    #[arg(long, value_name = "LENGTH")]
    pub(crate) prompt_tokens: Option<LengthArg>,
    /// Output tokens, written as prompt tokens are [default: lognormal:128,0.8,1000]
    #[arg(long, value_name = "LENGTH")]
    pub(crate) output_tokens: Option<LengthArg>,
    /// Multiply the rate of a trace or workload
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub(crate) rate_scale: f64,
    /// Spread arrivals over ticks of so many seconds; Mooncake's conversation trace stands on 3
    #[arg(long, value_name = "SECONDS")]
    pub(crate) jitter: Option<f64>,
    /// Cut longer prompts to so many tokens
    #[arg(long, value_name = "TOKENS", default_value_t = u64::MAX, hide_default_value = true)]
    pub(crate) max_prompt: u64,
    /// Draw interactive, standard and batch classes with objectives of their own
    #[arg(long, conflicts_with_all = ["priority", "ttft_slo", "tpot_slo", "e2e_slo"])]
    pub(crate) mix: bool,
    /// Priority of all requests: critical, high, normal, low, background
    #[arg(long, value_name = "LEVEL", value_parser = priority)]
    pub(crate) priority: Option<RequestPriority>,
    /// Time to first token that all requests ask for, in milliseconds
    #[arg(long, value_name = "MS")]
    pub(crate) ttft_slo: Option<f64>,
    /// Time per output token that all requests ask for, in milliseconds
    #[arg(long, value_name = "MS")]
    pub(crate) tpot_slo: Option<f64>,
    /// Time to the last token that all requests ask for, in milliseconds
    #[arg(long, value_name = "MS")]
    pub(crate) e2e_slo: Option<f64>,
    /// How many users send them; 0 names nobody [default: 0]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) users: Option<u32>,
}

/// What a scenario or a workload file says itself.
const OWN: &[&str] = &["--rate", "--gaps", "--cv", "--prompt-tokens", "--output-tokens", "--mix"];

/// How regular gaps are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum GapLaw {
    /// As of many independent clients
    #[default]
    Poisson,
    /// Burstier or smoother, by --cv
    Gamma,
    /// As of a metronome
    Even,
}

/// A length distribution on the command line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LengthArg(pub(crate) Length);

impl FromStr for LengthArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected a number, `uniform:MIN-MAX` or `lognormal:MEAN,CV,MAX`";
        let parse = || {
            let (law, rest) = text.split_once(':').unwrap_or(("constant", text));
            Some(match law {
                "constant" => Length::Constant { tokens: rest.parse().ok()? },
                "uniform" => {
                    let (min, max) = rest.split_once('-')?;
                    Length::Uniform { min: min.parse().ok()?, max: max.parse().ok()? }
                }
                "lognormal" => {
                    let mut parts = rest.split(',').map(str::trim);
                    let (mean, cv, max) = (parts.next()?, parts.next()?, parts.next()?);
                    let (mean, cv) = (mean.parse().ok()?, cv.parse().ok()?);
                    Length::Lognormal { mean, cv, max: max.parse().ok()? }
                }
                _ => return None,
            })
        };
        parse().map(Self).ok_or(expected.to_owned())
    }
}

impl SourceArgs {
    /// Returns the requests to send.
    ///
    /// # Errors
    /// If a file cannot be used or a figure cannot be; the message says what is accepted.
    pub(crate) fn workload(&self, seed: Seed) -> Result<Workload> {
        let workload = self.source()?.at(1.0, seed)?;
        if workload.arrivals.is_empty() {
            bail!("there is no request to send");
        }
        Ok(workload)
    }

    /// Returns where requests come from.
    ///
    /// # Errors
    /// As [`SourceArgs::workload`].
    pub(crate) fn source(&self) -> Result<Source> {
        let mut source = match (&self.trace, &self.workload) {
            (Some(path), _) => {
                self.refuse("a trace", &["--gaps", "--cv", "--prompt-tokens", "--output-tokens"])?;
                let (arrivals, classes) = (read_trace_file(path)?, self.classes());
                Source::new(Origin::Trace { arrivals, classes, jitter: None })
            }
            (None, Some(path)) => {
                self.refuse("the workload", OWN)?;
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read the workload {}", path.display()))?;
                let config = toml::from_str(&text)
                    .with_context(|| format!("{} is no workload", path.display()))?;
                Source::new(Origin::Drawn(config))
            }
            (None, None) => Source::new(Origin::Drawn(self.drawn())),
        };
        self.apply(&mut source)?;
        Ok(source)
    }

    /// Returns whether a trace or a workload is named.
    pub(crate) fn names_traffic(&self) -> bool {
        self.trace.is_some() || self.workload.is_some()
    }

    /// Changes the traffic of a scenario as the flags say.
    ///
    /// # Errors
    /// If a figure cannot be, or a flag says what the traffic says itself.
    pub(crate) fn adjust(&self, source: &mut Source) -> Result<()> {
        self.refuse("the scenario", OWN)?;
        self.apply(source)
    }

    /// Refuses those of `flags` that are given, since `owner` says itself what they would.
    fn refuse(&self, owner: &str, flags: &[&str]) -> Result<()> {
        for (flag, given, instead) in [
            ("--rate", self.rate.is_some(), "--rate-scale multiplies its own"),
            ("--gaps", self.gaps.is_some(), "change its arrivals"),
            ("--cv", self.cv.is_some(), "change its arrivals"),
            ("--prompt-tokens", self.prompt_tokens.is_some(), "change its lengths"),
            ("--output-tokens", self.output_tokens.is_some(), "change its lengths"),
            ("--mix", self.mix, "change its classes"),
        ] {
            if given && flags.contains(&flag) {
                bail!("{flag}: {owner} says what its traffic is; {instead}");
            }
        }
        Ok(())
    }

    fn apply(&self, source: &mut Source) -> Result<()> {
        if !(self.rate_scale.is_finite() && self.rate_scale > 0.0) {
            bail!("--rate-scale {}: expected a positive number", self.rate_scale)
        }
        source.rate_scale *= self.rate_scale;
        self.ask(source.classes_mut());
        source.max_requests = self.requests.or(source.max_requests);
        source.max_prompt = source.max_prompt.min(Tokens(self.max_prompt));
        let duration = self.duration.map(|duration| seconds("--duration", duration)).transpose()?;
        let tick = self.jitter.map(|tick| seconds("--jitter", tick)).transpose()?;
        match &mut source.origin {
            Origin::Drawn(_) if tick.is_some() => {
                bail!("--jitter: arrivals are drawn, not on the ticks of a trace")
            }
            Origin::Drawn(config) => config.duration_s = self.duration.unwrap_or(config.duration_s),
            Origin::Trace { jitter, .. } => {
                source.duration = duration.or(source.duration);
                *jitter = tick.or(*jitter);
            }
        }
        Ok(())
    }

    fn drawn(&self) -> WorkloadConfig {
        let gaps = match self.gaps.unwrap_or_default() {
            GapLaw::Poisson => Gaps::Poisson,
            GapLaw::Gamma => Gaps::Gamma { cv: self.cv.unwrap_or(2.0) },
            GapLaw::Even => Gaps::Even,
        };
        let length = |given: &Option<LengthArg>, mean, max| match given {
            Some(LengthArg(length)) => length.clone(),
            None => Length::Lognormal { mean, cv: 0.8, max },
        };
        let rate = Rate::Constant { per_s: self.rate.unwrap_or(5.0) };
        // A number of requests alone is a workload too.
        let duration = self.duration.unwrap_or(if self.requests.is_some() { 1e6 } else { 60.0 });
        WorkloadConfig {
            max_requests: self.requests,
            prompt: length(&self.prompt_tokens, 512.0, 4_096),
            output: length(&self.output_tokens, 128.0, 1_000),
            classes: self.classes(),
            ..WorkloadConfig::new(Arrivals { rate, gaps, bursts: None }, duration)
        }
    }

    fn classes(&self) -> Vec<SloClass> {
        if self.mix {
            // Lengths are the trace's or those asked for.
            let plain = |class| SloClass { prompt: None, output: None, ..class };
            return three_classes().into_iter().map(plain).collect();
        }
        let mut all = [SloClass { name: "all".to_owned(), ..SloClass::default() }];
        self.ask(&mut all);
        all.to_vec()
    }

    /// Gives all classes what the flags say.
    pub(crate) fn ask(&self, classes: &mut [SloClass]) {
        for class in classes {
            class.priority = self.priority.unwrap_or(class.priority);
            class.ttft_ms = self.ttft_slo.or(class.ttft_ms);
            class.tpot_ms = self.tpot_slo.or(class.tpot_ms);
            class.e2e_ms = self.e2e_slo.or(class.e2e_ms);
            class.users = self.users.unwrap_or(class.users);
        }
    }
}

fn seconds(flag: &str, value: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(value)
        .with_context(|| format!("{flag} {value}: expected a number of seconds"))
}

fn priority(name: &str) -> Result<RequestPriority, String> {
    RequestPriority::parse(name).ok_or_else(|| {
        let known = RequestPriority::ALL.map(RequestPriority::name).join(", ");
        format!("unknown priority; known are: {known}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        source: SourceArgs,
    }

    fn workload(line: &str) -> Result<Workload> {
        let line = Line::try_parse_from(std::iter::once("x").chain(line.split_whitespace()))?;
        line.source.workload(Seed(1))
    }

    #[test]
    fn lengths_are_written_in_three_ways() {
        let check = |text: &str, expected| assert_eq!(text.parse(), Ok(LengthArg(expected)));
        check("128", Length::Constant { tokens: 128 });
        check("uniform:5-50", Length::Uniform { min: 5, max: 50 });
        check("lognormal:100,0.5,900", Length::Lognormal { mean: 100.0, cv: 0.5, max: 900 });
        assert!("about 5".parse::<LengthArg>().is_err());
    }

    #[test]
    fn a_number_of_requests_is_enough() {
        let workload = workload("--requests 12 --rate 100").expect("it can be drawn");
        assert_eq!(workload.arrivals.len(), 12);
        assert_eq!(workload.classes.len(), 1);
    }

    #[test]
    fn the_mix_has_classes_with_objectives() {
        let workload = workload("--requests 50 --mix").expect("it can be drawn");
        assert_eq!(workload.classes.len(), 3);
        assert!(workload.classes.iter().all(|class| class.objectives().any()));
    }

    #[test]
    fn figures_that_cannot_be_are_errors() {
        for line in ["--rate -1", "--rate-scale 0", "--requests 0", "--prompt-tokens x"] {
            assert!(workload(line).is_err(), "{line}");
        }
    }

    #[test]
    fn what_the_traffic_says_itself_is_refused() {
        let check = |line: &str, whose: &str| {
            let error = workload(line).expect_err(line).to_string();
            assert!(error.contains(whose), "{line}: {error}");
        };
        check("--workload none.toml --gaps even", "--gaps: the workload says");
        check("--workload none.toml --mix", "--mix: the workload says");
        check("--trace none.csv --prompt-tokens 5", "--prompt-tokens: a trace says");
        check("--requests 5 --jitter 3", "--jitter: arrivals are drawn");
    }
}
