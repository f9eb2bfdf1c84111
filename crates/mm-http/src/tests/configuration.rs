use smoltcp::wire::{IpAddress, Ipv4Cidr};

use crate::config::{Addressing, AllowList, ConfigError, parse_port};

#[test]
fn addresses_are_read() {
    assert_eq!(Addressing::parse("dhcp"), Ok(Addressing::Dhcp));
    let address = Ipv4Cidr::new([10, 0, 0, 2].into(), 24);
    assert_eq!(Addressing::parse("10.0.0.2/24"), Ok(Addressing::Static { address, gateway: None }));
    let gateway = Some([10, 0, 0, 1].into());
    assert_eq!(Addressing::parse("10.0.0.2/24,gw=10.0.0.1"), Ok(Addressing::Static { address, gateway }));
    assert!(Addressing::parse("10.0.0.0/31,gw=10.0.0.1").is_ok(), "a link of two hosts");
}

#[test]
fn addresses_that_cannot_be_are_told_apart() {
    let cases = [
        ("", ConfigError::Ip),
        ("DHCP", ConfigError::Ip),
        ("10.0.0.2", ConfigError::Ip),
        ("10.0.0/24", ConfigError::Ip),
        ("10.0.0.2/33", ConfigError::Ip),
        ("10.0.0.2/+4", ConfigError::Ip),
        ("10.0.0.2/", ConfigError::Ip),
        ("10.0.0.256/24", ConfigError::Ip),
        ("10.0.0.0/24", ConfigError::NotAHost),
        ("10.0.0.255/24", ConfigError::NotAHost),
        ("10.0.0.2/0", ConfigError::NotAHost),
        ("224.0.0.1/24", ConfigError::NotAHost),
        ("127.0.0.1/8", ConfigError::NotAHost),
        ("10.0.0.2/24,gw=10.0.1.1", ConfigError::Gateway),
        ("10.0.0.2/24,gw=10.0.0.2", ConfigError::Gateway),
        ("10.0.0.2/24,gw=10.0.0.255", ConfigError::Gateway),
        ("10.0.0.2/24,gw=", ConfigError::Gateway),
        ("10.0.0.2/24,", ConfigError::IpWord),
        ("10.0.0.2/24,dns=10.0.0.1", ConfigError::IpWord),
        ("10.0.0.2/24,gw=10.0.0.1,gw=10.0.0.1", ConfigError::IpWord),
    ];
    for (value, error) in cases {
        assert_eq!(Addressing::parse(value), Err(error), "{value}");
    }
    assert!(ConfigError::Ip.to_string().contains("ip=dhcp"));
}

#[test]
fn ports_are_read() {
    assert_eq!(parse_port("80"), Ok(80));
    assert_eq!(parse_port("65535"), Ok(65535));
    for value in ["", "0", "65536", "+80", "-1", "http", "80 "] {
        assert_eq!(parse_port(value), Err(ConfigError::Port), "{value}");
    }
}

#[test]
fn the_allow_list_allows_its_networks_and_nobody_else() {
    let list = AllowList::parse("10.0.0.0/8,192.168.7.9,172.16.1.1/12").unwrap();
    for (address, allowed) in [
        ([10, 255, 0, 1], true),
        ([11, 0, 0, 1], false),
        ([192, 168, 7, 9], true),
        ([192, 168, 7, 8], false),
        ([172, 31, 0, 1], true),
        ([172, 32, 0, 1], false),
    ] {
        let [a, b, c, d] = address;
        assert_eq!(list.allows(IpAddress::v4(a, b, c, d)), allowed, "{address:?}");
    }
    assert!(AllowList::any().allows(IpAddress::v4(1, 2, 3, 4)));
    assert!(!AllowList::nobody().allows(IpAddress::v4(1, 2, 3, 4)));
    assert_eq!(AllowList::parse("0.0.0.0/0"), Ok(AllowList::any()));
    for value in ["", ",", "10.0.0.0/8,", "ten", "10.0.0.0/33", "10.0.0.0 /8", "::/0"] {
        assert_eq!(AllowList::parse(value), Err(ConfigError::Network), "{value}");
    }
    let many = ["10.0.0.0/8"; 17].join(",");
    assert_eq!(AllowList::parse(&many), Err(ConfigError::TooManyNetworks));
    assert!(AllowList::parse(&["10.0.0.0/8"; 16].join(",")).is_ok());
}
