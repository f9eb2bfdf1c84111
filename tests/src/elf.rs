//! Which shared libraries a program needs.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use object::LittleEndian;
use object::elf;
use object::read::elf::{Dyn, ElfFile64, FileHeader};

use crate::packages::Unpacked;

/// Names in DT_NEEDED and the interpreter of PT_INTERP; nothing for a static program or for no ELF file.
fn needed(content: &[u8]) -> Result<Vec<String>> {
    let Ok(file) = ElfFile64::<LittleEndian>::parse(content) else { return Ok(Vec::new()) };
    let header = file.elf_header();
    let endian = LittleEndian;
    let mut names = Vec::new();
    for segment in header.program_headers(endian, content)? {
        use object::read::elf::ProgramHeader;
        if let Some(interpreter) = segment.interpreter(endian, content)? {
            names.push(String::from_utf8_lossy(interpreter).into_owned());
        }
    }
    let sections = header.sections(endian, content)?;
    if let Some((entries, strings)) = sections.dynamic(endian, content)? {
        let strings = sections.strings(endian, content, strings)?;
        for entry in entries {
            if entry.tag(endian) == elf::DT_NEEDED {
                names.push(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned());
            }
        }
    }
    Ok(names)
}

const LIBRARY_DIRECTORIES: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/usr/lib/xen-4.17/lib/x86_64-linux-gnu",
    // Ceph's own, which fio loads by way of librados.
    "/usr/lib/x86_64-linux-gnu/ceph",
];

/// All libraries that `programs` (host paths) need, directly or not: path in the guest → path on the host.
pub(crate) fn libraries(set: &Unpacked, programs: &[PathBuf]) -> Result<BTreeMap<String, PathBuf>> {
    let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut queue = programs.to_vec();
    while let Some(program) = queue.pop() {
        let content = fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
        for name in needed(&content).with_context(|| format!("{} is damaged", program.display()))? {
            let (guest, host) = locate(set, &name)
                .with_context(|| format!("{} needs {name}, which no package brings", program.display()))?;
            if found.insert(guest, host.clone()).is_none() {
                queue.push(host);
            }
        }
    }
    Ok(found)
}

/// Where a library is, with symbolic links followed on the host side.
pub(crate) fn locate(set: &Unpacked, name: &str) -> Option<(String, PathBuf)> {
    if name.starts_with('/') {
        let usr = if name.starts_with("/usr/") { name.to_owned() } else { format!("/usr{name}") };
        return Some((usr, fs::canonicalize(set.find(name)?).ok()?));
    }
    LIBRARY_DIRECTORIES.iter().find_map(|directory| {
        let path = format!("{directory}/{name}");
        let host = fs::canonicalize(set.find(&path)?).ok()?;
        Some((path, host))
    })
}
