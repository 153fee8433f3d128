//! Owns `holdline demo`: the proxy as `run` runs it, before a chat room and an echo that live in the
//! same process, and a page to try them with.

mod console;
mod room;
mod server;
mod socket;

use super::run::block_on;
use crate::app::Startup;
use crate::app::signal::Signals;
use crate::config::Config;
use crate::listener::socket::Inherited;
use crate::telemetry::log;
use console::Console;
use room::Room;
use server::Server;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

pub(super) fn demo(listen: SocketAddr) -> ExitCode {
    block_on(0, async move { live(listen).await.map_err(|error| with_remedy(error, listen)) })
}

async fn live(listen: SocketAddr) -> io::Result<ExitCode> {
    let room = Arc::new(Room::default());
    let chat = Server::start(Arc::new(move |request| room::chat(&room, request))).await?;
    let echo = Server::start(Arc::new(room::echo)).await?;
    let console = Arc::new(Console::new(Arc::new(chat), Arc::new(echo)));
    let page = Arc::clone(&console);
    let page = Server::start(Arc::new(move |request| console::answer(&page, request))).await?;
    let text = configuration(listen, page.address(), console.chat.address(), console.echo.address());
    let config = Config::parse(&text, "demo").map_err(io::Error::other)?;
    let log_control = log::start(&config.log);
    let signals = Signals::new()?;
    let startup = Startup::prepare(config.clone(), Inherited::default()).await.map_err(io::Error::other)?;
    let running = startup.run(Some(log_control)).await;
    let address = running.local_addrs().first().copied().flatten().unwrap_or(listen);
    println!("{text}\n# Open http://{address}/ in a browser; Ctrl-C ends the demo.");
    if let Some(admin) = running.admin_addr() {
        println!("# The operator's page: http://{admin}/, and: holdline ctl --address {admin} status");
    }
    println!();
    console.connect(Arc::clone(&running.proxy), text);
    tokio::spawn(console::collect_ends(Arc::clone(&console)));
    Ok(signals.run_until_signal(running, move || Ok(config.clone())).await)
}

fn with_remedy(error: io::Error, listen: SocketAddr) -> io::Error {
    io::Error::other(format!("{error}\n(another address: holdline demo --listen {}:0)", listen.ip()))
}

/// The demo's configuration. Its pings are far more frequent than anybody needs, so that they can be
/// watched.
fn configuration(listen: SocketAddr, page: SocketAddr, chat: SocketAddr, echo: SocketAddr) -> String {
    format!(
        r#"# The configuration of this demo.

[process]
shutdown_grace = "3s"
drain_spread = "1s"

[log]
access = "stdout"

[admin]
address = "127.0.0.1:0"

[[listen]]
address = "{listen}"

[defaults]
ping = {{ client = "3s", upstream = "3s", timeout = "5s" }}
close_timeout = "2s"
reject_with = "close"

[[route]]
name = "page"
path = "/"
upstream = "page"
access_log = false # the page asks for its state every second

[[route]]
name = "chat"
path = "/ws/chat"
upstream = "chat"

[[route]]
name = "echo"
path = "/ws/echo"
upstream = "echo"

[upstream.page]
servers = ["{page}"]

[upstream.chat]
servers = ["{chat}"]

[upstream.echo]
servers = ["{echo}"]
"#
    )
}
