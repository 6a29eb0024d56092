//! The admin API: what stands where and why, and what may be changed while it runs.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use percent_encoding::percent_decode_str;
use sagellm_manager::{
    Config, Considered, Explained, InstanceView, PoolView, PredictionError, RouterConfig, Shell,
    Snapshot, StrategyConfig,
};
use sagellm_monitoring::{Report, Span};
use sagellm_types::{ExecutionInstance, InstanceId};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::answer::{self, Answer};
use crate::error::Refusal;

/// Who may use the admin API on a listener.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    pub(crate) token: Option<String>,
    pub(crate) loopback: bool,
}

impl Guard {
    /// Returns whether a caller may.
    ///
    /// # Errors
    /// A refusal that says what to do.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(token) = &self.token else {
            if FROM_ELSEWHERE.iter().any(|name| headers.contains_key(*name)) {
                return Err(Refusal::forbidden(
                    "the call came through a proxy or from a web page: set admin.token and send it",
                ));
            }
            let advice = "the admin API needs a token where it listens beyond loopback: set admin.token, or admin.listen to a loopback address";
            return if self.loopback { Ok(()) } else { Err(Refusal::forbidden(advice)) };
        };
        let text =
            |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
        let given = text("x-admin-token")
            .or_else(|| text("authorization").and_then(|value| value.strip_prefix("Bearer ")));
        if given.is_some_and(|given| same(given.as_bytes(), token.as_bytes())) {
            Ok(())
        } else {
            Err(Refusal::forbidden(
                "send admin.token as `Authorization: Bearer …` or `X-Admin-Token`",
            ))
        }
    }
}

/// Headers of calls that were not made by somebody on this machine, wherever they arrive: a proxy
/// beside the gateway passes the world on, and a web page speaks with its reader's address.
const FROM_ELSEWHERE: [&str; 5] =
    ["origin", "forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip"];

/// Compares in a time that does not tell how much was right.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |diff, (x, y)| diff | (x ^ y)) == 0
}

/// The paths of the admin API, `*` for a name, and the methods that they take.
const PATHS: [(&str, &str); 12] = [
    ("snapshot", READ),
    ("metrics", READ),
    ("report", READ),
    ("policy", "GET, HEAD, POST"),
    ("strategy", "GET, HEAD, POST"),
    ("router", "GET, HEAD, POST"),
    ("set_policy", "POST"),
    ("instances", "GET, HEAD, POST"),
    ("instances/*", "GET, HEAD, DELETE"),
    ("instances/*/drain", "POST"),
    ("explain", READ),
    ("explain/*", READ),
];
const READ: &str = "GET, HEAD";

/// Answers a call of the admin API; `path` is what follows `/admin/`, as it came.
pub(crate) fn answer(
    shell: &Shell,
    method: &Method,
    path: &str,
    query: &str,
    body: &Bytes,
) -> Result<Answer, Refusal> {
    let decoded: Vec<String> = path
        .split('/')
        .filter(|part| !part.is_empty())
        .map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned())
        .collect();
    let parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
    let read = matches!(*method, Method::GET | Method::HEAD);
    let value = match (read, method, parts.as_slice()) {
        (true, _, ["snapshot"]) => snapshot(&shell.snapshot()),
        (true, _, ["metrics"]) => metrics(&shell.snapshot()),
        (true, _, ["report"]) => json!(Report::from(&shell.snapshot().figures)),
        (true, _, ["policy" | "strategy" | "router"]) => policy(shell),
        (_, &Method::POST, ["set_policy" | "policy" | "strategy" | "router"]) => {
            set_policies(shell, body)?
        }
        (true, _, ["instances"]) => json!({"instances": instances(shell)}),
        (_, &Method::POST, ["instances"]) => return register(shell, body),
        (true, _, ["instances", name]) => instance(shell, name)?,
        (_, &Method::DELETE, ["instances", name]) => remove(shell, name)?,
        (_, &Method::POST, ["instances", name, "drain"]) => drain(shell, name)?,
        (true, _, ["explain"]) => last_decisions(shell, query)?,
        (true, _, ["explain", label]) => explain(shell, label)?,
        _ => {
            let path_as_sent = format!("/admin/{path}");
            return Err(match methods(&parts) {
                Some(allow) => Refusal::method(method, &path_as_sent, allow),
                None => Refusal::not_found(&path_as_sent),
            });
        }
    };
    Ok(answer::json(StatusCode::OK, &value))
}

/// Returns the methods that a path takes, if there is such a path.
fn methods(parts: &[&str]) -> Option<&'static str> {
    let fits = |pattern: &str| {
        let mut pieces = pattern.split('/');
        parts.iter().all(|part| pieces.next().is_some_and(|piece| piece == "*" || piece == *part))
            && pieces.next().is_none()
    };
    PATHS.iter().find(|(pattern, _)| fits(pattern)).map(|(_, allow)| *allow)
}

// ---- strategy and router

fn policy(shell: &Shell) -> Value {
    let (strategy, router) = shell.read(|core, _| core.policies());
    json!({
        "policy": strategy,
        "strategy": strategy,
        "router": router,
        "available_policies": StrategyConfig::NAMES,
        "available_routers": RouterConfig::NAMES,
    })
}

/// What a call may ask for: a strategy, a router or both. Clients add members of their own.
#[derive(Deserialize)]
struct Wanted {
    #[serde(alias = "strategy")]
    policy: Option<Value>,
    router: Option<Value>,
}

const WANTED: &str = r#"the body must be {"policy": "fifo"}, {"policy": {"priority": {"horizon_ms": 5000}}}, {"router": "load_balanced"} or both"#;

/// Changes the strategy, the router or both: all that is asked for or, if a part of it is wrong,
/// nothing.
fn set_policies(shell: &Shell, body: &Bytes) -> Result<Value, Refusal> {
    let refuse = |message: String| Refusal::admin(400, message);
    let Ok(Wanted { policy, router }) = serde_json::from_slice(body) else {
        return Err(refuse(WANTED.to_owned()));
    };
    if policy.is_none() && router.is_none() {
        return Err(refuse(WANTED.to_owned()));
    }
    let policy: Option<StrategyConfig> = policy.map(parsed).transpose()?;
    let router: Option<RouterConfig> = router.map(parsed).transpose()?;
    let mut config = Config::default();
    config.strategy = policy.clone().unwrap_or(config.strategy);
    config.router = router.clone().unwrap_or(config.router);
    // What `serve` would not start with is not taken here either.
    config.validate().map_err(|error| refuse(error.to_string()))?;
    let [before, (strategy, router)] = shell.set_policies(policy.as_ref(), router.as_ref());
    Ok(json!({
        "policy": strategy,
        "router": router,
        "previous": before.0,
        "previous_router": before.1,
    }))
}

fn parsed<T: DeserializeOwned>(value: Value) -> Result<T, Refusal> {
    serde_json::from_value(value).map_err(|error| Refusal::admin(400, error.to_string()))
}

// ---- instances

fn instances(shell: &Shell) -> Vec<Value> {
    shell.read(|core, _| core.instances()).iter().map(instance_view).collect()
}

fn instance(shell: &Shell, name: &str) -> Result<Value, Refusal> {
    let views = shell.read(|core, _| core.instances());
    let view = views.iter().find(|view| view.spec.instance_id == name);
    view.map(instance_view).ok_or_else(|| unknown(name))
}

fn register(shell: &Shell, body: &Bytes) -> Result<Answer, Refusal> {
    let spec: ExecutionInstance = serde_json::from_slice(body)
        .map_err(|error| Refusal::admin(400, format!("not an instance: {error}")))?;
    let name = spec.instance_id.clone();
    match shell.register(spec) {
        Ok(_) => Ok(answer::json(StatusCode::CREATED, &instance(shell, &name)?)),
        Err(error) => {
            let taken = shell.read(|core, _| core.fleet().find(&name)).is_some();
            Err(Refusal::admin(if taken { 409 } else { 400 }, error.to_string()))
        }
    }
}

fn find(shell: &Shell, name: &str) -> Result<InstanceId, Refusal> {
    shell.read(|core, _| core.fleet().find(name)).ok_or_else(|| unknown(name))
}

fn unknown(name: &str) -> Refusal {
    Refusal::admin(404, format!("no instance `{name}` is registered"))
}

fn remove(shell: &Shell, name: &str) -> Result<Value, Refusal> {
    let id = find(shell, name)?;
    shell.remove(id);
    Ok(json!({"removed": name}))
}

fn drain(shell: &Shell, name: &str) -> Result<Value, Refusal> {
    let id = find(shell, name)?;
    shell.drain(id);
    instance(shell, name)
}

// ---- views

fn millis(duration: std::time::Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn instance_view(view: &InstanceView) -> Value {
    let mut value = json!(view.spec);
    value["state"] = json!(view.state);
    value["incarnation"] = json!(view.incarnation);
    value["active_requests"] =
        json!(view.load.sequences - view.foreign_sequences.min(view.load.sequences));
    value["foreign_requests"] = json!(view.foreign_sequences);
    value["window"] = json!(view.load.window);
    value["current_load"] = json!(view.load.fraction());
    value["reserved_kv_tokens"] = json!(view.load.tokens);
    value["engine_running"] = json!(view.engine_running);
    value["engine_waiting"] = json!(view.engine_waiting);
    value["consecutive_failures"] = json!(view.failures);
    value["last_probe_ms"] = json!(view.last_probe.map(|at| at.as_nanos() as f64 * 1e-6));
    value["gpu_utilization"] = json!(view.gpu.utilization);
    value["gpu_memory_used_gb"] = json!(view.gpu.memory_used_gb);
    value["models"] = json!(view.models);
    value
}

/// Relative errors of forecasts: positive bias means that too much was forecast.
fn prediction_error(error: &PredictionError) -> Value {
    let known = error.count > 0;
    json!({
        "count": error.count,
        "bias": known.then_some(error.bias),
        "absolute": known.then_some(error.absolute),
    })
}

fn pool_view(pool: &PoolView) -> Value {
    json!({
        "model": pool.model,
        "request_type": pool.kind,
        "phase": pool.phase,
        "waiting": pool.waiting,
        "instances": pool.instances,
        "open": pool.open,
    })
}

fn snapshot(snapshot: &Snapshot) -> Value {
    let counts = &snapshot.counts;
    json!({
        "model_s": snapshot.at.as_secs_f64(),
        "strategy": snapshot.strategy,
        "active_strategy": snapshot.active_strategy,
        "router": snapshot.router,
        "waiting": snapshot.waiting,
        "running": snapshot.running,
        "requests": {
            "submitted": counts.submitted,
            "finished": counts.finished,
            "failed": counts.failed,
            "cancelled": counts.cancelled,
            "expired": counts.expired,
            "rejected": counts.refused,
            "retries": counts.retries,
            "stale_events": counts.stale,
        },
        "pressure": snapshot.pressure,
        "forecast_error": {
            "prompt_tokens": prediction_error(&snapshot.prompt_error),
            "output_tokens": prediction_error(&snapshot.output_error),
        },
        "instances": snapshot.instances.iter().map(instance_view).collect::<Vec<_>>(),
        "pools": snapshot.pools.iter().map(pool_view).collect::<Vec<_>>(),
        "report": Report::from(&snapshot.figures),
    })
}

/// The three records, as benchmark clients read them.
fn metrics(snapshot: &Snapshot) -> Value {
    let figures = &snapshot.figures;
    let mut value = json!(figures.performance(Span::Start));
    value["policy"] = json!(snapshot.strategy);
    value["scheduling"] = json!(figures.scheduling(Span::Start));
    value["instances"] = json!(figures.instance_metrics(Span::Start));
    value
}

// ---- explanations

fn explain(shell: &Shell, label: &str) -> Result<Value, Refusal> {
    let found = shell.read(|core, _| core.explain(label));
    if found.is_empty() {
        let message = format!(
            "no decision on a request `{label}` is kept (explain.keep): it waits, was refused, or is long gone"
        );
        return Err(Refusal::admin(404, message));
    }
    let decisions: Vec<Value> = found.iter().map(explanation).collect();
    Ok(json!({"request_id": label, "decisions": decisions}))
}

fn last_decisions(shell: &Shell, query: &str) -> Result<Value, Refusal> {
    /// More than this is an export, not a look.
    const MOST: usize = 1_000;
    let count = match query.strip_prefix("last=") {
        None if query.is_empty() => 20,
        Some(n) if n.parse::<usize>().is_ok_and(|n| (1..=MOST).contains(&n)) => {
            n.parse().expect("just parsed")
        }
        _ => return Err(Refusal::admin(400, format!("accepted is ?last=N, N from 1 to {MOST}"))),
    };
    let found = shell.read(|core, _| core.last_decisions(count));
    Ok(json!({"decisions": found.iter().map(explanation).collect::<Vec<_>>()}))
}

fn explanation(explained: &Explained) -> Value {
    let Explained { decision, model, instances } = explained;
    let considered = |(c, name): (&Considered, &Option<String>)| {
        json!({
            "instance": name,
            "load": c.load,
            "predicted_ttft_ms": c.estimate.map(|e| millis(e.ttft)),
            "predicted_tpot_ms": c.estimate.map(|e| millis(e.tpot)),
            "predicted_cost_usd": c.estimate.map(|e| e.cost),
            "spread": c.estimate.map(|e| e.spread),
        })
    };
    let mut all = std::iter::once(&decision.winner).chain(&decision.others).zip(instances);
    let winner = all.next().map(considered);
    json!({
        "request_id": decision.label.as_deref(),
        "model": model,
        "priority": decision.priority,
        "attempt": decision.attempt,
        "strategy": decision.strategy,
        "router": decision.router,
        "decided_s": decision.decided.as_secs_f64(),
        "waited_ms": millis(decision.decided.since(decision.arrival)),
        "left_waiting": decision.waiting,
        "forecast": {
            "prompt_tokens": decision.forecast.prompt,
            "output_tokens": decision.forecast.output,
            "ttft_ms": millis(decision.forecast.ttft),
            "service_ms": millis(decision.forecast.service),
        },
        "winner": winner,
        "others": all.map(considered).collect::<Vec<_>>(),
        "excluded": {
            "not_ready_or_full": decision.excluded.closed,
            "no_room_for_it_or_failed_there": decision.excluded.unfit,
            "removed_by_strategy": decision.excluded.narrowed,
            "not_looked_at": decision.excluded.unseen,
        },
        "ended": decision.ending,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn allowed(guard: &Guard, header: Option<(&'static str, &'static str)>) -> bool {
        let headers = header
            .map(|(name, value)| {
                (http::HeaderName::from_static(name), HeaderValue::from_static(value))
            })
            .into_iter()
            .collect();
        guard.check(&headers).is_ok()
    }

    #[test]
    fn loopback_needs_no_token_and_the_world_does() {
        let open = Guard { token: None, loopback: true };
        let world = Guard { token: None, loopback: false };
        assert!(allowed(&open, None) && !allowed(&world, None));
        assert!(!allowed(&open, Some(("origin", "https://elsewhere.example"))));
        assert!(!allowed(&open, Some(("x-forwarded-for", "203.0.113.9"))));
        let guarded = Guard { token: Some("secret".into()), loopback: true };
        assert!(!allowed(&guarded, None) && !allowed(&guarded, Some(("x-admin-token", "wrong!"))));
        assert!(allowed(&guarded, Some(("x-admin-token", "secret"))));
        assert!(allowed(&guarded, Some(("authorization", "Bearer secret"))));
    }
}
