//! What `sagellm plan --emit` writes, as those who start it meet it.
#![cfg(unix)]

mod support;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize as _;
use support::{run, text};

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).expect("it is ours");
    }
    folder
}

fn emit(folder: &Path, question: &str) -> Result<(), String> {
    let to = folder.display().to_string();
    let words = ["plan", "--isl", "2000", "--osl", "300", "--emit", &to];
    let output = run(&words.into_iter().chain(question.split(' ')).collect::<Vec<_>>());
    if output.status.success() { Ok(()) } else { Err(text(&output.stderr)) }
}

/// Runs a script with a `vllm` that says what it is given; returns the GPUs that it sees, and the words.
fn words(folder: &Path, script: &str) -> (Vec<u32>, Vec<String>) {
    let vllm = folder.join("vllm");
    let shim = "#!/bin/sh\necho \"$CUDA_VISIBLE_DEVICES\"\nprintf '%s\\n' \"$@\"\n";
    std::fs::write(&vllm, shim).expect("writable");
    std::fs::set_permissions(&vllm, PermissionsExt::from_mode(0o755)).expect("it is ours");
    let path = format!("{}:/usr/bin:/bin", folder.display());
    let mut shell = Command::new("sh");
    let output =
        shell.arg(folder.join(script)).env("PATH", path).output().expect("there is a shell");
    assert!(output.status.success(), "{script}: {}", text(&output.stderr));
    let said = text(&output.stdout);
    let mut lines = said.lines().map(str::to_owned);
    let gpus = lines.next().expect("the GPUs come first");
    let gpus = gpus.split(',').map(|gpu| gpu.parse().expect("a number")).collect();
    (gpus, lines.collect())
}

/// Returns the word after a flag.
fn after<'w>(words: &'w [String], flag: &str) -> Option<&'w str> {
    let place = words.iter().position(|word| word == flag)?;
    words.get(place + 1).map(String::as_str)
}

fn instances(folder: &Path) -> Vec<toml::Table> {
    let file = folder.join("sagellm.toml");
    let checked = run(&["config", "check", &file.display().to_string()]);
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    let settings = std::fs::read_to_string(file).expect("it was written");
    let settings: toml::Table = toml::from_str(&settings).expect("TOML");
    let listed = settings["instance"].as_array().expect("a list").clone();
    listed.into_iter().map(|instance| instance.as_table().expect("a table").clone()).collect()
}

fn documents(file: &Path) -> Vec<serde_yaml_ng::Value> {
    let text = std::fs::read_to_string(file).expect("it was written");
    let documents = serde_yaml_ng::Deserializer::from_str(&text);
    let read = |document| serde_yaml_ng::Value::deserialize(document).expect("YAML");
    documents.map(read).filter(|document| !document.is_null()).collect()
}

#[test]
fn engines_of_one_machine_share_its_gpus_and_the_gateway_knows_them() {
    let folder = folder("one-machine");
    emit(&folder, "--model qwen3-32b-fp8 --gpus 8xH200 --strategy tp --slo tpot=15ms")
        .expect("it fits");
    let listed = instances(&folder);
    let (mut seen, mut ports) = (BTreeSet::new(), BTreeSet::new());
    for instance in &listed {
        let name = instance["instance_id"].as_str().expect("a name");
        let (gpus, words) = words(&folder, &format!("{name}.sh"));
        let size: usize =
            after(&words, "--tensor-parallel-size").unwrap_or("1").parse().expect("a size");
        assert_eq!(gpus.len(), size, "{words:?}");
        assert!(gpus.iter().all(|gpu| seen.insert(*gpu)), "no GPU is taken twice");
        assert_eq!(words[..2], ["serve", "Qwen/Qwen3-32B"]);
        assert_eq!(after(&words, "--quantization"), Some("fp8"));
        assert_eq!(after(&words, "--served-model-name"), instance["model_name"].as_str());
        assert_eq!(after(&words, "--host"), Some("127.0.0.1"), "others need not reach it");
        let port = instance["port"].as_integer().expect("a number").to_string();
        assert_eq!(after(&words, "--port"), Some(port.as_str()));
        let most = instance["max_concurrent_requests"].as_integer().expect("a number").to_string();
        assert_eq!(after(&words, "--max-num-seqs"), Some(most.as_str()));
        assert!(ports.insert(port), "no port is taken twice");
    }
    assert_eq!(seen.len(), 8);

    let compose = &documents(&folder.join("compose.yaml"))[0];
    let services = compose["services"].as_mapping().expect("services");
    assert_eq!(services.len(), listed.len() + 1, "the engines and the gateway");
    let kubernetes = documents(&folder.join("kubernetes.yaml"));
    let of = |kind: &str| kubernetes.iter().filter(|part| part["kind"] == kind).count();
    assert_eq!((of("StatefulSet"), of("Deployment")), (listed.len(), 1));
    let settings = kubernetes.iter().find(|part| part["kind"] == "ConfigMap").expect("one");
    let settings = settings["data"]["sagellm.toml"].as_str().expect("a text");
    assert!(settings.contains("host = \"engine-0-0.engine-0\""), "{settings}");
}

#[test]
fn an_instance_over_two_machines_is_started_in_two_parts() {
    let folder = folder("two-machines");
    std::fs::create_dir_all(&folder).expect("writable");
    let cluster = folder.join("cluster.toml");
    let text = "[[host]]\nname = \"node\"\ncount = 2\nrack = \"r1\"\npreset = \"hgx-h100\"\n";
    std::fs::write(&cluster, text).expect("writable");
    let question = format!("--model llama-3.1-405b --topology {}", cluster.display());
    let folder = folder.join("out");
    emit(&folder, &question).expect("it fits");
    let listed = instances(&folder);
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["host"].as_str(), Some("node-0"));
    assert_eq!(listed[0]["rack_id"].as_str(), Some("r1"));
    for (part, script) in ["engine-0-part-0.sh", "engine-0-part-1.sh"].iter().enumerate() {
        let (gpus, words) = words(&folder, script);
        assert_eq!(gpus, [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(after(&words, "--nnodes"), Some("2"));
        assert_eq!(after(&words, "--node-rank"), Some(part.to_string().as_str()));
        assert_eq!(after(&words, "--master-addr"), Some("node-0"));
        assert_eq!(words.contains(&"--headless".to_owned()), part > 0);
        let nodes = words.iter().skip_while(|word| *word != "--numa-bind-nodes").skip(1);
        let nodes: Vec<&str> = nodes.take(8).map(String::as_str).collect();
        assert_eq!(nodes, ["0", "0", "0", "0", "1", "1", "1", "1"]);
    }
    for file in ["compose-node-0.yaml", "compose-node-1.yaml"] {
        assert!(documents(&folder.join(file))[0]["services"]["engine-0"].is_mapping(), "{file}");
    }
}

#[test]
fn types_of_gpus_have_machines_of_their_own() {
    let folder = folder("types");
    let question = "--model qwen3-32b --gpus 4xH100,4xA100";
    emit(&folder, question).expect("it fits");
    let listed = instances(&folder);
    let of = |gpu: &str| -> Vec<&toml::Table> {
        listed.iter().filter(|instance| instance["gpu_type"].as_str() == Some(gpu)).collect()
    };
    let (fast, slow) = (of("H100"), of("A100-80GB"));
    assert!(!fast.is_empty() && !slow.is_empty() && fast.len() + slow.len() == listed.len());
    assert!(fast.iter().all(|instance| instance["host"].as_str() == Some("node-0")));
    assert!(slow.iter().all(|instance| instance["host"].as_str() == Some("node-1")));
    for (place, instance) in listed.iter().enumerate() {
        let (gpus, words) = words(&folder, &format!("engine-{place}.sh"));
        let count = instance["gpu_count"].as_integer().expect("a number");
        assert_eq!(gpus.len() as i64, count);
        let seats = instance["max_concurrent_requests"].to_string();
        assert_eq!(after(&words, "--max-num-seqs"), Some(seats.as_str()));
    }
    let kubernetes = documents(&folder.join("kubernetes.yaml"));
    let pods: Vec<_> = kubernetes.iter().filter(|part| part["kind"] == "StatefulSet").collect();
    for (pods, instance) in pods.iter().zip(&listed) {
        let label = &pods["spec"]["template"]["spec"]["nodeSelector"]["sagellm/gpu"];
        assert_eq!(label.as_str(), instance["gpu_type"].as_str());
    }
}

#[test]
fn an_instance_over_machines_gets_all_its_gpus_or_is_not_planned() {
    let question = |layout: &str| format!("--model deepseek-v3 --gpus 60xH200 --layout {layout}");
    for layout in ["tp1dp15ep", "tp4pp5", "tp4pp15", "tp1pp5dp8ep"] {
        let refused = emit(&folder("refused"), &question(layout)).expect_err(layout);
        assert!(refused.contains("no machines hold"), "{layout}: {refused}");
    }
    for layout in ["tp8", "tp8pp2", "tp1dp16ep", "tp8dp4ep", "tp4pp2dp4ep"] {
        let folder = folder(&format!("over-{layout}"));
        emit(&folder, &question(layout)).expect(layout);
        for (place, instance) in instances(&folder).iter().enumerate() {
            let own = |name: &str| {
                name.starts_with(&format!("engine-{place}-part-"))
                    || name == format!("engine-{place}.sh")
            };
            let files = std::fs::read_dir(&folder).expect("it was written");
            let names =
                files.map(|file| file.expect("a file").file_name().into_string().expect("plain"));
            let gpus: usize =
                names.filter(|name| own(name)).map(|name| words(&folder, &name).0.len()).sum();
            assert_eq!(
                gpus as i64,
                instance["gpu_count"].as_integer().expect("a number"),
                "{layout}"
            );
        }
    }
}

#[test]
fn what_these_files_cannot_start_is_said() {
    let amd = emit(&folder("amd"), "--model qwen3-32b --gpus 8xMI300X").expect_err("no CUDA");
    assert!(amd.contains("starts on CUDA alone"), "{amd}");
    let folder = folder("one-machine-two-types");
    std::fs::create_dir_all(&folder).expect("writable");
    let machine = folder.join("machine.toml");
    let gpus: Vec<String> = ["H100", "H100", "A100", "A100"]
        .iter()
        .enumerate()
        .map(|(place, model)| format!("{{ name = \"GPU{place}\", model = \"{model}\" }}"))
        .collect();
    let text = format!("[[host]]\nname = \"box\"\ngpus = [{}]\n", gpus.join(", "));
    std::fs::write(&machine, text).expect("writable");
    let (question, out) =
        (format!("--model llama-3.1-8b --topology {}", machine.display()), folder.join("out"));
    emit(&out, &question).expect("it fits");
    assert!(out.join("compose.yaml").exists() && !out.join("kubernetes.yaml").exists());
}

#[test]
fn ranks_on_another_machine_find_the_first() {
    let folder = folder("ranks");
    emit(&folder, "--model deepseek-v3 --gpus 16xH100 --strategy ep").expect("it fits");
    let (_, first) = words(&folder, "engine-0-part-0.sh");
    let (gpus, second) = words(&folder, "engine-0-part-1.sh");
    assert_eq!(gpus.len(), 8);
    assert!(first.contains(&"--enable-expert-parallel".to_owned()));
    for words in [&first, &second] {
        assert_eq!(after(words, "--data-parallel-size"), Some("16"));
        assert_eq!(after(words, "--data-parallel-size-local"), Some("8"));
        assert_eq!(after(words, "--data-parallel-address"), Some("node-0"));
    }
    assert_eq!(after(&second, "--data-parallel-start-rank"), Some("8"));
}

#[test]
fn what_cannot_be_started_is_not_written() {
    let check = |name: &str, question: &str, expected: &str| {
        let folder = folder(name);
        let error = emit(&folder, question).expect_err(question);
        assert!(error.contains(expected), "{error}");
        assert!(!folder.exists(), "{question}");
    };
    check("split", "--model qwen3-32b --gpus 8xH200 --split only", "does not hand keys and values");
    check("int4", "--model qwen3-32b-int4 --gpus 8xH200", "--weights: name a repository");
    let folder = folder("weights");
    emit(&folder, "--model qwen3-32b-int4 --gpus 1xH200 --weights Qwen/Qwen3-32B-AWQ")
        .expect("named");
    let (_, words) = words(&folder, "engine-0.sh");
    assert_eq!(words[1], "Qwen/Qwen3-32B-AWQ");
}

#[test]
fn instances_stay_on_their_machines_and_parts_on_their_links() {
    let cluster = |name: &str, text: &str, question: &str| {
        let folder = folder(name);
        std::fs::create_dir_all(&folder).expect("writable");
        let file = folder.join("cluster.toml");
        std::fs::write(&file, text).expect("writable");
        let to = folder.join("out");
        emit(&to, &format!("{question} --topology {}", file.display())).expect("it fits");
        to
    };
    // Six GPUs hold one group of four each, and two times two are left over.
    let gpus = "[{ name = \"GPU0\" }, { name = \"GPU1\" }, { name = \"GPU2\" }, \
                { name = \"GPU3\" }, { name = \"GPU4\" }, { name = \"GPU5\" }]";
    let host = |name: &str| {
        format!(
            "[[host]]\nname = \"{name}\"\nmodel = \"H100\"\ngpu_links = \"NV18\"\ngpus = {gpus}\n"
        )
    };
    let six = cluster(
        "six",
        &(host("a") + &host("b")),
        "--model qwen3-32b --strategy tp --objective latency --max-num-batched-tokens 8192",
    );
    for instance in instances(&six) {
        let name = instance["instance_id"].as_str().expect("a name");
        assert!(six.join(format!("{name}.sh")).exists(), "{name} is on one machine");
    }
    // Of four GPUs, 0 and 2 are joined, and 1 and 3.
    let four = "[[host]]\nname = \"box\"\nmodel = \"A100\"\ngpu_links = \"SYS\"\n\
                gpus = [{ name = \"GPU0\" }, { name = \"GPU1\" }, { name = \"GPU2\" }, { name = \"GPU3\" }]\n\
                links = [{ between = [\"GPU0\", \"GPU2\"], relation = \"NV12\" }, \
                { between = [\"GPU1\", \"GPU3\"], relation = \"NV12\" }]\n";
    let pairs = cluster("pairs", four, "--model llama-3.1-70b-fp8 --strategy hybrid");
    let (gpus, words) = words(&pairs, "engine-0.sh");
    assert_eq!(after(&words, "--tensor-parallel-size"), Some("2"));
    assert_eq!(gpus, [0, 2, 1, 3], "those that share layers are side by side");
}

#[test]
fn odd_words_reach_the_engine_as_they_are() {
    let folder = folder("odd");
    let to = folder.display().to_string();
    let odd = ["--hf-overrides={\"a b\": \"$HOME\"}", "it's; echo no"];
    let words_of = |odd: &str| ["--engine-arg".to_owned(), odd.to_owned()];
    let mut asked: Vec<String> = "plan --model qwen3-8b --gpus 1xH100 --isl 100 --osl 100 --emit"
        .split(' ')
        .map(str::to_owned)
        .collect();
    asked.push(to);
    asked.extend(odd.iter().flat_map(|odd| words_of(odd)));
    let output = run(&asked.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let (_, words) = words(&folder, "engine-0.sh");
    assert_eq!(words[words.len() - 2..], odd);
    let compose = &documents(&folder.join("compose.yaml"))[0];
    let command = compose["services"]["engine-0"]["command"].as_sequence().expect("words");
    assert!(
        command.iter().any(|word| word.as_str() == Some("--hf-overrides={\"a b\": \"$$HOME\"}"))
    );
}

#[test]
fn what_would_collide_is_refused() {
    let check = |name: &str, question: &str, expected: &str| {
        let error = emit(&folder(name), question).expect_err(question);
        assert!(error.contains(expected), "{error}");
    };
    let small = "--model qwen3-8b --gpus 4xH100 --strategy tp --objective throughput";
    check("gateway", &format!("{small} --engine-port 8080"), "which the gateway");
    let full = folder("full");
    emit(&full, small).expect("it fits");
    let again = emit(&full, small).expect_err("it is there");
    assert!(again.contains("expected a new or an empty folder"), "{again}");
    let context = folder("context");
    emit(&context, &format!("{small} --max-model-len 100")).expect("it fits");
    let (_, words) = words(&context, "engine-0.sh");
    assert_eq!(after(&words, "--max-model-len"), Some("2300"), "a request fits");
}
