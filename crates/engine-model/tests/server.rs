//! The fake server, asked over real sockets: answers, streams, refusals, faults, metrics.

use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response, StatusCode};
use sagellm_engine_model::server::{Fault, ServerConfig, ServerHandle, serve};
use sagellm_engine_model::{EngineConfig, Policy};
use sagellm_perf::{LinearCost, Picos};
use sagellm_types::Timestamp;
use sagellm_types::clock::Clock;
use serde_json::{Value, json};
use tokio::net::TcpListener;

fn config() -> ServerConfig {
    ServerConfig {
        model: "tiny".to_owned(),
        engine: EngineConfig {
            cost: LinearCost::TINY,
            max_model_len: 2048,
            num_blocks: 4096,
            ..EngineConfig::default()
        },
        ..ServerConfig::default()
    }
}

async fn start(config: ServerConfig, speed: f64) -> (ServerHandle, Caller) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let server = serve(listener, config, Clock::scaled(speed)).expect("an address");
    let base = format!("http://{}", server.local_addr());
    (server, Caller { client: Client::new(), base })
}

/// A client of one server.
struct Caller {
    client: Client,
    base: String,
}

impl Caller {
    fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.base))
    }

    fn post(&self, path: &str, body: impl Into<String>) -> RequestBuilder {
        let request = self.client.post(format!("{}{path}", self.base));
        request.header("content-type", "application/json").body(body.into())
    }

    async fn json(&self, path: &str, body: Value) -> Value {
        let response = self.post(path, body.to_string()).send().await.expect("it answers");
        assert_eq!(response.status(), StatusCode::OK);
        parse(&text(response).await)
    }

    /// Streams an answer; returns its chunks without the final `[DONE]`.
    async fn chunks(&self, path: &str, body: Value) -> Vec<Value> {
        let response = self.post(path, body.to_string()).send().await.expect("it answers");
        assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
        let text = text(response).await;
        let mut lines: Vec<&str> = text.split("\n\n").collect();
        assert_eq!(lines.pop(), Some(""));
        assert_eq!(lines.pop(), Some("data: [DONE]"));
        lines.iter().map(|line| parse(line.strip_prefix("data: ").expect("an event"))).collect()
    }

    async fn metric(&self, name: &str) -> f64 {
        let page = text(self.get("/metrics").send().await.expect("it answers")).await;
        let line = page.lines().find(|line| line.starts_with(&format!("vllm:{name}{{")));
        let line = line.unwrap_or_else(|| panic!("{name} is exposed"));
        line.rsplit(' ').next().expect("a value").parse().expect("a number")
    }
}

async fn text(response: Response) -> String {
    String::from_utf8(response.bytes().await.expect("it ends").to_vec()).expect("UTF-8")
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

fn chat(content: &str) -> Value {
    json!({"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": 12})
}

fn with(mut body: Value, more: Value) -> Value {
    let fields = body.as_object_mut().expect("an object");
    fields.extend(more.as_object().expect("an object").clone());
    body
}

fn content(chunks: &[Value], choice: u64) -> String {
    let deltas = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().expect("a list"));
    deltas
        .filter(|delta| delta["index"] == choice)
        .map(|c| c["delta"]["content"].as_str().or(c["text"].as_str()).unwrap_or_default())
        .collect()
}

#[tokio::test]
async fn refusals_are_those_of_the_real_server() {
    let (_server, caller) = start(config(), 10.0).await;
    let check = async |path: &str, body: &str, status: u16, expected: &str| {
        let response = caller.post(path, body).send().await.expect("it answers");
        assert_eq!(response.status(), status, "{body}");
        assert_eq!(response.headers()["content-type"], "application/json");
        let error = parse(&text(response).await)["error"].take();
        let got = format!(
            "{} | {} | {}",
            error["type"].as_str().expect("text"),
            error["param"],
            error["message"].as_str().expect("text")
        );
        assert_eq!(got, expected, "{body}");
        assert_eq!(error["code"], status);
    };
    let (chat, completions) = ("/v1/chat/completions", "/v1/completions");
    let bad = "BadRequestError";
    check(
        completions,
        r#"{"model":"nope","prompt":"x","stream":true}"#,
        404,
        r#"NotFoundError | "model" | The model `nope` does not exist. Valid aliases: tiny."#,
    )
    .await;
    check(
        "/tokenize",
        r#"{"model":"nope","prompt":"x"}"#,
        404,
        r#"NotFoundError | "model" | The model `nope` does not exist. Valid aliases: tiny."#,
    )
    .await;
    let long = json!({"model": "tiny", "prompt": vec![300; 3000]}).to_string();
    check(completions, &long, 400, &format!(r#"{bad} | "input_tokens" | This model's maximum context length is 2048 tokens. However, your prompt contains 3000 input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input prompt. (parameter=input_tokens, value=3000)"#)).await;
    let long = json!({"model": "tiny", "messages": [{"role": "user", "content": "import os ".repeat(3000)}]}).to_string();
    check(chat, &long, 400, &format!(r#"{bad} | "input_tokens" | This model's maximum context length is 2048 tokens. However, your prompt contains at least 2049 input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input prompt. (parameter=input_tokens, value=2049)"#)).await;
    check(completions, r#"{"model":"tiny","prompt":[300,301],"max_tokens":5000}"#, 400, &format!(r#"{bad} | "max_tokens" | max_tokens=5000 cannot be greater than max_model_len=2048. Please request fewer output tokens. (parameter=max_tokens, value=5000)"#)).await;
    check(completions, r#"{"model":"tiny","prompt":"#, 400, r#"Bad Request | "body.25" | 1 validation error:
  {'type': 'json_invalid', 'loc': 'body.25', 'msg': 'JSON decode error', 'input': '<dict of 0 items>', 'ctx': {'error': 'Expecting value'}}"#).await;
    for path in [completions, chat] {
        for tokens in [-1, 0] {
            let body = json!({"model": "tiny", "prompt": "x", "messages": [{"role": "user", "content": "x"}], "max_tokens": tokens});
            check(path, &body.to_string(), 400, &format!(r#"{bad} | "max_tokens" | max_tokens must be at least 1, got {tokens}. (parameter=max_tokens, value={tokens})"#)).await;
        }
    }
    check(completions, r#"{"model":"tiny","prompt":"x","temperature":-1}"#, 400, &format!(r#"{bad} | "temperature" | temperature must be non-negative, got -1.0. (parameter=temperature, value=-1.0)"#)).await;
    check(completions, r#"{"model":"tiny","prompt":"x","temperature":"hot"}"#, 400, r#"Bad Request | "body.temperature" | 1 validation error:
  {'type': 'float_parsing', 'loc': 'body.temperature', 'msg': 'Input should be a valid number, unable to parse string as a number', 'input': 'hot'}"#).await;
    for body in [r#"{"model":"tiny"}"#, r#"{"model":"tiny","prompt":"","max_tokens":2}"#] {
        check(completions, body, 400, &format!(r#"{bad} | "prompt" | Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"#)).await;
    }
    check(chat, r#"{"model":"tiny"}"#, 400, r#"Bad Request | "body.messages" | 1 validation error:
  {'type': 'missing', 'loc': 'body.messages', 'msg': 'Field required', 'input': '<dict of 1 items>'}"#).await;
    check(chat, r#"{"model":"tiny","messages":[]}"#, 400, &format!("{bad} | null | Cannot apply chat template to an empty conversation. Provide at least one message.")).await;
    check(chat, r#"{"model":"tiny","messages":"hi"}"#, 400, r#"Bad Request | "body.messages" | 1 validation error:
  {'type': 'list_type', 'loc': 'body.messages', 'msg': 'Input should be a valid list', 'input': 'hi'}"#).await;
    check(
        completions,
        r#"{"model":"tiny","prompt":[99999],"max_tokens":2}"#,
        400,
        &format!("{bad} | null | Token id 99999 is out of vocabulary"),
    )
    .await;
    check(
        completions,
        r#"{"model":"tiny","prompt":"x","max_tokens":2,"n":0}"#,
        400,
        &format!("{bad} | null | n must be at least 1, got 0."),
    )
    .await;
    check(completions, r#"{"model":"tiny","prompt":"x","stream_options":{"include_usage":true}}"#, 400, &format!(r#"{bad} | "stream_options" | Stream options can only be defined when `stream=True`. (parameter=stream_options)"#)).await;
    check(completions, r#"{"model":"tiny","prompt":"x","priority":"high"}"#, 400, r#"Bad Request | "body.priority" | 1 validation error:
  {'type': 'int_parsing', 'loc': 'body.priority', 'msg': 'Input should be a valid integer, unable to parse string as an integer', 'input': 'high'}"#).await;
    check(completions, r#"{"model":"tiny","prompt":"x","cache_salt":""}"#, 400, &format!(r#"{bad} | "cache_salt" | Parameter 'cache_salt' must be a non-empty string if provided. (parameter=cache_salt)"#)).await;
}

#[tokio::test]
async fn the_edges_of_http_are_those_of_the_real_server() {
    let (_server, caller) = start(config(), 10.0).await;
    let body = r#"{"model":"tiny","prompt":"x","max_tokens":1}"#;
    let ranked = |rank| caller.post("/v1/completions", body).header("X-data-parallel-rank", rank);
    let refused = ranked("3").send().await.expect("it answers");
    assert_eq!(refused.status(), 400);
    assert!(text(refused).await.contains("data_parallel_rank 3 is out of range [0, 1)."));
    for rank in ["0", "abc"] {
        assert_eq!(ranked(rank).send().await.expect("it answers").status(), 200);
    }
    let plain = caller
        .client
        .post(format!("{}/v1/completions", caller.base))
        .header("content-type", "text/plain")
        .body(body);
    let plain = plain.send().await.expect("it answers");
    assert_eq!(plain.status(), 400);
    assert_eq!(
        text(plain).await,
        r#"{"error":{"message":"1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed","type":"Bad Request","param":null,"code":400}}"#
    );
    let wrong = caller.get("/v1/completions").send().await.expect("it answers");
    assert_eq!((wrong.status().as_u16(), wrong.headers()["allow"].as_bytes()), (405, &b"POST"[..]));
    assert_eq!(text(wrong).await, r#"{"detail":"Method Not Allowed"}"#);
    let unknown = caller.get("/nope").send().await.expect("it answers");
    assert_eq!(unknown.status(), 404);
    assert_eq!(text(unknown).await, r#"{"detail":"Not Found"}"#);
    for path in ["/health", "/ping", "/version", "/v1/models", "/metrics", "/load"] {
        let head = caller.client.head(format!("{}{path}", caller.base)).send().await;
        assert_eq!(head.expect("it answers").status(), 200, "{path}");
    }
}

#[tokio::test]
async fn whole_answers_have_every_field_of_the_real_ones() {
    let (_server, caller) = start(config(), 20.0).await;
    let request = caller.post(
        "/v1/completions",
        r#"{"model":"tiny","prompt":["x","y"],"max_tokens":2,"unknown_field":1}"#,
    );
    let response = request.header("X-Request-Id", "two-prompts").send().await.expect("it answers");
    assert_eq!(response.headers()["x-request-id"], "two-prompts");
    let got = text(response).await;
    let created = parse(&got)["created"].as_u64().expect("seconds");
    let word = |i: usize| parse(&got)["choices"][i]["text"].as_str().expect("text").to_owned();
    let choice = |i: usize| {
        format!(
            r#"{{"index":{i},"text":"{}","logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null,"prompt_logprobs":null,"prompt_token_ids":null,"routed_experts":null}}"#,
            word(i)
        )
    };
    assert_eq!(
        got,
        format!(
            r#"{{"id":"cmpl-two-prompts","object":"text_completion","created":{created},"model":"tiny","choices":[{},{}],"service_tier":null,"system_fingerprint":"vllm-0.32.0-7d376611","usage":{{"prompt_tokens":2,"total_tokens":6,"completion_tokens":4,"prompt_tokens_details":null,"completion_tokens_details":null}},"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}}"#,
            choice(0),
            choice(1)
        )
    );
    assert_eq!(word(0).len(), 8);

    let answer = caller.json("/v1/chat/completions", chat("hello")).await;
    assert!(answer["id"].as_str().expect("text").starts_with("chatcmpl-"));
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["choices"][0]["message"]["role"], "assistant");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 12);
}

#[tokio::test]
async fn a_stream_says_what_the_whole_answer_says() {
    let (_server, caller) = start(config(), 20.0).await;
    for (path, body) in [
        ("/v1/chat/completions", with(chat("hi"), json!({"n": 2}))),
        ("/v1/completions", json!({"prompt": "hi", "max_tokens": 9, "n": 2})),
    ] {
        let whole = caller.json(path, body.clone()).await;
        let chunks = caller.chunks(path, with(body, json!({"stream": true}))).await;
        for choice in 0..2_usize {
            let said = &whole["choices"][choice];
            let said = said["message"]["content"].as_str().or(said["text"].as_str());
            assert_eq!(Some(content(&chunks, choice as u64).as_str()), said);
        }
        assert_ne!(content(&chunks, 0), content(&chunks, 1), "each of n answers is its own");
        assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
        assert!(
            chunks.iter().all(|chunk| chunk["choices"].as_array().is_some_and(|c| !c.is_empty()))
        );
    }
    let chunks =
        caller.chunks("/v1/chat/completions", with(chat("hi"), json!({"stream": true}))).await;
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert_eq!(chunks.len(), 13, "one for the role, one for each token");
    assert_eq!(chunks[12]["choices"][0]["finish_reason"], "length");
    assert!(chunks[..12].iter().all(|chunk| chunk["choices"][0]["finish_reason"].is_null()));
    assert!(chunks[1]["choices"][0]["delta"]["content"].as_str().expect("text").starts_with(' '));
}

#[tokio::test]
async fn usage_comes_when_it_is_asked_for() {
    let (_server, caller) = start(config(), 20.0).await;
    let usage = |more: Value| with(chat("hi"), json!({"stream": true, "stream_options": more}));
    let chunks = caller.chunks("/v1/chat/completions", usage(json!({"include_usage": true}))).await;
    let (last, before) = chunks.split_last().expect("has chunks");
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 12);
    assert!(before.iter().all(|chunk| chunk.get("usage").is_none()));
    let every = usage(json!({"include_usage": true, "continuous_usage_stats": true}));
    let chunks = caller.chunks("/v1/chat/completions", every).await;
    let counts: Vec<u64> =
        chunks.iter().map(|c| c["usage"]["completion_tokens"].as_u64().expect("in each")).collect();
    assert_eq!(counts, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 12]);
}

#[tokio::test]
async fn answers_depend_on_the_prompt_and_the_seed_alone() {
    let (_a, one) = start(config(), 20.0).await;
    let (_b, two) = start(config(), 20.0).await;
    let said = async |caller: &Caller, body: Value| {
        caller.json("/v1/chat/completions", body).await["choices"][0]["message"]["content"].clone()
    };
    let first = said(&one, chat("hi")).await;
    assert_eq!(first, said(&two, chat("hi")).await);
    assert_ne!(first, said(&one, chat("ho")).await);
    assert_ne!(first, said(&one, with(chat("hi"), json!({"seed": 5}))).await);
}

#[tokio::test]
async fn lengths_are_as_asked_for_or_natural() {
    let (_server, caller) = start(config(), 50.0).await;
    let ask = async |path: &str, body: Value| {
        let answer = caller.json(path, body).await;
        let finish = answer["choices"][0]["finish_reason"].as_str().expect("text").to_owned();
        (answer["usage"]["completion_tokens"].as_u64().expect("a count"), finish)
    };
    let natural = json!({"messages": [{"role": "user", "content": "hi"}]});
    let (tokens, finish) = ask("/v1/chat/completions", natural.clone()).await;
    assert!((16..256).contains(&tokens) && finish == "stop");
    let least = with(natural.clone(), json!({"min_tokens": 300}));
    assert_eq!(ask("/v1/chat/completions", least).await, (300, "stop".into()));
    let newer = with(natural, json!({"max_completion_tokens": 7, "ignore_eos": true}));
    assert_eq!(ask("/v1/chat/completions", newer).await, (7, "length".into()));
    assert_eq!(ask("/v1/completions", json!({"prompt": "hi"})).await, (16, "length".into()));
}

#[tokio::test]
async fn a_stop_string_ends_the_answer_before_it() {
    let (_server, caller) = start(config(), 20.0).await;
    let whole = caller.json("/v1/chat/completions", chat("hi")).await;
    let whole = whole["choices"][0]["message"]["content"].as_str().expect("text").to_owned();
    let stop = &whole[13..19];
    let body = with(chat("hi"), json!({"stop": [stop, "never"]}));
    let cut = caller.json("/v1/chat/completions", body.clone()).await;
    let choice = &cut["choices"][0];
    assert_eq!(
        choice["message"]["content"].as_str(),
        Some(&whole[..whole.find(stop).expect("is there")])
    );
    assert_eq!((&choice["finish_reason"], &choice["stop_reason"]), (&json!("stop"), &json!(stop)));
    let chunks = caller.chunks("/v1/chat/completions", with(body, json!({"stream": true}))).await;
    assert_eq!(content(&chunks, 0), choice["message"]["content"].as_str().expect("text"));
}

#[tokio::test]
async fn tools_are_called_when_that_is_demanded() {
    let (_server, caller) = start(config(), 20.0).await;
    let tools = json!([{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}}}]);
    let body = with(chat("hi"), json!({"tools": tools, "tool_choice": "required"}));
    let answer = caller.json("/v1/chat/completions", body.clone()).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["function"]["name"], "weather");
    let arguments = call["function"]["arguments"].as_str().expect("text");
    assert_eq!(parse(arguments), json!({"city": "example", "days": 1}));
    let chunks = caller.chunks("/v1/chat/completions", with(body, json!({"stream": true}))).await;
    let calls = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"][0]);
    let streamed: String =
        calls.clone().filter_map(|c| c["function"]["arguments"].as_str()).collect();
    assert_eq!(streamed, arguments);
    assert_eq!(
        calls.filter_map(|c| c["function"]["name"].as_str()).collect::<Vec<_>>(),
        ["weather"]
    );
    let plain =
        caller.json("/v1/chat/completions", with(chat("hi"), json!({"tools": tools}))).await;
    assert_eq!(plain["choices"][0]["message"]["tool_calls"], json!([]));
}

#[tokio::test]
async fn logprobs_have_the_shape_of_the_real_ones() {
    let (_server, caller) = start(config(), 20.0).await;
    let body = with(chat("hi"), json!({"logprobs": true, "top_logprobs": 2}));
    let answer = caller.json("/v1/chat/completions", body).await;
    let logprobs = answer["choices"][0]["logprobs"]["content"].as_array().expect("a list");
    assert_eq!(logprobs.len(), 12);
    assert_eq!(logprobs[0]["top_logprobs"].as_array().map(Vec::len), Some(2));
    assert_eq!(logprobs[0]["bytes"].as_array().map(Vec::len), Some(4));
    let body = json!({"prompt": "hi", "max_tokens": 3, "logprobs": 1});
    let answer = caller.json("/v1/completions", body).await;
    let logprobs = &answer["choices"][0]["logprobs"];
    assert_eq!(logprobs["text_offset"], json!([0, 4, 8]));
    assert!(
        logprobs["tokens"][0]
            .as_str()
            .is_some_and(|token| logprobs["top_logprobs"][0].get(token).is_some())
    );
}

#[tokio::test]
async fn tokens_and_texts_turn_into_one_another() {
    let (_server, caller) = start(config(), 20.0).await;
    let count = async |body: Value| caller.json("/tokenize", body).await["count"].as_u64();
    assert_eq!(count(json!({"prompt": "hello world"})).await, Some(3));
    assert_eq!(count(json!({"prompt": "你好世界"})).await, Some(4));
    let messages = json!({"messages": [{"role": "user", "content": "hello"}]});
    let counted = caller.json("/tokenize", messages).await;
    assert_eq!(
        counted["tokens"].as_array().map(Vec::len),
        counted["count"].as_u64().map(|n| n as usize)
    );
    assert_eq!(counted["max_model_len"], 2048);
    let prompt =
        caller.json("/detokenize", json!({"tokens": [1, 300, 31_000]})).await["prompt"].clone();
    let back = caller.json("/tokenize", json!({"prompt": prompt})).await;
    assert_eq!(back["tokens"], json!([1, 300, 31_000]));
    assert_eq!(caller.json("/detokenize", json!({"tokens": [99_999]})).await["prompt"], "");
}

#[tokio::test]
async fn embeddings_are_numbers_or_base64() {
    let (_server, caller) = start(config(), 20.0).await;
    let body = json!({"input": ["a", "b"], "dimensions": 8});
    let numbers = caller.json("/v1/embeddings", body.clone()).await;
    assert_eq!(numbers["data"][1]["embedding"].as_array().map(Vec::len), Some(8));
    assert_eq!(numbers["usage"]["total_tokens"], 2);
    let coded =
        caller.json("/v1/embeddings", with(body, json!({"encoding_format": "base64"}))).await;
    // 8 floats of 4 bytes are 44 digits.
    assert_eq!(coded["data"][0]["embedding"].as_str().map(str::len), Some(44));
}

#[tokio::test]
async fn a_client_that_goes_away_frees_the_engine_at_once() {
    let (server, caller) = start(config(), 1.0).await;
    let body = with(chat("hi"), json!({"max_tokens": 1900, "stream": true}));
    let mut response =
        caller.post("/v1/chat/completions", body.to_string()).send().await.expect("it answers");
    response.chunk().await.expect("the stream runs").expect("a chunk");
    assert_eq!(server.gauges().running, 1);
    assert!(text(caller.get("/load").send().await.expect("it answers")).await.contains(":1}"));
    drop(response);
    let left = with(chat("hi"), json!({"max_tokens": 1900}));
    let waiting =
        caller.post("/v1/chat/completions", left.to_string()).timeout(Duration::from_millis(50));
    assert!(waiting.send().await.expect_err("1,900 tokens take longer").is_timeout());
    let stopwatch = Clock::real();
    while server.gauges().running > 0 {
        assert!(
            stopwatch.now().since(Timestamp::ZERO) < Duration::from_secs(2),
            "aborted within moments"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(server.gauges().used_blocks, 0);
    // As the real one, aborts are not counted as ends.
    assert_eq!(caller.metric("request_success_total").await, 0.0);
}

#[tokio::test]
async fn a_full_queue_is_refused_with_503() {
    let engine = EngineConfig {
        max_num_seqs: 1,
        max_num_queued_reqs: Some(2),
        scheduling_policy: Policy::Fcfs,
        ..config().engine
    };
    let (_server, caller) = start(ServerConfig { engine, ..config() }, 1.0).await;
    let body = with(chat("hi"), json!({"max_tokens": 1900, "stream": true})).to_string();
    let (mut open, mut busy) = (Vec::new(), 0);
    for _ in 0..8 {
        let response =
            caller.post("/v1/chat/completions", body.clone()).send().await.expect("it answers");
        match response.status().as_u16() {
            200 => open.push(response),
            503 => {
                busy += 1;
                assert!(text(response).await.contains(r#""type":"Service Unavailable""#));
            }
            other => panic!("{other}"),
        }
    }
    let ok = open.len();
    assert!((2..=3).contains(&ok) && ok + busy == 8, "{ok} answered");
    assert_eq!(caller.metric("admission_rejections_total").await, busy as f64);
}

#[tokio::test]
async fn tokens_keep_to_model_time_without_drift() {
    // 200 steps of 5 ms are 100 ms at ten times the speed; sleeping step by step would take twice
    // that, because a timer has a grain of 1 ms. The best of some tries, for busy machines.
    let cost = LinearCost {
        base: Picos::from_millis(5),
        per_prefill_token: Picos::ZERO,
        per_sequence: Picos::ZERO,
        per_kv_token: Picos::ZERO,
    };
    let engine = EngineConfig { cost, ..config().engine };
    let (_server, caller) = start(ServerConfig { engine, ..config() }, 10.0).await;
    let body = with(chat("hi"), json!({"max_tokens": 200, "stream": true}));
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let stopwatch = Clock::real();
        caller.chunks("/v1/chat/completions", body.clone()).await;
        best = best.min(stopwatch.now().since(Timestamp::ZERO));
    }
    assert!(best >= Duration::from_millis(95) && best < Duration::from_millis(170), "{best:?}");
}

#[tokio::test]
async fn the_prefix_cache_shows_in_usage_and_metrics() {
    let (_server, caller) = start(config(), 20.0).await;
    let long = "the same beginning ".repeat(20);
    for cached in [Value::Null, json!({"cached_tokens": 96})] {
        let answer = caller.json("/v1/chat/completions", chat(&long)).await;
        assert_eq!(answer["usage"]["prompt_tokens_details"], cached);
    }
    assert_eq!(caller.metric("prefix_cache_hits_total").await, 96.0);
    assert_eq!(caller.metric("generation_tokens_total").await, 24.0);
    assert_eq!(caller.metric("time_to_first_token_seconds_count").await, 2.0);
}

#[tokio::test]
async fn faults_are_as_bad_as_they_are_asked_to_be() {
    let (server, caller) = start(config(), 10.0).await;
    let ask = || {
        caller
            .post("/v1/chat/completions", chat("hi").to_string())
            .timeout(Duration::from_millis(300))
            .send()
    };
    server.set_fault(Fault::Status(500));
    assert_eq!(ask().await.expect("it answers").status(), 500);
    server.set_fault(Fault::Garbage);
    assert!(serde_json::from_str::<Value>(&text(ask().await.expect("it answers")).await).is_err());
    server.set_fault(Fault::Hang);
    assert!(ask().await.expect_err("it hangs").is_timeout());
    server.set_fault(Fault::None);
    server.set_healthy(false);
    assert_eq!(caller.get("/health").send().await.expect("it answers").status(), 503);
    server.set_healthy(true);
    assert_eq!(ask().await.expect("it answers").status(), 200);

    let stopwatch = Clock::real();
    ask().await.expect("it answers");
    let quick = stopwatch.now().since(Timestamp::ZERO);
    server.set_slow(20.0);
    let stopwatch = Clock::real();
    ask().await.expect("it answers");
    assert!(
        stopwatch.now().since(Timestamp::ZERO) > quick * 4,
        "{quick:?} then {:?}",
        stopwatch.now().since(Timestamp::ZERO)
    );
}

#[tokio::test]
async fn a_killed_server_breaks_streams_and_refuses_connections() {
    let (server, caller) = start(config(), 1.0).await;
    let body = with(chat("hi"), json!({"max_tokens": 1900, "stream": true})).to_string();
    let mut response =
        caller.post("/v1/chat/completions", body.clone()).send().await.expect("it answers");
    response.chunk().await.expect("the stream runs").expect("a chunk");
    server.reset_connections();
    let broken = async |mut response: Response| loop {
        match response.chunk().await {
            Ok(Some(_)) => {}
            end => break end.is_err(),
        }
    };
    assert!(broken(response).await, "the stream breaks, it does not end");
    let response =
        caller.post("/v1/chat/completions", body).send().await.expect("new ones are served");
    server.kill();
    assert!(broken(response).await);
    assert!(caller.get("/health").send().await.expect_err("nobody listens").is_connect());
}

#[tokio::test]
async fn shutting_down_lets_open_requests_end() {
    let (server, caller) = start(config(), 1.0).await;
    let body = with(chat("hi"), json!({"stream": true})).to_string();
    let mut response = caller.post("/v1/chat/completions", body).send().await.expect("it answers");
    response.chunk().await.expect("the stream runs").expect("a chunk");
    let ((), rest) = tokio::join!(server.shutdown(), text(response));
    assert!(rest.ends_with("data: [DONE]\n\n"));
    assert!(caller.get("/health").send().await.is_err());
}
