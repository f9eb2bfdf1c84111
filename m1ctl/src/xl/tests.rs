use super::config::{Config, Value};
use super::disk::Disk;

const TEXT: &str = r#"# a client
name = "x"   # its name
memory=64;vcpus = 1
extra = 'say "hi" \'there\' # no comment'
disk = [
    'format=raw,vdev=xvda,access=r,backend=m1,target=base',  # the root
    "phy:/dev/vg/swap,xvdb,w",
]
disk += [ 'format=raw, vdev=xvdc, access=rw, backend=m1, target=data+mine,too' ]
extra += " more\nlines"
cpus = "0x10"
maxmem = 0x40
"#;

#[test]
fn a_configuration_survives_being_written_again() {
    let config = Config::parse(TEXT).expect("a configuration");
    assert_eq!(config.text("name"), Some("x"));
    assert_eq!(config.get("maxmem"), Some(&Value::Number("0x40".to_owned())));
    assert_eq!(config.text("extra"), Some("say \"hi\" 'there' # no comment more\nlines"));
    assert_eq!(config.list("disk").count(), 3);
    assert_eq!(config.list("vif").count(), 0);
    let again = Config::parse(&config.to_string()).expect("its own");
    assert_eq!(again, config);
    let mut changed = config.clone();
    changed.set("name", Value::Text("a\\b\t\"".to_owned()));
    changed.set("on_crash", Value::Text("destroy".to_owned()));
    assert_eq!(Config::parse(&changed.to_string()), Ok(changed));
    assert_eq!(Config::parse(""), Ok(Config::default()));
    for (text, value) in [
        ("a='\\n\\t\\\\\\'\\\"'", "\n\t\\'\""),
        ("a.b=1;;\n;a=\"x\";", "x"),
        ("a='\tx'", "\tx"),
        ("a='x'#c", "x"),
        ("a='x'\na='y'", "y"),
        ("a='x'\na+='y'", "xy"),
    ] {
        assert_eq!(Config::parse(text).expect(text).text("a"), Some(value), "{text}");
    }
}

#[test]
fn what_makes_no_sense_is_named_with_its_line() {
    for (text, line, why) in [
        ("memory", 1, "no = after"),
        ("\n\nname = x", 3, "a value is"),
        ("name = \"x", 1, "no end"),
        ("a = 1 2", 1, "after the value"),
        ("a = [1,\n2", 2, "commas"),
        ("a = [[[[[[[[[[1]]]]]]]]]]", 1, "in lists"),
        ("a = [1 2]", 1, "commas"),
        ("= 3", 1, "begins with its name"),
        ("a = 1\na += 'x'", 2, "another kind"),
        ("a = '\\", 1, "ends with"),
        ("a = '\\x41'", 1, "xl does not know"),
        ("a = '\\e'", 1, "xl does not know"),
        ("a = 'x\ny'", 1, "no end"),
        ("_a = 1", 1, "begins with its name"),
        ("a-b = 1", 1, "no = after"),
        ("a =\n1", 1, "a value is"),
        ("a = \\\n1", 1, "a value is"),
        ("a = 1\r\n", 1, "after the value"),
        ("a = [[[", 1, "a value is"),
    ] {
        let error = Config::parse(text).expect_err(text);
        assert!(error.starts_with(&format!("line {line}: ")) && error.contains(why), "{text:?}: {error}");
    }
}

#[test]
fn any_bytes_of_text_are_judged_and_no_more() {
    // Every prefix of every rotation: no panic, no endless loop.
    for begin in (0..TEXT.len()).filter(|begin| TEXT.is_char_boundary(*begin)) {
        let _ = Config::parse(&TEXT[begin..]);
        let _ = Config::parse(&TEXT[..begin]);
    }
}

#[test]
fn disks_of_m1_are_found_and_pointed_elsewhere() {
    let config = Config::parse(TEXT).expect("a configuration");
    let disks: Vec<Option<Disk>> =
        config.list("disk").map(|entry| Disk::parse(entry).expect("a disk")).collect();
    let [Some(root), None, Some(data)] = disks.as_slice() else { panic!("{disks:?}") };
    assert_eq!((root.backend.as_str(), root.volume.as_str(), root.suffix.as_str()), ("m1", "base", ""));
    assert_eq!((data.volume.as_str(), data.suffix.as_str()), ("data", "+mine,too"));
    assert_eq!(root.at("warm"), "format=raw,vdev=xvda,access=r,backend=m1,target=base@warm");
    assert_eq!(data.at("warm"), "format=raw, vdev=xvdc, access=rw, backend=m1, target=data@warm");
    let again = Disk::parse(&root.at("warm")).expect("a disk").expect("M1's");
    assert_eq!(again.suffix, "@warm");
    assert_eq!(Disk::parse("target=/x,backend=m1"), Ok(None), "that is a file with a strange name");
    assert!(Disk::parse("base,raw,xvda,r,backend=m1").is_err());
}

#[test]
fn xl_list_says_how_domains_ended() {
    use super::list::{Ended, parse};
    let text = "\
Name                                        ID   Mem VCPUs	State	Time(s)   UUID                            Reason-Code	Security Label
Domain-0                                     0   512     2     r-----      76.1 00000000-0000-0000-0000-000000000000        -                -
m1                                           1    64     1     -b----       1.4 3396c148-9357-43ce-8594-def8ce057f5b        -                -
u2                                           3    16     1     ---s--       0.2 aefbf167-9056-429d-82f1-e200e5ca1701        0                -
u3                                           4    16     1     ---sc-       0.2 aefbf167-9056-429d-82f1-e200e5ca1702        3                -
(null)                                       5     0     1     --ps-d       0.2 aefbf167-9056-429d-82f1-e200e5ca1703        0                -
";
    let domains = parse(text).expect("a list");
    let ended: Vec<_> = domains.iter().map(|domain| (domain.domid, domain.ended)).collect();
    assert_eq!(
        ended,
        [
            (0, None),
            (1, None),
            (3, Some(Ended::Poweroff)),
            (4, Some(Ended::Crash)),
            (5, Some(Ended::Poweroff))
        ]
    );
    assert_eq!(domains.iter().filter(|domain| domain.dying).count(), 1);
    assert_eq!(domains[2].name, "u2");
    assert_eq!(parse("xl: command not found"), None);
    assert_eq!(parse(""), None);
}

#[test]
fn a_configuration_is_made_of_what_xl_knows() {
    // What xl 4.17.7 says; what is its default is left out.
    let json = serde_json::json!({
        "c_info": { "type": "pv", "name": "warm", "uuid": "99be3d51-26d6-4551-9b04-e67f171a043c", "run_hotplug_scripts": "True" },
        "b_info": { "max_vcpus": 1, "avail_vcpus": [0], "max_memkb": 65536, "target_memkb": 65536, "max_grant_frames": 32,
            "sched_params": {}, "claim_mode": "True", "event_channels": 4095, "kernel": "/srv/m1/mm-guest",
            "cmdline": "init=/usr/bin/python3 -- \"x\"", "type.pv": {}, "arch_arm": {}, "arch_x86": {} },
        "disks": [
            { "backend_domname": "m1", "pdev_path": "base", "vdev": "xvda", "format": "raw" },
            { "backend_domid": 5, "pdev_path": "data+mine", "vdev": "xvdb", "format": "raw", "readwrite": 1 },
            { "pdev_path": "/dev/null", "vdev": "xvdc", "format": "raw", "readwrite": 1 },
        ],
        "nics": [{ "devid": 0, "mac": "00:16:3e:00:00:01", "bridge": "xenbr0" }],
        "on_poweroff": "preserve", "on_reboot": "restart_rename", "on_soft_reset": "soft_reset",
    });
    let config = super::saved::from_json(&json).expect("a configuration");
    assert_eq!(config.text("kernel"), Some("/srv/m1/mm-guest"));
    assert_eq!(config.text("extra"), Some("init=/usr/bin/python3 -- \"x\""));
    for (key, number) in [("memory", "64"), ("max_event_channels", "4095"), ("max_grant_frames", "32")] {
        assert_eq!(config.get(key), Some(&Value::Number(number.to_owned())), "{key}");
    }
    let disks: Vec<&str> = config.list("disk").collect();
    assert_eq!(
        disks,
        [
            "format=raw,vdev=xvda,access=r,backend=m1,target=base",
            "format=raw,vdev=xvdb,access=rw,backend=5,target=data+mine",
            "format=raw,vdev=xvdc,access=rw,target=/dev/null",
        ]
    );
    let ends: Vec<_> = ["on_poweroff", "on_reboot", "on_crash"].map(|key| config.text(key)).to_vec();
    assert_eq!(ends, [Some("preserve"), Some("rename-restart"), Some("destroy")]);
    assert_eq!(config.list("vif").collect::<Vec<_>>(), ["bridge=xenbr0"], "each clone has a MAC of its own");
    assert_eq!(Config::parse(&config.to_string()), Ok(config));
    assert_eq!(super::saved::from_json(&serde_json::json!({})), None);
}
