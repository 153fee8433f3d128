//! Owns the tests of when a pause of the process counts against a peer, and when it does not.

use super::*;

/// A side whose bytes are in the kernel, but the runtime does not know yet, because it reads other sockets first.
struct Unheard {
    pipe: DuplexStream,
    /// What [`Readiness::has_pending`] returns.
    arrived: Option<bool>,
}

impl Readiness for Unheard {
    fn has_pending(&self) -> Option<bool> {
        self.arrived
    }
}

impl AsyncRead for Unheard {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Unheard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn a_side_is_not_given_up_over_bytes_that_nobody_has_read() {
    // A pause of half a second, or none, when a deadline follows right after one.
    for (arrived, late, survives) in [
        (Some(true), 0, true),
        (Some(true), 500, true),
        (Some(false), 500, false),
        (None, 500, true),
        (None, 0, false),
    ] {
        for pings in [true, false] {
            let by_read = Settings {
                ping: PerSide::default(),
                read_timeout: Some(Duration::from_secs(20)),
                ..settings()
            };
            let settings = if pings { settings() } else { by_read };
            let ((mut client, near), (mut upstream, far)) = (duplex(1024), duplex(1024));
            let opened = |pipe, arrived| PrefixedStream { stream: Unheard { pipe, arrived }, ahead: vec![] };
            let streams = PerSide { client: opened(near, arrived), upstream: opened(far, Some(false)) };
            let framing = Framing::WebSocket { deflate: false };
            let control = Arc::default();
            tokio::spawn(run(streams, Arc::new(settings), framing, control));
            if pings {
                let _ping: [u8; 10] = read(&mut client).await;
            }
            tokio::time::sleep(Duration::from_millis(19_990)).await;
            tokio::time::advance(Duration::from_millis(late)).await;
            let told = tokio::time::timeout(Duration::from_secs(1), read::<8>(&mut upstream)).await.is_ok();
            assert_eq!(!told, survives, "pings {pings}, arrived {arrived:?}, late by {late} ms");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stall_of_the_proxy_itself_is_no_silence_of_a_peer() {
    let mut rig = rig(&[], 1024);
    let ping = read(&mut rig.client).await;
    tokio::time::advance(Duration::from_secs(600)).await;
    // Bytes that came meanwhile may be read late, because thousands of sockets are read one after another.
    tokio::time::sleep(Duration::from_secs(19)).await;
    rig.client.write_all(&pong(ping)).await.unwrap();
    let _: [u8; 10] = read(&mut rig.client).await;
    tokio::time::advance(Duration::from_secs(600)).await;
    let woke = Instant::now();
    let _close: [u8; 8] = read(&mut rig.upstream).await;
    assert_eq!(woke.elapsed().as_secs(), 20, "the dead are found");
    drop(rig.upstream);
    let outcome = rig.tunnel.await.unwrap();
    assert_eq!((outcome.ending.ended_by, outcome.ending.cause), (EndedBy::Client, Cause::Unresponsive));
}

#[tokio::test(start_paused = true)]
async fn no_timeout_of_a_peer_runs_out_during_a_stall() {
    let quick = Settings {
        ping: PerSide::default(),
        read_timeout: Some(Duration::from_secs(5)),
        send_timeout: Some(Duration::from_secs(4)),
        close_timeout: Duration::ZERO,
        ..settings()
    };
    let mut rig = rig_with(quick, &[], 128);
    let mut message = vec![0x82, 126, 1, 0];
    message.resize(4 + 256, 7);
    rig.upstream.write_all(&message).await.unwrap();
    let _: [u8; 128] = read(&mut rig.client).await;
    tokio::time::advance(Duration::from_secs(60)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let _: [u8; 132] = read(&mut rig.client).await;
    tokio::time::advance(Duration::from_secs(60)).await;
    let woke = Instant::now();
    let outcome = rig.tunnel.await.unwrap();
    assert_eq!(outcome.ending.cause, Cause::ReadTimeout);
    assert_eq!(woke.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_side_that_is_held_up_is_not_judged_by_its_silence() {
    let patient = Settings {
        ping: PerSide { client: None, upstream: Some(Duration::from_secs(25)) },
        read_timeout: Some(Duration::from_secs(55)),
        ..settings()
    };
    let mut rig = rig_with(patient, &[], SCRATCH);
    let mut message = vec![0x82, 126, 0xff, 0xff];
    message.resize(4 + 0xffff, 7);
    let (_reads_nothing, mut writes) = tokio::io::split(rig.upstream);
    // The upstream is never silent, but its bytes are not read while a slow client takes those that wait.
    let flood = tokio::spawn(async move { while writes.write_all(&message).await.is_ok() {} });
    let mut little = [0; 1024];
    for number in 0..4 * 64 {
        rig.client.read_exact(&mut little).await.unwrap();
        tokio::time::sleep(Duration::from_secs(if number == 100 { 50 } else { 2 })).await;
    }
    assert!(!rig.tunnel.is_finished());
    flood.abort();
}
