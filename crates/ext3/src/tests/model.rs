//! What a filesystem is, in the simplest words, and the same calls on both.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::Time;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Node {
    File(Vec<u8>),
    Dir(BTreeMap<Vec<u8>, usize>),
    Link(Vec<u8>),
}

/// A tree; numbers are never used again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Model {
    pub(super) nodes: BTreeMap<usize, Node>,
    next: usize,
}

/// A call. Directories and files are chosen by number among those that there are.
#[derive(Clone, Debug)]
pub(super) enum Call {
    Create(usize, u8),
    MakeDir(usize, u8),
    MakeLink(usize, u8, u16),
    Write(usize, u32, u16, u8),
    Truncate(usize, u32),
    Punch(usize, u32, u32),
    Unlink(usize, u8),
    RemoveDir(usize, u8),
    Rename(usize, u8, usize, u8),
    Link(usize, usize, u8),
    /// Opens a file, which may lose its names then, or closes it.
    Hold(usize),
    Sync,
    Remount,
}

pub(super) fn calls(largest: u32, most: u16) -> impl Strategy<Value = Call> {
    let name = || 0..7_u8;
    let pick = || 0..50_usize;
    prop_oneof![
        6 => (pick(), name()).prop_map(|(dir, name)| Call::Create(dir, name)),
        3 => (pick(), name()).prop_map(|(dir, name)| Call::MakeDir(dir, name)),
        1 => (pick(), name(), 1..3000_u16).prop_map(|(dir, name, length)| Call::MakeLink(dir, name, length)),
        10 => (pick(), 0..largest, 1..most, any::<u8>()).prop_map(|(file, at, length, byte)| Call::Write(file, at, length, byte)),
        3 => (pick(), 0..largest).prop_map(|(file, size)| Call::Truncate(file, size)),
        2 => (pick(), 0..largest, 0..largest).prop_map(|(file, start, end)| Call::Punch(file, start.min(end), start.max(end))),
        5 => (pick(), name()).prop_map(|(dir, name)| Call::Unlink(dir, name)),
        2 => (pick(), name()).prop_map(|(dir, name)| Call::RemoveDir(dir, name)),
        4 => (pick(), name(), pick(), name()).prop_map(|(a, b, c, d)| Call::Rename(a, b, c, d)),
        2 => (pick(), pick(), name()).prop_map(|(file, dir, name)| Call::Link(file, dir, name)),
        2 => pick().prop_map(Call::Hold),
        2 => Just(Call::Sync),
        1 => Just(Call::Remount),
    ]
}

fn name_of(name: u8) -> Vec<u8> {
    let mut bytes = vec![b'a' + name];
    bytes.extend(vec![b'x'; usize::from(name) * 20]);
    bytes
}

impl Model {
    pub(super) fn new() -> Self {
        let lost = BTreeMap::from([(b"lost+found".to_vec(), 1)]);
        Self { nodes: BTreeMap::from([(0, Node::Dir(lost)), (1, Node::Dir(BTreeMap::new()))]), next: 2 }
    }

    fn dir(&mut self, dir: usize) -> &mut BTreeMap<Vec<u8>, usize> {
        match self.nodes.get_mut(&dir) {
            Some(Node::Dir(names)) => names,
            other => panic!("{dir} is {other:?}"),
        }
    }

    fn names_of(&self, id: usize) -> usize {
        let dirs = self
            .nodes
            .values()
            .filter_map(|node| if let Node::Dir(names) = node { Some(names) } else { None });
        dirs.flat_map(BTreeMap::values).filter(|named| **named == id).count()
    }

    fn lies_below(&self, inner: usize, outer: usize) -> bool {
        inner == outer
            || match &self.nodes[&outer] {
                Node::Dir(names) => names.values().any(|child| self.lies_below(inner, *child)),
                _ => false,
            }
    }
}

/// Both, side by side.
pub(super) struct Pair {
    pub(super) model: Model,
    pub(super) fs: Fs,
    pub(super) disk: Disk,
    numbers: BTreeMap<usize, Ino>,
    /// Held open.
    held: Vec<usize>,
    second: u64,
}

impl Pair {
    pub(super) fn new(image: Vec<u8>) -> Self {
        let mut disk = Disk::new(image);
        let fs = mount(&mut disk);
        disk.history = Some(Vec::new());
        let numbers = BTreeMap::from([(0, ROOT), (1, Ino(11))]);
        let model = Model::new();
        Self { model, fs, disk, numbers, held: Vec::new(), second: 1_700_000_000 }
    }

    fn pick(&self, number: usize, wanted: impl Fn(&Node) -> bool) -> Option<usize> {
        let all: Vec<usize> =
            self.model.nodes.iter().filter(|(_, node)| wanted(node)).map(|(id, _)| *id).collect();
        (!all.is_empty()).then(|| all[number % all.len()])
    }

    fn pick_dir(&self, number: usize) -> usize {
        self.pick(number, |node| matches!(node, Node::Dir(_))).unwrap()
    }

    fn pick_file(&self, number: usize) -> Option<usize> {
        self.pick(number, |node| matches!(node, Node::File(_)))
    }

    fn add(&mut self, dir: usize, name: Vec<u8>, node: Node, made: Result<Ino, Error>) {
        if self.model.dir(dir).contains_key(&name) {
            assert_eq!(made, Err(Error::Exists));
            return;
        }
        let id = self.model.next;
        self.model.next += 1;
        self.numbers.insert(id, made.unwrap());
        self.model.nodes.insert(id, node);
        self.model.dir(dir).insert(name, id);
    }

    fn drop_if_unused(&mut self, id: usize) {
        if self.model.names_of(id) == 0 && !self.held.contains(&id) {
            self.model.nodes.remove(&id);
            self.numbers.remove(&id);
        }
    }

    pub(super) fn sync(&mut self) {
        self.fs.sync(&mut self.disk).unwrap();
    }

    pub(super) fn make(&mut self, call: &Call) {
        self.second += 1;
        self.fs.set_now(Time { seconds: self.second, nanoseconds: 5 });
        match call {
            Call::Create(dir, name) => {
                let (dir, name) = (self.pick_dir(*dir), name_of(*name));
                let made = self.fs.create(&mut self.disk, self.numbers[&dir], Some(&name), 0o644);
                self.add(dir, name, Node::File(Vec::new()), made);
            }
            Call::MakeDir(dir, name) => {
                let (dir, name) = (self.pick_dir(*dir), name_of(*name));
                let made = self.fs.make_dir(&mut self.disk, self.numbers[&dir], &name, 0o755);
                self.add(dir, name, Node::Dir(BTreeMap::new()), made);
            }
            Call::MakeLink(dir, name, length) => {
                let (dir, name) = (self.pick_dir(*dir), name_of(*name));
                let target = vec![b't'; usize::from(*length)];
                let made = self.fs.make_link(&mut self.disk, self.numbers[&dir], &name, &target);
                self.add(dir, name, Node::Link(target), made);
            }
            Call::Write(file, at, length, byte) => {
                let Some(file) = self.pick_file(*file) else { return };
                let bytes: Vec<u8> =
                    (0..*length).map(|at| byte.wrapping_add((at / 512) as u8) % 200).collect();
                let written = self.fs.write(&mut self.disk, self.numbers[&file], u64::from(*at), &bytes);
                assert_eq!(written, Ok(bytes.len()));
                let Some(Node::File(content)) = self.model.nodes.get_mut(&file) else { return };
                let end = *at as usize + bytes.len();
                content.resize(content.len().max(end), 0);
                content[*at as usize..end].copy_from_slice(&bytes);
            }
            Call::Truncate(file, size) => {
                let Some(file) = self.pick_file(*file) else { return };
                self.fs.truncate(&mut self.disk, self.numbers[&file], u64::from(*size)).unwrap();
                let Some(Node::File(content)) = self.model.nodes.get_mut(&file) else { return };
                content.resize(*size as usize, 0);
            }
            Call::Punch(file, start, end) => {
                let Some(file) = self.pick_file(*file) else { return };
                let (ino, from, to) = (self.numbers[&file], u64::from(*start), u64::from(*end));
                self.fs.punch(&mut self.disk, ino, from, to).unwrap();
                let Some(Node::File(content)) = self.model.nodes.get_mut(&file) else { return };
                let length = content.len();
                content[length.min(*start as usize)..length.min(*end as usize)].fill(0);
            }
            Call::Unlink(dir, name) | Call::RemoveDir(dir, name) => {
                let directory = matches!(call, Call::RemoveDir(..));
                let (dir, name) = (self.pick_dir(*dir), name_of(*name));
                let gone = self.fs.unlink(&mut self.disk, self.numbers[&dir], &name, directory);
                let target = self.model.dir(dir).get(&name).copied();
                let expected = match target.map(|id| &self.model.nodes[&id]) {
                    None => Err(Error::NotFound),
                    Some(Node::Dir(_)) if !directory => Err(Error::IsDirectory),
                    Some(Node::Dir(names)) if !names.is_empty() => Err(Error::NotEmpty),
                    Some(Node::Dir(_)) => Ok(()),
                    Some(_) if directory => Err(Error::NotDirectory),
                    Some(_) => Ok(()),
                };
                assert_eq!(gone, expected);
                if gone.is_ok() {
                    self.model.dir(dir).remove(&name);
                    target.into_iter().for_each(|id| self.drop_if_unused(id));
                }
            }
            Call::Rename(from_dir, from, to_dir, to) => self.rename((*from_dir, *from), (*to_dir, *to)),
            Call::Link(file, dir, name) => {
                let Some(file) = self.pick_file(*file) else { return };
                let (dir, name) = (self.pick_dir(*dir), name_of(*name));
                let linked = self.fs.link(&mut self.disk, self.numbers[&dir], &name, self.numbers[&file]);
                let exists = self.model.dir(dir).contains_key(&name);
                assert_eq!(linked, if exists { Err(Error::Exists) } else { Ok(()) });
                if !exists {
                    self.model.dir(dir).insert(name, file);
                }
            }
            Call::Hold(file) => {
                let Some(file) = self.pick_file(*file) else { return };
                if let Some(at) = self.held.iter().position(|held| *held == file) {
                    self.held.remove(at);
                    self.fs.release(&mut self.disk, self.numbers[&file]).unwrap();
                    self.drop_if_unused(file);
                } else {
                    self.held.push(file);
                    self.fs.retain(&mut self.disk, self.numbers[&file]).unwrap();
                }
            }
            Call::Sync => self.sync(),
            Call::Remount => self.remount(),
        }
    }

    fn rename(&mut self, (from_dir, from): (usize, u8), (to_dir, to): (usize, u8)) {
        let (from_dir, to_dir) = (self.pick_dir(from_dir), self.pick_dir(to_dir));
        let (from, to) = (name_of(from), name_of(to));
        let (a, b) = (self.numbers[&from_dir], self.numbers[&to_dir]);
        let done = self.fs.rename(&mut self.disk, (a, &from), (b, &to), true);
        let id = self.model.dir(from_dir).get(&from).copied();
        let target = self.model.dir(to_dir).get(&to).copied();
        let is_dir = |id: usize| matches!(&self.model.nodes[&id], Node::Dir(_));
        let expected = match (id, target) {
            (None, _) => Err(Error::NotFound),
            (Some(id), _) if is_dir(id) && self.model.lies_below(to_dir, id) => Err(Error::Invalid),
            (Some(id), Some(target)) if id != target => match (is_dir(id), &self.model.nodes[&target]) {
                (true, Node::Dir(names)) if !names.is_empty() => Err(Error::NotEmpty),
                (true, Node::Dir(_)) => Ok(()),
                (true, _) => Err(Error::NotDirectory),
                (false, Node::Dir(_)) => Err(Error::IsDirectory),
                _ => Ok(()),
            },
            _ => Ok(()),
        };
        assert_eq!(done, expected);
        if let (Ok(()), Some(id)) = (done, id)
            && target != Some(id)
        {
            self.model.dir(from_dir).remove(&from);
            self.model.dir(to_dir).insert(to, id);
            target.into_iter().for_each(|target| self.drop_if_unused(target));
        }
    }

    /// Leaves the disk as it is after a sync, and comes back: open files by their numbers.
    fn remount(&mut self) {
        self.sync();
        let open: Vec<_> = self.fs.open_inodes().collect();
        let fresh = Fs::mount(&mut self.disk, LIMITS).unwrap();
        core::mem::replace(&mut self.fs, fresh).close(&mut self.disk);
        for (ino, _) in open {
            self.fs.retain(&mut self.disk, ino).unwrap();
        }
        self.fs.free_orphans(&mut self.disk).unwrap();
    }

    pub(super) fn compare(&mut self) {
        let found = tree(&mut self.fs, &mut self.disk).unwrap();
        assert!(found == named(&self.model), "trees differ");
        for id in &self.held {
            let Node::File(content) = &self.model.nodes[id] else { panic!("files are held") };
            assert!(read_all(&mut self.fs, &mut self.disk, self.numbers[id]).unwrap() == *content);
        }
    }
}

/// Paths and what is there.
pub(super) type Tree = BTreeMap<Vec<u8>, (Node, u16)>;

/// What a model shows. Directories without their names; with everything its count of links.
pub(super) fn named(model: &Model) -> Tree {
    let mut tree = Tree::new();
    let mut todo = vec![(Vec::new(), 0)];
    while let Some((path, id)) = todo.pop() {
        let node = match &model.nodes[&id] {
            Node::Dir(names) => {
                for (name, child) in names {
                    todo.push(([&path[..], b"/", name].concat(), *child));
                }
                let dirs = names.values().filter(|child| matches!(model.nodes[child], Node::Dir(_))).count();
                (Node::Dir(BTreeMap::new()), 2 + dirs as u16)
            }
            other => (other.clone(), model.names_of(id) as u16),
        };
        tree.insert(path, node);
    }
    tree
}

/// The same of a filesystem.
pub(super) fn tree(fs: &mut Fs, disk: &mut Disk) -> Result<Tree, Error> {
    let mut tree = Tree::new();
    let mut todo = vec![(Vec::new(), ROOT)];
    while let Some((path, ino)) = todo.pop() {
        let stat = fs.stat(disk, ino)?;
        let node = match stat.kind {
            Kind::Directory => {
                for (name, (child, kind)) in entries(fs, disk, ino)? {
                    assert_eq!(fs.stat(disk, child)?.kind, kind);
                    todo.push(([&path[..], b"/", &name].concat(), child));
                }
                Node::Dir(BTreeMap::new())
            }
            Kind::Link => Node::Link(fs.read_link(disk, ino)?),
            _ => Node::File(read_all(fs, disk, ino)?),
        };
        tree.insert(path, (node, stat.links));
    }
    Ok(tree)
}
