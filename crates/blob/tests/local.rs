//! The content store on a local directory: what is sealed can be read, what is not leaves nothing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use kkartifact_blob::{BlobError, BlobStore, ChunkAt, LocalConfig, PackChunk, PackOwner, SealedPack};
use kkartifact_model::meta::{MarkerState, VersionMarker, VersionMeta};
use kkartifact_model::wire::{Compressor, StoredChunk};
use kkartifact_model::{ChunkId, FileDigest, ManifestDigest, TreeDigest};

fn owner() -> PackOwner {
    PackOwner { project: "shop".parse().unwrap(), app: "web".parse().unwrap() }
}

fn chunk(text: &[u8]) -> PackChunk {
    let stored = StoredChunk::new(&mut Compressor::new(), text);
    PackChunk { id: stored.id, len: stored.len, sha256: Some(FileDigest::of(text)), stored: stored.stored }
}

async fn open(path: &Path) -> BlobStore {
    BlobStore::open_local(LocalConfig { path: path.to_owned(), reserve: 0 }).await.unwrap()
}

async fn sealed(store: &BlobStore, texts: &[&[u8]]) -> SealedPack {
    let mut writer = store.create_pack(owner()).await.unwrap();
    for text in texts {
        writer.append(vec![chunk(text)]).await.unwrap();
    }
    writer.seal().await.unwrap()
}

fn places(pack: &SealedPack) -> Vec<ChunkAt> {
    let at = |e: &kkartifact_blob::PackEntry| ChunkAt {
        id: e.id,
        pack: pack.key,
        offset: e.offset,
        stored_len: e.stored_len,
        len: e.len,
    };
    pack.entries.iter().map(at).collect()
}

/// Every regular file below `dir` but locks.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else if entry.file_name() != "lock" {
            found.push(entry.path());
        }
    }
    found
}

#[tokio::test]
async fn what_is_sealed_can_be_read_back_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let texts: Vec<Vec<u8>> = (0..50).map(|i| format!("text {i} ").repeat(i * 40 + 1).into_bytes()).collect();
    let pack = sealed(&store, &texts.iter().map(Vec::as_slice).collect::<Vec<_>>()).await;

    let mut places: Vec<_> =
        places(&pack).into_iter().zip(texts.iter().map(|t| Bytes::from(t.clone()))).collect();
    for _ in 0..3 {
        let (at, expected): (Vec<_>, Vec<_>) = places.iter().cloned().unzip();
        assert_eq!(store.read_chunks(&at).await.unwrap(), expected);
        places.reverse();
        places.swap(3, 17);
    }
    let (footer, size) = store.read_footer(pack.key).await.unwrap();
    assert_eq!((footer.owner, footer.entries, size), (owner(), pack.entries.clone(), pack.size));
    assert_eq!(store.list_packs(pack.key.as_bytes()[15]).await.unwrap(), [pack.key]);
}

#[tokio::test]
async fn a_pack_that_is_dropped_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut writer = store.create_pack(owner()).await.unwrap();
    writer.append(vec![chunk(b"never sealed")]).await.unwrap();
    let written = files(dir.path());
    assert_eq!(written.len(), 1);
    assert!(
        written[0].components().any(|part| part.as_os_str() == "tmp"),
        "{written:?} has no final name yet"
    );
    drop(writer);
    drop(store);
    // The worker notices on its own thread; a new process would sweep what is left.
    let again = open(dir.path()).await;
    for part in 0..=u8::MAX {
        assert!(again.list_packs(part).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn the_next_start_removes_what_a_dead_process_left_and_nothing_of_a_living_one() {
    let dir = tempfile::tempdir().unwrap();
    let living = open(dir.path()).await;
    let mut writer = living.create_pack(owner()).await.unwrap();
    writer.append(vec![chunk(b"still being written")]).await.unwrap();

    let dead = dir.path().join("tmp/11111111-1111-4111-8111-111111111111");
    fs::create_dir(&dead).unwrap();
    fs::write(dead.join("lock"), "").unwrap();
    fs::write(dead.join("torn"), "half a pa").unwrap();

    let other = open(dir.path()).await;
    assert!(!dead.exists(), "left by a dead process");
    let pack = writer.seal().await.expect("the living one goes on");
    assert_eq!(other.read_chunks(&places(&pack)).await.unwrap(), [&b"still being written"[..]]);
}

#[tokio::test]
async fn a_damaged_chunk_is_never_given_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let noise: Vec<u8> =
        (0..3000u32).flat_map(|i| ChunkId::of(&i.to_le_bytes()).as_bytes()[..1].to_vec()).collect();
    let pack = sealed(&store, &[b"compressible ".repeat(100).as_slice(), &noise]).await;
    let path = files(&dir.path().join("packs")).remove(0);
    let whole = fs::read(&path).unwrap();
    for (at, place) in [(pack.entries[0].offset + 20, 0), (pack.entries[1].offset + 1500, 1)] {
        let mut bad = whole.clone();
        bad[usize::try_from(at).unwrap()] ^= 1;
        fs::write(&path, bad).unwrap();
        let error = store.read_chunk(&places(&pack)[place]).await.unwrap_err();
        assert!(matches!(error, BlobError::Damaged(..)), "{error}");
    }
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(matches!(store.read_footer(pack.key).await, Err(BlobError::Damaged(..))));
    fs::remove_file(&path).unwrap();
    let fresh = open(dir.path()).await;
    assert!(matches!(fresh.read_chunk(&places(&pack)[0]).await, Err(BlobError::NotFound(_))));
}

#[tokio::test]
async fn a_full_disk_is_said_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let config = LocalConfig { path: dir.path().to_owned(), reserve: u64::MAX };
    let store = BlobStore::open_local(config).await.unwrap();
    assert!(matches!(store.create_pack(owner()).await, Err(BlobError::Full)));
    assert!(files(dir.path()).is_empty());
}

#[tokio::test]
async fn documents_and_markers_are_written_once_and_verified() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let meta = VersionMeta {
        format: 1,
        project: "shop".parse().unwrap(),
        app: "web".parse().unwrap(),
        version: "1.0.0+7".parse().unwrap(),
        git_commit: Some("1e100".into()),
        build_time: None,
        builder: Some("a: \"b\" # c".into()),
        created_at: "2026-01-02T03:04:05.000006Z".parse().unwrap(),
        tree_digest: TreeDigest::from_bytes([1; 32]),
        manifest_digest: ManifestDigest::from_bytes([2; 32]),
        manifest_root: ChunkId::from_bytes([3; 32]),
        entry_count: 4,
        file_count: 3,
        bytes: u64::MAX,
    };
    let digest = store.put_meta(&meta).await.unwrap();
    assert_eq!(store.put_meta(&meta).await.unwrap(), digest);
    assert_eq!(store.get_meta(digest).await.unwrap(), meta);

    let path = files(&dir.path().join("meta")).remove(0);
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("shop", "ship")).unwrap();
    assert!(matches!(store.get_meta(digest).await, Err(BlobError::Damaged(..))));

    let marker = VersionMarker {
        format: 1,
        project: meta.project,
        app: meta.app,
        version: meta.version,
        state: MarkerState::Published,
        revision: 1,
        meta: digest,
    };
    store.put_marker(&marker).await.unwrap();
    store.put_marker(&marker).await.unwrap();
    assert_eq!(files(&dir.path().join("versions")).len(), 1);
}

fn marker(version: &str, revision: i64) -> VersionMarker {
    VersionMarker {
        format: 1,
        project: "shop".parse().unwrap(),
        app: "web".parse().unwrap(),
        version: version.parse().unwrap(),
        state: MarkerState::Deleted,
        revision,
        meta: ChunkId::of(b"meta"),
    }
}

#[tokio::test]
async fn a_marker_supersedes_those_of_the_same_version_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let names = || {
        let mut names: Vec<_> = files(&dir.path().join("versions"))
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    // Names that begin alike, or look like another one with its revision, are other versions.
    for (version, revision) in [("1.0", 1), ("1.0.1", 1), ("1.0.1", 2), ("1", 1), ("1.0", 2)] {
        store.put_marker(&marker(version, revision)).await.unwrap();
    }
    assert_eq!(names(), ["1.0.1.2", "1.0.2", "1.1"]);
    store.put_marker(&marker("1.0", 7)).await.unwrap();
    assert_eq!(names(), ["1.0.1.2", "1.0.7", "1.1"]);
    // One that comes late changes nothing that counts, and goes with the next.
    store.put_marker(&marker("1.0", 3)).await.unwrap();
    assert_eq!(names(), ["1.0.1.2", "1.0.3", "1.0.7", "1.1"]);
    store.put_marker(&marker("1.0", 8)).await.unwrap();
    assert_eq!(names(), ["1.0.1.2", "1.0.8", "1.1"]);
}

#[tokio::test]
async fn a_removed_pack_is_gone_for_everybody_and_what_it_freed_is_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, other) = (open(dir.path()).await, open(dir.path()).await);
    let (pack, kept) = (sealed(&store, &[b"one", b"two"]).await, sealed(&store, &[b"three"]).await);
    let bytes = |files: Vec<PathBuf>| files.iter().map(|path| fs::metadata(path).unwrap().len()).sum::<u64>();
    let before = bytes(files(&dir.path().join("packs")));
    // It is open here.
    assert_eq!(store.read_chunks(&places(&pack)).await.unwrap().len(), 2);

    assert!(store.has_pack(pack.key).await.unwrap());
    assert_eq!(store.remove_pack(pack.key).await.unwrap(), pack.size);
    assert!(!store.has_pack(pack.key).await.unwrap());
    assert_eq!(bytes(files(&dir.path().join("packs"))), before - pack.size);
    for store in [&store, &other] {
        assert!(matches!(store.read_chunk(&places(&pack)[0]).await, Err(BlobError::NotFound(_))));
        assert!(matches!(store.read_stored(&places(&pack)).await, Err(BlobError::NotFound(_))));
        assert!(matches!(store.read_footer(pack.key).await, Err(BlobError::NotFound(_))));
        assert_eq!(store.remove_pack(pack.key).await.unwrap(), 0, "gone already");
        assert_eq!(store.read_chunks(&places(&kept)).await.unwrap(), [&b"three"[..]]);
    }
    assert!(store.list_packs(pack.key.as_bytes()[15]).await.unwrap().iter().all(|key| *key != pack.key));
}

#[tokio::test]
async fn a_pack_that_another_process_removed_is_not_taken_for_one_that_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let (store, other) = (open(dir.path()).await, open(dir.path()).await);
    let pack = sealed(&store, &[b"open here"]).await;
    assert_eq!(other.read_chunks(&places(&pack)).await.unwrap().len(), 1);
    store.remove_pack(pack.key).await.unwrap();
    // What is open can be read to its end, but it must not be recorded again.
    assert_eq!(other.read_chunks(&places(&pack)).await.unwrap(), [&b"open here"[..]]);
    assert!(matches!(other.read_footer(pack.key).await, Err(BlobError::NotFound(_))));
}

#[tokio::test]
async fn what_is_copied_is_verified_as_it_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let text = b"compressible ".repeat(100);
    let pack = sealed(&store, &[&text, b"short"]).await;
    let stored = store.read_verified(&places(&pack)).await.unwrap();
    assert_eq!(stored, store.read_stored(&places(&pack)).await.unwrap());
    assert!(stored[0].len() < text.len());

    let path = files(&dir.path().join("packs")).remove(0);
    let mut bad = fs::read(&path).unwrap();
    bad[usize::try_from(pack.entries[1].offset).unwrap()] ^= 1;
    fs::write(&path, bad).unwrap();
    assert!(store.read_verified(&places(&pack)[..1]).await.is_ok());
    assert!(matches!(store.read_verified(&places(&pack)).await, Err(BlobError::Damaged(..))));
}
