//! Nodes, their permissions, and who owns how many.

use std::collections::BTreeMap;

/// What a domain may do with a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Right {
    /// `n`
    None,
    /// `r`
    Read,
    /// `w`
    Write,
    /// `b`
    Both,
}

/// One entry of a node's permissions. The first names the owner and everybody else's right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Perm {
    /// Whom it is about.
    pub domain: u16,
    /// What they may do.
    pub right: Right,
}

impl Perm {
    /// From text such as `n5`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let right = match text.get(..1)? {
            "n" => Right::None,
            "r" => Right::Read,
            "w" => Right::Write,
            "b" => Right::Both,
            _ => return None,
        };
        Some(Self { domain: text[1..].parse().ok()?, right })
    }
}

impl core::fmt::Display for Perm {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let letter = match self.right {
            Right::None => 'n',
            Right::Read => 'r',
            Right::Write => 'w',
            Right::Both => 'b',
        };
        write!(f, "{letter}{}", self.domain)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Vec<u8>,
    pub(super) perms: Vec<Perm>,
    /// Changes with every change of the node: transactions compare it.
    pub(super) version: u64,
}

impl Node {
    pub(super) fn new(perms: Vec<Perm>) -> Self {
        Self { value: Vec::new(), perms, version: 0 }
    }

    fn right_of(&self, domain: u16) -> Right {
        if domain == 0 || self.perms[0].domain == domain {
            return Right::Both;
        }
        self.perms[1..].iter().find(|perm| perm.domain == domain).unwrap_or(&self.perms[0]).right
    }

    pub(super) fn readable(&self, domain: u16) -> bool {
        matches!(self.right_of(domain), Right::Read | Right::Both)
    }

    pub(super) fn writable(&self, domain: u16) -> bool {
        matches!(self.right_of(domain), Right::Write | Right::Both)
    }

    pub(super) fn owner(&self) -> u16 {
        self.perms[0].domain
    }
}

/// All nodes by absolute path; the root is the empty path.
#[derive(Clone, Default, Debug)]
pub(super) struct Tree {
    pub(super) nodes: BTreeMap<String, Node>,
}

pub(super) fn parent(path: &str) -> &str {
    path.rfind('/').map_or("", |at| &path[..at])
}

impl Tree {
    pub(super) fn node(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path.trim_end_matches('/'))
    }

    pub(super) fn node_mut(&mut self, path: &str) -> Option<&mut Node> {
        self.nodes.get_mut(path.trim_end_matches('/'))
    }

    /// Permissions that a node made at `path` would get: those of the nearest node above.
    pub(super) fn inherited(&self, path: &str) -> Vec<Perm> {
        self.nearest(path).perms.clone()
    }

    /// The node at `path`, or the nearest one above.
    pub(super) fn nearest(&self, path: &str) -> &Node {
        let mut at = path;
        loop {
            if let Some(node) = self.nodes.get(at) {
                return node;
            }
            at = parent(at);
        }
    }

    /// Makes the node at `path` and those above that lack; returns how many were made.
    pub(super) fn make(&mut self, path: &str, perms: &[Perm]) -> usize {
        let mut made = 0;
        let mut at = path;
        while !self.nodes.contains_key(at) {
            self.nodes.insert(at.to_owned(), Node::new(perms.to_vec()));
            made += 1;
            at = parent(at);
        }
        made
    }

    pub(super) fn remove(&mut self, path: &str) -> bool {
        let below = format!("{path}/");
        let found = self.nodes.remove(path).is_some();
        self.nodes.retain(|other, _| !other.starts_with(&below));
        found
    }

    pub(super) fn children(&self, path: &str) -> Vec<String> {
        let below = format!("{}/", path.trim_end_matches('/'));
        let names = self.nodes.range(below.clone()..).take_while(|(other, _)| other.starts_with(&below));
        names
            .filter_map(|(other, _)| other.get(below.len()..))
            .filter(|name| !name.contains('/'))
            .map(str::to_owned)
            .collect()
    }

    pub(super) fn owned_by(&self, domain: u16) -> usize {
        self.nodes.values().filter(|node| node.owner() == domain).count()
    }
}
