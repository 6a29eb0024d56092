//! Compose and Kubernetes files.

use std::collections::BTreeSet;

use anyhow::Result;
use sagellm_types::ExecutionInstance;
use serde_json::{Value, json};

use super::command::{Engines, environment, quoted};
use super::place::{Seat, Seated};
use super::settings;

/// The image of the engines.
const VLLM: &str = "vllm/vllm-openai:v0.32.0";
/// An image with the program `sagellm` on its path: there is none to be had from elsewhere.
const SAGELLM: &str = "sagellm:latest";
/// Where engines keep what they have fetched.
const HUB: &str = "/huggingface";
/// The label that says which GPUs a node has, where a plan uses several types.
const GPU_LABEL: &str = "sagellm/gpu";
/// The port of engines that have an address of their own.
const PORT: u16 = 8_000;

/// Returns a file for each machine: its engines, and on the first the gateway.
pub(super) fn compose(started: &[(&Engines<'_>, &Seated)]) -> Result<Vec<(String, String)>> {
    let mut hosts: Vec<&str> = Vec::new();
    for seat in started.iter().flat_map(|(_, instance)| &instance.seats) {
        if !hosts.contains(&seat.host.as_str()) {
            hosts.push(&seat.host);
        }
    }
    let mut files = Vec::new();
    for host in &hosts {
        let mut services = serde_json::Map::new();
        for (engines, instance) in started {
            let head = &instance.seats[0].host;
            for (part, seat) in instance.seats.iter().enumerate().filter(|(_, s)| s.host == *host) {
                let words = engines.words(&unbound(instance), part, head, instance.port)?;
                services.insert(instance.name.clone(), service(seat, &words[1..]));
            }
        }
        if hosts.first() == Some(host) {
            services.insert(
                "sagellm".to_owned(),
                json!({
                    "image": SAGELLM,
                    "network_mode": "host",
                    "restart": "unless-stopped",
                    "command": ["sagellm", "serve", "--config", "/etc/sagellm.toml"],
                    "volumes": ["./sagellm.toml:/etc/sagellm.toml:ro"],
                }),
            );
        }
        let name = match hosts.len() {
            1 => "compose.yaml".to_owned(),
            _ => format!("compose-{host}.yaml"),
        };
        let header = format!(
            "# docker compose -f {name} up, on {host}. {SAGELLM}: an image with the program sagellm on its path.\n"
        );
        let text = header + &serde_yaml_ng::to_string(&json!({ "services": services }))?;
        files.push((name, text));
    }
    Ok(files)
}

/// Returns the parts of an instance without NUMA nodes: a container may not bind itself to one.
fn unbound(instance: &Seated) -> Vec<Seat> {
    instance.seats.iter().map(|seat| Seat { numa: None, ..seat.clone() }).collect()
}

fn service(seat: &Seat, words: &[String]) -> Value {
    let gpus: Vec<String> = seat.gpus.iter().map(u32::to_string).collect();
    // The container sees only its own GPUs, so that they need no CUDA_VISIBLE_DEVICES.
    json!({
        "image": VLLM,
        "network_mode": "host",
        "ipc": "host",
        "restart": "unless-stopped",
        // A dollar is one of compose's own variables.
        "command": words.iter().map(|word| word.replace('$', "$$")).collect::<Vec<_>>(),
        "volumes": volumes(words),
        "environment": { "HF_HOME": HUB },
        "deploy": { "resources": { "reservations": { "devices": [
            { "driver": "nvidia", "device_ids": gpus, "capabilities": ["gpu"] },
        ] } } },
    })
}

/// Weights: a folder is mounted where it is, a repository's are kept between starts.
fn volumes(words: &[String]) -> Vec<String> {
    match words[0].starts_with('/') {
        true => vec![format!("{0}:{0}:ro", words[0])],
        false => vec![format!("~/.cache/huggingface:{HUB}")],
    }
}

/// Checks that each machine has GPUs of one type: pods are sent to machines, not to GPUs.
///
/// # Errors
/// The name of one that has several.
pub(super) fn types_apart(started: &[(&Engines<'_>, &Seated)]) -> std::result::Result<(), String> {
    let mut known: Vec<(&str, &str)> = Vec::new();
    for (engines, instance) in started {
        for seat in &instance.seats {
            let gpu = engines.plan.gpu.as_str();
            match known.iter().find(|(host, _)| *host == seat.host) {
                Some((_, other)) if *other != gpu => return Err(seat.host.clone()),
                Some(_) => {}
                None => known.push((&seat.host, gpu)),
            }
        }
    }
    Ok(())
}

/// Returns a manifest: a set of pods for each instance, and the gateway with its settings.
pub(super) fn kubernetes(
    started: &[(&Engines<'_>, &Seated)],
    listed: &[ExecutionInstance],
) -> Result<(String, String)> {
    let mut parts: Vec<Value> = Vec::new();
    let mut own = Vec::new();
    for ((engines, instance), listed) in started.iter().zip(listed) {
        let name = &instance.name;
        let head = format!("{name}-0.{name}");
        own.push(ExecutionInstance {
            host: head.clone(),
            port: PORT,
            // Where a pod runs is for Kubernetes to say.
            machine_id: None,
            rack_id: None,
            numa_node: None,
            gpu_ids: Vec::new(),
            nvlink_peers: Vec::new(),
            ..listed.clone()
        });
        let label = json!({ "app": "sagellm", "engine": name });
        parts.push(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": name },
            "spec": {
                "clusterIP": "None",
                "publishNotReadyAddresses": true,
                "selector": label,
                "ports": [{ "name": "http", "port": PORT }],
            },
        }));
        parts.push(pods(engines, instance, &head, &label)?);
    }
    let settings = settings(&own)?;
    parts.push(json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": "sagellm" },
        "data": { "sagellm.toml": settings },
    }));
    let label = json!({ "app": "sagellm", "part": "gateway" });
    parts.push(json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": "sagellm" },
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": label },
            "template": {
                "metadata": { "labels": label },
                "spec": {
                    "containers": [{
                        "name": "sagellm",
                        "image": SAGELLM,
                        "command": ["sagellm", "serve", "--config", "/etc/sagellm/sagellm.toml"],
                        "ports": [{ "containerPort": 8080 }],
                        "readinessProbe": { "httpGet": { "path": "/health", "port": 8080 } },
                        "volumeMounts": [{ "name": "settings", "mountPath": "/etc/sagellm" }],
                    }],
                    "volumes": [{ "name": "settings", "configMap": { "name": "sagellm" } }],
                },
            },
        },
    }));
    parts.push(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": "sagellm" },
        "spec": { "selector": label, "ports": [{ "port": 80, "targetPort": 8080 }] },
    }));
    let mut text = format!(
        "# kubectl apply -f kubernetes.yaml. {SAGELLM}: an image with the program sagellm on its path.\n"
    );
    let labelled = started.iter().filter(|(engines, _)| engines.mixed);
    let types: BTreeSet<&str> = labelled.map(|(engines, _)| engines.plan.gpu.as_str()).collect();
    for gpu in types {
        text +=
            &format!("# kubectl label node NAME {GPU_LABEL}={gpu}: each node that has such GPUs\n");
    }
    for part in parts {
        text += "---\n";
        text += &serde_yaml_ng::to_string(&part)?;
    }
    Ok(("kubernetes.yaml".to_owned(), text))
}

/// Returns the pods of an instance: one for each machine that it is spread over.
fn pods(engines: &Engines<'_>, instance: &Seated, head: &str, label: &Value) -> Result<Value> {
    let (name, count) = (&instance.name, instance.seats.len());
    let plain = unbound(instance);
    let gpus = plain[0].gpus.len();
    let command = match count {
        1 => {
            let words = engines.words(&plain, 0, head, PORT)?;
            json!(["vllm"].into_iter().chain(words.iter().map(String::as_str)).collect::<Vec<_>>())
        }
        // Which part a pod is stands at the end of its name.
        _ => {
            let line = |part: usize| -> Result<String> {
                let words = engines.words(&plain, part, head, PORT)?;
                Ok(words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "))
            };
            let mut script = "case \"${HOSTNAME##*-}\" in\n".to_owned();
            for part in 0..count {
                script += &format!("{part}) exec vllm {} ;;\n", line(part)?);
            }
            json!(["sh", "-c", script + "esac\n"])
        }
    };
    // A plugin gives a pod its GPUs; the order is the machine's.
    let [order, _] = environment(&plain[0]);
    let mut container = json!({
        "name": "vllm",
        "image": VLLM,
        "command": command,
        "env": [{ "name": order.0, "value": order.1 }],
        "ports": [{ "containerPort": PORT }],
        "resources": { "limits": { "nvidia.com/gpu": gpus } },
        "volumeMounts": [{ "name": "shm", "mountPath": "/dev/shm" }],
    });
    let mut volumes = vec![json!({ "name": "shm", "emptyDir": { "medium": "Memory" } })];
    if engines.weights.starts_with('/') {
        let mount = json!({ "name": "weights", "mountPath": engines.weights, "readOnly": true });
        container["volumeMounts"].as_array_mut().expect("a list").push(mount);
        let path = json!({ "path": engines.weights, "type": "Directory" });
        volumes.push(json!({ "name": "weights", "hostPath": path }));
    }
    if count == 1 {
        container["readinessProbe"] =
            json!({ "httpGet": { "path": "/health", "port": PORT }, "periodSeconds": 5 });
    }
    let mut spec = json!({ "containers": [container], "volumes": volumes });
    if engines.mixed {
        spec["nodeSelector"] = json!({ GPU_LABEL: engines.plan.gpu });
    }
    Ok(json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": { "name": name },
        "spec": {
            "serviceName": name,
            "replicas": count,
            "podManagementPolicy": "Parallel",
            "selector": { "matchLabels": label },
            "template": {
                "metadata": { "labels": label },
                "spec": spec,
            },
        },
    }))
}
