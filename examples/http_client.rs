//! Applications that speak HTTP: engines on one machine, on several, and mixed.
//!
//! `cargo run --example http_client` starts fake engines and a gateway for each of the three
//! fleets. `cargo run --example http_client -- http://127.0.0.1:8080` asks a `sagellm serve` that
//! runs already. Any OpenAI client would do instead of the requests here.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use sagellm_examples::fake_engine;
use sagellm_gateway::{Gateway, GatewayConfig};
use sagellm_manager::{Config, RouterConfig};
use sagellm_types::ExecutionInstance;
use sagellm_types::clock::Clock;
use serde_json::{Value, json};

/// Requests per fleet.
const REQUESTS: usize = 6;

/// An engine: its name, the machine and the rack where it stands, and its GPUs.
type Place = (&'static str, &'static str, &'static str, u32);

const ONE_MACHINE: [Place; 3] = [
    ("vllm-1", "gpu-a", "rack-1", 1),
    ("vllm-2", "gpu-a", "rack-1", 1),
    ("vllm-3", "gpu-a", "rack-1", 2),
];
const SEVERAL: [Place; 3] = [
    ("vllm-a", "gpu-a", "rack-1", 4),
    ("vllm-b", "gpu-b", "rack-1", 4),
    ("vllm-c", "gpu-c", "rack-2", 4),
];
const MIXED: [Place; 4] = [
    ("local-1", "gpu-a", "rack-1", 1),
    ("local-2", "gpu-a", "rack-1", 1),
    ("remote-1", "gpu-b", "rack-1", 2),
    ("remote-2", "gpu-c", "rack-2", 4),
];

#[tokio::main]
async fn main() -> Result<()> {
    if let Some(url) = std::env::args().nth(1) {
        return ask(url.trim_end_matches('/'), None).await;
    }
    for (name, places) in
        [("one machine", &ONE_MACHINE[..]), ("several machines", &SEVERAL), ("mixed", &MIXED)]
    {
        println!("== {name}");
        for (instance, answered) in fleet(places).await.with_context(|| name.to_owned())? {
            println!("{instance:9} answered {answered}");
        }
    }
    Ok(())
}

/// Serves one fleet, sends it requests, and returns how many each engine answered.
async fn fleet(places: &[Place]) -> Result<Vec<(String, u64)>> {
    // Larger engines get more of the traffic.
    let control_plane = Config { router: RouterConfig::WeightedRoundRobin, ..Config::default() };
    let config =
        GatewayConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..Default::default() };
    let gateway = Gateway::bind(&config, &control_plane, Vec::new(), Clock::real()).await?;
    let url = format!("http://{}", gateway.local_addr());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(gateway.serve(async {
        let _ = stopped.await;
    }));

    let client = reqwest::Client::new();
    let mut engines = Vec::new();
    for (name, machine, rack, gpus) in places {
        let (engine, instance) = fake_engine(name, "llama-7b").await?;
        engines.push(engine);
        // As an operator registers an engine that has just started.
        let instance = ExecutionInstance {
            machine_id: Some((*machine).to_owned()),
            rack_id: Some((*rack).to_owned()),
            gpu_count: *gpus,
            tensor_parallel_size: *gpus,
            weight: f64::from(*gpus),
            ..instance
        };
        let body = serde_json::to_vec(&instance)?;
        let answer = client.post(format!("{url}/admin/instances")).body(body).send().await?;
        ensure!(answer.status() == 201, "{}: {}", answer.status(), answer.text().await?);
    }
    wait_ready(&client, &url, places.len()).await?;
    ask(&url, Some("llama-7b")).await?;
    let report = get(&client, &format!("{url}/admin/report")).await?;
    let answered = |instance: &Value| {
        Some((instance["id"].as_str()?.to_owned(), instance["requests"].as_u64()?))
    };
    let answered = report["instances"].as_array().into_iter().flatten().filter_map(answered);
    drop(client);
    let _ = stop.send(());
    serving.await??;
    Ok(answered.collect())
}

/// Sends chat requests, streamed and whole, as an application would.
async fn ask(url: &str, model: Option<&str>) -> Result<()> {
    let client = reqwest::Client::new();
    let models = get(&client, &format!("{url}/v1/models")).await?;
    let model = model.or(models["data"][0]["id"].as_str()).context("no model is served")?;
    for i in 0..REQUESTS {
        let stream = i % 2 == 0;
        let body = json!({
            "model": model,
            "messages": [{"role": "user", "content": "Explain quantum computing in simple terms."}],
            "max_tokens": 12,
            "stream": stream,
        });
        let answer = client
            .post(format!("{url}/v1/chat/completions"))
            .header("content-type", "application/json")
            .header("x-user-id", format!("user-{}", i % 3))
            .header("x-request-priority", if i == 0 { "high" } else { "normal" })
            .body(body.to_string())
            .send()
            .await?;
        ensure!(answer.status() == 200, "{}: {}", answer.status(), answer.text().await?);
        let text = answer.text().await?;
        if stream {
            println!("request {i}: {} events", text.matches("data: ").count());
        } else {
            let answer: Value = serde_json::from_str(&text)?;
            println!("request {i}: {}", answer["choices"][0]["message"]["content"]);
        }
    }
    Ok(())
}

async fn get(client: &reqwest::Client, url: &str) -> Result<Value> {
    let answer = client.get(url).send().await?.error_for_status()?;
    Ok(serde_json::from_slice(&answer.bytes().await?)?)
}

/// Waits until so many engines have answered their first probe.
async fn wait_ready(client: &reqwest::Client, url: &str, count: usize) -> Result<()> {
    for _ in 0..200 {
        let snapshot = get(client, &format!("{url}/admin/snapshot")).await?;
        let instances = snapshot["instances"].as_array().context("instances are listed")?;
        if instances.iter().filter(|instance| instance["state"] == "ready").count() == count {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    anyhow::bail!("the engines do not get ready")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_larger_engine_of_a_machine_answers_more() {
        let answered = fleet(&ONE_MACHINE).await.expect("all is well");
        let counts: Vec<u64> = answered.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts.iter().sum::<u64>(), REQUESTS as u64, "{answered:?}");
        assert!(counts[2] > counts[0], "{answered:?}");
    }

    #[tokio::test]
    async fn engines_of_several_machines_answer_together() {
        for places in [&SEVERAL[..], &MIXED] {
            let answered = fleet(places).await.expect("all is well");
            assert_eq!(answered.len(), places.len());
            let sum: u64 = answered.iter().map(|(_, count)| count).sum();
            assert_eq!(sum, REQUESTS as u64, "{answered:?}");
        }
    }
}
