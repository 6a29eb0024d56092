//! `sagellm status`: a running gateway at a glance, from its admin API.

use std::fmt::Write as _;
use std::io::{IsTerminal, stdout};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use sagellm_monitoring::Report;
use serde::Deserialize;

use crate::output;
use crate::settings::Environment;

/// Watch a running gateway: queue, engines, latencies.
#[derive(Args, Clone, Debug)]
pub(crate) struct StatusArgs {
    /// The gateway's admin address [env: SAGELLM_URL] [default: http://127.0.0.1:8080]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The admin token, where the gateway wants one [env: SAGELLM_TOKEN]
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Show it once and end
    #[arg(long)]
    once: bool,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    interval: f64,
}

/// The part of `/admin/snapshot` that is shown.
#[derive(Debug, Deserialize)]
struct View {
    model_s: f64,
    strategy: String,
    active_strategy: String,
    router: String,
    waiting: u64,
    running: u64,
    requests: Requests,
    instances: Vec<Instance>,
    report: Report,
}

#[derive(Debug, Deserialize)]
struct Requests {
    submitted: u64,
    finished: u64,
    failed: u64,
    cancelled: u64,
    expired: u64,
    rejected: u64,
    retries: u64,
}

#[derive(Debug, Deserialize)]
struct Instance {
    instance_id: String,
    state: String,
    active_requests: u64,
    window: u64,
    current_load: f64,
    engine_waiting: Option<u64>,
    gpu_utilization: Option<f64>,
    models: Vec<String>,
}

/// The shortest time between two looks.
const SHORTEST: Duration = Duration::from_millis(100);

/// Shows the gateway until interrupted, or once.
///
/// # Errors
/// If the gateway cannot be asked; while watching, only if the first look fails.
pub(crate) async fn run(args: StatusArgs, environment: &Environment) -> Result<()> {
    let default = "http://127.0.0.1:8080";
    let url = args.url.as_deref().or(environment.get("SAGELLM_URL")).unwrap_or(default);
    let url = format!("{}/admin/snapshot", url.trim_end_matches('/'));
    let token = args.token.as_deref().or(environment.get("SAGELLM_TOKEN"));
    let pause = Duration::try_from_secs_f64(args.interval).context("--interval is no time")?;
    ensure!(pause >= SHORTEST, "--interval {}: expected at least {SHORTEST:?}", args.interval);
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?;
    let mut first = true;
    loop {
        let text = match look(&client, &url, token).await {
            Ok(view) => show(&view),
            Err(error) if first => return Err(error),
            Err(error) => format!("{error:#}\n"),
        };
        first = false;
        // A terminal is drawn anew, from its upper left corner.
        let clear = if !args.once && stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
        output::print(&format!("{clear}{text}"))?;
        if args.once {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

async fn look(client: &reqwest::Client, url: &str, token: Option<&str>) -> Result<View> {
    let mut request = client.get(url);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let answer = request.send().await.with_context(|| format!("cannot ask {url}"))?;
    let status = answer.status();
    let body = answer.bytes().await.with_context(|| format!("cannot read {url}"))?;
    if !status.is_success() {
        bail!("{url} answers {status}: {}", String::from_utf8_lossy(&body));
    }
    serde_json::from_slice(&body).with_context(|| format!("{url} is no snapshot of a gateway"))
}

fn show(view: &View) -> String {
    let mut out = String::new();
    let active = if view.active_strategy == view.strategy {
        String::new()
    } else {
        format!(" (now {})", view.active_strategy)
    };
    let _ = writeln!(
        out,
        "up {:.0} s   strategy {}{active}   router {}   {} waiting   {} running",
        view.model_s, view.strategy, view.router, view.waiting, view.running
    );
    let r = &view.requests;
    let _ = writeln!(
        out,
        "{} submitted   {} finished   {} failed   {} cancelled   {} expired   {} rejected   {} retries",
        r.submitted, r.finished, r.failed, r.cancelled, r.expired, r.rejected, r.retries
    );
    let ms = |figure: Option<f64>| figure.map_or("–".to_owned(), |ms| format!("{ms:.0}"));
    let report = &view.report;
    let share = report.slo.attainment.map_or("–".to_owned(), |s| format!("{:.1} %", s * 100.0));
    let _ = writeln!(
        out,
        "p95 ms: ttft {}   tpot {}   e2e {}   queue wait {}   on time {share}\n",
        ms(report.ttft_ms.p95),
        ms(report.tpot_ms.p95),
        ms(report.e2e_ms.p95),
        ms(report.queue_wait_ms.p95),
    );
    let width = view.instances.iter().map(|i| i.instance_id.chars().count()).max();
    let width = width.unwrap_or(0).max("instance".len());
    let _ = writeln!(
        out,
        "{:width$}  {:8}  {:>7}  {:>6}  {:>6}  {:>9}  {:>5}  models",
        "instance", "state", "running", "window", "load", "its queue", "gpu"
    );
    for instance in &view.instances {
        let _ = writeln!(
            out,
            "{:width$}  {:8}  {:>7}  {:>6}  {:>5.0}%  {:>9}  {:>5}  {}",
            instance.instance_id,
            instance.state,
            instance.active_requests,
            instance.window,
            instance.current_load * 100.0,
            instance.engine_waiting.map_or("–".to_owned(), |n| n.to_string()),
            instance.gpu_utilization.map_or("–".to_owned(), |u| format!("{:.0}%", u * 100.0)),
            instance.models.join(", "),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_shown_in_lines() {
        let report = serde_json::to_value(Report::default()).expect("plain values");
        let json = serde_json::json!({
            "model_s": 12.3, "strategy": "adaptive", "active_strategy": "fifo",
            "router": "load_balanced", "waiting": 3, "running": 4,
            "requests": {"submitted": 9, "finished": 2, "failed": 0, "cancelled": 0, "expired": 0,
                         "rejected": 0, "retries": 1, "stale_events": 0},
            "instances": [{"instance_id": "vllm-1", "state": "ready", "active_requests": 4,
                           "window": 8, "current_load": 0.5, "engine_waiting": null,
                           "gpu_utilization": null, "models": ["llama-7b"], "port": 1},
                          {"instance_id": "vllm-2", "state": "ready", "active_requests": 0,
                           "window": 8, "current_load": 0.0, "engine_waiting": 2,
                           "gpu_utilization": 0.87, "models": [], "port": 2}],
            "report": report,
        });
        let view: View = serde_json::from_value(json).expect("what a gateway sends");
        let text = show(&view);
        assert!(text.contains("strategy adaptive (now fifo)"), "{text}");
        assert!(text.contains("3 waiting   4 running"), "{text}");
        assert!(text.contains("vllm-1    ready"), "{text}");
        assert!(text.contains("50%          –      –  llama-7b"), "{text}");
        assert!(text.contains(" 0%          2    87%"), "{text}");
    }
}
