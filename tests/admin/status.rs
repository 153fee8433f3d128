//! `/api/status`: the whole at a glance.

use crate::start;
use crate::support::{echo, route, upstream};
use serde_json::json;

#[tokio::test]
async fn status_tells_of_the_whole() {
    let servers = [echo().await, echo().await];
    let settings =
        "max_fails = 3\n[[route]]\nname = \"fixed\"\npath = \"/fixed\"\nrespond = { status = 204 }";
    let (proxy, operator) = start(&format!("{}\n{}", route(""), upstream(&servers, settings))).await;
    let _clients = [proxy.open("/").await, proxy.open("/").await, proxy.open("/").await];
    let status = operator.value("/api/status").await;
    assert_eq!(
        (&status["state"], &status["version"]),
        (&json!("serving"), &json!(env!("CARGO_PKG_VERSION")))
    );
    assert_eq!(
        (&status["connections"]["tunnels"], &status["connections"]["clients"]),
        (&json!(3), &json!(3))
    );
    assert!(status["connections"]["capacity"].as_u64().unwrap() >= 3);
    let listener = &status["listeners"][0];
    assert_eq!((&listener["address"], &listener["tls"]), (&json!("127.0.0.1:0"), &json!(false)));
    assert_eq!(listener["local"], json!(proxy.address.to_string()));
    assert_eq!(listener["protocols"], json!(["h1"]));
    let up = &status["upstreams"][0];
    assert_eq!((&up["name"], &up["balance"]), (&json!("up"), &json!("least_conn")));
    let active: u64 =
        up["endpoints"].as_array().unwrap().iter().map(|one| one["active"].as_u64().unwrap()).sum();
    assert_eq!(active, 3);
    let first = json!({
        "address": servers[0].to_string(), "server": servers[0].to_string(), "state": "up", "by": "configuration",
        "standing": "available", "active": up["endpoints"][0]["active"], "weight": 1, "share": 1.0, "backup": false,
        "failures": 0, "max_conns": null,
    });
    assert_eq!(up["endpoints"][0], first);
    assert_eq!(
        status["routes"],
        json!([
            { "name": "all", "upstream": "up", "tunnels": 3, "opened": 3, "ended": 0 },
            { "name": "fixed", "upstream": null, "tunnels": 0, "opened": 0, "ended": 0 },
        ])
    );
    let reloads = &status["reloads"];
    assert_eq!((&reloads["succeeded"], &reloads["failed"]), (&json!(0), &json!(0)));
    assert!(reloads["last_error"].is_null(), "{reloads}");
}
