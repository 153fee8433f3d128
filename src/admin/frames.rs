//! Owns the live frame stream of a connection: the headers of its frames, and its end. It never shows
//! payload.

use super::connections;
use super::request::AdminRequest;
use super::response::{AdminResponse, Problem, Time};
use super::stream::{self, BEAT, Sender};
use crate::drain::Watch;
use crate::proxy::registry::LiveTunnel;
use crate::telemetry::report::{ConnectionId, Ended};
use crate::tunnel::inspect::{FrameStream, TimedFrame};
use crate::tunnel::relay::{Disposition, FrameEvent};
use crate::ws::frame::OpCode;
use serde::Serialize;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

#[derive(Serialize)]
struct Line {
    time: Time,
    side: &'static str,
    opcode: &'static str,
    fin: bool,
    length: u64,
    origin: &'static str,
    course: &'static str,
}

/// `GET /api/connections/{id}/frames`.
pub(super) fn answer(request: AdminRequest) -> Result<AdminResponse, Problem> {
    let tunnel = connections::find(&request)?;
    let (sender, answer) = stream::open(&request)?;
    // Listen before tapping, so that the end cannot be missed.
    let ends = request.admin.proxy.log.subscribe();
    let tail = tunnel.control.inspect(MOST);
    let (id, opened) = (tunnel.report.id, tunnel.opened.into());
    // A viewer must not keep the tunnel alive.
    drop::<Arc<LiveTunnel>>(tunnel);
    tokio::spawn(pass_on(sender, tail, opened, ends, id, request.watch));
    Ok(answer)
}

async fn pass_on(
    sender: Sender,
    tail: FrameStream,
    opened: SystemTime,
    ends: Receiver<Arc<Ended>>,
    id: ConnectionId,
    mut watch: Watch,
) {
    let pass = async {
        if frames(&sender, tail, opened).await
            && let Some(line) = end(ends, id).await
        {
            sender.send(stream::written("end", &line)).await;
        }
    };
    tokio::select! {
        () = pass => {}
        () = sender.closed() => {}
        () = watch.draining() => {}
    }
}

/// Sends at most [`MOST`] frames per [`WINDOW`]. Returns whether the connection ended before the reader left.
async fn frames(sender: &Sender, mut tail: FrameStream, opened: SystemTime) -> bool {
    loop {
        let Ok(mut next) = timeout(BEAT, tail.next()).await else {
            if !sender.beat().await {
                return false;
            }
            continue;
        };
        let window = Instant::now() + WINDOW;
        for place in 1..=MOST {
            let Some(frame) = next else { return tell_left_out(sender, &tail).await };
            if !sender.send(stream::event("frame", &line(&frame, opened))).await {
                return false;
            }
            if place == MOST {
                // Frames that arrive meanwhile wait or are left out, at no cost here.
                sleep_until(window).await;
                break;
            }
            match timeout_at(window, tail.next()).await {
                Ok(one) => next = one,
                Err(_) => break,
            }
        }
        if !tell_left_out(sender, &tail).await {
            return false;
        }
    }
}

/// Returns whether there still is a reader.
async fn tell_left_out(sender: &Sender, tail: &FrameStream) -> bool {
    match tail.take_dropped() {
        0 => true,
        count => sender.send(stream::event("left_out", &json!({ "count": count }))).await,
    }
}

fn line(TimedFrame { at, event }: &TimedFrame, opened: SystemTime) -> Line {
    let FrameEvent { side, opcode, fin, length, disposition } = *event;
    Line {
        time: Time(opened + at.elapsed()),
        side: side.as_str(),
        opcode: match opcode {
            OpCode::Continuation => "continuation",
            OpCode::Text => "text",
            OpCode::Binary => "binary",
            OpCode::Close => "close",
            OpCode::Ping => "ping",
            OpCode::Pong => "pong",
        },
        fin,
        length,
        origin: if disposition == Disposition::Injected { "proxy" } else { "peer" },
        course: match disposition {
            Disposition::Forwarded => "passes",
            Disposition::Consumed => "ends",
            Disposition::Injected => "begins",
        },
    }
}

/// Waits for the report of the end, which follows at once. `None` means that it was lost in a flood of
/// reports.
async fn end(mut ends: Receiver<Arc<Ended>>, id: ConnectionId) -> Option<String> {
    let found = async {
        loop {
            match ends.recv().await {
                Ok(end) if end.report.id == id => return Some(end.json(0)),
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    };
    timeout(LAST_WORD, found).await.ok().flatten()
}

/// Maximum number of frames shown per window: more than anybody reads.
const MOST: usize = 200;
const WINDOW: Duration = Duration::from_secs(1);

/// Maximum time from the end of a tunnel to its report.
const LAST_WORD: Duration = Duration::from_secs(5);
