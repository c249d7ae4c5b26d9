//! The storage service's XML.

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use hub_core::blob::ContainerName;
use hub_core::limits;
use quick_xml::Reader;
use quick_xml::events::Event;

use super::http_date;
use crate::blobs::Listing;

const HEAD: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>";

/// What is wrong with a list of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BlockListError {
    #[error("the body is not well-formed XML")]
    Syntax,
    #[error("the body is not a BlockList of Latest and Uncommitted")]
    Content,
}

pub(super) fn reply(text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    let xml = HeaderValue::from_static("application/xml");
    response.headers_mut().insert(header::CONTENT_TYPE, xml);
    response
}

/// A text as it stands in XML, which has no control characters; those of a
/// request's parameters are replaced.
fn escape(text: &str) -> String {
    let text = text.replace(
        |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'),
        "\u{fffd}",
    );
    quick_xml::escape::escape(text.as_str()).into_owned()
}

pub(super) fn error(code: &str, message: &str) -> String {
    format!(
        "{HEAD}<Error><Code>{code}</Code><Message>{}</Message></Error>",
        escape(message)
    )
}

pub(super) fn listing(container: &ContainerName, prefix: &str, listing: &Listing) -> String {
    let mut text = format!(
        "{HEAD}<EnumerationResults ContainerName=\"{container}\"><Prefix>{}</Prefix><Blobs>",
        escape(prefix)
    );
    for (name, info) in &listing.blobs {
        text.push_str(&format!(
            "<Blob><Name>{}</Name><Properties><Last-Modified>{}</Last-Modified><Etag>{}</Etag>\
             <Content-Length>{}</Content-Length><Content-Type>application/octet-stream</Content-Type>\
             <BlobType>BlockBlob</BlobType></Properties></Blob>",
            escape(name.as_str()),
            http_date(info),
            info.etag,
            info.size,
        ));
    }
    let next = listing.next.as_ref().map_or("", |next| next.as_str());
    text.push_str(&format!(
        "</Blobs><NextMarker>{}</NextMarker></EnumerationResults>",
        escape(next)
    ));
    text
}

/// The block ids of `<BlockList><Latest>id</Latest>…</BlockList>`, in order.
/// `Committed` is refused: a blob's blocks are not kept apart once committed.
pub(super) fn block_list(bytes: &[u8]) -> Result<Vec<String>, BlockListError> {
    let text = std::str::from_utf8(bytes).map_err(|_| BlockListError::Syntax)?;
    let mut reader = Reader::from_str(text);
    let mut ids = Vec::new();
    // Inside the list, and inside a block with this much of its id.
    let (mut inside, mut id) = (false, None::<String>);
    loop {
        match reader.read_event().map_err(|_| BlockListError::Syntax)? {
            Event::Start(tag) => match (tag.name().as_ref(), inside, &id) {
                ("BlockList", false, None) => inside = true,
                ("Latest" | "Uncommitted", true, None) if ids.len() < limits::BLOB_BLOCKS => {
                    id = Some(String::new());
                }
                _ => return Err(BlockListError::Content),
            },
            Event::Empty(tag) if tag.name().as_ref() == "BlockList" && !inside => return Ok(ids),
            Event::Text(content) => {
                let content: &str = &content;
                match &mut id {
                    Some(id) => id.push_str(content.trim()),
                    None if content.trim().is_empty() => {}
                    None => return Err(BlockListError::Content),
                }
            }
            Event::End(_) => match id.take() {
                Some(id) => ids.push(id),
                None => return Ok(ids),
            },
            Event::Decl(_) | Event::Comment(_) => {}
            // Also references and document types: a block's id needs none.
            _ => return Err(BlockListError::Content),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn block_lists_of_clients_are_read() {
        for text in [
            "<?xml version='1.0' encoding='utf-8'?>\n<BlockList><Latest>YQ==</Latest><Uncommitted>Yg==</Uncommitted></BlockList>",
            "\u{feff}<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?><BlockList>\r\n <Latest> YQ== </Latest>\n<!-- x --><Latest>Yg==</Latest></BlockList>",
        ] {
            assert_eq!(block_list(text.as_bytes()).unwrap(), ["YQ==", "Yg=="], "{text}");
        }
        for text in ["<BlockList/>", "<BlockList></BlockList>"] {
            assert!(block_list(text.as_bytes()).unwrap().is_empty());
        }
    }

    #[test]
    fn other_texts_are_not_block_lists() {
        use BlockListError::{Content, Syntax};
        for (text, expected) in [
            ("", Content),
            ("YQ==", Content),
            ("<BlockList>", Content),
            ("<BlockList><Latest>", Content),
            ("<BlockList></Latest>", Syntax),
            ("<List><Latest>YQ==</Latest></List>", Content),
            ("<BlockList><Committed>YQ==</Committed></BlockList>", Content),
            (
                "<BlockList><Latest><Latest>a</Latest></Latest></BlockList>",
                Content,
            ),
            ("<BlockList>text</BlockList>", Content),
            (
                "<!DOCTYPE a [<!ENTITY b \"c\">]><BlockList><Latest>&b;</Latest></BlockList>",
                Content,
            ),
        ] {
            assert_eq!(block_list(text.as_bytes()), Err(expected), "{text}");
        }
        assert_eq!(block_list(b"\xff"), Err(Syntax));
    }

    #[test]
    fn markup_in_names_is_escaped() {
        assert_eq!(
            error("A", "<b> & 'c'"),
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>A</Code>\
             <Message>&lt;b&gt; &amp; &apos;c&apos;</Message></Error>"
        );
        assert!(error("A", "b\0\u{ffff}").contains("<Message>b\u{fffd}\u{fffd}</Message>"));
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>, text in "(<[/!?]?(BlockList|Latest)?>?|[a-z&;]){0,12}") {
            let _ = block_list(&bytes);
            let _ = block_list(text.as_bytes());
        }
    }
}
