use super::*;

fn lines(config: &Config) -> std::vec::Vec<std::string::String> {
    config.problems.iter().map(std::string::ToString::to_string).collect()
}

#[test]
fn every_option_is_read() {
    let config = Config::parse(
        "volume=base:xvda:xvdc,group=web volume=data:xvdb,group=web,share=copy ip=10.0.2.50/24,gw=10.0.2.2 http_port=8080 \
         http_allow=10.0.2.0/24 window=1 clients=7 client_refs=100 grant_frames=4 store=16 log=debug",
    );
    assert_eq!(lines(&config), [""; 0]);
    let volumes: std::vec::Vec<_> = config
        .volumes
        .iter()
        .map(|v| (v.name.as_str(), v.devices.join(" "), v.group.as_str(), v.share))
        .collect();
    assert_eq!(
        volumes,
        [("base", "xvda xvdc".into(), "web", Share::Map), ("data", "xvdb".into(), "web", Share::Copy)]
    );
    assert_eq!(config.places(), 3);
    assert_eq!(config.ip, Addressing::parse("10.0.2.50/24,gw=10.0.2.2").unwrap());
    assert_eq!((config.http_port, config.window, config.clients), (8080, 1, 7));
    assert_eq!(config.http_allow, AllowList::parse("10.0.2.0/24").unwrap());
    assert_eq!(
        (config.client_refs, config.grant_frames, config.store_pages),
        (Some(100), Some(4), Some(4096))
    );
    assert_eq!(config.log, log::LevelFilter::Debug);
}

#[test]
fn each_wrong_option_is_one_clear_line_and_the_rest_stands() {
    let config = Config::parse(
        "volume=base:xvda volume=base:xvdb volume=:x volume=a:b,cache=1 volume=a:xvda volume=c:d:d volume=c:1:2:3:4:5 \
         volume=c::x windw=3 window=3 http_port=0 share=lend loud",
    );
    assert_eq!(
        lines(&config),
        [
            "option 'volume=base:xvdb': that volume is already defined",
            "option 'volume=:x': expected volume=NAME:DEVICE[:DEVICE…][,group=GROUP][,share=map|copy]",
            "option 'volume=a:b,cache=1': expected volume=NAME:DEVICE[:DEVICE…][,group=GROUP][,share=map|copy]",
            "option 'volume=a:xvda': that disk is another volume's",
            "option 'volume=c:d:d': that disk is another volume's",
            "option 'volume=c:1:2:3:4:5': more than 4 disks of a volume, or 32 of all",
            "option 'volume=c::x': expected volume=NAME:DEVICE[:DEVICE…][,group=GROUP][,share=map|copy]",
            "option 'windw=3': unknown",
            "option 'window=3': expected a power of two from 1 to 512",
            "option 'http_port=0': http_port= must be a port from 1 to 65535",
            "option 'share=lend': expected share=map or share=copy",
            "option 'loud': expected key=value",
        ]
    );
    assert_eq!(config.volumes.len(), 1);
    assert_eq!((config.window, config.http_port), (512, 80));
}

#[test]
fn without_a_volume_it_says_what_to_add() {
    assert_eq!(
        lines(&Config::parse("")),
        ["no volume: add volume=NAME:DEVICE for a disk of M1, such as volume=base:xvda"]
    );
}

#[test]
fn a_volume_is_its_own_group_unless_it_says_otherwise() {
    let config = Config::parse("volume=a:xvda volume=b:xvdb");
    assert_eq!(config.volumes.iter().map(|v| v.group.as_str()).collect::<std::vec::Vec<_>>(), ["a", "b"]);
}

#[test]
fn share_is_the_default_wherever_it_stands_and_a_volume_may_differ() {
    let config = Config::parse("volume=a:xvda share=copy volume=b:xvdb volume=c:xvdc,share=map");
    assert_eq!(
        config.volumes.iter().map(|v| v.share).collect::<std::vec::Vec<_>>(),
        [Share::Copy, Share::Copy, Share::Map]
    );
}

#[test]
fn a_flood_of_wrong_options_is_bounded_and_counted() {
    let flood = "x ".repeat(100);
    let config = Config::parse(&flood);
    assert_eq!(config.problems.len(), PROBLEMS_MAX);
    assert_eq!(config.problems_dropped, 100 - 16 + 1);
    let long = std::format!("k={}", "ä".repeat(500));
    assert!(Config::parse(&long).problems[0].word.len() <= QUOTE_MAX);
}

#[test]
fn one_client_can_not_take_the_whole_table_unless_told() {
    assert_eq!(Config::parse("").quota(32768), 16384);
    assert_eq!(Config::parse("client_refs=40000").quota(32768), 32768);
}

#[test]
fn a_list_of_networks_that_can_not_be_read_lets_nobody_in() {
    let config = Config::parse("volume=a:xvda http_allow=10.0.0.0/8,everybody ip=here");
    assert_eq!(config.http_allow, AllowList::nobody());
    assert_eq!(config.ip, Addressing::Dhcp);
    assert_eq!(config.problems.len(), 2);
}
