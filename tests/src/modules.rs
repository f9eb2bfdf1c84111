//! Kernel modules: which ones a set needs, and `modules.dep` for modprobe in dom0.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use object::{Object, ObjectSection};

/// Kernel modules with what they depend on.
pub(crate) struct Modules {
    /// Path below `/lib/modules/VERSION` → host path.
    pub(crate) files: BTreeMap<String, PathBuf>,
    /// The content of `modules.dep`.
    pub(crate) dep: String,
}

/// Finds `names` and what they need among the modules in `directory` (a `lib/modules/VERSION`).
pub(crate) fn closure(directory: &Path, names: &[&str]) -> Result<Modules> {
    let mut all: BTreeMap<String, PathBuf> = BTreeMap::new();
    index(&directory.join("kernel"), &mut all)?;
    let mut needs: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut queue: Vec<String> = names.iter().map(|name| canonical(name)).collect();
    while let Some(name) = queue.pop() {
        if needs.contains_key(&name) {
            continue;
        }
        let path = all.get(&name).with_context(|| format!("the dom0 kernel has no module {name}"))?;
        let depends = depends(path)?;
        queue.extend(depends.iter().cloned());
        needs.insert(name, depends);
    }
    let relative = |name: &str| -> Result<String> {
        let path = all.get(name).with_context(|| format!("no module {name}"))?;
        Ok(path.strip_prefix(directory)?.to_string_lossy().into_owned())
    };
    let (mut files, mut dep) = (BTreeMap::new(), String::new());
    for name in needs.keys() {
        files.insert(relative(name)?, all[name].clone());
        // modprobe wants every module that is needed, also indirectly, the one needed by nobody else first.
        let mut chain = Vec::new();
        let mut seen = BTreeSet::new();
        collect(name, &needs, &mut seen, &mut chain);
        chain.pop();
        chain.reverse();
        let chain = chain.iter().map(|needed| relative(needed)).collect::<Result<Vec<_>>>()?;
        dep.push_str(&format!("{}: {}\n", relative(name)?, chain.join(" ")));
    }
    Ok(Modules { files, dep })
}

/// Depth first: what `name` needs, then `name`.
fn collect(
    name: &str,
    needs: &BTreeMap<String, Vec<String>>,
    seen: &mut BTreeSet<String>,
    out: &mut Vec<String>,
) {
    if seen.insert(name.to_owned()) {
        for need in needs.get(name).into_iter().flatten() {
            collect(need, needs, seen, out);
        }
        out.push(name.to_owned());
    }
}

fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn index(directory: &Path, all: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("no {}", directory.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            index(&entry.path(), all)?;
        } else if let Some(name) = entry.file_name().to_str().and_then(|name| name.strip_suffix(".ko")) {
            all.insert(canonical(name), entry.path());
        }
    }
    Ok(())
}

/// The `depends=` line of a module's `.modinfo`.
fn depends(path: &Path) -> Result<Vec<String>> {
    let content = fs::read(path)?;
    let file = object::File::parse(&*content).with_context(|| format!("{} is no module", path.display()))?;
    let section =
        file.section_by_name(".modinfo").with_context(|| format!("{} says nothing", path.display()))?;
    let lines = section.data()?.split(|byte| *byte == 0);
    let depends = lines.filter_map(|line| line.strip_prefix(b"depends=")).next().unwrap_or_default();
    let names = String::from_utf8_lossy(depends);
    Ok(names.split(',').filter(|name| !name.is_empty()).map(canonical).collect())
}
