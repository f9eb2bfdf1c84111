//! M1's command line: whatever it says there is a configuration, and one line for each thing that is wrong.

use mm_kernel::config::{Config, VOLUMES_MAX};

/// Every value is within what the rest of M1 relies on.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let config = Config::parse(&text);
    assert!(config.volumes.len() <= VOLUMES_MAX);
    assert!(config.window.is_power_of_two() && config.window <= mm_proto::WINDOW_MAX);
    assert!(config.http_port != 0 && config.clients != 0);
    assert!(config.quota(1000) <= 1000);
    for (index, volume) in config.volumes.iter().enumerate() {
        assert!(!volume.name.is_empty() && !volume.group.is_empty());
        assert!(!volume.devices.is_empty() && volume.devices.iter().all(|device| !device.is_empty()));
        assert!(config.volumes[..index].iter().all(|other| other.name != volume.name), "a name twice");
    }
    for problem in &config.problems {
        let line = problem.to_string();
        assert!(!line.is_empty() && !line.contains('\n'), "{line:?}");
    }
    let words = text.split_ascii_whitespace().count();
    assert!(config.problems.len() + config.problems_dropped as usize <= words + 1);
    assert_eq!(Config::parse(&text), config);
}
