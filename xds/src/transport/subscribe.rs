//! The client's end: one stream at a time, for ever.

use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use hyper_util::rt::TokioIo;
use rand::Rng;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint, Uri};

use super::{
    ConnectionState, Dial, EPOCH_HEADER, MAX_MESSAGE, PING_INTERVAL, PING_TIMEOUT, Sink,
    SubscribeConfig,
};
use crate::client::Client;

/// The first back-off; each further one is twice as long.
const FIRST_BACK_OFF: Duration = Duration::from_millis(100);
/// The longest back-off.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(5);
/// Time for a connection and for the answer to the call.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A stream that lasted this long was not refused.
const SETTLED: Duration = Duration::from_secs(5);
/// Requests waiting to be written; more make the reader of responses wait.
const REQUESTS: usize = 16;

/// Subscribes for ever; reconnects with a jittered back-off.
pub async fn subscribe(config: SubscribeConfig, dial: Dial, mut sink: impl Sink) -> ! {
    let mut client = Client::new(config.node, config.always, config.initial);
    let mut failures = 0;
    let mut turn = 0;
    loop {
        let server = config.servers.get(turn % config.servers.len().max(1));
        turn += 1;
        let mut settled = false;
        let ended = match server {
            Some(server) => session(server, &dial, &mut client, &mut sink, &mut settled).await,
            None => Err("no control server is configured".to_owned()),
        };
        let reason = match ended {
            Ok(()) => "the control server ended the stream".to_owned(),
            Err(reason) => reason,
        };
        failures = if settled { 0 } else { failures + 1 };
        let retry_in = back_off(failures, rand::rng().random_range(0.5..1.0));
        let server = server.map_or("", String::as_str);
        // Once per step of the back-off, not per try: at the longest one it is said once, and again after a reconnect.
        if failures <= 1 || step(failures) != step(failures - 1) {
            tracing::warn!(server, reason, ?retry_in, "no control server");
        }
        sink.connection(ConnectionState::Disconnected { reason, retry_in });
        tokio::time::sleep(retry_in).await;
    }
}

/// How long to wait after so many failures in a row; `jitter` is a share from 0.5 to 1.
pub(super) fn back_off(failures: u32, jitter: f64) -> Duration {
    step(failures).mul_f64(jitter)
}

/// The back-off before jitter.
fn step(failures: u32) -> Duration {
    let doubled = FIRST_BACK_OFF * 2u32.pow(failures.saturating_sub(1).min(10));
    doubled.min(LONGEST_BACK_OFF)
}

async fn session(
    server: &str,
    dial: &Dial,
    client: &mut Client,
    sink: &mut impl Sink,
    settled: &mut bool,
) -> Result<(), String> {
    let channel = connect(server, dial).await?;
    let mut service =
        AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let (requests, queued) = mpsc::channel(REQUESTS);
    let started = Instant::now();
    send(&requests, client.on_connect(started)).await?;
    let call = service.delta_aggregated_resources(ReceiverStream::new(queued));
    let response = tokio::time::timeout(CONNECT_TIMEOUT, call)
        .await
        .map_err(|_| format!("no answer within {CONNECT_TIMEOUT:?}"))?
        .map_err(|status| shown(&status))?;
    if let Some(epoch) = response.metadata().get(EPOCH_HEADER) {
        client.on_epoch(epoch.to_str().unwrap_or_default());
    }
    let mut epoch = client.epoch().unwrap_or_default().to_owned();
    sink.connection(ConnectionState::Connected {
        server: server.to_owned(),
        epoch: epoch.clone(),
    });
    let mut responses = response.into_inner();
    loop {
        let next = next(&mut responses, client.deadline()).await;
        *settled |= matches!(next, Next::Response(_)) || started.elapsed() >= SETTLED;
        let now = Instant::now();
        let mut apply = |changed, removed| sink.apply(changed, removed);
        let answers = match next {
            Next::Response(response) => client.on_response(now, *response, &mut apply),
            Next::Time => client.on_time(now, &mut apply),
            Next::End(result) => return result,
        };
        if client.epoch() != Some(epoch.as_str())
            && let Some(told) = client.epoch()
        {
            epoch = told.to_owned();
            sink.connection(ConnectionState::Connected {
                server: server.to_owned(),
                epoch: epoch.clone(),
            });
        }
        send(&requests, answers).await?;
    }
}

enum Next {
    Response(Box<DeltaDiscoveryResponse>),
    Time,
    End(Result<(), String>),
}

async fn next(
    responses: &mut Streaming<DeltaDiscoveryResponse>,
    deadline: Option<Instant>,
) -> Next {
    let at = deadline.unwrap_or_else(Instant::now);
    tokio::select! {
        message = responses.message() => match message {
            Ok(Some(response)) => Next::Response(Box::new(response)),
            Ok(None) => Next::End(Ok(())),
            Err(status) => Next::End(Err(shown(&status))),
        },
        () = tokio::time::sleep_until(at), if deadline.is_some() => Next::Time,
    }
}

async fn connect(server: &str, dial: &Dial) -> Result<Channel, String> {
    let uri: Uri = server
        .parse()
        .map_err(|error| format!("{server:?} is not a URL: {error}"))?;
    let endpoint = Endpoint::from(uri.clone())
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    let dial = dial.clone();
    // Whether it is in TLS is for `dial` alone: tonic is built without.
    let connector = tower::service_fn(move |_: Uri| {
        let connecting = dial(uri.clone());
        async move { connecting.await.map(TokioIo::new) }
    });
    let connected = endpoint.connect_with_connector(connector).await;
    connected.map_err(|error| with_causes(&error))
}

async fn send(
    requests: &mpsc::Sender<DeltaDiscoveryRequest>,
    messages: Vec<DeltaDiscoveryRequest>,
) -> Result<(), String> {
    for message in messages {
        let sent = requests.send(message).await;
        sent.map_err(|_| "the connection was lost".to_owned())?;
    }
    Ok(())
}

fn shown(status: &tonic::Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// tonic says only "transport error"; what happened is below it.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Some layers print their cause themselves.
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
