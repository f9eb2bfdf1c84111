//! First come, first served: a queue of waiting requests through the `next` of their rows.

use crate::rings::RequestEntry;
use crate::table::{NIL, Table};

/// A queue of rows of the request table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queue {
    head: u32,
    tail: u32,
}

impl Default for Queue {
    fn default() -> Self {
        Self { head: NIL, tail: NIL }
    }
}

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.head == NIL
    }

    /// Whether this request is the last one.
    pub(crate) fn ends_with(&self, request: u32) -> bool {
        self.tail == request
    }

    #[cfg(test)]
    pub(crate) fn head(&self) -> u32 {
        self.head
    }

    pub(crate) fn push(&mut self, rows: &mut Table<'_, RequestEntry>, request: u32) {
        rows.at_mut(request).next = request;
        self.append(rows, request);
    }

    pub(crate) fn pop(&mut self, rows: &mut Table<'_, RequestEntry>) -> Option<u32> {
        let request = (self.head != NIL).then_some(self.head)?;
        self.head = core::mem::replace(&mut rows.at_mut(request).next, NIL);
        if self.head == NIL {
            self.tail = NIL;
        }
        Some(request)
    }

    /// Adds a circle of requests, given by its last one: see [`join`].
    pub(crate) fn append(&mut self, rows: &mut Table<'_, RequestEntry>, last: u32) {
        if last == NIL {
            return;
        }
        let first = core::mem::replace(&mut rows.at_mut(last).next, NIL);
        let before = core::mem::replace(&mut self.tail, last);
        if before == NIL {
            self.head = first;
        } else {
            rows.at_mut(before).next = first;
        }
    }
}

/// Adds a request to a circle given by its last one, and gives the new last one.
pub(crate) fn join(rows: &mut Table<'_, RequestEntry>, last: u32, request: u32) -> u32 {
    let first = if last == NIL { request } else { rows.at(last).next };
    rows.at_mut(request).next = first;
    if last != NIL {
        rows.at_mut(last).next = request;
    }
    request
}
