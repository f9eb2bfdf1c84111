//! An entry of `disk=` (xl-disk-configuration(5)) whose backend is an M1.

/// What a disk of M1's is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Disk {
    /// Everything before `target=`, as it stands.
    head: String,
    /// The domain behind `backend=`.
    pub(crate) backend: String,
    /// The volume.
    pub(crate) volume: String,
    /// What follows the volume's name: `+OVERLAY`, `@SNAPSHOT`, or nothing.
    pub(crate) suffix: String,
}

impl Disk {
    /// Reads an entry; `None` where no other domain is its backend.
    ///
    /// # Errors
    /// It has one, and is not of the form `key=value,…,target=…`.
    pub(crate) fn parse(entry: &str) -> Result<Option<Self>, String> {
        // `target=` takes all that follows, commas included.
        let at = entry
            .match_indices("target=")
            .map(|(at, _)| at)
            .find(|at| entry[..*at].trim_end().is_empty() || entry[..*at].trim_end().ends_with(','));
        let head = &entry[..at.unwrap_or(entry.len())];
        let backend = head.split(',').find_map(|part| part.trim().strip_prefix("backend="));
        let Some(backend) = backend else { return Ok(None) };
        let Some(at) = at else {
            return Err(format!("disk '{entry}': write it as format=raw,vdev=…,backend={backend},target=…"));
        };
        let target = entry[at + "target=".len()..].trim();
        let end = target.find(['+', '@']).unwrap_or(target.len());
        Ok(Some(Self {
            head: head.to_owned(),
            backend: backend.trim().to_owned(),
            volume: target[..end].to_owned(),
            suffix: target[end..].to_owned(),
        }))
    }

    /// The same disk of this snapshot.
    pub(crate) fn at(&self, snapshot: &str) -> String {
        format!("{}target={}@{snapshot}", self.head, self.volume)
    }
}
