use super::*;
use futures_util::stream;
use greenroom_actors::clock::SystemClock;
use std::path::Path;

fn store(directory: &Path) -> LocalObjectStore {
    let url = "http://127.0.0.1:1".parse().unwrap();
    LocalObjectStore::open(directory.to_owned(), url, &[7; 32].into(), Arc::new(SystemClock)).unwrap()
}

fn chunks(chunks: &[&'static str]) -> ObjectBytes<'static> {
    let chunks: Vec<io::Result<Bytes>> =
        chunks.iter().map(|chunk| Ok(Bytes::from_static(chunk.as_bytes()))).collect();
    Box::pin(stream::iter(chunks))
}

fn grant(size: u64) -> UploadGrant {
    UploadGrant { key: "user/file-1".to_owned(), content_type: "image/png".to_owned(), size }
}

fn leftovers(directory: &Path) -> usize {
    std::fs::read_dir(directory.join("tmp")).unwrap().count()
}

#[tokio::test]
async fn what_is_put_can_be_got_until_it_is_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let first = store(directory.path());
    first.put("user/file-1", "image/png", Bytes::from_static(b"bytes")).await.unwrap();
    let second = store(directory.path());
    assert_eq!(second.size("user/file-1").await.unwrap(), Some(5));
    assert_eq!(second.get("user/file-1", 5).await.unwrap(), "bytes");
    assert!(matches!(second.get("user/file-1", 4).await, Err(ObjectStoreError::TooLarge { limit: 4 })));
    second.put("user/file-1", "image/png", Bytes::from_static(b"bytes")).await.unwrap();
    second.delete("user/file-1").await.unwrap();
    second.delete("user/file-1").await.unwrap();
    assert_eq!(first.size("user/file-1").await.unwrap(), None);
    assert!(matches!(first.get("user/file-1", 5).await, Err(ObjectStoreError::NotFound)));
    assert_eq!(leftovers(directory.path()), 0);
}

#[tokio::test]
async fn every_object_is_listed_once_however_small_the_pages_are() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let mut keys: Vec<String> = (0..40).map(|number| format!("user/file-{number}")).collect();
    for key in &keys {
        store.put(key, "image/png", Bytes::from_static(b"bytes")).await.unwrap();
    }
    keys.sort();
    for limit in [1, 7, 1_000] {
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let page = store.list(after.as_deref(), limit).await.unwrap();
            listed.extend(page.objects.into_iter().map(|object| object.key));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        listed.sort();
        assert_eq!(listed, keys, "{limit}");
    }
}

#[tokio::test]
async fn no_key_leads_out_of_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory.path().join("inner"));
    std::fs::write(directory.path().join("secret"), "outside").unwrap();
    let long = "a".repeat(201);
    for key in [
        "../secret",
        "..",
        ".",
        "",
        "/",
        "a//b",
        "/etc/passwd",
        "a/../../secret",
        "A",
        "a\0b",
        "a_b",
        "ü",
        &long,
    ] {
        assert_eq!(store.size(key).await.unwrap(), None, "{key:?}");
        assert!(store.put(key, "text/plain", Bytes::new()).await.is_err(), "{key:?}");
        store.delete(key).await.unwrap();
    }
    assert!(directory.path().join("secret").exists());
}

#[tokio::test]
async fn an_upload_counts_only_whole_and_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    for wrong in [&["abcd"][..], &["abc", "def"], &[]] {
        let outcome = store.receive(&grant(5), chunks(wrong)).await;
        assert!(matches!(outcome, Err(LinkError::WrongSize { expected: 5 })), "{wrong:?}");
        assert_eq!(store.size("user/file-1").await.unwrap(), None);
    }
    let broken = stream::iter([Ok(Bytes::from_static(b"ab")), Err(io::ErrorKind::ConnectionReset.into())]);
    assert!(matches!(store.receive(&grant(5), Box::pin(broken)).await, Err(LinkError::Interrupted(_))));
    store.receive(&grant(5), chunks(&["ab", "cde"])).await.unwrap();
    assert!(matches!(store.receive(&grant(5), chunks(&["xxxxx"])).await, Err(LinkError::Exists)));
    assert_eq!(store.get("user/file-1", 9).await.unwrap(), "abcde");
    assert_eq!(leftovers(directory.path()), 0);
}

#[tokio::test]
async fn of_two_uploads_at_once_one_wins() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let (granted_a, granted_b) = (grant(3), grant(3));
    let (a, b) = tokio::join!(
        store.receive(&granted_a, chunks(&["aaa"])),
        store.receive(&granted_b, chunks(&["bbb"]))
    );
    assert!(a.is_ok() != b.is_ok());
    let kept = store.get("user/file-1", 9).await.unwrap();
    assert_eq!(kept, if a.is_ok() { "aaa" } else { "bbb" });
}

#[tokio::test]
async fn links_lead_to_their_object_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let soon = Duration::from_secs(60);
    let upload = store.presign_upload("user/file-1", "image/png", 5, soon);
    assert_eq!(upload.headers["Content-Type"], "image/png");
    let url: Url = upload.url.parse().unwrap();
    assert_eq!(url.path(), "/objects/user/file-1");
    let granted = store.check_upload("user/file-1", url.query().unwrap()).unwrap();
    store.receive(&granted, chunks(&["hello"])).await.unwrap();

    let link: Url = store.presign_download("user/file-1", "image/png", "coat.png", soon).parse().unwrap();
    let download = store.open("user/file-1", link.query().unwrap()).await.unwrap();
    assert_eq!(
        (download.size, download.name.as_str(), download.content_type.as_str()),
        (5, "coat.png", "image/png")
    );
    let bytes: Vec<Bytes> = download.bytes.map(Result::unwrap).collect().await;
    assert_eq!(bytes.concat(), b"hello");

    assert!(matches!(store.open("user/file-2", link.query().unwrap()).await, Err(LinkError::Refused)));
    assert!(matches!(store.open("user/file-1", url.query().unwrap()).await, Err(LinkError::Refused)));
    let gone: Url = store.presign_download("user/file-9", "image/png", "x.png", soon).parse().unwrap();
    assert!(matches!(
        store.open("user/file-9", gone.query().unwrap()).await,
        Err(LinkError::Store(ObjectStoreError::NotFound))
    ));
    let late: Url =
        store.presign_download("user/file-1", "image/png", "x.png", Duration::ZERO).parse().unwrap();
    assert!(matches!(store.open("user/file-1", late.query().unwrap()).await, Err(LinkError::Refused)));
}

#[tokio::test]
async fn a_start_removes_only_old_leftovers() {
    let directory = tempfile::tempdir().unwrap();
    drop(store(directory.path()));
    let (old, new) = (directory.path().join("tmp/old"), directory.path().join("tmp/new"));
    let file = std::fs::File::create(&old).unwrap();
    let day_before_yesterday =
        file.metadata().unwrap().modified().unwrap() - Duration::from_secs(2 * 24 * 3600);
    file.set_modified(day_before_yesterday).unwrap();
    std::fs::write(&new, "being written").unwrap();
    drop(store(directory.path()));
    assert!(!old.exists() && new.exists());
}
