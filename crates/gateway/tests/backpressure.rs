//! A client that stops reading: the gateway stops reading its engine.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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
use tokio::net::TcpSocket;

/// An engine whose stream never ends and never waits; counts the bytes that were taken.
struct Endless(Arc<AtomicUsize>);

struct Stream(Arc<AtomicUsize>);

const EVENT: &[u8] = b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"}}]}\n\n";

impl ByteStream for Stream {
    fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, EngineError>>> {
        self.0.fetch_add(EVENT.len(), Ordering::SeqCst);
        Poll::Ready(Some(Ok(Bytes::from_static(EVENT))))
    }
}

impl Engine for Endless {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Reply, EngineError>> {
        let taken = Arc::clone(&self.0);
        Box::pin(async move {
            let mut headers = HeaderMap::new();
            if call.path.starts_with("/v1/chat") {
                let events = HeaderValue::from_static("text/event-stream");
                headers.insert("content-type", events);
                let body = ReplyBody::streaming(Stream(taken));
                return Ok(Reply { status: StatusCode::OK, headers, body });
            }
            Ok(Reply { status: StatusCode::OK, headers, body: Bytes::new().into() })
        })
    }
}

impl EngineFactory for Endless {
    fn engine(&self, _: &ExecutionInstance) -> Result<Arc<dyn Engine>, SettingsError> {
        Ok(Arc::new(Self(Arc::clone(&self.0))))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stops_reading_stops_the_engines_socket() {
    let taken = Arc::new(AtomicUsize::new(0));
    let factory = Box::new(Endless(Arc::clone(&taken)));
    let shell = Shell::start(&Config::default(), Clock::real(), factory, ProbeConfig::default());
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = GatewayConfig { listen, ..GatewayConfig::default() };
    let spec = ExecutionInstance::new("e", "localhost", 1, "tiny");
    let gateway = Gateway::over(Arc::clone(&shell), &config, vec![spec]).await.expect("starts");
    let address = gateway.local_addr();
    tokio::spawn(gateway.serve(std::future::pending()));

    // A small receive buffer, so that the kernel holds little.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(16 << 10).expect("a small buffer");
    let mut client = socket.connect(address).await.expect("connects");
    let body = r#"{"model":"tiny","messages":[],"stream":true}"#;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    client.write_all(head.as_bytes()).await.expect("sent");
    let mut first = [0; 1024];
    assert!(client.read(&mut first).await.expect("the answer begins") > 0);

    // Nothing is read any more: what is taken of the engine comes to a stop. A part of it is in
    // the kernel's send buffer (up to 4 MiB on Linux); the rest is the gateway's.
    let mut last = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = taken.load(Ordering::SeqCst);
        if now == last {
            break;
        }
        last = now;
        assert!(now < 5 << 20, "{now} bytes taken of the engine for a client that does not read");
    }

    // Reading goes on where it stopped, and leaving ends it.
    let mut read = 0;
    while read < 100_000 {
        read += client.read(&mut first).await.expect("the answer goes on");
    }
    drop(client);
    for _ in 0..500 {
        if shell.read(|core, _| core.counts().cancelled) == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the request was not cancelled");
}
