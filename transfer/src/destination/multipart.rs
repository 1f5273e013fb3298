//! Large objects in S3 buckets, sent in parts.
//!
//! A note beside the objects (`.taipan/upload/<sha256>`) names the upload that is under way, so that a later run finds it on
//! every server: some cannot list uploads. Parts that the server has are sent again only if they differ.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aws_sdk_s3::{
    error::ProvideErrorMetadata as _,
    primitives::{ByteStream, SdkBody},
    types::{CompletedMultipartUpload, CompletedPart},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};

use super::{
    NewFile, Stored,
    body::SendBody,
    content::Content,
    s3::{S3Destination, SHA256, SignedDigest, conditions, md5_of, write_error},
    sending::Sending,
};
use crate::{BackendError, Md5, Sha256, Target, backend::s3};

/// The size of a part in bytes, for objects of fewer than [`MAX_PARTS`] of them.
const PART: u64 = 8 << 20;

/// The most parts of an object, by the protocol.
const MAX_PARTS: u64 = 10_000;

/// How many parts of one object are sent at a time.
const PARALLEL: usize = 4;

/// How long a server may take to put the parts together.
const ASSEMBLY: Duration = Duration::from_mins(5);

/// Where notes of uploads are.
const NOTES: &str = ".taipan/upload/";

/// The longest note that is read, in bytes.
const MAX_NOTE: usize = 16 << 10;

/// An upload that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Upload {
    key: String,
    id: String,
    part: u64,
}

/// The size of the parts of an object: all are equal but the last, as some servers require.
fn part_size(size: u64) -> u64 {
    const MIB: u64 = 1 << 20;
    PART.max(size.div_ceil(MAX_PARTS).div_ceil(MIB) * MIB)
}

impl S3Destination {
    pub(super) async fn put_parts(
        &self,
        file: &NewFile,
        sending: &Arc<Sending>,
    ) -> Result<Stored, BackendError> {
        let note = format!("{NOTES}{}", file.sha256);
        let key = self.backend.key(&file.target.path);
        let part = part_size(file.size());
        let known = self.read_note(&note).await?;
        let known = known.filter(|known| known.key == key && known.part == part);
        let mut parts = BTreeMap::new();
        let mut upload = None;
        if let Some(known) = known
            && let Some(held) = self.held_parts(file, &known).await?
        {
            (parts, upload) = (held, Some(known));
        }
        let upload = match upload {
            Some(upload) => upload,
            None => self.begin(file, &note, key, part).await?,
        };
        let parts = self.send_parts(file, &upload, &parts, sending).await?;
        let etag = self.complete(file, &upload, parts, sending).await?;
        // What remains of it is a note of an upload that is not there any more.
        if let Err(error) = self.delete_note(&note).await {
            tracing::debug!(%note, %error, "cannot delete the note of an upload");
        }
        Ok(Stored { etag })
    }

    async fn read_note(&self, note: &str) -> Result<Option<Upload>, BackendError> {
        let place = self.place(note);
        let client = self.client(&place).await?;
        let key = self.backend.key(note);
        let get = self.attempt(|| {
            let get = client.get_object().bucket(self.bucket()).key(&key);
            let get = get.customize().config_override(self.whereabouts());
            get.send()
        });
        let object = match get.await {
            Ok(object) => object,
            // Without the right to list, a bucket responds with 403 to a missing key.
            Err(error) if matches!(s3::status(&error), Some(403 | 404)) => return Ok(None),
            Err(error) => return Err(write_error(place, error)),
        };
        let mut body = object.body;
        let mut text = Vec::new();
        while let Some(piece) = body.next().await {
            let Ok(piece) = piece else { return Ok(None) };
            text.extend_from_slice(&piece);
            if text.len() > MAX_NOTE {
                return Ok(None);
            }
        }
        Ok(serde_json::from_slice(&text).ok())
    }

    async fn delete_note(&self, note: &str) -> Result<(), BackendError> {
        let place = self.place(note);
        let client = self.client(&place).await?;
        let key = self.backend.key(note);
        let delete = client.delete_object().bucket(self.bucket()).key(key);
        let delete = delete.customize().config_override(self.whereabouts());
        let deleted = delete.send().await;
        deleted.map(drop).map_err(|error| write_error(place, error))
    }

    /// Begins an upload, and notes it.
    async fn begin(
        &self,
        file: &NewFile,
        note: &str,
        key: String,
        part: u64,
    ) -> Result<Upload, BackendError> {
        let place = self.place(&file.target.path);
        let client = self.client(&place).await?;
        let create = self.attempt(|| {
            let create = (client.create_multipart_upload())
                .bucket(self.bucket())
                .key(&key)
                .content_type(file.content_type)
                .set_cache_control(file.cache_control.map(str::to_owned))
                .metadata(SHA256, file.sha256.to_string());
            let create = create.customize().config_override(self.whereabouts());
            create.send()
        });
        let created = create.await.map_err(|error| write_error(place, error))?;
        let id = created.upload_id.unwrap_or_default();
        let upload = Upload { key, id, part };
        let text = serde_json::to_vec(&upload).unwrap_or_default();
        let noted = NewFile::new(Target::path(note), Content::from(text)).await?;
        let place = self.place(note);
        let client = self.client(&place).await?;
        let body = match &noted.content {
            Content::Bytes(bytes) => ByteStream::from(bytes.clone()),
            Content::File { .. } => ByteStream::default(),
        };
        let put = (client.put_object())
            .bucket(self.bucket())
            .key(self.backend.key(note))
            .content_type("application/json")
            .body(body)
            .customize()
            .config_override(self.whereabouts());
        put.send()
            .await
            .map_err(|error| write_error(place, error))?;
        Ok(upload)
    }

    /// The parts that the server has, by number: their entity tags and lengths. `None` if the upload is not there any more.
    async fn held_parts(
        &self,
        file: &NewFile,
        upload: &Upload,
    ) -> Result<Option<BTreeMap<i32, (String, u64)>>, BackendError> {
        let place = self.place(&file.target.path);
        let client = self.client(&place).await?;
        let mut parts = BTreeMap::new();
        let mut marker: Option<String> = None;
        loop {
            let list = self.attempt(|| {
                let list = client.list_parts().bucket(self.bucket()).key(&upload.key);
                let list = list.upload_id(&upload.id);
                let list = list.set_part_number_marker(marker.clone()).customize();
                list.config_override(self.whereabouts()).send()
            });
            let page = match list.await {
                Ok(page) => page,
                Err(error) if s3::status(&error) == Some(404) => return Ok(None),
                Err(error) => return Err(write_error(place, error)),
            };
            let is_truncated = page.is_truncated() == Some(true);
            let next = page.next_part_number_marker.clone();
            for part in page.parts.unwrap_or_default() {
                let size = part.size().and_then(|size| u64::try_from(size).ok());
                if let (Some(number), Some(size), Some(etag)) =
                    (part.part_number(), size, part.e_tag)
                {
                    parts.insert(number, (etag, size));
                }
            }
            // A server that repeats its marker has no end.
            if !is_truncated || next.is_none() || next == marker {
                return Ok(Some(parts));
            }
            marker = next;
        }
    }

    /// Sends the parts that the server does not have.
    async fn send_parts(
        &self,
        file: &NewFile,
        upload: &Upload,
        held: &BTreeMap<i32, (String, u64)>,
        sending: &Arc<Sending>,
    ) -> Result<Vec<CompletedPart>, BackendError> {
        let is_checked = Box::pin(self.checks_bodies()).await?;
        let size = file.size();
        let count = size.div_ceil(upload.part);
        let parts = (0..count).map(|index| {
            let range = index * upload.part..size.min((index + 1) * upload.part);
            let number = i32::try_from(index + 1).unwrap_or(i32::MAX);
            async move {
                let length = range.end - range.start;
                let known = held.get(&number).filter(|(_, size)| *size == length);
                let wants_md5 = known.is_some() || !is_checked;
                let digests = file.content.digests_of(range.clone(), wants_md5).await?;
                sending.touch();
                let known =
                    known.filter(|(etag, _)| digests.1.is_some() && md5_of(etag) == digests.1);
                let etag = if let Some((etag, _)) = known {
                    etag.clone()
                } else {
                    self.send_part(file, upload, number, range, digests, sending)
                        .await?
                };
                let part = CompletedPart::builder().part_number(number).e_tag(etag);
                Ok(part.build())
            }
        });
        stream::iter(parts).buffered(PARALLEL).try_collect().await
    }

    async fn send_part(
        &self,
        file: &NewFile,
        upload: &Upload,
        number: i32,
        range: std::ops::Range<u64>,
        (sha256, md5): (Sha256, Option<Md5>),
        sending: &Arc<Sending>,
    ) -> Result<String, BackendError> {
        let place = self.place(&file.target.path);
        let client = self.client(&place).await?;
        let length = range.end - range.start;
        let sent = self.attempt(|| {
            let body = SendBody::open(&file.content, range.clone(), sending);
            let part = (client.upload_part())
                .bucket(self.bucket())
                .key(&upload.key)
                .upload_id(&upload.id)
                .part_number(number)
                .content_length(i64::try_from(length).unwrap_or(i64::MAX));
            let (digest, config) = (SignedDigest(sha256), self.whereabouts());
            async move {
                let body = body.map_err(aws_sdk_s3::error::SdkError::construction_failure)?;
                let part = part.body(ByteStream::new(SdkBody::from_body_1_x(body)));
                let part = part.customize().interceptor(digest);
                part.config_override(config).send().await
            }
        });
        let sent = sent.await;
        let etag = sent
            .map_err(|error| write_error(place.clone(), error))?
            .e_tag;
        let etag = etag.unwrap_or_default();
        match (md5_of(&etag), md5) {
            (Some(got), Some(md5)) if got != md5 => Err(BackendError::Corrupt {
                url: place,
                source: crate::VerifyError::Digest {
                    name: "md5",
                    expected: md5.to_string(),
                    got: got.to_string(),
                },
            }),
            _ => Ok(etag),
        }
    }

    /// Makes the object of its parts.
    async fn complete(
        &self,
        file: &NewFile,
        upload: &Upload,
        parts: Vec<CompletedPart>,
        sending: &Arc<Sending>,
    ) -> Result<Option<String>, BackendError> {
        let place = self.place(&file.target.path);
        let client = self.client(&place).await?;
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts));
        let parts = parts.build();
        let (absent, unchanged) = conditions(&file.condition);
        let complete = self.attempt(|| {
            let complete = (client.complete_multipart_upload())
                .bucket(self.bucket())
                .key(&upload.key)
                .upload_id(&upload.id)
                .set_if_none_match(absent.clone())
                .set_if_match(unchanged.clone())
                .multipart_upload(parts.clone());
            let complete = complete.customize().config_override(self.whereabouts());
            complete.send()
        });
        let waiting = async {
            for _ in 0..ASSEMBLY.as_secs() {
                sending.touch();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            std::future::pending().await
        };
        let completed = tokio::select! {
            completed = complete => completed,
            never = waiting => never,
        };
        match completed {
            Ok(object) => Ok(object.e_tag),
            Err(error) if error.code() == Some("NoSuchUpload") => {
                // An earlier attempt may have completed it, and its response was lost.
                let object = self.head(&file.target.path).await?;
                let noted = object.as_ref().and_then(|it| it.metadata()?.get(SHA256));
                if noted.is_some_and(|noted| *noted == file.sha256.to_string()) {
                    return Ok(object.and_then(|object| object.e_tag));
                }
                Err(BackendError::Service {
                    place,
                    class: taipan_mirrors::Class::Unwell,
                    retry_after: None,
                    source: "the upload is not there any more".into(),
                })
            }
            Err(error) => Err(write_error(place, error)),
        }
    }

    /// Aborts uploads whose note is older than this, and removes their notes.
    pub(super) async fn sweep_uploads(&self, older_than: Duration) -> Result<usize, BackendError> {
        let place = self.place(NOTES);
        let client = self.client(&place).await?;
        let mut count = 0;
        let mut after: Option<String> = None;
        loop {
            let list = self.attempt(|| {
                let list = client.list_objects_v2().bucket(self.bucket());
                let list = list.prefix(self.backend.key(NOTES));
                let list = list.set_start_after(after.clone()).customize();
                list.config_override(self.whereabouts()).send()
            });
            let page = list
                .await
                .map_err(|error| write_error(place.clone(), error))?;
            let is_truncated = page.is_truncated() == Some(true);
            let now = std::time::SystemTime::now();
            let objects = page.contents.unwrap_or_default();
            after = objects.last().and_then(|object| object.key.clone());
            for object in objects {
                let modified = object.last_modified().and_then(|at| {
                    let seconds = u64::try_from(at.secs()).ok()?;
                    Some(std::time::UNIX_EPOCH + Duration::from_secs(seconds))
                });
                let age = modified.and_then(|at| now.duration_since(at).ok());
                let root = self.backend.key("");
                let path = object.key().and_then(|key| key.strip_prefix(&root));
                let Some(path) = path.filter(|_| age.is_some_and(|age| age >= older_than)) else {
                    continue;
                };
                if let Some(upload) = self.read_note(path).await? {
                    let abort = client.abort_multipart_upload().bucket(self.bucket());
                    let abort = abort.key(&upload.key).upload_id(&upload.id).customize();
                    let aborted = abort.config_override(self.whereabouts()).send().await;
                    match aborted {
                        Ok(_) => count += 1,
                        Err(error) if s3::status(&error) == Some(404) => {}
                        Err(error) => return Err(write_error(place, error)),
                    }
                }
                self.delete_note(path).await?;
            }
            if !is_truncated || after.is_none() {
                return Ok(count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_object_fits_into_the_parts_that_are_allowed() {
        for size in [1, 64 << 20, PART * MAX_PARTS, PART * MAX_PARTS + 1, 5 << 40] {
            let part = part_size(size);
            assert!(size.div_ceil(part) <= MAX_PARTS, "{size}");
            assert!((PART..=5 << 30).contains(&part), "{size}");
        }
        assert_eq!(part_size(PART * MAX_PARTS), PART);
    }
}
