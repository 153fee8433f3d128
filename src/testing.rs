//! Owns the list of what tests, benches and fuzz targets use of this crate. It is no interface for other programs:
//! those have the [command line](crate::cli).
#![allow(missing_docs, reason = "the items have their own")]

pub mod addr {
    pub use crate::addr::ClientAddr;
}
pub mod admin {
    pub use crate::admin::{OPENAPI, routes};
}
pub mod app {
    pub use crate::app::{Ended, PrepareError, Running, Startup};
    pub mod signal {
        pub use crate::app::signal::Signals;
    }
}
pub mod balance {
    pub use crate::balance::{Candidate, Method, Source, key_of, pick};
}
pub mod capacity {
    pub use crate::capacity::EVICT_AFTER;
}
pub mod config {
    pub use crate::config::{Config, Form, Secrets};
    pub mod document {
        pub use crate::config::document::{Document, InlineTable, Item, Section};
    }
}
pub mod health {
    pub use crate::health::Availability;
}
pub mod http {
    pub mod headers {
        pub use crate::http::headers::remove_hop_by_hop;
    }
}
pub mod listener {
    pub mod socket {
        pub use crate::listener::socket::Inherited;
    }
}
pub mod outcome {
    pub use crate::outcome::{Cause, EndedBy, Ending, Outcome, PerSide, Side};
}
pub mod proxy {
    pub use crate::proxy::Proxy;
    pub mod registry {
        pub use crate::proxy::registry::{LiveTunnel, Registration};
    }
    pub mod snapshot {
        pub use crate::proxy::snapshot::Snapshot;
    }
}
pub mod proxy_protocol {
    pub use crate::proxy_protocol::{Header, MAX_LENGTH, Version, decode, encode};
}
pub mod real_ip {
    pub use crate::real_ip::{Settings, Source};
}
pub mod route {
    pub use crate::route::{HostPattern, PathError, PathPattern, Rewrite, Rule, Table, normalise};
}
pub mod telemetry {
    pub mod access_log {
        pub use crate::telemetry::access_log::AccessLog;
    }
    pub mod metrics {
        pub use crate::telemetry::metrics::{Code, Format};
    }
    pub mod report {
        pub use crate::telemetry::report::{Ended, Kind, Report, RequestInfo, redact};
    }
    pub mod tally {
        pub use crate::telemetry::tally::{Missing, Totals};
    }
}
pub mod tls {
    pub use crate::tls::{Alpn, Cause, MinVersion, ServerName, cause};
    pub mod certs {
        pub use crate::tls::certs::{Expiry, Pair};
    }
    pub mod client {
        pub use crate::tls::client::{Config, ConnectError, Settings, connect};
    }
    pub mod server {
        pub use crate::tls::server::{
            ClientAuth, ClientCa, Config, HandshakeError, NotTls, Server, Settings, accept,
        };
    }
    pub mod session {
        pub use crate::tls::session::{ClientCertificate, Session};
    }
    pub mod stream {
        pub use crate::tls::stream::TlsStream;
    }
}
pub mod tunnel {
    pub use crate::tunnel::{Blind, CloseCodes, Framing, OnViolation, Pong, Settings};
    pub mod control {
        pub use crate::tunnel::control::Control;
    }
    pub mod counters {
        pub use crate::tunnel::counters::Counters;
    }
    pub mod relay {
        pub use crate::tunnel::relay::{CloseRequest, Output, Relay};
    }
    pub mod timer {
        pub use crate::tunnel::timer::TunnelTime;
    }
}
pub mod upstream {
    pub use crate::upstream::{Endpoint, Server};
    pub mod ports {
        pub use crate::upstream::ports::{Usage, ports_per_source};
    }
}
pub mod ws {
    pub mod close {
        pub use crate::ws::close::{CloseCode, CloseReason, payload};
    }
    pub mod frame {
        pub use crate::ws::frame::{Header, MAX_CONTROL_FRAME, OpCode, Violation, encode};
    }
    pub mod handshake {
        pub use crate::ws::handshake::{
            AnswerError, Extensions, UpgradeKind, accept, check_answer, check_other_answer, classify,
            extensions, list_names,
        };
    }
    pub mod mask {
        pub use crate::ws::mask::MaskKey;
    }
    pub mod scanner {
        pub use crate::ws::scanner::{Data, Found, Rules, Scanner};
    }
}
