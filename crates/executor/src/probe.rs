//! How is an engine? Asks `/health`, then what it serves and how loaded it is.
//!
//! `/health` alone decides whether it is healthy; vLLM says 200 there even while it drains, so what
//! traffic meets counts too (see [`crate::classify_status`]). An engine without a metrics page, or with
//! another's, is fine: nothing is known of its load then.

use std::time::Duration;

use http::StatusCode;
use sagellm_api::{EngineGauges, MetricsPage, ModelCard, ModelList};
use sagellm_types::Tokens;
use serde::{Deserialize, Serialize};

use crate::{Call, Engine, EngineError, Timeouts};

/// The longest page that is read: some fifty times what vLLM sends.
pub(crate) const LONGEST_PAGE: usize = 4 << 20;

/// The settings of probes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProbeConfig {
    /// The longest that each question of a probe may take, in milliseconds of model time.
    pub timeout_ms: u64,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self { timeout_ms: 5_000 }
    }
}

impl ProbeConfig {
    pub(crate) fn limits(&self) -> Timeouts {
        Timeouts::within(Duration::from_millis(self.timeout_ms))
    }
}

/// A question to an engine.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    limits: Timeouts,
    models: bool,
}

/// What an engine said of itself.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct ProbeReport {
    /// Whether it is ready to serve. If not, nothing else was asked.
    pub healthy: bool,
    /// The models and adapters that it serves, with root, parent and longest context; `None` if that
    /// was not asked or not answered.
    pub models: Option<Vec<ModelCard>>,
    /// The load of all its ranks together.
    pub gauges: Option<EngineGauges>,
    /// The load of each data-parallel rank, by number.
    pub ranks: Vec<(u32, EngineGauges)>,
    /// The size of its KV cache over all ranks: blocks × tokens per block.
    pub kv_tokens: Option<Tokens>,
}

impl Probe {
    /// Returns a probe of health and load.
    pub fn new(config: &ProbeConfig) -> Self {
        Self { limits: config.limits(), models: false }
    }

    /// Also asks for the models: at the start of an engine and on its return.
    pub fn with_models(mut self) -> Self {
        self.models = true;
        self
    }

    /// Asks `engine`.
    ///
    /// # Errors
    /// If `/health` is not answered at all. What goes wrong with the other pages leaves their part of
    /// the report empty.
    pub async fn run(&self, engine: &dyn Engine) -> Result<ProbeReport, EngineError> {
        let health = engine.call(Call::probe("/health", self.limits)).await?;
        let healthy = health.status == StatusCode::OK;
        // Read to its end, so that the connection serves the next question.
        let _ = health.body.collect(LONGEST_PAGE).await?;
        let mut report = ProbeReport { healthy, ..ProbeReport::default() };
        if !healthy {
            return Ok(report);
        }
        if let Some(page) = self.page(engine, "/metrics").await
            && let Some(page) = MetricsPage::parse(&page)
        {
            report.kv_tokens = kv_tokens(&page);
            report.gauges = Some(page.total());
            report.ranks = page.ranks;
        }
        if self.models
            && let Some(page) = self.page(engine, "/v1/models").await
        {
            report.models = ModelList::parse(page.as_bytes()).map(|list| list.data);
        }
        Ok(report)
    }

    /// Returns the text of a page, or `None` if there is no such page.
    async fn page(&self, engine: &dyn Engine, path: &'static str) -> Option<String> {
        let answer = async {
            let reply = engine.call(Call::probe(path, self.limits)).await?;
            let status = reply.status;
            Ok::<_, EngineError>((status, reply.body.collect(LONGEST_PAGE).await?))
        };
        match answer.await {
            Ok((StatusCode::OK, body)) => String::from_utf8(body.into()).ok(),
            Ok((status, _)) => {
                tracing::debug!(path, status = status.as_u16(), "no such page");
                None
            }
            Err(error) => {
                tracing::debug!(path, error = &error as &dyn std::error::Error, "no answer");
                None
            }
        }
    }
}

/// Returns the size of the KV cache over all ranks, as far as they say it.
fn kv_tokens(page: &MetricsPage) -> Option<Tokens> {
    let sizes = page.ranks.iter().filter_map(|(_, rank)| {
        Some(Tokens(rank.block_size?.saturating_mul(rank.num_gpu_blocks?)))
    });
    let total: Tokens = sizes.sum();
    (total > Tokens::ZERO).then_some(total)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::sync::Mutex;

    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;
    use crate::{BoxFuture, CallKind, Reply};

    /// Answers by path and notes what was asked; a path without an answer breaks the connection.
    struct Scripted {
        answers: &'static [(&'static str, u16, &'static str)],
        asked: Mutex<Vec<Cow<'static, str>>>,
    }

    impl Engine for Scripted {
        fn call(&self, call: Call) -> BoxFuture<'_, Result<Reply, EngineError>> {
            assert_eq!(call.kind, CallKind::Probe);
            let answer = self.answers.iter().find(|(path, ..)| *path == call.path);
            self.asked.lock().expect("no test panics while it holds it").push(call.path);
            Box::pin(async move {
                let &(_, status, body) = answer.ok_or(EngineError::Reset("scripted".into()))?;
                let status = StatusCode::from_u16(status).expect("a status");
                let body = Bytes::from_static(body.as_bytes()).into();
                Ok(Reply { status, headers: HeaderMap::new(), body })
            })
        }
    }

    async fn check(
        answers: &'static [(&'static str, u16, &'static str)],
        expected: Option<ProbeReport>,
        asked: &[&str],
    ) {
        let engine = Scripted { answers, asked: Mutex::default() };
        let report = Probe::new(&ProbeConfig::default()).with_models().run(&engine).await;
        assert_eq!(report.ok(), expected);
        assert_eq!(*engine.asked.lock().expect("nobody else holds it"), asked);
    }

    #[tokio::test]
    async fn a_healthy_engine_tells_its_load_size_and_models() {
        let gauges = EngineGauges {
            running: 3,
            block_size: Some(16),
            num_gpu_blocks: Some(100),
            ..EngineGauges::default()
        };
        let expected = ProbeReport {
            healthy: true,
            models: Some(vec![ModelCard::new("m", "")]),
            gauges: Some(gauges),
            ranks: vec![(0, gauges)],
            kv_tokens: Some(Tokens(1600)),
        };
        let page = "vllm:num_requests_running{engine=\"0\"} 3.0\nvllm:cache_config_info{block_size=\"16\",engine=\"0\",num_gpu_blocks=\"100\"} 1.0\n";
        let answers = Vec::leak(vec![
            ("/health", 200, ""),
            ("/metrics", 200, page),
            ("/v1/models", 200, r#"{"data":[{"id":"m"}]}"#),
        ]);
        check(answers, Some(expected), &["/health", "/metrics", "/v1/models"]).await;
    }

    #[tokio::test]
    async fn missing_pages_leave_their_part_empty() {
        let healthy = ProbeReport { healthy: true, ..ProbeReport::default() };
        let asked = ["/health", "/metrics", "/v1/models"];
        check(&[("/health", 200, ""), ("/metrics", 404, "")], Some(healthy.clone()), &asked).await;
        let garbage = &[("/health", 200, ""), ("/metrics", 200, "?"), ("/v1/models", 200, "?")];
        check(garbage, Some(healthy), &asked).await;
    }

    #[tokio::test]
    async fn an_unhealthy_engine_is_asked_nothing_else() {
        check(&[("/health", 503, "")], Some(ProbeReport::default()), &["/health"]).await;
        check(&[], None, &["/health"]).await;
    }
}
