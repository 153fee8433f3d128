//! Owns where the running proxy is found: by the command line, or by its configuration.

use super::Place;
use super::client::{Address, Client, CtlError};
use crate::addr::ListenAddr;
use crate::admin::Token;
use crate::config::Config;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where to ask, and what to know there.
pub(super) fn client(place: &Place) -> Result<Client, CtlError> {
    let given = place.address.as_deref().map(Address::parse).transpose()?;
    let given_token = place.token_file.as_deref().map(Token::read).transpose()?;
    match given {
        // The file may be another proxy's: its token is sent nowhere else.
        Some(address) => Ok(Client { address, token: given_token }),
        None => of_config(place, given_token),
    }
}

fn of_config(place: &Place, given: Option<Token>) -> Result<Client, CtlError> {
    let path = place.config.display();
    let config = Config::load(&place.config).map_err(|errors| {
        CtlError::Place(format!("{errors}\nthe address is not known by it; say it with --address"))
    })?;
    let settings = config.admin.ok_or_else(|| {
        CtlError::Place(format!(
            "{path} has no [admin] table, so there is nobody to ask; add it and reload, or say --address"
        ))
    })?;
    let unknown =
        |why: &str| CtlError::Place(format!("admin.address of {path} {why}; say the address with --address"));
    let address = match &settings.address {
        ListenAddr::Unix(path) => Address::Unix(path.clone()),
        ListenAddr::Systemd(_) => return Err(unknown("is a socket of systemd's")),
        ListenAddr::Tcp(address) if address.port() == 0 => {
            return Err(unknown("has the port 0, which is any"));
        }
        ListenAddr::Tcp(address) => {
            let ip = match address.ip() {
                ip if !ip.is_unspecified() => ip,
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            };
            Address::Tcp(std::net::SocketAddr::new(ip, address.port()).to_string())
        }
    };
    let token = match given {
        Some(token) => Some(token),
        None => settings.token.map(|secret| secret.token()).transpose()?,
    };
    Ok(Client { address, token })
}
