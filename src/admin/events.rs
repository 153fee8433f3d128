//! Owns what viewers of the page are told as it happens: computed once a tick for all of them, and not at all
//! while there are none.

use super::answer::{Answer, Problem};
use super::router::Asked;
use super::stream::{self, BEAT, Sender};
use super::{Admin, ends, status};
use crate::drain::Watch;
use crate::telemetry::recent::End;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::broadcast::{self, Receiver};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// What makes the ticks.
#[derive(Debug)]
pub(super) struct Ticker {
    news: broadcast::Sender<Bytes>,
    running: Mutex<bool>,
}

impl Ticker {
    pub(super) fn new() -> Self {
        Self { news: broadcast::channel(BEHIND).0, running: Mutex::default() }
    }

    /// Everything from now on; the first viewer starts the ticks.
    fn listen(&self, admin: &Arc<Admin>) -> Receiver<Bytes> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let news = self.news.subscribe();
        if !std::mem::replace(&mut *running, true) {
            tokio::spawn(tick(Arc::clone(admin)));
        }
        news
    }

    /// Whether the last viewer has left; then the ticks end, and the next one starts them anew.
    fn is_over(&self) -> bool {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        *running = self.news.receiver_count() > 0;
        !*running
    }
}

/// `GET /api/events`.
pub(super) fn answer(asked: Asked) -> Result<Answer, Problem> {
    let (sender, answer) = stream::open(&asked)?;
    let news = asked.admin.ticker.listen(&asked.admin);
    tokio::spawn(pass_on(sender, news, asked.watch));
    Ok(answer)
}

async fn pass_on(sender: Sender, mut news: Receiver<Bytes>, mut watch: Watch) {
    let pass = async {
        loop {
            let is_read = match timeout(BEAT, news.recv()).await {
                Ok(Ok(event)) => sender.send(event).await,
                // What was missed is out of date; the next tick tells all.
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
    let mut ends = admin.proxy.log.listen();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if admin.ticker.is_over() {
            return;
        }
        // Whoever left meanwhile needs nothing.
        let _ = admin.ticker.news.send(stream::event("tick", &status::changing(&admin)));
        if let Some(news) = new_ends(&mut ends) {
            let _ = admin.ticker.news.send(news);
        }
    }
}

/// The latest ends since the last tick, newest first, and how many more there were.
fn new_ends(reports: &mut Receiver<End>) -> Option<Bytes> {
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

/// A person follows what changes every other second.
const TICK: Duration = Duration::from_secs(2);

/// Ends of one tick that are told.
const ENDS: usize = 50;

/// Events that a slow viewer may be behind.
const BEHIND: usize = 8;
