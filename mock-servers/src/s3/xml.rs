//! The XML of S3.

use http::{StatusCode, header};

use crate::request::Reply;

const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            other => out.push(other),
        }
    }
    out
}

fn unescape(text: &str) -> String {
    // The ampersand last, so that `&amp;lt;` becomes `&lt;`.
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&#34;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&")
}

/// An element with text.
pub(crate) fn element(name: &str, text: &str) -> String {
    format!("<{name}>{}</{name}>", escape(text))
}

/// The raw content of each element of this name, at any depth. Elements of the same name must
/// not be nested, which in the documents read here they never are.
pub(crate) fn contents<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    let (open, close) = (format!("<{name}"), format!("</{name}>"));
    let mut rest = xml;
    while let Some(at) = rest.find(&open) {
        rest = &rest[at + open.len()..];
        if !rest.starts_with(['>', ' ']) {
            continue;
        }
        let (Some(start), Some(end)) = (rest.find('>'), rest.find(&close)) else {
            break;
        };
        if start < end {
            found.push(&rest[start + 1..end]);
        }
        rest = &rest[end + close.len()..];
    }
    found
}

/// The text of the first element of this name.
pub(crate) fn text(xml: &str, name: &str) -> Option<String> {
    contents(xml, name)
        .first()
        .map(|text| unescape(text.trim()))
}

pub(crate) fn reply(status: StatusCode, root: &str, inner: &str) -> Reply {
    let namespace = " xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"";
    let body = format!("{DECLARATION}<{root}{namespace}>{inner}</{root}>");
    Reply::text(status, "application/xml", body)
}

pub(crate) fn error(status: StatusCode, code: &str, message: &str, resource: &str) -> Reply {
    let body = format!(
        "{DECLARATION}<Error>{}{}{}{}</Error>",
        element("Code", code),
        element("Message", message),
        element("Resource", resource),
        element("RequestId", "0000000000000001"),
    );
    Reply::text(status, "application/xml", body).with(
        header::HeaderName::from_static("x-amz-request-id"),
        "0000000000000001",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn elements_are_found_and_unescaped() {
        let xml = "<A x=\"1\"><Part><N>1</N><E>&quot;a&amp;lt;&quot;</E></Part>\
                   <Parts/><Part ><N> 2 </N></Part></A>";
        let parts = contents(xml, "Part");
        assert_eq!(parts.len(), 2);
        assert_eq!(text(parts[0], "E").unwrap(), "\"a&lt;\"");
        assert_eq!(text(parts[1], "N").unwrap(), "2");
        assert_eq!(text(xml, "Missing"), None);
        assert!(contents("<Part>", "Part").is_empty());
        assert_eq!(element("K", "a<&>\""), "<K>a&lt;&amp;&gt;&quot;</K>");
    }

    proptest! {
        #[test]
        fn texts_come_back_and_any_document_is_survived(content in ".{0,40}", name in "[A-Z]{1,3}") {
            let document = element(&name, &content);
            prop_assert_eq!(text(&document, &name), Some(content.trim().to_owned()));
            contents(&content, &name);
            text(&format!("<{name}{content}</{name}>"), &name);
        }
    }
}
