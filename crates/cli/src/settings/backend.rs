//! An engine named by its URL alone.

use sagellm_types::{ExecutionInstance, RequestType};

/// Returns the instance at `url`; what it serves is asked from it.
///
/// # Errors
/// If it is not an `http` or `https` URL with a host; the message says what is expected.
pub(crate) fn instance(url: &str) -> Result<ExecutionInstance, String> {
    let wrong = |what: &str| {
        format!(
            "`{url}` is no engine's URL ({what}); expected http://HOST:PORT, for example http://127.0.0.1:8000"
        )
    };
    let parsed = reqwest::Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(wrong("the scheme must be http or https"));
    }
    let host = parsed.host_str().ok_or_else(|| wrong("no host"))?;
    if parsed.query().is_some() || parsed.fragment().is_some() || !parsed.username().is_empty() {
        return Err(wrong("only a path may follow the host"));
    }
    let port = parsed.port_or_known_default().ok_or_else(|| wrong("no port"))?;
    // OpenAI's own notation of a base URL ends in /v1, which we add ourselves.
    let path = parsed.path().trim_end_matches('/');
    let path = path.strip_suffix("/v1").unwrap_or(path);
    let id = format!("{host}:{port}{path}");
    Ok(ExecutionInstance {
        scheme: parsed.scheme().to_owned(),
        base_path: path.to_owned(),
        // What the engine behind a bare URL takes is the engine's to say.
        supported_request_types: Some(vec![
            RequestType::LlmChat,
            RequestType::LlmGenerate,
            RequestType::Embedding,
        ]),
        ..ExecutionInstance::new(id, host, port, "")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, id: &str, base: &str) {
        let instance = instance(url).expect("a URL of an engine");
        assert_eq!((instance.instance_id.as_str(), instance.base_url().as_str()), (id, base));
    }

    #[test]
    fn a_url_is_an_instance() {
        check("http://127.0.0.1:8000", "127.0.0.1:8000", "http://127.0.0.1:8000");
        check("http://vllm-1:8000/v1/", "vllm-1:8000", "http://vllm-1:8000");
        check("https://gpu.example/llm/", "gpu.example:443/llm", "https://gpu.example:443/llm");
        check("http://[::1]:8000", "[::1]:8000", "http://[::1]:8000");
    }

    #[test]
    fn other_text_is_refused_with_what_is_expected() {
        for text in ["localhost:8000", "8000", "ftp://h:1", "http://h:1/?a=b", ""] {
            let message = instance(text).expect_err("no URL of an engine");
            assert!(message.contains("expected http://HOST:PORT"), "{message}");
        }
    }
}
