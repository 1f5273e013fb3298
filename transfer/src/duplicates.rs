//! Other locations of a file, as its server names them in `Link` headers (RFC 6249).

use taipan_mirrors::{Duplicates, ListedDigest, Mirror, digests_of_header};

use crate::{Engine, Expected, Job, MirrorSet, engine::fetch_first_byte, ledger::Ledger};

/// Other locations of a file, and what is known of it.
#[derive(Debug)]
pub struct FileDuplicates {
    /// The other locations. Each is that of the file itself.
    pub mirrors: Vec<Mirror>,
    /// The expected size and digests: those of the job, completed by the headers.
    pub expected: Expected,
}

impl Engine {
    /// Requests one byte from the mirror that would be used first, and returns the other locations
    /// that the response names. `None` if it names none, or if neither the job nor the response has
    /// a digest to verify them with.
    pub async fn find_duplicates(&self, mirrors: &MirrorSet, job: &Job) -> Option<FileDuplicates> {
        let mut ledger = Ledger::new(self, self.next_id(), mirrors, job);
        let response = fetch_first_byte(&mut ledger).await?;
        let headers = response.duplicates?;
        let links = headers.links.iter().map(String::as_str);
        let found = Duplicates::parse(links, &headers.base);
        let mut expected = job.expected;
        if !expected.is_content_addressed() {
            for header in &headers.digests {
                let digests = digests_of_header(header);
                let is_strong = |it: &&ListedDigest| matches!(it.algorithm(), "sha256" | "sha512");
                digests
                    .iter()
                    .filter(is_strong)
                    .for_each(|it| expected.add(it));
            }
        }
        expected.size = expected.size.or(response.total);
        (!found.mirrors.is_empty() && expected.is_content_addressed()).then_some(FileDuplicates {
            mirrors: found.mirrors,
            expected,
        })
    }
}
