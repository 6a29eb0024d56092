//! Calls over real sockets, to a server that does exactly what each test says: mostly wrong things.

use std::error::Error;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use sagellm_executor::{
    Call, Clients, Engine, EngineError, HttpConfig, HttpEngine, Probe, ProbeConfig, Reply,
    TimeoutKind, Timeouts,
};
use sagellm_types::FailureKind;
use sagellm_types::clock::Clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-engine: yes\r\n\r\n";
const LIMITS: Timeouts = Timeouts::within(Duration::from_secs(30));

/// Starts a server that gives each connection to `serve`, with the number of it.
async fn server<F, S>(serve: S) -> SocketAddr
where
    S: Fn(TcpStream, usize) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        for number in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            tokio::spawn(serve(stream, number));
        }
    });
    address
}

/// Reads one request, head and body, and returns its text.
async fn request(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let read = stream.read(&mut piece).await.expect("the client writes");
        assert!(read > 0, "the client left: {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&text);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.map_or(0, |length| length.parse().expect("a length")) {
            return text.into_owned();
        }
    }
}

/// Starts a server that reads a request, writes `answer` and closes.
async fn answering(answer: &'static [u8]) -> SocketAddr {
    server(move |mut stream, _| async move {
        request(&mut stream).await;
        stream.write_all(answer).await.expect("the client reads");
    })
    .await
}

/// Starts a server that reads a request, writes `answer` and then nothing, without closing.
async fn hanging(answer: &'static [u8]) -> SocketAddr {
    server(move |mut stream, _| async move {
        request(&mut stream).await;
        stream.write_all(answer).await.expect("the client reads");
        std::future::pending::<()>().await;
    })
    .await
}

fn engine(address: SocketAddr) -> HttpEngine {
    let clients = Clients::new(&HttpConfig::default(), Clock::real()).expect("the defaults work");
    HttpEngine::new(&format!("http://{address}"), None, &clients).expect("a URL")
}

async fn post(address: SocketAddr, limits: Timeouts) -> Result<Reply, EngineError> {
    engine(address).call(Call::post("/v1/completions", "{}", limits)).await
}

/// Returns what of the body came, and how it ended.
async fn drain(mut reply: Reply) -> (Vec<u8>, Option<EngineError>) {
    let mut all = Vec::new();
    loop {
        match reply.body.next().await {
            Some(Ok(bytes)) => all.extend_from_slice(&bytes),
            Some(Err(error)) => return (all, Some(error)),
            None => return (all, None),
        }
    }
}

/// Checks that what came before a failure was delivered, and the kind of the failure.
async fn check_body(address: SocketAddr, limits: Timeouts, came: &str, expected: FailureKind) {
    let reply = post(address, limits).await.expect("a head came");
    let (all, error) = drain(reply).await;
    assert_eq!(String::from_utf8_lossy(&all), came);
    assert_eq!(error.expect("the body is cut").kind(), expected);
}

async fn check_head(address: SocketAddr, expected: FailureKind) {
    let error = post(address, LIMITS).await.expect_err("no answer");
    assert_eq!(error.kind(), expected, "{error} {:?}", error.source());
}

#[tokio::test]
async fn a_refused_connection_is_no_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    check_head(address, FailureKind::Connect).await;
}

#[tokio::test]
async fn a_connection_closed_before_the_head_is_reset() {
    check_head(answering(b"").await, FailureKind::Reset).await;
    check_head(answering(b"HTTP/1.1 200 OK\r\ncontent-").await, FailureKind::Reset).await;
    // Closed without reading: the kernel sends a reset.
    check_head(server(|stream, _| async { drop(stream) }).await, FailureKind::Reset).await;
}

#[tokio::test]
async fn what_is_not_http_is_garbage() {
    check_head(answering(b"\x16\x03\x01 not http at all\r\n\r\n").await, FailureKind::Garbage)
        .await;
    check_head(answering(b"HTTP/1.1 xyz\r\n\r\n").await, FailureKind::Garbage).await;
    let bad_chunk = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n";
    check_body(answering(bad_chunk).await, LIMITS, "abc", FailureKind::Garbage).await;
}

#[tokio::test]
async fn a_body_that_ends_early_is_reset() {
    let short = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc";
    check_body(answering(short).await, LIMITS, "abc", FailureKind::Reset).await;
    let cut = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n5\r\nde";
    check_body(answering(cut).await, LIMITS, "abcde", FailureKind::Reset).await;
    let no_end = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
    check_body(answering(no_end).await, LIMITS, "abc", FailureKind::Reset).await;
}

#[tokio::test]
async fn silence_ends_in_the_timeout_that_it_breaks() {
    let short = Duration::from_millis(50);
    let limits = Timeouts { first_token: short, ..LIMITS };
    let check = |error: EngineError, expected| match error {
        EngineError::Timeout { which } => assert_eq!(which, expected),
        other => panic!("{other:?}"),
    };
    let error = post(hanging(b"").await, limits).await.expect_err("no head");
    check(error, TimeoutKind::FirstToken);
    // vLLM sends the head of a stream before its first token.
    let reply = post(hanging(HEAD).await, limits).await.expect("a head");
    check(drain(reply).await.1.expect("no token"), TimeoutKind::FirstToken);
    let limits = Timeouts { idle: short, ..LIMITS };
    let started = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let (all, error) = drain(post(hanging(started).await, limits).await.expect("a head")).await;
    assert_eq!(all, b"abc");
    check(error.expect("silence"), TimeoutKind::Idle);
    let limits = Timeouts { total: short, ..LIMITS };
    let error = drain(post(hanging(started).await, limits).await.expect("a head")).await.1;
    check(error.expect("silence"), TimeoutKind::Total);
}

#[tokio::test]
async fn a_slow_stream_within_its_limits_is_whole() {
    let address = server(|mut stream, _| async move {
        request(&mut stream).await;
        stream.write_all(HEAD).await.expect("the client reads");
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            stream.write_all(b"1\r\nx\r\n").await.expect("the client reads");
        }
        stream.write_all(b"0\r\n\r\n").await.expect("the client reads");
    })
    .await;
    // Longer in total than the idle limit, which each piece renews.
    let limits = Timeouts { idle: Duration::from_millis(300), ..LIMITS };
    let (all, error) = drain(post(address, limits).await.expect("a head")).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(all, [b'x'; 20]);
}

#[tokio::test]
async fn dropping_a_reply_or_a_call_closes_the_connection() {
    let (closed, mut closings) = mpsc::unbounded_channel();
    let address = server(move |mut stream, number| {
        let closed = closed.clone();
        async move {
            request(&mut stream).await;
            if number == 0 {
                stream.write_all(HEAD).await.expect("the client reads");
                stream.write_all(b"1\r\nx\r\n").await.expect("the client reads");
            }
            let end = stream.read(&mut [0; 1]).await;
            closed.send(matches!(end, Ok(0) | Err(_))).expect("the test still runs");
        }
    })
    .await;
    let mut reply = post(address, LIMITS).await.expect("a head");
    assert!(matches!(reply.body.next().await, Some(Ok(_))));
    drop(reply);
    let closing = tokio::time::timeout(Duration::from_secs(10), closings.recv()).await;
    assert_eq!(closing, Ok(Some(true)));
    // The second never gets a head: its call is dropped in the midst.
    let call = tokio::time::timeout(Duration::from_millis(50), post(address, LIMITS)).await;
    assert!(call.is_err());
    let closing = tokio::time::timeout(Duration::from_secs(10), closings.recv()).await;
    assert_eq!(closing, Ok(Some(true)));
}

#[tokio::test]
async fn a_streamed_body_arrives_byte_for_byte() {
    let body: Bytes = (0..100_000u32).map(|n| (n * 7 % 251) as u8).collect();
    let sent = body.clone();
    let address = server(move |mut stream, _| {
        let body = sent.clone();
        async move {
            request(&mut stream).await;
            let mut wire = HEAD.to_vec();
            let mut at = 0;
            for length in [1, 2, 3, 5, 7, 1000, 8191, 8192, 8193, 1, 60_000].iter().cycle() {
                let piece = &body[at..body.len().min(at + length)];
                if piece.is_empty() {
                    break;
                }
                wire.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                wire.extend_from_slice(piece);
                wire.extend_from_slice(b"\r\n");
                at += piece.len();
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            // Written in pieces that share no edges with the chunks.
            for piece in wire.chunks(1237) {
                stream.write_all(piece).await.expect("the client reads");
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
    let reply = post(address, LIMITS).await.expect("a head");
    assert_eq!(
        (reply.status, &reply.headers["x-engine"]),
        (StatusCode::OK, &"yes".parse().expect("a value"))
    );
    let (all, error) = drain(reply).await;
    assert!(error.is_none(), "{error:?}");
    assert!(all == body);
}

#[tokio::test]
async fn the_request_is_sent_as_it_was_given() {
    let (seen, mut requests) = mpsc::unbounded_channel();
    let address = server(move |mut stream, _| {
        let seen = seen.clone();
        async move {
            seen.send(request(&mut stream).await).expect("the test still runs");
            stream
                .write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno")
                .await
                .expect("the client reads");
        }
    })
    .await;
    let clients = Clients::new(&HttpConfig::default(), Clock::real()).expect("the defaults work");
    let engine =
        HttpEngine::new(&format!("http://{address}/base/"), Some("key"), &clients).expect("a URL");
    let mut call = Call::post("/v1/chat/completions", r#"{ "a" : 1.0 }"#, LIMITS);
    call.headers.insert("x-request-id", "r1".parse().expect("a value"));
    let reply = engine.call(call).await.expect("an answer");
    // An engine's own error is an answer like any other.
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    assert_eq!(drain(reply).await.0, b"no");
    let text = requests.recv().await.expect("a request came");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let mut lines: Vec<&str> = head.lines().collect();
    assert_eq!(lines.remove(0), "POST /base/v1/chat/completions HTTP/1.1");
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "accept: */*",
            "authorization: Bearer key",
            "content-length: 13",
            "content-type: application/json",
            &format!("host: {address}"),
            "x-request-id: r1",
        ]
    );
    assert_eq!(body, r#"{ "a" : 1.0 }"#);
}

#[tokio::test]
async fn no_pool_limits_how_many_run_at_once() {
    const AT_ONCE: usize = 150;
    let barrier = std::sync::Arc::new(tokio::sync::Barrier::new(AT_ONCE));
    let address = server(move |mut stream, _| {
        let barrier = barrier.clone();
        async move {
            request(&mut stream).await;
            // Nobody is answered until all are here.
            barrier.wait().await;
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx")
                .await
                .expect("the client reads");
            let _ = stream.read(&mut [0; 1]).await;
        }
    })
    .await;
    let engine = std::sync::Arc::new(engine(address));
    let calls: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let engine = engine.clone();
            tokio::spawn(async move {
                let reply = engine.call(Call::post("/v1/completions", "{}", LIMITS)).await?;
                reply.body.collect(10).await
            })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.expect("no panic").expect("an answer"), "x");
    }
}

#[tokio::test]
async fn a_connection_is_used_again_but_never_by_probes() {
    let (seen, mut requests) = mpsc::unbounded_channel();
    let address = server(move |mut stream, number| {
        let seen = seen.clone();
        async move {
            loop {
                request(&mut stream).await;
                seen.send(number).expect("the test still runs");
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx")
                    .await
                    .expect("the client reads");
            }
        }
    })
    .await;
    let engine = engine(address);
    for _ in 0..2 {
        let call = Call::post("/v1/completions", "{}", LIMITS);
        let body = engine.call(call).await.expect("an answer").body;
        assert_eq!(body.collect(1).await.expect("one byte"), "x");
        // The connection goes back to its pool in a task of its own.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let body = engine.call(Call::probe("/health", LIMITS)).await.expect("an answer").body;
    assert_eq!(body.collect(1).await.expect("one byte"), "x");
    let connections = [requests.recv().await, requests.recv().await, requests.recv().await];
    assert_eq!(connections, [Some(0), Some(0), Some(1)]);
}

#[tokio::test]
async fn a_probe_of_a_hanging_engine_ends() {
    let config = ProbeConfig { timeout_ms: 50 };
    let error = Probe::new(&config).run(&engine(hanging(b"").await)).await.expect_err("no answer");
    assert_eq!(error.kind(), FailureKind::Timeout);
}
