//! Owns the live events for viewers of the page. One computation per tick serves all of them. Without viewers
//! there is none.

use super::request::AdminRequest;
use super::response::{AdminResponse, Problem};
use super::stream::{self, BEAT, Sender};
use super::{Admin, ends, status};
use crate::drain::Watch;
use crate::telemetry::report::Ended;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::broadcast::{self, Receiver};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Starts and runs the ticks.
#[derive(Debug)]
pub(super) struct Ticker {
    news: broadcast::Sender<Bytes>,
    running: Mutex<bool>,
}

impl Ticker {
    pub(super) fn new() -> Self {
        Self { news: broadcast::channel(BEHIND).0, running: Mutex::default() }
    }

    /// Subscribes to further events. The first viewer starts the ticks.
    fn listen(&self, admin: &Arc<Admin>) -> Receiver<Bytes> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let news = self.news.subscribe();
        if !std::mem::replace(&mut *running, true) {
            tokio::spawn(tick(Arc::clone(admin)));
        }
        news
    }

    /// Returns whether the last viewer has left. The ticks end then, and the next viewer starts them again.
    fn is_over(&self) -> bool {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        *running = self.news.receiver_count() > 0;
        !*running
    }
}

/// `GET /api/events`.
pub(super) fn answer(request: AdminRequest) -> Result<AdminResponse, Problem> {
    let (sender, answer) = stream::open(&request)?;
    let news = request.admin.ticker.listen(&request.admin);
    tokio::spawn(pass_on(sender, news, request.watch));
    Ok(answer)
}

async fn pass_on(sender: Sender, mut news: Receiver<Bytes>, mut watch: Watch) {
    let pass = async {
        loop {
            let is_read = match timeout(BEAT, news.recv()).await {
                Ok(Ok(event)) => sender.send(event).await,
                // Missed events are outdated. The next tick has the whole state.
                Ok(Err(RecvError::Lagged(_))) => true,
                Ok(Err(RecvError::Closed)) => false,
                Err(_) => sender.beat().await,
            };
            if !is_read {
                return;
            }
        }
    };
    tokio::select! {
        () = pass => {}
        () = sender.closed() => {}
        () = watch.draining() => {}
    }
}

async fn tick(admin: Arc<Admin>) {
    let mut ends = admin.proxy.log.subscribe();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if admin.ticker.is_over() {
            return;
        }
        // A viewer that left needs nothing.
        let _ = admin.ticker.news.send(stream::event("tick", &status::changing(&admin)));
        if let Some(news) = new_ends(&mut ends) {
            let _ = admin.ticker.news.send(news);
        }
    }
}

/// Returns the latest ends since the last tick, newest first, and how many more there were.
fn new_ends(reports: &mut Receiver<Arc<Ended>>) -> Option<Bytes> {
    let (mut latest, mut left_out) = (VecDeque::new(), 0);
    loop {
        match reports.try_recv() {
            Ok(end) => latest.push_front(end),
            Err(TryRecvError::Lagged(missed)) => left_out += missed,
            Err(TryRecvError::Empty | TryRecvError::Closed) => break,
        }
        if latest.len() > ENDS {
            latest.pop_back();
            left_out += 1;
        }
    }
    if latest.is_empty() {
        return None;
    }
    let json = format!("{{\"ends\":[{}],\"left_out\":{left_out}}}", ends::lines(&latest));
    Some(stream::written("ends", &json))
}

/// A person can follow changes every two seconds.
const TICK: Duration = Duration::from_secs(2);

/// Maximum number of ends per tick.
const ENDS: usize = 50;

/// How many events a slow viewer may lag behind.
const BEHIND: usize = 8;
