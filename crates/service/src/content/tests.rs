//! Reading while packs come and go.

use kkartifact_blob::{LocalConfig, PackChunk, PackOwner, SealedPack};
use kkartifact_model::time::Clock;
use kkartifact_model::wire::{Compressor, StoredChunk};
use kkartifact_store::{CompactedPack, Compaction, DatabaseConfig, NewPack, Swap};

use super::*;
use crate::recovery::pack_rows;

async fn sealed(blob: &BlobStore, text: &[u8]) -> SealedPack {
    let owner = PackOwner { project: "shop".parse().unwrap(), app: "web".parse().unwrap() };
    let chunk = StoredChunk::new(&mut Compressor::new(), text);
    let chunk = PackChunk { id: chunk.id, len: chunk.len, sha256: None, stored: chunk.stored };
    let mut writer = blob.create_pack(owner).await.unwrap();
    writer.append(vec![chunk]).await.unwrap();
    writer.seal().await.unwrap()
}

#[tokio::test]
async fn a_reader_whose_pack_is_gone_looks_once_more() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::connect(&DatabaseConfig::Sqlite { path: dir.path().join("db") }).await.unwrap();
    db.migrate().await.unwrap();
    let config = LocalConfig { path: dir.path().join("content"), reserve: 0 };
    let blob = BlobStore::open_local(config).await.unwrap();
    let content = Content::new(db.clone(), blob.clone(), 1 << 20);
    let (now, text) = (Clock::System.now(), b"moved while it is read");
    let (old, new) = (sealed(&blob, text).await, sealed(&blob, text).await);

    let mut tx = db.begin().await.unwrap();
    let project = tx.insert_project(&"shop".parse().unwrap(), "", now).await.unwrap().unwrap();
    tx.insert_app(project.id, &"web".parse().unwrap(), "", now).await.unwrap();
    let app = tx.find_app(&"shop".parse().unwrap(), &"web".parse().unwrap()).await.unwrap().unwrap();
    let element = tx.default_element(now).await.unwrap();
    let chunks = pack_rows(&old.entries);
    let (key, size) = (old.key, old.size);
    let pack = NewPack { key, element, project: app.project_id, app: app.id, size, chunks: &chunks };
    let pack = tx.insert_pack(&pack, now).await.unwrap().unwrap();
    tx.commit().await.unwrap();

    let id = ChunkId::of(text);
    let places = content.places(app.id, &[id]).await.unwrap();
    assert_eq!(content.read_stored(app.id, &places).await.unwrap(), [&text[..]]);

    let chunks = pack_rows(&new.entries);
    let compaction = Compaction {
        key: new.key,
        element,
        project: app.project_id,
        app: app.id,
        size: new.size,
        chunks: &chunks,
        old: &[CompactedPack { id: pack, moved: vec![Some(0)] }],
    };
    let mut tx = db.begin().await.unwrap();
    let swapped = tx.swap_packs(&compaction, now).await.unwrap();
    assert!(matches!(swapped, Swap::Done(_)));
    tx.commit().await.unwrap();
    assert_eq!(blob.remove_pack(old.key).await.unwrap(), old.size);

    assert_eq!(content.read_stored(app.id, &places).await.unwrap(), [&text[..]]);
    assert_eq!(content.read_chunks(app.id, &[id]).await.unwrap(), [&text[..]]);
    blob.remove_pack(new.key).await.unwrap();
    assert!(content.read_stored(app.id, &places).await.is_err(), "once, and not for ever");
}
