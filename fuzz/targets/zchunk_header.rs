//! The header's parser: raw input, and input under the right checksum.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taipan_fuzz::sealed;
use taipan_zchunk::{HashKind, Header, Lead, Limits};

fn check(bytes: &[u8], limits: &Limits) {
    let _ = Lead::parse(bytes, limits);
    let Ok(header) = Header::parse(bytes, limits) else {
        return;
    };
    // What was accepted must hold together.
    let (mut end, mut raw_end) = (header.len(), 0);
    for chunk in header.chunks() {
        assert_eq!(chunk.offset, end);
        end += chunk.len;
        if chunk.index > 0 {
            assert_eq!(chunk.raw_offset, raw_end);
            raw_end += chunk.raw_len;
        }
        assert!(
            header
                .content_digest(chunk.index)
                .is_none_or(|digest| !digest.is_zero())
        );
    }
    assert_eq!((end, raw_end), (header.file_len(), header.raw_len()));
    let again = Header::parse(&header.to_detached_bytes(), limits).unwrap();
    assert!(again.is_detached() && again == header);
}

fuzz_target!(|input: &[u8]| {
    check(input, &Limits::default());
    let Some((&first, rest)) = input.split_first() else {
        return;
    };
    let bytes = sealed::sealed(HashKind::ALL[usize::from(first & 3)], rest);
    check(&bytes, &Limits::default());
    check(&bytes, &Limits::NONE);
});
