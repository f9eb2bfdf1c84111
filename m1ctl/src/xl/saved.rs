//! Configurations of domains that were frozen, kept to clone them with.

use std::path::PathBuf;

use serde_json::Value as Json;

use super::config::{Config, Value};
use super::{OTHERS, run};
use crate::failure::{Failure, Result};
use crate::files;

fn path(snapshot: &str) -> Result<PathBuf> {
    Ok(files::state("configs")?.join(format!("{snapshot}.cfg")))
}

/// Keeps what xl knows of a running domain, under a snapshot's name.
pub(crate) fn keep(domid: u16, snapshot: &str) -> Result<PathBuf> {
    let config = of_domain(domid)?;
    let path = path(snapshot)?;
    files::write(&path, config.to_string().as_bytes())?;
    Ok(path)
}

/// The configuration that was kept.
pub(crate) fn find(snapshot: &str) -> Result<Option<PathBuf>> {
    let path = path(snapshot)?;
    Ok(path.is_file().then_some(path))
}

pub(crate) fn forget(snapshot: &str) {
    if let Ok(path) = path(snapshot) {
        let _ = std::fs::remove_file(path);
    }
}

/// What a running domain was created with, as far as xl tells.
fn of_domain(domid: u16) -> Result<Config> {
    from_json(&json(domid)?).ok_or_else(|| Failure::Host(format!("xl list -l {domid} says nothing useful")))
}

/// `max_event_channels=` of a running domain, where xl says so.
pub(crate) fn event_channels(domid: u16) -> Option<u64> {
    json(domid).ok()?["b_info"]["event_channels"].as_u64()
}

/// What xl knows of a running domain, in libxl's own form.
fn json(domid: u16) -> Result<Json> {
    let text = run(&["list", "-l", &domid.to_string()], OTHERS)?;
    let list: Json =
        serde_json::from_str(&text).map_err(|error| Failure::Host(format!("xl list -l {domid}: {error}")))?;
    let domain = if list.is_array() { &list[0] } else { &list };
    Ok(domain["config"].clone())
}

/// From libxl's own form of a configuration (`xl list -l`): what PV domains without devices of unusual kinds have.
pub(super) fn from_json(json: &Json) -> Option<Config> {
    let mut config = Config::default();
    let (create, build) = (&json["c_info"], &json["b_info"]);
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            config.set(key, value);
        }
    };
    let text = |json: &Json| json.as_str().map(|text| Value::Text(text.to_owned()));
    let number = |json: &Json| json.as_u64().map(|number| Value::Number(number.to_string()));
    set("name", Some(text(&create["name"])?));
    set("type", Some(text(&create["type"])?));
    // Where the kernel stands depends on libxl's version.
    let kernel = |key: &str| text(&build[key]).or_else(|| text(&build["type.pv"][key]));
    set("kernel", Some(kernel("kernel")?));
    set("ramdisk", kernel("ramdisk"));
    set("extra", kernel("cmdline"));
    let mib = build["target_memkb"].as_u64().or(build["max_memkb"].as_u64())?.div_ceil(1024);
    set("memory", Some(Value::Number(mib.to_string())));
    set("vcpus", number(&build["max_vcpus"]));
    for (key, name) in [
        ("max_grant_frames", "max_grant_frames"),
        ("max_maptrack_frames", "max_maptrack_frames"),
        ("event_channels", "max_event_channels"),
    ] {
        set(name, number(&build[key]));
    }
    for key in ["on_poweroff", "on_reboot", "on_crash"] {
        // libxl leaves out what is its own default, which is not always that of a file.
        let action = match json[key].as_str() {
            None => "destroy".to_owned(),
            Some("restart_rename") => "rename-restart".to_owned(),
            Some(action) => action.replace('_', "-"),
        };
        set(key, Some(Value::Text(action)));
    }
    let list = |key: &str| json[key].as_array().cloned().unwrap_or_default();
    let disks: Vec<Value> = list("disks").iter().filter_map(disk).map(Value::Text).collect();
    set("disk", (!disks.is_empty()).then_some(Value::List(disks)));
    let nics: Vec<Value> = list("nics").iter().map(|nic| Value::Text(vif(nic))).collect();
    set("vif", (!nics.is_empty()).then_some(Value::List(nics)));
    Some(config)
}

fn disk(json: &Json) -> Option<String> {
    let mut parts = vec![format!("format={}", json["format"].as_str().unwrap_or("raw"))];
    parts.push(format!("vdev={}", json["vdev"].as_str()?));
    let writes = json["readwrite"].as_u64().is_some_and(|rights| rights != 0) || json["readwrite"] == true;
    parts.push(format!("access={}", if writes { "rw" } else { "r" }));
    let backend = json["backend_domname"].as_str().map(str::to_owned);
    let backend =
        backend.or_else(|| json["backend_domid"].as_u64().filter(|id| *id != 0).map(|id| id.to_string()));
    parts.extend(backend.map(|backend| format!("backend={backend}")));
    parts.push(format!("target={}", json["pdev_path"].as_str()?));
    Some(parts.join(","))
}

/// Not its MAC: each clone has one of its own.
fn vif(json: &Json) -> String {
    json["bridge"].as_str().map_or_else(String::new, |bridge| format!("bridge={bridge}"))
}
