//! The hub's own blob storage, as storage clients use it.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use emulator::Hub;
use hub_core::error::ErrorCode;
use hub_core::limits;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::support::rest::{Reply, Rest, start};
use crate::support::storage::{container, get, put, refused, upload, write};

async fn block(rest: &Rest, path: &str, sas: &str, id: &str, content: &str) -> Reply {
    let id = STANDARD.encode(id).replace('=', "%3D");
    rest.exactly("PUT", &format!("{path}{sas}&comp=block&blockid={id}"))
        .body(content)
        .send()
        .await
}

async fn block_list(rest: &Rest, path: &str, sas: &str, ids: &[&str]) -> Reply {
    let ids: String = ids
        .iter()
        .map(|id| format!("<Latest>{}</Latest>", STANDARD.encode(id)))
        .collect();
    rest.exactly("PUT", &format!("{path}{sas}&comp=blocklist"))
        .body(format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{ids}</BlockList>"
        ))
        .send()
        .await
}

#[tokio::test]
async fn a_blob_is_put_read_replaced_and_deleted() {
    let (_hub, rest) = start().await;
    let (files, sas) = container(&rest, "files").await;
    let path = format!("{files}/dir/a%20b.txt{sas}");
    let created = put(&rest, &path, "one").await;
    assert_eq!(created.status, 201, "{}", created.text());
    assert_eq!(created.header("content-md5"), Some("+XxdKZQb+xsv2rCHSQargg=="));
    let etag = created.header("etag").unwrap().to_owned();
    assert!(created.header("last-modified").unwrap().ends_with(" GMT"));

    let read = rest
        .exactly("GET", &path)
        .header("x-ms-version", "2021-08-06")
        .header("x-ms-client-request-id", "my-id")
        .send()
        .await;
    assert_eq!((read.status, read.text()), (200, "one"));
    assert_eq!(read.header("etag"), Some(&*etag));
    assert_eq!(read.header("x-ms-blob-type"), Some("BlockBlob"));
    assert_eq!(read.header("x-ms-version"), Some("2021-08-06"));
    assert_eq!(read.header("x-ms-client-request-id"), Some("my-id"));

    write(&rest, &path, Vec::new()).await;
    let head = rest.exactly("HEAD", &path).send().await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("0")));
    assert_ne!(head.header("etag"), Some(&*etag));

    let gone = rest.exactly("DELETE", &path).send().await;
    assert_eq!(gone.status, 202);
    assert_eq!(refused(&get(&rest, &path).await, 404), "BlobNotFound");
    let again = rest.exactly("DELETE", &path).send().await;
    assert_eq!(refused(&again, 404), "BlobNotFound");
}

#[tokio::test]
async fn parts_of_a_blob_are_read_by_range() {
    let (_hub, rest) = start().await;
    let (files, sas) = container(&rest, "files").await;
    let path = format!("{files}/x{sas}");
    write(&rest, &path, "0123456789").await;
    for (range, status, body, content_range) in [
        ("bytes=2-4", 206, "234", Some("bytes 2-4/10")),
        ("bytes=7-", 206, "789", Some("bytes 7-9/10")),
        ("bytes=0-33554431", 206, "0123456789", Some("bytes 0-9/10")),
        ("bytes=-3", 200, "0123456789", None),
        ("lines=1-2", 200, "0123456789", None),
    ] {
        for name in ["Range", "x-ms-range"] {
            let reply = rest.exactly("GET", &path).header(name, range).send().await;
            assert_eq!((reply.status, reply.text()), (status, body), "{range}");
            assert_eq!(reply.header("content-range"), content_range, "{range}");
        }
    }
    for range in ["bytes=10-", "bytes=99999999999-", "bytes=4-2"] {
        let reply = rest.exactly("GET", &path).header("Range", range).send().await;
        assert_eq!(refused(&reply, 416), "InvalidRange", "{range}");
    }
}

#[tokio::test]
async fn blocks_become_a_blob_when_their_list_is_put() {
    let (_hub, rest) = start().await;
    let (files, sas) = container(&rest, "files").await;
    let path = format!("{files}/big");
    for (id, content) in [("01", "old"), ("02", "world"), ("01", "hello ")] {
        let reply = block(&rest, &path, &sas, id, content).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        assert!(reply.header("content-md5").is_some());
    }
    // Not before.
    refused(&get(&rest, &format!("{path}{sas}")).await, 404);
    let unknown = block_list(&rest, &path, &sas, &["01", "03"]).await;
    assert_eq!(refused(&unknown, 400), "InvalidBlockList");
    let done = block_list(&rest, &path, &sas, &["01", "02", "01"]).await;
    assert_eq!(done.status, 201, "{}", done.text());
    assert!(done.header("etag").is_some());
    assert_eq!(
        get(&rest, &format!("{path}{sas}")).await.text(),
        "hello worldhello "
    );
    // Committed blocks are forgotten.
    let again = block_list(&rest, &path, &sas, &["01"]).await;
    assert_eq!(refused(&again, 400), "InvalidBlockList");
    let empty = block_list(&rest, &path, &sas, &[]).await;
    assert_eq!(empty.status, 201);
    assert_eq!(get(&rest, &format!("{path}{sas}")).await.text(), "");
}

#[tokio::test]
async fn conditions_are_kept() {
    let (_hub, rest) = start().await;
    let (files, sas) = container(&rest, "files").await;
    let path = format!("{files}/x{sas}");
    let call = |name: &str, value: &str| {
        rest.exactly("PUT", &path)
            .header("x-ms-blob-type", "BlockBlob")
            .header(name, value)
            .body("two")
    };
    let missing = call("If-Match", "*").send().await;
    assert_eq!(refused(&missing, 412), "ConditionNotMet");
    let created = call("If-None-Match", "*").send().await;
    assert_eq!(created.status, 201);
    let exists = call("If-None-Match", "*").send().await;
    assert_eq!(refused(&exists, 409), "BlobAlreadyExists");
    let stale = call("If-Match", "\"0x0\"").send().await;
    assert_eq!(refused(&stale, 412), "ConditionNotMet");
    // What cannot be read is not as if there were no condition.
    let garbled = call("If-Match", "\u{e9}").send().await;
    assert_eq!(refused(&garbled, 412), "ConditionNotMet");
    let etag = created.header("etag").unwrap();
    assert_eq!(call("If-Match", etag).send().await.status, 201);
    let stale = rest.exactly("GET", &path).header("If-Match", etag).send().await;
    assert_eq!(refused(&stale, 412), "ConditionNotMet");
    let damaged = call("Content-MD5", "AAAAAAAAAAAAAAAAAAAAAA==").send().await;
    assert_eq!(refused(&damaged, 400), "Md5Mismatch");
    let good = call(
        "Content-MD5",
        &STANDARD.encode(b"\xb8\xa9\xf7\x15\xdb\xb6\x4f\xd5\xc5\x6e\x77\x83\xc6\x82\x0a\x61"),
    );
    assert_eq!(good.send().await.status, 201);
}

#[tokio::test]
async fn a_condition_still_holds_when_the_content_has_come() {
    let (hub, rest) = start().await;
    let (files, sas) = container(&rest, "files").await;
    let path = format!("{files}/x{sas}");
    write(&rest, &path, "one").await;
    let first = get(&rest, &path).await;
    let etag = first.header("etag").unwrap();
    let mut slow = BufReader::new(TcpStream::connect(hub.http_address().unwrap()).await.unwrap());
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: localhost\r\nx-ms-blob-type: BlockBlob\r\nIf-Match: {etag}\r\n\
         Content-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = String::new();
    slow.read_line(&mut go_on).await.unwrap();
    assert!(go_on.contains(" 100 "), "{go_on}");
    // Somebody else is faster.
    write(&rest, &path, "two").await;
    slow.write_all(b"three").await.unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("HTTP/1.1 412 "), "{answer}");
    assert_eq!(get(&rest, &path).await.text(), "two");
}

#[tokio::test]
async fn names_that_no_file_can_have_are_refused() {
    let (_hub, rest) = start().await;
    let (files, sas) = container(&rest, "files").await;
    // 1,000 legal characters, which take 12,000 bytes on disk.
    let deep = vec!["%F0%9F%94%92"; 500].join("/");
    for (name, reason) in [
        (&*deep, "too long for the file system"),
        ("a%EF%BF%BF", "control character"),
    ] {
        let path = format!("{files}/{name}{sas}");
        let reply = put(&rest, &path, "x").await;
        assert_eq!(refused(&reply, 400), "InvalidResourceName");
        assert!(reply.text().contains(reason), "{}", reply.text());
    }
    assert_eq!(
        refused(&get(&rest, &format!("{files}/{deep}{sas}")).await, 404),
        "BlobNotFound"
    );
}

#[cfg(unix)]
#[tokio::test]
async fn links_lead_nowhere() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("links-lead-nowhere");
    let _ = std::fs::remove_dir_all(&directory);
    let hub = Hub::builder().blob_dir(&directory).start().await.unwrap();
    let rest = Rest::of(&hub);
    let (files, sas) = container(&rest, "files").await;
    let outside = directory.join("outside");
    std::fs::write(&outside, "secret").unwrap();
    std::os::unix::fs::symlink(&outside, directory.join("files/x")).unwrap();
    let path = format!("{files}/x{sas}");
    assert_eq!(refused(&get(&rest, &path).await, 404), "BlobNotFound");
    // Writing replaces the link and not what it leads to.
    write(&rest, &path, "new").await;
    assert_eq!(get(&rest, &path).await.text(), "new");
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "secret");
    hub.shutdown().await;
}

#[tokio::test]
async fn blobs_are_listed_by_name_page_by_page() {
    let (_hub, rest) = start().await;
    let (files, sas) = container(&rest, "files").await;
    let list = format!("{files}{sas}&restype=container&comp=list");
    let empty = get(&rest, &list).await;
    assert!(empty.text().contains("<Blobs></Blobs><NextMarker></NextMarker>"));
    for name in ["b/2", "a", "b/1", "b%26c"] {
        write(&rest, &format!("{files}/{name}{sas}"), "x").await;
    }
    let names = |reply: &Reply| -> Vec<String> {
        assert_eq!(reply.header("content-type"), Some("application/xml"));
        let parts = reply.text().split("<Name>").skip(1);
        parts
            .map(|part| part.split_once("</Name>").unwrap().0.to_owned())
            .collect()
    };
    assert_eq!(names(&get(&rest, &list).await), ["a", "b&amp;c", "b/1", "b/2"]);
    assert_eq!(
        names(&get(&rest, &format!("{list}&prefix=b%2F")).await),
        ["b/1", "b/2"]
    );
    let page = get(&rest, &format!("{list}&maxresults=3")).await;
    assert_eq!(names(&page).len(), 3);
    assert!(page.text().contains("<NextMarker>b/1</NextMarker>"));
    assert_eq!(
        names(&get(&rest, &format!("{list}&maxresults=3&marker=b%2F1")).await),
        ["b/2"]
    );
    assert_eq!(
        get(&rest, &format!("{files}{sas}&restype=container"))
            .await
            .status,
        200
    );
}

/// Names reach the storage byte for byte and never leave it.
#[tokio::test]
async fn names_are_kept_exactly() {
    let (_hub, rest) = start().await;
    let (files, sas) = container(&rest, "files").await;
    let names = [
        ("Devices/D/Modules/", "Devices%2FD%2FModules%2F"),
        ("a//b", "a%2F/b"),
        ("../../etc/passwd", "%2E%2E/%2e%2e/etc%2fpasswd"),
        ("x/./y/..", "x%2F.%2Fy%2F%2E."),
        ("100%25", "%31%30%30%25"),
        ("c%3A%5Cx", "c:%5cx"),
        ("%C3%BC+~", "%c3%bc%2B%7E"),
    ];
    for (number, (name, _)) in names.iter().enumerate() {
        let reply = put(&rest, &format!("{files}/{name}{sas}"), number.to_string()).await;
        assert_eq!(reply.status, 201, "{name}: {}", reply.text());
    }
    for (number, (name, same)) in names.iter().enumerate() {
        for spelling in [name, same] {
            let reply = get(&rest, &format!("{files}/{spelling}{sas}")).await;
            assert_eq!(
                (reply.status, reply.text()),
                (200, &*number.to_string()),
                "{spelling}"
            );
        }
    }
    for (name, status, code) in [
        ("a%00b".to_owned(), 400, "InvalidResourceName"),
        ("a%FF".to_owned(), 400, "InvalidResourceName"),
        ("x".repeat(2000), 400, "InvalidResourceName"),
        // What is a directory here cannot be a blob too.
        ("a".to_owned(), 409, "InvalidBlobOrBlock"),
        ("100%25/b".to_owned(), 409, "InvalidBlobOrBlock"),
    ] {
        let reply = put(&rest, &format!("{files}/{name}{sas}"), "x").await;
        assert_eq!(refused(&reply, status), code, "{name}");
    }
}

#[tokio::test]
async fn a_token_opens_what_it_is_for() {
    let (hub, rest) = start().await;
    rest.create("d").await;
    let (_, mine) = upload(&hub, "mine").await;
    let (_, other) = upload(&hub, "other").await;
    write(&rest, &mine, "x").await;
    let (path, sas) = mine.split_once('?').unwrap();
    let (other, _) = other.split_once('?').unwrap();
    let bad = [
        path.to_owned(),
        format!("{path}?"),
        format!("{path}?{}", sas.replace("sig=", "sig=A")),
        format!("{path}?{}", sas.replace("se=2", "se=3")),
        format!("{path}?{}", sas.replace("sp=rw", "sp=rwd")),
        format!("{path}?{}", sas.replace("sr=b", "sr=c")),
        format!("{path}?{}", sas.replace("sr=b", "sr=z")),
        format!("{other}?{sas}"),
    ];
    for address in &bad {
        for reply in [put(&rest, address, "y").await, get(&rest, address).await] {
            assert_eq!(refused(&reply, 403), "AuthenticationFailed", "{address}");
        }
    }
    let delete = rest.exactly("DELETE", &mine).send().await;
    assert_eq!(refused(&delete, 403), "AuthorizationPermissionMismatch");
    let list = format!("/device-uploads?{sas}&restype=container&comp=list");
    assert_eq!(
        refused(&get(&rest, &list).await, 403),
        "AuthorizationPermissionMismatch"
    );
    assert_eq!(get(&rest, &mine).await.text(), "x");
    hub.advance_clock(Duration::from_secs(3601));
    assert_eq!(refused(&get(&rest, &mine).await, 403), "AuthenticationFailed");
}

#[tokio::test]
async fn what_is_not_here_is_said_so() {
    let (_hub, rest) = start().await;
    let (files, sas) = container(&rest, "files").await;
    let path = format!("{files}/x{sas}");
    // No such container.
    rest.exactly("GET", "/other/x")
        .send()
        .await
        .refused(ErrorCode::GenericNotFound);
    for (method, address) in [
        ("PUT", path.clone()),
        ("PUT", format!("{path}&comp=metadata")),
        ("GET", format!("{path}&comp=blocklist")),
        ("POST", path.clone()),
        ("GET", files.clone()),
        ("PUT", format!("{files}?restype=container")),
    ] {
        let reply = rest.exactly(method, &address).send().await;
        assert_eq!(refused(&reply, 501), "NotImplemented", "{method} {address}");
    }
    let reply = rest.exactly("PATCH", &path).send().await;
    assert_eq!(refused(&reply, 405), "UnsupportedHttpVerb");
    for id in ["", "*", &"A".repeat(92)] {
        let reply = rest
            .exactly("PUT", &format!("{path}&comp=block&blockid={id}"))
            .send()
            .await;
        assert_eq!(refused(&reply, 400), "InvalidQueryParameterValue", "{id}");
    }
    for list in [
        "",
        "<BlockList>",
        "nonsense",
        "<BlockList><Committed>YQ==</Committed></BlockList>",
    ] {
        let reply = rest
            .exactly("PUT", &format!("{path}&comp=blocklist"))
            .body(list)
            .send()
            .await;
        assert_eq!(refused(&reply, 400), "InvalidXmlDocument", "{list}");
    }
    let reply = rest
        .exactly("PUT", &path)
        .header("x-ms-blob-type", "BlockBlob")
        .header("x-ms-copy-source", "https://localhost/files/y")
        .send()
        .await;
    assert_eq!(refused(&reply, 501), "NotImplemented");
    for name in ["Files", "devices", "ab", "a..b"] {
        rest.exactly("PUT", &format!("/_emulator/containers/{name}"))
            .send()
            .await
            .refused(ErrorCode::ArgumentInvalid);
    }
}

#[tokio::test]
async fn a_body_that_announces_too_much_is_refused() {
    let (_hub, rest) = start().await;
    let (files, sas) = container(&rest, "files").await;
    let reply = rest
        .exactly("PUT", &format!("{files}/x{sas}&comp=blocklist"))
        .body(vec![b' '; limits::HTTP_BODY_BYTES + 1])
        .send()
        .await;
    assert_eq!(refused(&reply, 413), "RequestBodyTooLarge");
}

#[tokio::test]
async fn blobs_outlive_the_hub_where_a_directory_is_given() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("blobs-outlive-the-hub");
    let _ = std::fs::remove_dir_all(&directory);
    let open = async || {
        let hub = Hub::builder().blob_dir(&directory).start().await.unwrap();
        let rest = Rest::of(&hub);
        let (files, sas) = container(&rest, "files").await;
        (
            hub,
            rest,
            format!("{files}/dir/x{sas}"),
            format!("{files}/y"),
            sas,
        )
    };
    let (hub, rest, path, blocks, sas) = open().await;
    write(&rest, &path, "kept").await;
    let put = block(&rest, &blocks, &sas, "01", "not committed").await;
    assert_eq!(put.status, 201);
    hub.shutdown().await;
    let on_disk = std::fs::read_to_string(directory.join("files/dir/x")).unwrap();
    assert_eq!(on_disk, "kept");
    let (hub, rest, path, ..) = open().await;
    assert_eq!(get(&rest, &path).await.text(), "kept");
    // Removing the last blob of a directory removes the directory.
    assert_eq!(rest.exactly("DELETE", &path).send().await.status, 202);
    assert!(!directory.join("files/dir").exists());
    assert!(directory.join("files").exists());
    hub.shutdown().await;
}
