//! Owns how `ctl` finds the running proxy: by the command line, or by `[admin]` of the configuration. It ignores the
//! rest of the file, because operators need `ctl` most when the file has mistakes.

use super::Place;
use super::client::{Address, Client, CtlError};
use crate::addr::ListenAddr;
use crate::admin::{Settings, Token};
use crate::config::Config;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

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
    let errors = match Config::load(&place.config) {
        Ok(config) => {
            let settings = config.admin.ok_or_else(|| {
                CtlError::Place(format!(
                    "{path} has no [admin] table, so there is nobody to ask; add it and reload, or say --address"
                ))
            })?;
            return of_settings(place, settings, given);
        }
        Err(errors) => errors,
    };
    let text = fs::read_to_string(&place.config).ok();
    if let Some(settings) = text.as_deref().and_then(Config::admin_of_broken) {
        eprintln!("holdline: {path} has mistakes, but its [admin] can be read; `holdline check` tells them");
        return of_settings(place, settings, given);
    }
    // A token of a file that cannot be read whole is not sent to an address that is a guess.
    let address = Config::default_admin_address();
    let first = errors.iter().next().map(ToString::to_string).unwrap_or_default();
    eprintln!(
        "holdline: {first}\nholdline: no [admin] can be read there; asking at {address}, the default (--address)"
    );
    Ok(Client { address: Address::Tcp(address.to_string()), token: given })
}

fn of_settings(place: &Place, settings: Settings, given: Option<Token>) -> Result<Client, CtlError> {
    let path = place.config.display();
    let unknown =
        |why: &str| CtlError::Place(format!("admin.address of {path} {why}; say the address with --address"));
    let address = match &settings.address {
        ListenAddr::Unix(path) => Address::Unix(path.clone()),
        ListenAddr::Systemd(_) => return Err(unknown("is a socket of systemd's")),
        ListenAddr::Tcp(address) if address.port() == 0 => {
            return Err(unknown("has the port 0, which is any"));
        }
        ListenAddr::Tcp(address) => Address::Tcp(reachable(*address).to_string()),
    };
    let token = match given {
        Some(token) => Some(token),
        None => settings.token.map(|secret| secret.token()).transpose()?,
    };
    Ok(Client { address, token })
}

/// Where to connect to reach what listens at an address.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}
