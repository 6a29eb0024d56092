//! What an answer looks like: whole, streamed, with tools, log probabilities and usage.

use super::*;

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
            r#"{{"id":"cmpl-two-prompts","object":"text_completion","created":{created},"model":"tiny","choices":[{},{}],"service_tier":null,"system_fingerprint":"vllm-0.32.0-7d376611","usage":{{"prompt_tokens":2,"total_tokens":6,"completion_tokens":4,"prompt_tokens_details":{{"cached_tokens":0,"created_cache_tokens":null,"multimodal_tokens":null}},"completion_tokens_details":null}},"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}}"#,
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
    assert_eq!(plain["choices"][0]["message"].get("tool_calls"), None);
    // Whoever names the tool is told that the answer ended, not that a tool was called.
    let named = json!({"type": "function", "function": {"name": "weather"}});
    let body = with(chat("hi"), json!({"tools": tools, "tool_choice": named}));
    let answer = caller.json("/v1/chat/completions", body).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["choices"][0]["message"]["content"], "");
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
