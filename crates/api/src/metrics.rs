//! The gauges of vLLM's `/metrics` page that say how loaded an engine is.
//!
//! Reads Prometheus' text format as far as vLLM uses it. Samples are told apart by the label `engine`,
//! which is the data-parallel rank; a page without it is of rank 0. Both vLLM's present names and the
//! one that its versions before 1 used for the KV cache are known.

/// How loaded an engine, or one of its ranks, says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct EngineGauges {
    /// Requests in the running batch.
    pub running: u64,
    /// Requests that wait inside the engine.
    pub waiting: u64,
    /// Share of the KV cache in use, 0 to 1; of several ranks, their mean.
    pub kv_usage: Option<f64>,
    /// Tokens per block of the KV cache.
    pub block_size: Option<u64>,
    /// Blocks of the KV cache.
    pub num_gpu_blocks: Option<u64>,
    /// Prompt tokens looked up in the prefix cache since the start.
    pub prefix_queries: Option<u64>,
    /// Of those, tokens that were found.
    pub prefix_hits: Option<u64>,
}

/// What a metrics page says, per data-parallel rank.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct MetricsPage {
    /// Each rank's number and gauges, in the order of their numbers.
    pub ranks: Vec<(u32, EngineGauges)>,
}

impl MetricsPage {
    /// Reads a page; `None` if nothing on it says how loaded an engine is.
    pub fn parse(page: &str) -> Option<Self> {
        let mut found = Self::default();
        for line in page.lines() {
            // A page has hundreds of lines; what is not vLLM's is dropped at once.
            if let Some(line) = line.strip_prefix("vllm:") {
                found.read(line);
            }
        }
        (!found.ranks.is_empty()).then_some(found)
    }

    /// Returns the gauges of all ranks together.
    pub fn total(&self) -> EngineGauges {
        let mut total = EngineGauges::default();
        let mut usages = 0.0;
        for (_, rank) in &self.ranks {
            total.running += rank.running;
            total.waiting += rank.waiting;
            total.block_size = total.block_size.or(rank.block_size);
            add(&mut total.num_gpu_blocks, rank.num_gpu_blocks);
            add(&mut total.prefix_queries, rank.prefix_queries);
            add(&mut total.prefix_hits, rank.prefix_hits);
            if let Some(usage) = rank.kv_usage {
                usages += 1.0;
                total.kv_usage = Some(total.kv_usage.unwrap_or(0.0) + usage);
            }
        }
        total.kv_usage = total.kv_usage.map(|sum| sum / usages);
        total
    }

    /// Reads a sample, from behind `vllm:`.
    fn read(&mut self, line: &str) {
        let end = line.find(['{', ' ']).unwrap_or(line.len());
        let name = &line[..end];
        if !matches!(
            name,
            "num_requests_running"
                | "num_requests_waiting"
                | "kv_cache_usage_perc"
                | "gpu_cache_usage_perc"
                | "cache_config_info"
                | "prefix_cache_queries_total"
                | "prefix_cache_hits_total"
        ) {
            return;
        }
        let Some((labels, value)) = split_sample(&line[end..]) else {
            return;
        };
        let mut rank = 0;
        let (mut block_size, mut num_gpu_blocks) = (None, None);
        for (label, value) in Labels(labels) {
            match label {
                "engine" => rank = value.parse().unwrap_or(0),
                "block_size" => block_size = value.parse().ok(),
                "num_gpu_blocks" => num_gpu_blocks = value.parse().ok(),
                _ => {}
            }
        }
        let gauges = self.rank(rank);
        // Ranks may serve several models: what is counted is summed.
        match name {
            "num_requests_running" => gauges.running += value as u64,
            "num_requests_waiting" => gauges.waiting += value as u64,
            "prefix_cache_queries_total" => add(&mut gauges.prefix_queries, Some(value as u64)),
            "prefix_cache_hits_total" => add(&mut gauges.prefix_hits, Some(value as u64)),
            "cache_config_info" => {
                gauges.block_size = block_size.filter(|&size| size > 0);
                gauges.num_gpu_blocks = num_gpu_blocks.filter(|&blocks| blocks > 0);
            }
            _ => gauges.kv_usage = Some(value),
        }
    }

    fn rank(&mut self, rank: u32) -> &mut EngineGauges {
        let at = match self.ranks.binary_search_by_key(&rank, |(number, _)| *number) {
            Ok(at) => at,
            Err(at) => {
                self.ranks.insert(at, (rank, EngineGauges::default()));
                at
            }
        };
        &mut self.ranks[at].1
    }
}

fn add(total: &mut Option<u64>, part: Option<u64>) {
    if let Some(part) = part {
        *total = Some(total.unwrap_or(0).saturating_add(part));
    }
}

/// Splits what follows a metric's name into its labels and its value; a value that is not finite
/// or negative is no sample.
pub(crate) fn split_sample(rest: &str) -> Option<(&str, f64)> {
    let (labels, value) = match rest.strip_prefix('{') {
        Some(rest) => rest.rsplit_once('}')?,
        None => ("", rest),
    };
    let value: f64 = value.split_ascii_whitespace().next()?.parse().ok()?;
    (value.is_finite() && value >= 0.0).then_some((labels, value))
}

/// The pairs of `a="x",b="y"`; values stay escaped, as none that is read here has an escape.
pub(crate) struct Labels<'a>(pub(crate) &'a str);

impl<'a> Iterator for Labels<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, rest) = self.0.split_once("=\"")?;
        let mut escaped = false;
        let end = rest.bytes().position(|byte| {
            let closes = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            closes
        })?;
        self.0 = rest[end + 1..].trim_start_matches(',');
        Some((name.trim(), &rest[..end]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="1",model_name="a,b=\"c\"}"} 3.0
vllm:num_requests_running{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 77.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.25
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 8571.0
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 5952.0
vllm:cache_config_info{block_size="32",engine="0",num_gpu_blocks="1000"} 1.0
vllm:cache_config_info{block_size="32",engine="1",num_gpu_blocks="None"} 1.0
python_gc_objects_collected_total{generation="0"} 1.0
"#;

    #[test]
    fn each_rank_has_its_own_gauges() {
        let page = MetricsPage::parse(PAGE).expect("gauges");
        let [(0, first), (1, second)] = page.ranks[..] else { panic!("{page:?}") };
        assert_eq!((first.running, first.waiting, first.kv_usage), (2, 1, Some(0.5)));
        assert_eq!((first.prefix_queries, first.prefix_hits), (Some(8571), Some(5952)));
        assert_eq!((first.block_size, first.num_gpu_blocks), (Some(32), Some(1000)));
        assert_eq!((second.running, second.num_gpu_blocks), (3, None));
        let total = page.total();
        assert_eq!((total.running, total.waiting, total.kv_usage), (5, 1, Some(0.375)));
        assert_eq!(total.num_gpu_blocks, Some(1000));
    }

    #[test]
    fn old_names_and_bare_samples_are_of_rank_zero() {
        let page = "vllm:gpu_cache_usage_perc{model_name=\"m\"} 0.5\nvllm:num_requests_running 4";
        let page = MetricsPage::parse(page).expect("gauges");
        let expected = EngineGauges { running: 4, kv_usage: Some(0.5), ..EngineGauges::default() };
        assert_eq!(page.ranks, [(0, expected)]);
    }

    #[test]
    fn a_page_without_vllm_says_nothing() {
        for page in ["", "<html>", "vllm:num_requests_running{", "vllm:num_requests_running NaN"] {
            assert_eq!(MetricsPage::parse(page), None, "{page}");
        }
    }
}
