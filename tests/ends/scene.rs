//! A proxy, whatever tells of an end, and one tunnel.

use crate::support::certificates::{Authority, Folder, of};
use crate::support::http2::{Http2, Stream};
use crate::support::operator::Operator;
use crate::support::{PATIENCE, Proxy, Puppet, Raw, nobody, route, upstream, ws_request};
use crate::tunnels::{Breach, How, Order, Record, Way};
use holdline::testing::app::{Ended, Running};
use holdline::testing::telemetry::metrics::Format;
use holdline::testing::telemetry::report;
use serde_json::{Value, json};
use socket2::SockRef;
use std::future::{pending, ready};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

/// A proxy, and whatever tells of an end.
pub(crate) struct Stage {
    /// Until it is told to stop.
    pub(crate) proxy: Option<Proxy>,
    core: Arc<holdline::testing::proxy::Proxy>,
    operator: Option<Operator>,
    reports: broadcast::Receiver<Arc<report::Ended>>,
}

/// The same with one tunnel.
pub(crate) struct Scene {
    pub(crate) stage: Stage,
    server_address: SocketAddr,
    settings: &'static str,
    client: Client,
    pub(crate) server: Option<Raw>,
    /// Where the proxy is told to stop.
    pub(crate) ending: Option<JoinHandle<Ended>>,
    _folder: Folder,
}

pub(crate) enum Client {
    None,
    Plain(Raw),
    Tls(Box<TlsStream<TcpStream>>),
    /// With its own way to the socket.
    Http2(Http2, Stream, TcpStream),
}

/// A configuration but for the listener. `grace` is that of the shutdown.
pub(crate) fn rest(grace: &str, settings: &str, upstreams: &str) -> String {
    format!(
        "[process]\nshutdown_grace = \"{grace}\"\ndrain_spread = \"0s\"\n[admin]\naddress = \"127.0.0.1:0\"\n{}\n{upstreams}",
        // Nothing here may end only because its time for closing is over.
        route(&format!("close_timeout = \"1h\"\n{settings}"))
    )
}

impl Scene {
    pub(crate) async fn open(way: Way) -> Self {
        let (puppet, folder, ca) = (Puppet::new().await, Folder::new(), Authority::new("Test CA"));
        let grace = match way.how {
            How::Operator(Order::ShutdownUnanswered) => "50ms",
            _ => "1h",
        };
        let rest = rest(grace, way.settings, &upstream(&[puppet.address()], ""));
        let listen = match way.how {
            How::Tls(_) => {
                let pair = folder.pair("a", &ca.issue(of(&["a.test"])));
                let (cert, key) = (pair.cert.display(), pair.key.display());
                format!("[listen.tls]\ncertificates = [{{ cert = \"{cert}\", key = \"{key}\" }}]\n")
            }
            How::Http2(_) => "protocols = [\"h2\"]\n".to_owned(),
            _ => String::new(),
        };
        let proxy = Proxy::start(&format!("{listen}{rest}")).await;
        let stream = TcpStream::connect(proxy.address).await.unwrap();
        let (client, server) = match way.how {
            How::Http2(_) => {
                let own = stream.into_std().unwrap();
                let spare = TcpStream::from_std(own.try_clone().unwrap()).unwrap();
                let mut http2 = Http2::over(TcpStream::from_std(own).unwrap()).await;
                let (stream, (server, _)) = tokio::join!(http2.open("/"), puppet.open());
                (Client::Http2(http2, stream, spare), server)
            }
            How::Tls(_) => {
                let connector = TlsConnector::from(Arc::new(ca.client()));
                let stream =
                    connector.connect(ServerName::try_from("a.test").unwrap(), stream).await.unwrap();
                let (client, server) = ask(Raw::new(stream), &puppet).await;
                (Client::Tls(Box::new(client.stream)), server)
            }
            _ => {
                let (client, server) = ask(Raw::new(stream), &puppet).await;
                (Client::Plain(client), server)
            }
        };
        Self {
            stage: Stage::new(proxy),
            server_address: puppet.address(),
            settings: way.settings,
            client,
            server: Some(server),
            ending: None,
            _folder: folder,
        }
    }

    pub(crate) fn client(&mut self) -> Raw {
        match std::mem::replace(&mut self.client, Client::None) {
            Client::Plain(client) => client,
            _ => panic!("no client over plain HTTP/1.1"),
        }
    }

    pub(crate) async fn order(&mut self, order: Order) {
        let (server, other) = (self.server_address, nobody().await);
        let drains = "drain_timeout = \"1ms\"\n";
        let operator = self.stage.operator.clone().unwrap();
        match order {
            Order::ReloadWithDrain => {
                let drained = format!(
                    "[upstream.up]\n{drains}servers = [{{ address = \"{server}\", state = \"drain\" }}, \"{other}\"]\n"
                );
                self.stage.proxy.as_mut().unwrap().reload(&rest("1h", self.settings, &drained)).await;
            }
            Order::ReloadWithout => {
                let removed = upstream(&[other], drains);
                self.stage.proxy.as_mut().unwrap().reload(&rest("1h", self.settings, &removed)).await;
            }
            Order::Close => {
                let id = self.stage.core.tunnels.all()[0].report.id;
                let words = json!({ "code": 4001, "reason": "moved" }).to_string();
                assert_eq!(operator.post(&format!("/api/connections/{id}/close"), &words).await.status, 202);
            }
            Order::Drain => {
                let path = format!("/api/upstreams/up/endpoints/{server}/drain");
                assert_eq!(operator.post(&path, "{\"spread\":\"0s\"}").await.status, 200);
            }
            Order::Shutdown => self.ending = Some(tokio::spawn(self.stage.stop().shut_down(pending()))),
            Order::ShutdownUnanswered => {
                assert_eq!(self.stage.stop().shut_down(pending()).await, Ended::Cut);
            }
            Order::ShutdownTwice => {
                assert_eq!(self.stage.stop().shut_down(ready(())).await, Ended::AtOnce);
            }
        }
    }

    pub(crate) async fn over_tls(&mut self, record: Record) {
        let Client::Tls(mut stream) = std::mem::replace(&mut self.client, Client::None) else {
            panic!("no client over TLS")
        };
        match record {
            Record::CloseNotify => stream.shutdown().await.unwrap(),
            Record::Fin => return drop(stream.into_inner()),
            Record::FatalAlert => {
                // It is made to find what it is sent no good, and says so.
                let (socket, session) = stream.get_mut();
                session.read_tls(&mut &ALTERED[..]).unwrap();
                session.process_new_packets().unwrap_err();
                let mut alert = Vec::new();
                while session.wants_write() {
                    session.write_tls(&mut alert).unwrap();
                }
                assert_eq!(alert[0], 0x17, "a record");
                socket.write_all(&alert).await.unwrap();
            }
            Record::Altered => stream.get_mut().0.write_all(ALTERED).await.unwrap(),
        }
        // As it is: nothing more of it may decide anything.
        self.client = Client::Tls(stream);
    }

    pub(crate) async fn over_http2(&mut self, breach: Breach) {
        let Client::Http2(http2, mut stream, mut socket) = std::mem::replace(&mut self.client, Client::None)
        else {
            panic!("no client over HTTP/2")
        };
        match breach {
            Breach::EndStream => stream.send.send_data(Default::default(), true).unwrap(),
            Breach::RstStream(reason) => stream.send.send_reset(reason),
            Breach::GoAwayAndFin => {
                socket.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
                socket.shutdown().await.unwrap();
            }
            Breach::ConnectionFin => socket.shutdown().await.unwrap(),
            Breach::ConnectionRst => {
                SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
                http2.connection.abort();
                assert!(http2.connection.await.unwrap_err().is_cancelled());
                return drop(socket);
            }
            Breach::ConnectionError => {
                // DATA belongs to a stream (RFC 9113 6.1).
                socket.write_all(&[0, 0, 1, 0, 0, 0, 0, 0, 0, b'x']).await.unwrap();
                let error = timeout(PATIENCE, http2.connection).await.unwrap().unwrap().unwrap_err();
                let found = (error.is_go_away(), error.is_remote(), error.reason());
                assert_eq!(found, (true, true, Some(h2::Reason::PROTOCOL_ERROR)));
                return;
            }
        }
        self.client = Client::Http2(http2, stream, socket);
    }
}

impl Stage {
    pub(crate) fn new(proxy: Proxy) -> Self {
        Self {
            core: Arc::clone(&proxy.running.proxy),
            operator: proxy.running.admin_addr().map(Operator::at),
            reports: proxy.running.proxy.log.subscribe(),
            proxy: Some(proxy),
        }
    }

    /// What is to be shut down; the operator's endpoint ends with it.
    fn stop(&mut self) -> Running {
        self.operator = None;
        self.proxy.take().unwrap().running
    }

    /// The one end there is, wherever it is told; `code` 0: none.
    pub(crate) async fn judge(
        &mut self,
        name: &str,
        route: &str,
        (end, code): (&str, u16),
    ) -> Arc<report::Ended> {
        let told =
            timeout(PATIENCE, self.reports.recv()).await.unwrap_or_else(|_| panic!("{name}: no report"));
        let told = told.unwrap();
        let ending = &told.outcome.ending;
        let found = (format!("{}/{}", ending.ended_by, ending.cause), ending.code.map_or(0, |code| code.0));
        assert_eq!(found, (end.to_owned(), code), "{name}: {ending:?}");
        assert_eq!(told.report.route().map_or("", |name| name), route, "{name}");
        let line = told.report.text(&told.outcome, 0);
        assert!(line.contains(&format!(" end={end} ")), "{name}: {line}");
        assert_eq!(line.contains(" code="), code != 0, "{name}: {line}");
        assert!(code == 0 || line.contains(&format!(" code={code} ")), "{name}: {line}");
        let (recent, count) = self.core.metrics.recent(10);
        assert_eq!((recent.len(), count), (1, 1), "{name}: one end, once");
        assert_eq!(recent[0].json(0), told.json(0), "{name}");
        if let Some(operator) = &self.operator {
            let ends = operator.value("/api/ends").await["ends"].clone();
            let row = |key: &str| ends[0][key].clone();
            let (ended_by, cause) = end.split_once('/').unwrap();
            let code = if code == 0 { Value::Null } else { json!(code) };
            assert_eq!(
                [row("ended_by"), row("cause"), row("code")],
                [json!(ended_by), json!(cause), code],
                "{name}"
            );
            assert_eq!(ends.as_array().unwrap().len(), 1, "{name}");
        }
        told
    }

    /// The samples of a metric that count something.
    pub(crate) fn samples(&self, name: &str) -> Vec<String> {
        let text = self.core.metrics_text(Format::Prometheus);
        let counted = text.lines().filter(|line| line.starts_with(name) && !line.ends_with(" 0.0"));
        counted.map(str::to_owned).collect()
    }

    /// Whether this sample, of whatever value, is among those of a scrape.
    pub(crate) fn has_series(&self, series: &str) -> bool {
        let text = self.core.metrics_text(Format::Prometheus);
        text.lines().any(|line| line.rsplit_once(' ').is_some_and(|(name, _)| name == series))
    }
}

/// Asks for a tunnel, and lets the upstream accept it.
pub(crate) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    mut client: Raw<S>,
    puppet: &Puppet,
) -> (Raw<S>, Raw) {
    client.write(ws_request("/", "")).await;
    let (server, _) = puppet.open().await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    (client, server)
}

/// A record of 32 bytes that no key opens.
const ALTERED: &[u8] = b"\x17\x03\x03\x00\x20this is not what was agreed upon";
