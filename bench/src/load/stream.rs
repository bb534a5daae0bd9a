//! One bidirectional gRPC stream: message and echo by turns, then the trailers.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Either};
use tokio::sync::mpsc;

use super::Plan;
use super::exchange::{Shared, grpc_status, http2_response, message, reason};
use super::record::Answer;

/// A request body that is fed while its answer is read.
#[derive(Debug)]
pub(super) struct Fed(mpsc::Receiver<Bytes>);

impl Body for Fed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.0.poll_recv(cx);
        next.map(|data| data.map(|data| Ok(Frame::data(data))))
    }
}

pub(super) async fn exchange(shared: &Shared, plan: &Plan, number: u64) -> Result<Answer, String> {
    let (feed, fed) = mpsc::channel(1);
    let response = http2_response(shared, plan, number, Either::Right(Fed(fed))).await?;
    let (head, mut body) = response.into_parts();
    if !head.status.is_success() {
        return Ok(Answer::new(&head, 0));
    }
    if head.headers.contains_key("grpc-status") {
        // Refused before the first message.
        grpc_status(&head.headers)?;
    }
    let text = message(&plan.body);
    let mut bytes = 0;
    for turn in 0..plan.messages {
        if turn > 0 {
            tokio::time::sleep(plan.gap).await;
        }
        let ended = |_| format!("the stream ended before message {turn}");
        feed.send(text.clone()).await.map_err(ended)?;
        let mut echoed = 0;
        while echoed < text.len() {
            let frame = body
                .frame()
                .await
                .ok_or("the stream ended within an echo")?;
            let frame = frame.map_err(|error| format!("stream cut off: {}", reason(&error)))?;
            if let Some(trailers) = frame.trailers_ref() {
                grpc_status(trailers)?;
                return Err("the stream ended within an echo".to_owned());
            }
            echoed += frame.data_ref().map_or(0, Bytes::len);
        }
        bytes += echoed as u64;
    }
    drop(feed);
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("stream cut off: {}", reason(&error)))?;
        trailers = frame.into_trailers().ok().or(trailers);
    }
    grpc_status(
        trailers
            .as_ref()
            .ok_or("the stream ended without trailers")?,
    )?;
    Ok(Answer::new(&head, bytes))
}
