//! Owns a small HTTP server on a port of its own, which can be stopped as if it had died and started
//! again.

use crate::drain::{self, Trigger, Watch};
use crate::http::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::{TcpListener, TcpStream};

/// A request, with the end of the server's life for what outlives its answer.
pub(super) type Asked = (Request<Incoming>, Watch);
pub(super) type Answer = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;
pub(super) type AnswerTo = Arc<dyn Fn(Asked) -> Answer + Send + Sync>;

pub(super) struct Server {
    address: SocketAddr,
    answer: AnswerTo,
    /// There while it runs.
    life: Mutex<Option<Trigger>>,
}

impl Server {
    pub(super) async fn start(answer: AnswerTo) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = Self { address, answer, life: Mutex::new(None) };
        server.run(listener);
        Ok(server)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn is_running(&self) -> bool {
        self.life().is_some()
    }

    /// Drops everything without a word.
    pub(super) fn stop(&self) {
        if let Some(trigger) = self.life().take() {
            trigger.expire();
        }
    }

    pub(super) async fn restart(&self) -> io::Result<()> {
        if !self.is_running() {
            self.run(TcpListener::bind(self.address).await?);
        }
        Ok(())
    }

    fn run(&self, listener: TcpListener) {
        let (trigger, watch) = drain::channel();
        tokio::spawn(accept(listener, Arc::clone(&self.answer), watch));
        *self.life() = Some(trigger);
    }

    fn life(&self) -> std::sync::MutexGuard<'_, Option<Trigger>> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, answer: AnswerTo, watch: Watch) {
    let mut end = watch.clone();
    loop {
        tokio::select! {
            () = end.expired() => return,
            Ok((stream, _)) = listener.accept() => {
                tokio::spawn(serve(stream, Arc::clone(&answer), watch.clone()));
            }
        }
    }
}

async fn serve(stream: TcpStream, answer: AnswerTo, watch: Watch) {
    let mut end = watch.clone();
    let service = service_fn(|request| {
        let answer = answer((request, watch.clone()));
        async { Ok::<_, Infallible>(answer.await) }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::select! {
        _ = connection => {}
        () = end.expired() => {}
    }
}
