//! What is refused, as the real server refuses it.

use super::*;

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
    check(
        chat,
        r#"{"model":"tiny","messages":null}"#,
        400,
        &format!("{bad} | null | 'NoneType' object is not iterable"),
    )
    .await;
    check(
        completions,
        "",
        400,
        r#"Bad Request | "body" | 1 validation error:
  {'type': 'missing', 'loc': 'body', 'msg': 'Field required', 'input': 'None'}"#,
    )
    .await;
    check(
        completions,
        r#"{"model":"tiny","prompt":[]}"#,
        400,
        &format!("{bad} | null | You must pass at least one prompt"),
    )
    .await;
    check(
        completions,
        r#"{"model":"tiny","prompt":["x",""]}"#,
        400,
        &format!("{bad} | null | The decoder prompt cannot be empty"),
    )
    .await;
    check(
        completions,
        r#"{"model":"tiny","prompt":"x","top_k":-5}"#,
        400,
        &format!("{bad} | null | top_k must be 0 (disable), or at least 1, got -5."),
    )
    .await;
    check(
        completions,
        r#"{"model":"tiny","prompt":"x","max_tokens":2,"min_tokens":5}"#,
        400,
        &format!("{bad} | null | min_tokens must be less than or equal to max_tokens=2, got 5."),
    )
    .await;
    check(chat, r#"{"model":"tiny","messages":[{"role":"user","content":"x"}],"tool_choice":"auto"}"#, 400, &format!(r#"{bad} | "tool_choice" | When using `tool_choice`, `tools` must be set. (parameter=tool_choice)"#)).await;
    check(completions, r#"{"model":"tiny","prompt":"x","cache_salt":""}"#, 400, &format!(r#"{bad} | "cache_salt" | Parameter 'cache_salt' must be a non-empty string if provided. (parameter=cache_salt)"#)).await;
}

#[tokio::test]
async fn an_answer_is_cut_to_the_room_that_its_prompt_leaves() {
    let (_server, caller) = start(config(), 100.0).await;
    let body = json!({"model": "tiny", "prompt": vec![300; 2000], "max_tokens": 100});
    let answer = caller.json("/v1/completions", body).await;
    assert_eq!(answer["usage"]["completion_tokens"], 48);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
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
    for (path, status) in [("/health", 405), ("/v1/models", 405), ("/metrics", 200)] {
        let head = caller.client.head(format!("{}{path}", caller.base)).send().await;
        assert_eq!(head.expect("it answers").status(), status, "{path}");
    }
}
