//! The command lines of engines.

use anyhow::{Result, bail};
use sagellm_parallelism::Plan;
use sagellm_perf::Layout;

use super::place::{LOOPBACK, Seat, Seated};

/// What all engines of a plan have in common.
#[derive(Clone, Debug)]
pub(super) struct Engines<'a> {
    pub(super) plan: &'a Plan,
    pub(super) layout: Layout,
    /// What engines load: a repository or a folder.
    pub(super) weights: String,
    /// The name that clients ask for.
    pub(super) served: String,
    pub(super) quantization: Option<&'static str>,
    pub(super) max_model_len: u64,
    /// Whether there are engines on GPUs of other types.
    pub(super) mixed: bool,
    /// Further words.
    pub(super) extra: Vec<String>,
}

/// The share of a GPU's memory that the planner gives to an engine.
const MEMORY: &str = "0.9";
/// The port on which ranks of data parallelism on other machines find the first.
pub(super) const RANKS_PORT: u16 = 13_345;

impl Engines<'_> {
    /// Returns the words after `vllm` of the part of an instance that runs on its machine number
    /// `part`; the first part, on `head`, answers requests on `port`.
    ///
    /// # Errors
    /// If vLLM cannot be started so.
    pub(super) fn words(
        &self,
        seats: &[Seat],
        part: usize,
        head: &str,
        port: u16,
    ) -> Result<Vec<String>> {
        let Layout { tensor, pipeline, data, expert } = self.layout;
        let mut words: Vec<String> = vec!["serve".to_owned(), self.weights.clone()];
        let mut add = |flag: &str, value: String| {
            words.push(flag.to_owned());
            words.extend((!value.is_empty()).then_some(value));
        };
        add("--served-model-name", self.served.clone());
        // On one machine nobody else has to reach the engines.
        add("--host", if head == LOOPBACK { LOOPBACK } else { "0.0.0.0" }.to_owned());
        add("--port", port.to_string());
        for (flag, size) in [
            ("--tensor-parallel-size", tensor),
            ("--pipeline-parallel-size", pipeline),
            ("--data-parallel-size", data),
        ] {
            if size > 1 {
                add(flag, size.to_string());
            }
        }
        if expert {
            add("--enable-expert-parallel", String::new());
        }
        if let Some(quantization) = self.quantization {
            add("--quantization", quantization.to_owned());
        }
        add("--max-model-len", self.max_model_len.to_string());
        add("--max-num-seqs", self.plan.requests.div_ceil(data.max(1)).to_string());
        add("--max-num-batched-tokens", self.plan.max_num_batched_tokens.to_string());
        add("--gpu-memory-utilization", MEMORY.to_owned());
        if let Some(numa) = &seats[part].numa {
            add("--numa-bind", String::new());
            words.push("--numa-bind-nodes".to_owned());
            words.extend(numa.iter().map(u32::to_string));
        }
        if seats.len() > 1 {
            words.extend(self.apart(seats, part, head)?);
        }
        words.extend(self.extra.iter().cloned());
        Ok(words)
    }

    /// Returns the flags of an instance over several machines.
    fn apart(&self, seats: &[Seat], part: usize, head: &str) -> Result<Vec<String>> {
        let of_rank = self.layout.tensor * self.layout.pipeline;
        let here = seats[part].gpus.len() as u32;
        let mut words: Vec<String> = Vec::new();
        if self.layout.data == 1 {
            let (count, rank) = (seats.len().to_string(), part.to_string());
            words.extend(["--nnodes", &count, "--node-rank", &rank].map(str::to_owned));
            words.extend(["--master-addr", head].map(str::to_owned));
        } else if here.is_multiple_of(of_rank) {
            let local = here / of_rank;
            words.extend(["--data-parallel-size-local".to_owned(), local.to_string()]);
            words.extend(["--data-parallel-address", head].map(str::to_owned));
            words.extend(["--data-parallel-rpc-port".to_owned(), RANKS_PORT.to_string()]);
            let start = part as u32 * local;
            if part > 0 {
                words.extend(["--data-parallel-start-rank".to_owned(), start.to_string()]);
            }
        } else {
            bail!(
                "{}: a rank of {of_rank} GPUs lies over several machines, and there are {} ranks: vLLM \
                 cannot be started so without Ray",
                self.layout,
                self.layout.data
            );
        }
        words.extend((part > 0).then(|| "--headless".to_owned()));
        Ok(words)
    }
}

/// Returns the variables of a part of an instance.
pub(super) fn environment(seat: &Seat) -> [(&'static str, String); 2] {
    let gpus: Vec<String> = seat.gpus.iter().map(u32::to_string).collect();
    // As `nvidia-smi` counts them, and not the fastest first.
    [("CUDA_DEVICE_ORDER", "PCI_BUS_ID".to_owned()), ("CUDA_VISIBLE_DEVICES", gpus.join(","))]
}

/// Returns a word as a shell takes it.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Returns the script that starts a part of an instance.
pub(super) fn script(seated: &Seated, part: usize, words: &[String]) -> String {
    let seat = &seated.seats[part];
    let set = environment(seat).map(|(name, value)| format!("{name}={value}"));
    let mut lines =
        vec![format!("exec env {} vllm {} {}", set.join(" "), words[0], quoted(&words[1]))];
    for word in &words[2..] {
        match word.starts_with("--") {
            true => lines.push(format!("  {}", quoted(word))),
            false => {
                let last = lines.last_mut().expect("there is a first line");
                *last += &format!(" {}", quoted(word));
            }
        }
    }
    format!("#!/bin/sh\n# {} on {}\n{} \\\n  \"$@\"\n", seated.name, seat.host, lines.join(" \\\n"))
}
