//! Two manifests → what changed; a base and what changed → a manifest. Both stream.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::iter::Peekable;

use super::Malformed;
use super::entry::{ChunkRef, Entry, Node};
use super::record::Record;

/// A difference in content at one path. Modification times and chunking don't count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Only in the new tree.
    Added(Entry),
    /// Only in the old tree.
    Removed(Entry),
    /// In both, with other content, mode, target or kind.
    Changed {
        /// What was there.
        old: Entry,
        /// What is there now.
        new: Entry,
    },
}

/// Part of a file's chunk list, told by the base's list of the same path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// These chunks.
    New(Vec<ChunkRef>),
    /// `count` chunks of the base's list from `start` on.
    Copy {
        /// The first one's index.
        start: u32,
        /// How many.
        count: u32,
    },
}

/// One step of going through two sorted streams side by side.
enum Side<A, B> {
    Left(A),
    Right(B),
    Both(A, B),
}

fn step<A, B, E>(
    left: &mut Peekable<A>,
    right: &mut Peekable<B>,
    order: impl Fn(&A::Item, &B::Item) -> Option<Ordering>,
) -> Option<Side<A::Item, B::Item>>
where
    A: Iterator<Item = Result<Entry, E>>,
    B: Iterator,
{
    let ordering = match (left.peek(), right.peek()) {
        (None, None) => return None,
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        // An error on either side comes out at once.
        (Some(l), Some(r)) => {
            order(l, r).unwrap_or(if l.is_err() { Ordering::Less } else { Ordering::Greater })
        }
    };
    Some(match ordering {
        Ordering::Less => Side::Left(left.next()?),
        Ordering::Greater => Side::Right(right.next()?),
        Ordering::Equal => Side::Both(left.next()?, right.next()?),
    })
}

/// The differences between two trees in path order; an error of either stream ends it.
pub fn diff<E>(
    old: impl Iterator<Item = Result<Entry, E>>,
    new: impl Iterator<Item = Result<Entry, E>>,
) -> impl Iterator<Item = Result<Change, E>> {
    let (mut old, mut new) = (old.peekable(), new.peekable());
    let mut failed = false;
    std::iter::from_fn(move || {
        while !failed {
            let order = |l: &Result<Entry, E>, r: &Result<Entry, E>| match (l, r) {
                (Ok(l), Ok(r)) => Some(l.path.cmp(&r.path)),
                _ => None,
            };
            let change = match step(&mut old, &mut new, order)? {
                Side::Left(old) => old.map(Change::Removed),
                Side::Right(new) => new.map(Change::Added),
                Side::Both(Ok(old), Ok(new)) if old.node.same_content(&new.node) => continue,
                Side::Both(old, new) => old.and_then(|old| Ok(Change::Changed { old, new: new? })),
            };
            failed = change.is_err();
            return Some(change);
        }
        None
    })
}

impl Change {
    /// The record that tells this change to someone who has the old tree.
    pub fn into_record(self) -> Record {
        match self {
            Self::Added(entry) => Record::Put(entry),
            Self::Removed(entry) => Record::Removed(entry.path),
            Self::Changed { old, new } => patch(&old, new),
        }
    }
}

/// A patch where the lists share enough, else the whole entry.
fn patch(old: &Entry, mut new: Entry) -> Record {
    let (Node::File(old), Node::File(file)) = (&old.node, &mut new.node) else {
        return Record::Put(new);
    };
    if old.chunks.len() < 2 || file.chunks.len() < 2 {
        return Record::Put(new);
    }
    let segments = segments(&old.chunks, &file.chunks);
    if segments.iter().all(|segment| matches!(segment, Segment::New(_))) {
        return Record::Put(new);
    }
    file.chunks = Vec::new();
    Record::Patch(new, segments)
}

fn segments(old: &[ChunkRef], new: &[ChunkRef]) -> Vec<Segment> {
    let at: HashMap<_, u32> = old.iter().zip(0..).map(|(chunk, index)| (chunk.id, index)).collect();
    let mut segments: Vec<Segment> = Vec::new();
    for chunk in new {
        // A run goes on with the chunk after it, even where the same chunk stands elsewhere too.
        if let Some(Segment::Copy { start, count }) = segments.last_mut()
            && old.get((*start + *count) as usize) == Some(chunk)
        {
            *count += 1;
        } else if let Some(start) = at.get(&chunk.id) {
            segments.push(Segment::Copy { start: *start, count: 1 });
        } else if let Some(Segment::New(chunks)) = segments.last_mut() {
            chunks.push(*chunk);
        } else {
            segments.push(Segment::New(vec![*chunk]));
        }
    }
    segments
}

/// The chunk list that `segments` tell, or an error where they point outside `old` or make a list longer than
/// `max`.
fn join(old: &[ChunkRef], segments: Vec<Segment>, max: usize) -> Result<Vec<ChunkRef>, Malformed> {
    let mut chunks = Vec::new();
    for segment in segments {
        match segment {
            Segment::New(new) => chunks.extend(new),
            Segment::Copy { start, count } => {
                let range = start as usize..(start as usize).saturating_add(count as usize);
                chunks.extend_from_slice(
                    old.get(range).ok_or(Malformed("a copy lies outside the base's chunks"))?,
                );
            }
        }
        if chunks.len() > max {
            return Err(Malformed("a chunk list is too long"));
        }
    }
    Ok(chunks)
}

/// An entry of a tree that was made of a base and changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// It.
    pub entry: Entry,
    /// Whether it is the base's own.
    pub inherited: bool,
}

/// The tree that `changes` make of `base`. Entries without a change are the base's own, times and chunks
/// included. A file's chunk list may have at most `max_chunks` entries.
pub fn apply<E: From<Malformed>>(
    base: impl Iterator<Item = Result<Entry, E>>,
    changes: impl Iterator<Item = Result<Record, E>>,
    max_chunks: usize,
) -> impl Iterator<Item = Result<Applied, E>> {
    let (mut base, mut changes) = (base.peekable(), changes.peekable());
    let mut failed = false;
    std::iter::from_fn(move || {
        while !failed {
            let order = |l: &Result<Entry, E>, r: &Result<Record, E>| match (l, r) {
                (Ok(l), Ok(r)) => Some(l.path.cmp(r.path())),
                _ => None,
            };
            let entry = match step(&mut base, &mut changes, order)? {
                Side::Left(entry) => return Some(entry.map(|entry| Applied { entry, inherited: true })),
                Side::Right(record) => record.and_then(|record| added(record).map_err(E::from)),
                Side::Both(Ok(_), Ok(Record::Removed(_))) => continue,
                Side::Both(Ok(old), Ok(Record::Patch(new, segments))) => {
                    patched(&old, new, segments, max_chunks).map_err(E::from)
                }
                Side::Both(Ok(_), Ok(Record::Put(new))) => Ok(new),
                Side::Both(Err(error), _) | Side::Both(_, Err(error)) => Err(error),
            };
            failed = entry.is_err();
            return Some(entry.map(|entry| Applied { entry, inherited: false }));
        }
        None
    })
}

fn added(record: Record) -> Result<Entry, Malformed> {
    match record {
        Record::Put(entry) => Ok(entry),
        Record::Patch(..) => Err(Malformed("a patch of a path that the base does not have")),
        Record::Removed(_) => Err(Malformed("a removal of a path that the base does not have")),
    }
}

fn patched(old: &Entry, mut new: Entry, segments: Vec<Segment>, max: usize) -> Result<Entry, Malformed> {
    let (Node::File(old), Node::File(file)) = (&old.node, &mut new.node) else {
        return Err(Malformed("a patch of something that is not a file"));
    };
    file.chunks = join(&old.chunks, segments, max)?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{FileNode, Mode};
    use crate::{ChunkId, FileDigest, TreePath};

    type R = Result<Entry, Malformed>;

    fn file(path: &str, content: &[&str]) -> Entry {
        let chunks: Vec<_> = content
            .iter()
            .map(|text| ChunkRef {
                id: ChunkId::of(text.as_bytes()),
                len: u32::try_from(text.len()).unwrap(),
            })
            .collect();
        let size = chunks.iter().map(|c| u64::from(c.len)).sum();
        let sha256 = FileDigest::of(content.concat().as_bytes());
        let node = Node::File(FileNode { mode: Mode::FILE, mtime: None, size, sha256, chunks });
        Entry { path: TreePath::new(path).unwrap(), node }
    }

    fn trees() -> (Vec<Entry>, Vec<Entry>) {
        let old = vec![
            file("a", &["1"]),
            file("b", &["x", "y", "z", "y"]),
            file("c", &["same"]),
            file("e", &["e"]),
        ];
        let new = vec![
            file("0", &["new"]),
            file("b", &["x", "y", "Z", "z", "y", "tail"]),
            file("c", &["same"]),
            file("d", &["p", "q"]),
        ];
        (old, new)
    }

    fn ok(tree: &[Entry]) -> impl Iterator<Item = R> + use<> {
        tree.iter().cloned().map(Ok).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn changes_of_a_tree_make_the_other_tree() {
        let (old, new) = trees();
        for (from, to) in [(&old, &new), (&new, &old), (&old, &old), (&vec![], &new), (&old, &vec![])] {
            let changes: Vec<_> = diff(ok(from), ok(to)).collect::<Result<_, _>>().unwrap();
            let records = changes.into_iter().map(|change| Ok(change.into_record()));
            let made: Vec<_> = apply(ok(from), records, 100).map(|applied| applied.unwrap().entry).collect();
            assert_eq!(&made, to);
        }
    }

    #[test]
    fn an_edited_chunk_list_travels_as_copies() {
        let (old, new) = trees();
        let Record::Patch(_, segments) = patch(&old[1], new[1].clone()) else { panic!("not a patch") };
        let copied: u32 =
            segments.iter().map(|s| if let Segment::Copy { count, .. } = s { *count } else { 0 }).sum();
        assert_eq!(copied, 4, "{segments:?}");
    }

    #[test]
    fn hostile_changes_are_refused() {
        let (old, _) = trees();
        let path = |p: &str| TreePath::new(p).unwrap();
        let copy = |start, count| vec![Segment::Copy { start, count }];
        for record in [
            Record::Removed(path("nope")),
            Record::Patch(file("nope", &[]), copy(0, 1)),
            Record::Patch(file("b", &[]), copy(3, 2)),
            Record::Patch(file("b", &[]), copy(u32::MAX, u32::MAX)),
            Record::Patch(file("b", &[]), vec![Segment::Copy { start: 0, count: 4 }; 30]),
        ] {
            let made: Result<Vec<_>, _> = apply(ok(&old), std::iter::once(Ok(record.clone())), 100).collect();
            assert!(made.is_err(), "{record:?}");
        }
    }

    #[test]
    fn an_error_ends_the_stream() {
        let (old, new) = trees();
        let broken = ok(&old).chain([Err(Malformed("x"))]).chain(ok(&old));
        let changes: Vec<_> = diff(broken, ok(&new)).collect();
        assert!(changes.last().unwrap().is_err());
        assert_eq!(changes.iter().filter(|c| c.is_err()).count(), 1);
    }
}
