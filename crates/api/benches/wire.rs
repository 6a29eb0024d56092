//! What is paid per request and per chunk: peek, patch, scan, find usage.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sagellm_api::{MetricsPage, Patch, Peek, Scanner, Usage, UsageChunk};

fn chat(content: &str) -> String {
    format!(
        r#"{{"model":"llama-7b","messages":[{{"role":"user","content":"{content}"}}],"stream":true,"max_tokens":128}}"#
    )
}

fn peek(criterion: &mut Criterion) {
    let words = "The quick brown fox jumps over the lazy dog. ".repeat(730);
    let code = "if (x == \\\"y\\\") {\\n    return;\\n}\\n".repeat(900);
    let escaped = "\\u4f60\\u597d\\uff0c\\u4e16\\u754c".repeat(1092);
    let tokens: Vec<String> = (0..5600).map(|n| (n * 37 % 128_000).to_string()).collect();
    let tokens = format!(r#"{{"model":"m","prompt":[{}]}}"#, tokens.join(", "));
    let bodies = [
        ("tiny", chat("hello")),
        ("text_32k", chat(&words)),
        ("code_32k", chat(&code)),
        ("escaped_cjk_32k", chat(&escaped)),
        ("tokens_32k", tokens),
    ];
    let mut group = criterion.benchmark_group("peek");
    for (name, body) in &bodies {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(*name, |b| b.iter(|| Peek::parse(black_box(body.as_bytes()))));
    }
    group.finish();
    let body = &bodies[1].1;
    let peek = Peek::parse(body.as_bytes()).expect("well-formed");
    criterion.bench_function("patch/text_32k", |b| {
        b.iter(|| Patch::of(black_box(&peek)).include_usage().model("other").apply());
    });
}

fn stream(criterion: &mut Criterion) {
    let chunk = Bytes::from_static(b"data: {\"id\":\"chatcmpl-8e011f8bfb6562fb\",\"object\":\"chat.completion.chunk\",\"created\":1795342490,\"model\":\"llama-7b\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" hello\"},\"logprobs\":null,\"finish_reason\":null,\"token_ids\":null}]}\n\n");
    let mut scanner = Scanner::new(UsageChunk::Withhold);
    criterion.bench_function("scan/one_event", |b| {
        b.iter(|| scanner.feed(black_box(chunk.clone())));
    });
    let (head, tail) = (chunk.slice(..100), chunk.slice(100..));
    criterion.bench_function("scan/one_event_cut", |b| {
        b.iter(|| {
            scanner.feed(black_box(head.clone()));
            scanner.feed(black_box(tail.clone()))
        });
    });
    let answer = format!(
        r#"{{"choices":[{{"text":"{}"}}],"usage":{{"prompt_tokens":1,"total_tokens":3,"completion_tokens":2}}}}"#,
        "hello ".repeat(1000)
    );
    criterion.bench_function("usage/answer_6k", |b| {
        b.iter(|| Usage::find(black_box(answer.as_bytes())));
    });
}

fn metrics(criterion: &mut Criterion) {
    let mut page = String::new();
    for line in 0..500 {
        page.push_str(&format!("vllm:time_to_first_token_seconds_bucket{{engine=\"0\",le=\"{line}\",model_name=\"tiny\"}} 12.0\n"));
    }
    page.push_str("vllm:num_requests_running{engine=\"0\"} 3.0\n");
    criterion
        .bench_function("metrics/500_lines", |b| b.iter(|| MetricsPage::parse(black_box(&page))));
}

criterion_group!(benches, peek, stream, metrics);
criterion_main!(benches);
