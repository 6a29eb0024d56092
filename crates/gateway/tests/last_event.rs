//! A client that leaves after the last event, while the engine's connection is still open: real
//! clients do not wait for its end, and real engines are some packets late with it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use sagellm_executor::{
    BoxFuture, ByteStream, Call, Engine, EngineError, ProbeConfig, Reply, ReplyBody, SettingsError,
};
use sagellm_gateway::{Gateway, GatewayConfig};
use sagellm_manager::{Config, EngineFactory, Shell};
use sagellm_types::ExecutionInstance;
use sagellm_types::clock::Clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const EVENT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"}}]}\n\n";
const LAST: &str = "data: [DONE]\n\n";
/// What vLLM writes into its streams when its core has died.
const DIED: &str = "data: {\"error\":{\"message\":\"EngineCore encountered an issue.\",\"type\":\"InternalServerError\",\"param\":null,\"code\":500}}\n\n";

/// An engine that says what it is given and never closes.
struct Lingering(&'static [&'static str]);

struct Stream(VecDeque<&'static str>);

impl ByteStream for Stream {
    fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, EngineError>>> {
        match self.0.pop_front() {
            Some(event) => Poll::Ready(Some(Ok(Bytes::from_static(event.as_bytes())))),
            None => Poll::Pending,
        }
    }
}

impl Engine for Lingering {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Reply, EngineError>> {
        let events = self.0.iter().copied().collect();
        Box::pin(async move {
            let mut headers = HeaderMap::new();
            let mut body = Bytes::new().into();
            if call.path.starts_with("/v1/chat") {
                headers.insert("content-type", HeaderValue::from_static("text/event-stream"));
                body = ReplyBody::streaming(Stream(events));
            }
            Ok(Reply { status: StatusCode::OK, headers, body })
        })
    }
}

impl EngineFactory for Lingering {
    fn engine(&self, _: &ExecutionInstance) -> Result<Arc<dyn Engine>, SettingsError> {
        Ok(Arc::new(Self(self.0)))
    }
}

/// Reads an answer up to `mark`, leaves, and returns how many requests finished, were cancelled and
/// failed.
async fn leave_after(said: &'static [&'static str], mark: &str) -> (u64, u64, u64) {
    let factory = Box::new(Lingering(said));
    let shell = Shell::start(&Config::default(), Clock::real(), factory, ProbeConfig::default());
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = GatewayConfig { listen, ..GatewayConfig::default() };
    let spec = ExecutionInstance::new("e", "localhost", 1, "tiny");
    let gateway = Gateway::over(Arc::clone(&shell), &config, vec![spec]).await.expect("starts");
    let mut client = TcpStream::connect(gateway.local_addr()).await.expect("connects");
    tokio::spawn(gateway.serve(std::future::pending()));

    let body = r#"{"model":"tiny","messages":[],"stream":true}"#;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    client.write_all(head.as_bytes()).await.expect("sent");
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains(mark) {
        assert!(client.read_buf(&mut read).await.expect("the answer goes on") > 0);
    }
    drop(client);
    for _ in 0..500 {
        let counts = shell.read(|core, _| core.counts());
        if counts.ended() == 1 {
            return (counts.finished, counts.cancelled, counts.failed);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the request did not end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_leaves_after_the_last_event_has_a_finished_answer() {
    assert_eq!(leave_after(&[EVENT, EVENT, LAST], "[DONE]").await, (1, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_leaves_before_the_last_event_has_cancelled() {
    assert_eq!(leave_after(&[EVENT, EVENT], "word").await, (0, 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_says_in_the_midst_that_it_died_has_not_finished() {
    assert_eq!(leave_after(&[EVENT, DIED, LAST], "[DONE]").await, (0, 0, 1));
}
