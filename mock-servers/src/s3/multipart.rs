//! Uploads in parts.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, StatusCode, header};
use md5::{Digest as _, Md5};

use super::S3Error;
use super::xml::{self, element};
use crate::request::{Reply, Request};
use crate::site::Object;

#[derive(Debug)]
struct Upload {
    bucket: String,
    key: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    parts: BTreeMap<u32, (String, Bytes)>,
}

/// The running uploads by id.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    state: Mutex<(u64, BTreeMap<String, Upload>)>,
}

impl Uploads {
    pub(crate) fn create(
        &self,
        bucket: &str,
        key: &str,
        headers: Vec<(HeaderName, HeaderValue)>,
    ) -> Reply {
        let mut state = self.lock();
        state.0 += 1;
        let id = format!("upload-{:08}", state.0);
        let upload = Upload {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            headers,
            parts: BTreeMap::new(),
        };
        state.1.insert(id.clone(), upload);
        let inner = element("Bucket", bucket) + &element("Key", key) + &element("UploadId", &id);
        xml::reply(StatusCode::OK, "InitiateMultipartUploadResult", &inner)
    }

    pub(crate) fn put_part(
        &self,
        bucket: &str,
        key: &str,
        request: &Request,
        body: Bytes,
    ) -> Result<Reply, S3Error> {
        let number = request
            .parameter("partNumber")
            .and_then(|text| text.parse().ok())
            .filter(|number| (1..=10_000).contains(number))
            .ok_or(S3Error::InvalidRequest)?;
        self.with(bucket, key, request, |upload| {
            let etag = format!("\"{}\"", hex::encode(Md5::digest(&body)));
            let reply = Reply::empty(StatusCode::OK).with(header::ETAG, &etag);
            upload.parts.insert(number, (etag, body));
            Ok(reply)
        })
    }

    pub(crate) fn list_parts(
        &self,
        bucket: &str,
        key: &str,
        request: &Request,
    ) -> Result<Reply, S3Error> {
        let id = request.parameter("uploadId").unwrap_or_default();
        self.with(bucket, key, request, |upload| {
            let mut inner = element("Bucket", bucket) + &element("Key", key);
            inner.push_str(&element("UploadId", &id));
            inner.push_str(&element("IsTruncated", "false"));
            for (number, (etag, bytes)) in &upload.parts {
                inner.push_str("<Part>");
                inner.push_str(&element("PartNumber", &number.to_string()));
                inner.push_str(&element("ETag", etag));
                inner.push_str(&element("Size", &bytes.len().to_string()));
                inner.push_str("</Part>");
            }
            Ok(xml::reply(StatusCode::OK, "ListPartsResult", &inner))
        })
    }

    /// The uploads of a bucket.
    pub(crate) fn list(&self, bucket: &str) -> Reply {
        let mut inner = element("Bucket", bucket) + &element("IsTruncated", "false");
        for (id, upload) in self
            .lock()
            .1
            .iter()
            .filter(|(_, upload)| upload.bucket == bucket)
        {
            inner.push_str("<Upload>");
            inner.push_str(&element("Key", &upload.key));
            inner.push_str(&element("UploadId", id));
            inner.push_str("</Upload>");
        }
        xml::reply(StatusCode::OK, "ListMultipartUploadsResult", &inner)
    }

    pub(crate) fn abort(
        &self,
        bucket: &str,
        key: &str,
        request: &Request,
    ) -> Result<Reply, S3Error> {
        self.with(bucket, key, request, |_| Ok(()))?;
        self.forget(request);
        Ok(Reply::empty(StatusCode::NO_CONTENT))
    }

    /// The object made of the listed parts. The upload stays until [`Uploads::forget`], because a precondition
    /// may still fail.
    pub(crate) fn assemble(
        &self,
        bucket: &str,
        key: &str,
        request: &Request,
        listing: &[u8],
        min_part_size: usize,
    ) -> Result<Object, S3Error> {
        let listing = std::str::from_utf8(listing).map_err(|_| S3Error::InvalidRequest)?;
        let listed = xml::contents(listing, "Part");
        if listed.is_empty() {
            return Err(S3Error::InvalidRequest);
        }
        self.with(bucket, key, request, |upload| {
            let mut whole = BytesMut::new();
            let mut digests = Md5::new();
            let mut before = 0;
            for (index, part) in listed.iter().enumerate() {
                let number: u32 = xml::text(part, "PartNumber")
                    .and_then(|text| text.parse().ok())
                    .ok_or(S3Error::InvalidRequest)?;
                if number <= before {
                    return Err(S3Error::InvalidPartOrder);
                }
                before = number;
                let claimed = xml::text(part, "ETag").unwrap_or_default();
                let (etag, bytes) = upload.parts.get(&number).ok_or(S3Error::InvalidPart)?;
                if claimed.trim_matches('"') != etag.trim_matches('"') {
                    return Err(S3Error::InvalidPart);
                }
                if bytes.len() < min_part_size && index + 1 < listed.len() {
                    return Err(S3Error::EntityTooSmall);
                }
                digests.update(Md5::digest(bytes));
                whole.extend_from_slice(bytes);
            }
            let mut object = Object::new(whole.freeze());
            object.etag = format!("\"{}-{}\"", hex::encode(digests.finalize()), listed.len());
            object.headers.clone_from(&upload.headers);
            Ok(object)
        })
    }

    pub(crate) fn forget(&self, request: &Request) {
        self.lock()
            .1
            .remove(&request.parameter("uploadId").unwrap_or_default());
    }

    fn with<T>(
        &self,
        bucket: &str,
        key: &str,
        request: &Request,
        act: impl FnOnce(&mut Upload) -> Result<T, S3Error>,
    ) -> Result<T, S3Error> {
        let id = request.parameter("uploadId").unwrap_or_default();
        let mut state = self.lock();
        let upload = state
            .1
            .get_mut(&id)
            .filter(|upload| upload.bucket == bucket && upload.key == key)
            .ok_or(S3Error::NoSuchUpload)?;
        act(upload)
    }

    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<String, Upload>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
