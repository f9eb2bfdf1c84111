//! Requests, watches and transactions.

use super::tree::{Perm, Tree, parent};
use super::{Connection, FakeXenstored, Flavour, Open, Watch};
use crate::wire::{HEADER, Header, Kind, PAYLOAD_MAX};

type Outcome = Result<Vec<u8>, &'static str>;

impl FakeXenstored {
    /// Moves bytes of one connection and answers whole requests. `true`: something moved.
    pub(super) fn pump(&mut self, at: usize) -> bool {
        let mut moved = false;
        let connection = &mut self.connections[at];
        if let Some((input, output)) = &mut connection.rings {
            let mut bytes = [0; 1024];
            let count = input.read(&mut bytes).expect("the guest's request index is possible");
            connection.input.extend_from_slice(&bytes[..count]);
            let waiting = connection.output.make_contiguous();
            let sent = output.write(waiting).expect("the guest's reply index is possible");
            connection.output.drain(..sent);
            moved = count > 0 || sent > 0;
        }
        while let Some((header, payload)) = take_request(&mut self.connections[at]) {
            self.answer(at, header, &payload);
            moved = true;
        }
        moved
    }

    fn answer(&mut self, at: usize, header: Header, payload: &[u8]) {
        self.connections[at].requests += 1;
        let refusal = self.connections[at].refusals.pop_front();
        let mut fired = Vec::new();
        let outcome = match (refusal, Kind::from_wire(header.kind)) {
            (Some(error), _) => Err(error),
            (None, None) => Err("EINVAL"),
            (None, Some(kind)) => self.perform(at, kind, header.transaction, payload, &mut fired),
        };
        let (kind, payload) = match outcome {
            Ok(payload) => (header.kind, payload),
            Err(error) => (Kind::Error as u32, [error.as_bytes(), b"\0"].concat()),
        };
        let len = u32::try_from(payload.len()).expect("replies are short");
        self.connections[at].output.extend(Header { kind, len, ..header }.encode());
        self.connections[at].output.extend(payload);
        for (path, before) in fired {
            self.fire(&path, before.as_ref());
        }
    }

    fn perform(
        &mut self,
        at: usize,
        kind: Kind,
        transaction: u32,
        payload: &[u8],
        fired: &mut Vec<(String, Option<Tree>)>,
    ) -> Outcome {
        let domain = self.connections[at].domain;
        let mut strings = payload.split(|b| *b == 0).map(|s| String::from_utf8_lossy(s).into_owned());
        let first = strings.next().unwrap_or_default();
        match kind {
            Kind::Watch => return self.watch(at, &first, &strings.next().ok_or("EINVAL")?),
            Kind::Unwatch => return self.unwatch(at, &first, &strings.next().ok_or("EINVAL")?),
            Kind::TransactionStart => return self.start(at),
            Kind::TransactionEnd => return self.end(at, transaction, first == "T", fired),
            _ => {}
        }
        let path = absolute(domain, &first)?;
        let (flavour, quota) = (self.flavour, self.quota);
        let generation = self.generation + 1;
        let tree = match transaction {
            0 => &mut self.tree,
            id => {
                let open = self.connections[at].transactions.get_mut(&id).ok_or("ENOENT")?;
                open.touched.push(path.clone());
                &mut open.tree
            }
        };
        let before = tree.clone();
        match kind {
            Kind::Read | Kind::Directory => {
                let node = tree.node(&path).ok_or_else(|| missing(flavour, tree, &path, domain))?;
                if !node.readable(domain) {
                    return Err("EACCES");
                }
                if kind == Kind::Read {
                    return Ok(node.value.clone());
                }
                let names: Vec<u8> =
                    tree.children(&path).iter().flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect();
                return if names.len() > PAYLOAD_MAX { Err("E2BIG") } else { Ok(names) };
            }
            Kind::GetPerms => {
                let node = tree.node(&path).ok_or_else(|| missing(flavour, tree, &path, domain))?;
                if !node.readable(domain) {
                    return Err("EACCES");
                }
                return Ok(node.perms.iter().flat_map(|perm| format!("{perm}\0").into_bytes()).collect());
            }
            Kind::Write | Kind::Mkdir => {
                let value = payload.get(first.len() + 1..).unwrap_or_default();
                if domain != 0 && value.len() > quota.value {
                    return Err(if flavour == Flavour::Ocaml { "EQUOTA" } else { "ENOSPC" });
                }
                if !tree.nearest(&path).writable(domain) {
                    return Err("EACCES");
                }
                let mut perms = tree.inherited(&path);
                if tree.node(&path).is_none() && domain != 0 {
                    // What a domain makes is its own.
                    perms[0].domain = domain;
                }
                let made = tree.make(&path, &perms);
                if domain != 0 && made > 0 && tree.owned_by(domain) > quota.nodes {
                    *tree = before;
                    return Err(if flavour == Flavour::Ocaml { "EQUOTA" } else { "ENOSPC" });
                }
                let node = tree.node_mut(&path).expect("just made");
                node.version = generation;
                if kind == Kind::Write {
                    node.value = value.to_vec();
                }
            }
            Kind::Rm => {
                let node = tree.node(&path).ok_or_else(|| missing(flavour, tree, &path, domain))?;
                if !node.writable(domain) {
                    return Err("EACCES");
                }
                tree.remove(&path);
            }
            Kind::SetPerms => {
                let entries: Vec<String> = strings.filter(|s| !s.is_empty()).collect();
                let perms: Vec<Perm> =
                    entries.iter().map(|s| Perm::parse(s)).collect::<Option<_>>().ok_or("EINVAL")?;
                let node = tree.node_mut(&path).ok_or("ENOENT")?;
                if domain != 0 && node.owner() != domain {
                    return Err("EACCES");
                }
                let owner = perms.first().ok_or("EINVAL")?.domain;
                if domain != 0 && owner != node.owner() {
                    return Err("EPERM");
                }
                if flavour == Flavour::C && perms.len() > 5 {
                    return Err("ENOSPC");
                }
                node.perms = perms;
                node.version = generation;
            }
            _ => return Err("ENOSYS"),
        }
        if transaction == 0 {
            self.generation = generation;
            fired.push((path, Some(before)));
        }
        Ok(b"OK\0".to_vec())
    }

    fn watch(&mut self, at: usize, given: &str, token: &str) -> Outcome {
        let (flavour, most) = (self.flavour, self.quota.watches);
        let connection = &mut self.connections[at];
        let absolute = absolute(connection.domain, given)?;
        if connection.watches.iter().any(|w| w.absolute == absolute && w.token == token) {
            return Err("EEXIST");
        }
        if connection.domain != 0 && connection.watches.len() >= most {
            return Err(if flavour == Flavour::Ocaml { "EQUOTA" } else { "E2BIG" });
        }
        connection.watches.push(Watch { given: given.to_owned(), absolute, token: token.to_owned() });
        // The first event comes at once, whether the path exists or not; here even before the reply, which is legal.
        connection.output.extend(event(given, token));
        Ok(b"OK\0".to_vec())
    }

    fn unwatch(&mut self, at: usize, given: &str, token: &str) -> Outcome {
        let connection = &mut self.connections[at];
        let absolute = absolute(connection.domain, given)?;
        let found = connection.watches.iter().position(|w| w.absolute == absolute && w.token == token);
        connection.watches.remove(found.ok_or("ENOENT")?);
        Ok(b"OK\0".to_vec())
    }

    fn start(&mut self, at: usize) -> Outcome {
        let connection = &mut self.connections[at];
        if connection.domain != 0 && connection.transactions.len() >= self.quota.transactions {
            return Err(if self.flavour == Flavour::Ocaml { "EQUOTA" } else { "ENOSPC" });
        }
        let id = self.next_transaction;
        self.next_transaction += 1;
        let open = Open { tree: self.tree.clone(), since: self.generation, touched: Vec::new() };
        connection.transactions.insert(id, open);
        Ok(format!("{id}\0").into_bytes())
    }

    fn end(&mut self, at: usize, id: u32, commit: bool, fired: &mut Vec<(String, Option<Tree>)>) -> Outcome {
        let open = self.connections[at].transactions.remove(&id).ok_or("ENOENT")?;
        if !commit {
            return Ok(b"OK\0".to_vec());
        }
        if open.since != self.generation {
            return Err("EAGAIN");
        }
        let before = core::mem::replace(&mut self.tree, open.tree);
        self.generation += 1;
        let mut touched = open.touched;
        touched.dedup();
        let changed = |path: &String| {
            let look = |tree: &Tree| tree.node(path).map(|node| (node.value.clone(), node.version));
            look(&before) != look(&self.tree)
        };
        fired.extend(touched.into_iter().filter(changed).map(|path| (path, Some(before.clone()))));
        Ok(b"OK\0".to_vec())
    }

    /// dom0 changed a node.
    pub(super) fn changed(&mut self, path: &str) {
        self.generation += 1;
        self.fire(path, None);
    }

    /// Sends events to those who watch `path`, something above it, or (if it was removed) something below, and who may read
    /// it or its parent, now or before (oxenstored's `lookup_watch_perms`, C's `watch_permitted`).
    pub(super) fn fire(&mut self, path: &str, before: Option<&Tree>) {
        let removed = self.tree.node(path).is_none();
        for connection in &mut self.connections {
            let domain = connection.domain;
            let may_read =
                |tree: &Tree, path: &str| tree.node(path).is_some_and(|node| node.readable(domain));
            let mut trees = core::iter::once(&self.tree).chain(before);
            if !trees.any(|tree| may_read(tree, path) || may_read(tree, parent(path))) {
                continue;
            }
            for watch in &connection.watches {
                let above = within(path, &watch.absolute);
                let below = removed && within(&watch.absolute, path);
                if above || below {
                    let told = if above { path } else { &watch.absolute };
                    let told = if watch.given.starts_with('/') {
                        told
                    } else {
                        told.strip_prefix(&format!("/local/domain/{domain}/")).unwrap_or(told)
                    };
                    connection.output.extend(event(told, &watch.token));
                }
            }
        }
    }
}

fn take_request(connection: &mut Connection) -> Option<(Header, Vec<u8>)> {
    let head: [u8; HEADER] = connection.input.get(..HEADER)?.try_into().ok()?;
    let header = Header::decode(&head);
    let len = usize::try_from(header.len).expect("a length");
    assert!(len <= PAYLOAD_MAX, "xenstored drops a guest that sends this");
    let end = HEADER + len;
    if connection.input.len() < end {
        return None;
    }
    let payload = connection.input[HEADER..end].to_vec();
    connection.input.drain(..end);
    Some((header, payload))
}

fn event(path: &str, token: &str) -> Vec<u8> {
    let payload = [path.as_bytes(), b"\0", token.as_bytes(), b"\0"].concat();
    let len = u32::try_from(payload.len()).expect("events are short");
    let header = Header { kind: Kind::WatchEvent as u32, id: 0, transaction: 0, len };
    [header.encode().as_slice(), &payload].concat()
}

/// Whether `path` is `top` or below it.
fn within(path: &str, top: &str) -> bool {
    path == top || path.strip_prefix(top).is_some_and(|rest| rest.starts_with('/'))
}

fn absolute(domain: u16, path: &str) -> Result<String, &'static str> {
    let full = match path {
        "" => return Err("EINVAL"),
        "/" => String::new(),
        path if path.starts_with('/') => path.to_owned(),
        path => format!("/local/domain/{domain}/{path}"),
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || "-/_@".contains(c);
    if full.ends_with('/') || full.contains("//") || !full.chars().all(legal) {
        return Err("EINVAL");
    }
    Ok(full)
}

/// C xenstored says that a node is missing only to those who could read where it would be; oxenstored to everybody.
fn missing(flavour: Flavour, tree: &Tree, path: &str, domain: u16) -> &'static str {
    if flavour == Flavour::Ocaml || tree.nearest(path).readable(domain) { "ENOENT" } else { "EACCES" }
}
