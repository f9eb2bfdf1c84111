//! A strict reader of Prometheus text (format 0.0.4): panics at what a scraper might forgive.

use std::collections::BTreeMap;
use std::string::{String, ToString};
use std::vec::Vec;

/// Families by name.
pub(super) type Exposition = BTreeMap<String, Family>;

#[derive(Debug)]
pub(super) struct Family {
    pub(super) kind: String,
    /// By name with labels, as written.
    pub(super) samples: BTreeMap<String, f64>,
    /// In the order in which they stand.
    order: Vec<String>,
}

pub(super) fn parse(text: &str) -> Exposition {
    let mut families = Exposition::new();
    let mut current: Option<String> = None;
    let mut help: Option<String> = None;
    assert!(text.ends_with('\n'), "the last line has no end");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, words) = rest.split_once(' ').expect("a family has a help text");
            assert!(!words.is_empty() && help.is_none(), "{line}");
            assert!(!families.contains_key(name), "{name} comes twice");
            help = Some(name.to_string());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type has a name");
            assert_eq!(help.take().as_deref(), Some(name), "HELP, then TYPE");
            let family = Family { kind: kind.to_string(), samples: BTreeMap::new(), order: Vec::new() };
            families.insert(name.to_string(), family);
            current = Some(name.to_string());
        } else {
            assert!(help.is_none(), "{line} stands between HELP and TYPE");
            let name = current.as_deref().expect("a family before its samples");
            let family = families.get_mut(name).expect("opened just now");
            sample(name, family, line);
        }
    }
    for (name, family) in
        families.iter().filter(|(_, family)| family.kind == "histogram" && !family.samples.is_empty())
    {
        histogram(name, family);
    }
    families
}

fn sample(name: &str, family: &mut Family, line: &str) {
    let (key, value) = line.rsplit_once(' ').expect("a sample has a value");
    let bare = key.split('{').next().expect("split gives one");
    let suffix = bare.strip_prefix(name).unwrap_or_else(|| panic!("{line} is not of {name}"));
    let fits = suffix.is_empty() != (family.kind == "histogram");
    assert!(fits && ["", "_bucket", "_sum", "_count"].contains(&suffix), "{line}");
    if let Some(labels) = key.strip_prefix(bare).filter(|labels| !labels.is_empty()) {
        check_labels(labels);
    }
    let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
    assert!(value.is_finite(), "{line}");
    assert!(family.samples.insert(key.to_string(), value).is_none(), "{key} comes twice");
    family.order.push(key.to_string());
}

/// `{name="value",…}` with `\`, `"` and newlines escaped.
fn check_labels(labels: &str) {
    let mut rest = labels.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).expect("braces");
    while !rest.is_empty() {
        let (name, value) = rest.split_once("=\"").expect("a quoted value");
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{labels}");
        let mut escaped = false;
        let end = value.find(|letter| {
            let ends = letter == '"' && !escaped;
            escaped = letter == '\\' && !escaped;
            ends
        });
        rest = &value[end.expect("the quotes are closed") + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}

/// One histogram for each set of labels.
fn histogram(name: &str, family: &Family) {
    let mut series: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    let start = std::format!("{name}_bucket{{");
    for key in &family.order {
        let Some(labels) = key.strip_prefix(&start).and_then(|rest| rest.strip_suffix("\"}")) else {
            continue;
        };
        let (labels, bound) = labels.split_once("le=\"").expect("a bucket has a bound");
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().expect("a bound") };
        series.entry(labels.trim_end_matches(',')).or_default().push((bound, family.samples[key]));
    }
    assert!(!series.is_empty(), "{name}: a histogram has buckets");
    for (labels, buckets) in series {
        assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name}: {buckets:?}");
        let (last, all) = *buckets.last().expect("one at least");
        assert!(last.is_infinite());
        let of = |suffix| {
            let braces = if labels.is_empty() { String::new() } else { std::format!("{{{labels}}}") };
            family.samples.get(&std::format!("{name}_{suffix}{braces}"))
        };
        assert_eq!(Some(&all), of("count"), "{name}");
        assert!(of("sum").is_some(), "{name}");
    }
}
