//! Values of the options `ip=`, `http_port=` and `http_allow=`.

use core::fmt;
use core::net::Ipv4Addr;

use smoltcp::wire::{IpAddress, Ipv4Cidr};

/// Networks that one list holds.
pub const ALLOW_MAX: usize = 16;

/// What is wrong with a value; its `Display` says what would be right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigError {
    /// `ip=` is neither `dhcp` nor an address with its prefix length.
    Ip,
    /// `gw=` is not an address in the network of `ip=`.
    Gateway,
    /// `ip=` has a word other than `gw=`.
    IpWord,
    /// The address or gateway cannot be one host's own.
    NotAHost,
    /// `http_port=` is not a port.
    Port,
    /// `http_allow=` has something that is not a network.
    Network,
    /// `http_allow=` has more networks than M1 keeps.
    TooManyNetworks,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip => f.write_str(
                "expected ip=dhcp or ip=ADDRESS/PREFIX[,gw=ADDRESS], such as ip=10.0.0.2/24,gw=10.0.0.1",
            ),
            Self::Gateway => f.write_str("gw= must be an address in the network of ip="),
            Self::IpWord => f.write_str("after ip=ADDRESS/PREFIX only ,gw=ADDRESS may follow"),
            Self::NotAHost => {
                f.write_str("ip= must be the address of one host, not of a network or of all hosts")
            }
            Self::Port => f.write_str("http_port= must be a port from 1 to 65535"),
            Self::Network => {
                f.write_str("http_allow= must be networks A.B.C.D/PREFIX with commas between them")
            }
            Self::TooManyNetworks => write!(f, "http_allow= takes at most {ALLOW_MAX} networks"),
        }
    }
}

impl core::error::Error for ConfigError {}

/// Where M1's own address comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Addressing {
    /// A DHCP server says.
    Dhcp,
    /// The configuration says.
    Static {
        /// Address and prefix length.
        address: Ipv4Cidr,
        /// The way to other networks.
        gateway: Option<Ipv4Addr>,
    },
}

impl Addressing {
    /// Reads the value of `ip=`.
    pub fn parse(value: &str) -> Result<Self, ConfigError> {
        if value == "dhcp" {
            return Ok(Self::Dhcp);
        }
        let mut words = value.split(',');
        let address = words.next().filter(|word| word.contains('/')).and_then(cidr).ok_or(ConfigError::Ip)?;
        if !is_host(address.address(), address) {
            return Err(ConfigError::NotAHost);
        }
        let mut gateway = None;
        for word in words {
            let text = word.strip_prefix("gw=").filter(|_| gateway.is_none()).ok_or(ConfigError::IpWord)?;
            let router: Ipv4Addr = text.parse().map_err(|_| ConfigError::Gateway)?;
            if !address.contains_addr(&router) || !is_host(router, address) || router == address.address() {
                return Err(ConfigError::Gateway);
            }
            gateway = Some(router);
        }
        Ok(Self::Static { address, gateway })
    }
}

/// Reads the value of `http_port=`.
pub fn parse_port(value: &str) -> Result<u16, ConfigError> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|&port| digits && port != 0).ok_or(ConfigError::Port)
}

/// The networks that get answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AllowList {
    networks: [Option<Ipv4Cidr>; ALLOW_MAX],
}

impl AllowList {
    /// Everybody.
    pub const fn any() -> Self {
        let mut list = Self::nobody();
        list.networks[0] = Some(Ipv4Cidr::new(Ipv4Addr::UNSPECIFIED, 0));
        list
    }

    /// Nobody.
    pub const fn nobody() -> Self {
        Self { networks: [None; ALLOW_MAX] }
    }

    /// Reads the value of `http_allow=`: networks, or single addresses, with commas between them.
    pub fn parse(value: &str) -> Result<Self, ConfigError> {
        let mut list = Self::nobody();
        for (index, word) in value.split(',').enumerate() {
            let network = cidr(word).ok_or(ConfigError::Network)?;
            *list.networks.get_mut(index).ok_or(ConfigError::TooManyNetworks)? = Some(network);
        }
        Ok(list)
    }

    /// Whether this client gets answers.
    pub fn allows(&self, client: IpAddress) -> bool {
        let IpAddress::Ipv4(client) = client;
        self.networks.iter().flatten().any(|network| network.contains_addr(&client))
    }
}

/// `A.B.C.D/PREFIX`, or an address alone.
fn cidr(text: &str) -> Option<Ipv4Cidr> {
    let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
    let prefix =
        if prefix.bytes().all(|byte| byte.is_ascii_digit()) { prefix.parse().ok()? } else { return None };
    let address = address.parse().ok()?;
    // The constructor panics beyond 32.
    (prefix <= 32).then(|| Ipv4Cidr::new(address, prefix))
}

/// Whether an address can be one host's in a network. Networks of two or fewer addresses have no other kind.
fn is_host(address: Ipv4Addr, network: Ipv4Cidr) -> bool {
    let common =
        address.is_unspecified() || address.is_broadcast() || address.is_multicast() || address.is_loopback();
    let reserved = network.prefix_len() < 31
        && (network.network().address() == address || network.broadcast() == Some(address));
    !common && !reserved && network.prefix_len() > 0
}
