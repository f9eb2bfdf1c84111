//! A xenstored in memory: a stateful sibling of the real ones for tests. It speaks the wire format over byte rings, and has
//! the tree, permissions, quotas, watches and transactions that matter to a guest.
//!
//! [`Flavour`] picks the differences between oxenstored and C xenstored that a guest can see. What a test does as dom0 it does
//! through [`FakeXenstored::set`] and its neighbours, directly on the tree.

mod serve;
mod tree;

use std::collections::{BTreeMap, VecDeque};

use xen_ring::{ByteConsumer, ByteProducer, ByteRing, PageWords};

use tree::{Node, Tree};
pub use tree::{Perm, Right};

/// Whose differences to show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flavour {
    /// Debian's default: `EQUOTA`, no limit on permission entries.
    Ocaml,
    /// The C one: `ENOSPC` and `E2BIG` for quotas, at most five permission entries.
    C,
}

/// Limits for domains other than 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quota {
    /// Nodes that a domain may own.
    pub nodes: usize,
    /// Bytes of a value.
    pub value: usize,
    /// Watches.
    pub watches: usize,
    /// Open transactions.
    pub transactions: usize,
}

impl Default for Quota {
    fn default() -> Self {
        // /etc/xen/oxenstored.conf as Debian ships it.
        Self { nodes: 1000, value: 2048, watches: 100, transactions: 10 }
    }
}

struct Watch {
    /// As it was set: relative or absolute.
    given: String,
    absolute: String,
    token: String,
}

struct Open {
    tree: Tree,
    /// Generation of the tree when it was opened.
    since: u64,
    touched: Vec<String>,
}

struct Connection {
    domain: u16,
    rings: Option<(ByteConsumer, ByteProducer)>,
    input: Vec<u8>,
    output: VecDeque<u8>,
    watches: Vec<Watch>,
    transactions: BTreeMap<u32, Open>,
    /// Names of errors that the next requests get instead of being done, first one first.
    refusals: VecDeque<&'static str>,
    requests: u64,
}

/// Names a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnectionId(usize);

/// The server.
pub struct FakeXenstored {
    flavour: Flavour,
    quota: Quota,
    tree: Tree,
    generation: u64,
    next_transaction: u32,
    connections: Vec<Connection>,
}

impl core::fmt::Debug for FakeXenstored {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "FakeXenstored({:?}, {} nodes)", self.flavour, self.tree.nodes.len())
    }
}

impl FakeXenstored {
    /// Only the root, dom0's and closed to others.
    #[must_use]
    pub fn new(flavour: Flavour) -> Self {
        let mut tree = Tree::default();
        tree.nodes.insert(String::new(), Node::new(vec![Perm { domain: 0, right: Right::None }]));
        Self {
            flavour,
            quota: Quota::default(),
            tree,
            generation: 0,
            next_transaction: 1,
            connections: Vec::new(),
        }
    }

    /// Other limits.
    pub fn set_quota(&mut self, quota: Quota) {
        self.quota = quota;
    }

    /// A domain as libxl makes it: a home that it may read, with its rings in `page`.
    pub fn introduce(&mut self, domain: u16, page: &'static PageWords) -> ConnectionId {
        let home = format!("/local/domain/{domain}");
        self.set_with(
            &home,
            "",
            &[Perm { domain: 0, right: Right::None }, Perm { domain, right: Right::Read }],
        );
        for own in ["data", "device", "error"] {
            self.set_with(&format!("{home}/{own}"), "", &[Perm { domain, right: Right::None }]);
        }
        let rings = (ByteRing::XENSTORE_REQUEST.consumer(page), ByteRing::XENSTORE_REPLY.producer(page));
        self.connections.push(Connection {
            domain,
            rings: Some(rings),
            input: Vec::new(),
            output: VecDeque::new(),
            watches: Vec::new(),
            transactions: BTreeMap::new(),
            refusals: VecDeque::new(),
            requests: 0,
        });
        ConnectionId(self.connections.len() - 1)
    }

    /// Serves all rings until nothing moves any more. `true`: something did, so guests may have something to look at.
    ///
    /// # Panics
    /// If a guest's ring indices are impossible, or its bytes no requests: a bug that the test is to show.
    pub fn run(&mut self) -> bool {
        let mut any = false;
        loop {
            let mut moved = false;
            for at in 0..self.connections.len() {
                moved |= self.pump(at);
            }
            if !moved {
                return any;
            }
            any = true;
        }
    }

    /// As dom0: sets a node's value. A node that has to be made belongs to its parent's owner, with its parent's permissions.
    pub fn set(&mut self, path: &str, value: &str) {
        let perms = self.tree.inherited(path);
        self.tree.make(path, &perms);
        self.tree.node_mut(path).expect("just made").value = value.as_bytes().to_vec();
        self.changed(path);
    }

    /// As dom0: sets a node's value and its permissions.
    pub fn set_with(&mut self, path: &str, value: &str, perms: &[Perm]) {
        self.set(path, value);
        self.tree.node_mut(path).expect("just made").perms = perms.to_vec();
        self.changed(path);
    }

    /// As dom0: removes a node and what is below; `false` if there is none.
    pub fn remove(&mut self, path: &str) -> bool {
        let before = self.tree.clone();
        let removed = self.tree.remove(path);
        if removed {
            self.generation += 1;
            self.fire(path, Some(&before));
        }
        removed
    }

    /// A node's value as text.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<String> {
        self.tree.node(path).map(|node| String::from_utf8_lossy(&node.value).into_owned())
    }

    /// Names of a node's children.
    #[must_use]
    pub fn children(&self, path: &str) -> Vec<String> {
        self.tree.children(path)
    }

    /// Nodes that a domain owns.
    #[must_use]
    pub fn owned_by(&self, domain: u16) -> usize {
        self.tree.owned_by(domain)
    }

    /// Watches that a connection has set.
    #[must_use]
    pub fn watches_of(&self, connection: ConnectionId) -> usize {
        self.connections[connection.0].watches.len()
    }

    /// Requests that a connection has made.
    #[must_use]
    pub fn requests_of(&self, connection: ConnectionId) -> u64 {
        self.connections[connection.0].requests
    }

    /// The connection's next request gets this error and is not done. May be called several times.
    pub fn refuse_next(&mut self, connection: ConnectionId, error: &'static str) {
        self.connections[connection.0].refusals.push_back(error);
    }

    /// As libxl's transaction for `disk=[... backend=NAME]`: both directories of a block device, frontend state 1, backend
    /// state 1 (`libxl__device_generic_add`).
    pub fn add_vbd(&mut self, backend: u16, client: u16, devid: u32, params: &str, mode: &str) {
        let none = |domain| Perm { domain, right: Right::None };
        let read = |domain| Perm { domain, right: Right::Read };
        let front = format!("/local/domain/{client}/device/vbd/{devid}");
        let back_root = format!("/local/domain/{backend}/backend");
        for path in [&back_root, &format!("{back_root}/vbd"), &format!("{back_root}/vbd/{client}")] {
            if self.tree.node(path).is_none() {
                self.set_with(path, "", &[none(0), read(backend)]);
            }
        }
        let back = format!("{back_root}/vbd/{client}/{devid}");
        self.set_with(&front, "", &[none(client), read(backend)]);
        for (key, value) in [
            ("backend", back.as_str()),
            ("backend-id", &backend.to_string()),
            ("state", "1"),
            ("device-type", "disk"),
        ] {
            self.set(&format!("{front}/{key}"), value);
        }
        self.set_with(&back, "", &[none(backend), read(client)]);
        for (key, value) in [
            ("frontend", front.as_str()),
            ("params", params),
            ("frontend-id", &client.to_string()),
            ("online", "1"),
            ("state", "1"),
            ("mode", mode),
            ("type", "phy"),
        ] {
            self.set(&format!("{back}/{key}"), value);
        }
    }

    /// As libxl's first step to remove a block device: `online` 0 and the backend's state 5; with `force` (as `xl destroy`
    /// does) the frontend's directory goes first.
    pub fn detach_vbd(&mut self, backend: u16, client: u16, devid: u32, force: bool) {
        if force {
            self.remove(&format!("/local/domain/{client}/device/vbd/{devid}"));
        }
        let back = format!("/local/domain/{backend}/backend/vbd/{client}/{devid}");
        self.set(&format!("{back}/online"), "0");
        if self.get(&format!("{back}/state")).as_deref() != Some("6") {
            self.set(&format!("{back}/state"), "5");
        }
    }
}
