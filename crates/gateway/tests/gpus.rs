//! GPU utilisation from a DCGM exporter to every page that shows it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Client;
use sagellm_engine_model::server::{ServerConfig, ServerHandle, serve};
use sagellm_gateway::{Gateway, GatewayConfig};
use sagellm_manager::{Config, Shell};
use sagellm_types::clock::Clock;
use sagellm_types::{EngineState, ExecutionInstance, GpuSource};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const PAGE: &str = "# TYPE DCGM_FI_DEV_GPU_UTIL gauge\n\
    DCGM_FI_DEV_GPU_UTIL{gpu=\"0\",UUID=\"GPU-a\",pci_bus_id=\"00000000:3B:00.0\"} 12\n\
    DCGM_FI_DEV_GPU_UTIL{gpu=\"1\",UUID=\"GPU-b\",pci_bus_id=\"00000000:5E:00.0\"} 50\n\
    DCGM_FI_DEV_FB_USED{gpu=\"1\",UUID=\"GPU-b\",pci_bus_id=\"00000000:5E:00.0\"} 2048\n";

/// What an exporter answers; `None` accepts and says nothing.
type Answer = Arc<Mutex<Option<String>>>;

fn ok(body: &str) -> Option<String> {
    let length = body.len();
    Some(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"))
}

/// Answers every connection with what is set then.
async fn exporter() -> (String, Answer) {
    let answer: Answer = Arc::default();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let url = format!("http://{}/metrics", listener.local_addr().expect("bound"));
    let told = Arc::clone(&answer);
    tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let answer = told.lock().expect("no panic").clone();
            let Some(answer) = answer else {
                silent.push(client);
                continue;
            };
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = client.read(&mut request).await;
                let _ = client.write_all(answer.as_bytes()).await;
            });
        }
    });
    (url, answer)
}

async fn engine() -> ServerHandle {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let config = ServerConfig { model: "tiny".into(), ..ServerConfig::default() };
    serve(listener, config, Clock::real()).expect("a bound listener serves")
}

fn spec(name: &str, engine: &ServerHandle, page: Option<&str>) -> ExecutionInstance {
    let port = engine.local_addr().port();
    ExecutionInstance {
        gpu_metrics: page.map(|url| GpuSource::Dcgm(url.to_owned())),
        gpu_device_id: Some(1),
        ..ExecutionInstance::new(name, "127.0.0.1", port, "tiny")
    }
}

/// Waits until the utilisation of the instances is as wanted, those without one left out.
async fn wait(shell: &Shell, wanted: &[(&str, f64)]) {
    for _ in 0..1_000 {
        let seen: Vec<(String, f64)> = shell.read(|core, _| {
            let views = core.instances().into_iter();
            views.filter_map(|v| Some((v.spec.instance_id, v.gpu.utilization?))).collect()
        });
        if seen.iter().map(|(name, share)| (&**name, *share)).eq(wanted.iter().copied()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("utilisation never was {wanted:?}");
}

fn states(shell: &Shell) -> Vec<EngineState> {
    shell.read(|core, _| core.fleet().iter().map(|found| found.state).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn utilisation_is_shown_as_far_as_it_is_known_and_costs_no_engine_its_health() {
    let ((page, answer), (silent, _), (broken, garbage)) =
        (exporter().await, exporter().await, exporter().await);
    *answer.lock().expect("no panic") = ok(PAGE);
    *garbage.lock().expect("no panic") = ok("<html>no exporter</html>");
    let engine = engine().await;
    let instances = vec![
        spec("told", &engine, Some(&page)),
        spec("unasked", &engine, None),
        spec("silent", &engine, Some(&silent)),
        spec("broken", &engine, Some(&broken)),
    ];
    let mut control = Config::default();
    control.fleet.probe_interval_ms = 50;
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = GatewayConfig { listen, ..GatewayConfig::default() };
    let gateway = Gateway::bind(&config, &control, instances, Clock::real()).await.expect("starts");
    let (base, shell) = (format!("http://{}", gateway.local_addr()), gateway.shell());
    tokio::spawn(gateway.serve(std::future::pending()));
    let client = Client::builder().no_proxy().build().expect("a client");
    let get = async |path: &str| {
        let answer = client.get(format!("{base}{path}")).send().await.expect("an answer");
        answer.text().await.expect("a body")
    };

    wait(&shell, &[("told", 0.5)]).await;
    let text = get("/metrics").await;
    let told: Vec<&str> = text.lines().filter(|line| line.contains("gpu_")).collect();
    let told: Vec<&str> = told.into_iter().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(
        told,
        [
            "sagellm_instance_gpu_utilization_ratio{instance=\"told\"} 0.5",
            "sagellm_instance_gpu_memory_used_gib{instance=\"told\"} 2",
        ]
    );
    let metrics: Value = serde_json::from_str(&get("/admin/metrics").await).expect("JSON");
    assert_eq!(metrics["avg_gpu_utilization"], 0.5, "{metrics}");
    assert_eq!(metrics["used_gpu_memory_gb"], 2.0);
    let of = |list: &Value, name: &str| -> Value {
        let list = list.as_array().expect("a list");
        let one = list.iter().find(|one| one["instance_id"] == name).expect("it is listed");
        one["gpu_utilization"].clone()
    };
    let snapshot: Value = serde_json::from_str(&get("/admin/snapshot").await).expect("JSON");
    for list in [&metrics["instances"], &snapshot["instances"]] {
        assert_eq!(of(list, "told"), 0.5);
        for unknown in ["unasked", "silent", "broken"] {
            assert_eq!(of(list, unknown), Value::Null, "unknown, not 0: {unknown}");
        }
    }

    *answer.lock().expect("no panic") =
        ok(&PAGE.replace("} 50", "} NaN").replace("} 2048", "} 4096"));
    wait(&shell, &[]).await;
    let metrics: Value = serde_json::from_str(&get("/admin/metrics").await).expect("JSON");
    assert_eq!(metrics["avg_gpu_utilization"], Value::Null, "{metrics}");
    *answer.lock().expect("no panic") = ok(PAGE);
    wait(&shell, &[("told", 0.5)]).await;
    *answer.lock().expect("no panic") =
        Some("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n".to_owned());
    wait(&shell, &[]).await;
    assert_eq!(states(&shell), [EngineState::Ready; 4]);
}
