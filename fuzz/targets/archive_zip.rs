//! The zip around a `.conda`: raw input, and members under the right checksums.

#![no_main]

use libfuzzer_sys::fuzz_target;
use taipan_fuzz::{
    Input, tars,
    yard::{Yard, same},
};
use taipan_package::ArchiveFormat;

const NAMES: [&str; 8] = [
    "metadata.json",
    "info-x-1-0.tar.zst",
    "pkg-x-1-0.tar.zst",
    "info-y.tar.zst",
    "pkg-/x.tar.zst",
    "../outside/secret",
    "README",
    "",
];

struct Member<'a> {
    name: &'static str,
    body: Vec<u8>,
    flags: u8,
    extra: &'a [u8],
}

/// A zip in which everything holds together but what the flags of a member say.
fn zip(members: &[Member<'_>]) -> Vec<u8> {
    let (mut file, mut central) = (Vec::new(), Vec::new());
    for member in members {
        let offset = u32::try_from(file.len()).unwrap();
        let mut crc = crc32fast::hash(&member.body);
        let mut length = u32::try_from(member.body.len()).unwrap();
        let mut zip64 = Vec::new();
        match member.flags & 7 {
            1 => crc ^= 1,
            2 => length += 1,
            3 => {
                zip64.extend([1, 0, 16, 0]);
                zip64.extend(u64::from(length).to_le_bytes());
                zip64.extend(u64::from(length).to_le_bytes());
                length = u32::MAX;
            }
            4 => length = u32::MAX,
            _ => {}
        }
        zip64.extend_from_slice(member.extra);
        let descriptor = u16::from(member.flags & 8 != 0) << 3;
        let mut common = Vec::new();
        for field in [20, descriptor, 0, 0, 0x21] {
            common.extend(u16::to_le_bytes(field));
        }
        for field in [crc, length, length] {
            common.extend(u32::to_le_bytes(field));
        }
        for field in [member.name.len(), zip64.len()] {
            common.extend(u16::try_from(field).unwrap().to_le_bytes());
        }
        file.extend(b"PK\x03\x04");
        file.extend_from_slice(&common);
        if descriptor != 0 {
            let sizes = file.len() - common.len() + 10;
            file[sizes..sizes + 12].fill(0);
        }
        file.extend(member.name.as_bytes());
        file.extend_from_slice(&zip64);
        file.extend_from_slice(&member.body);
        if descriptor != 0 {
            file.extend(b"PK\x07\x08");
            for field in [crc, length, length] {
                file.extend(field.to_le_bytes());
            }
        }
        central.extend(b"PK\x01\x02\x14\0");
        central.extend_from_slice(&common);
        central.extend([0; 10]);
        central.extend(offset.to_le_bytes());
        central.extend(member.name.as_bytes());
        central.extend_from_slice(&zip64);
    }
    let start = u32::try_from(file.len()).unwrap();
    file.extend_from_slice(&central);
    file.extend(b"PK\x05\x06\0\0\0\0");
    let count = u16::try_from(members.len()).unwrap().to_le_bytes();
    file.extend(count);
    file.extend(count);
    file.extend(u32::try_from(central.len()).unwrap().to_le_bytes());
    file.extend(start.to_le_bytes());
    file.extend([0, 0]);
    file
}

fn members<'a>(input: &mut Input<'a>) -> Vec<Member<'a>> {
    let mut info = tars::info();
    tars::end(&mut info);
    let count = input.byte() % 6;
    (0..count)
        .map(|_| {
            let (name, kind, flags) = (input.byte(), input.byte(), input.byte());
            let (length, extra) = (usize::from(input.byte()), usize::from(input.byte()) % 16);
            let given = input.take(length);
            let body = match kind % 4 {
                0 => tars::zstd(&info),
                1 => tars::zstd(given),
                2 => b"{\"conda_pkg_format_version\": 2}".to_vec(),
                _ => given.to_vec(),
            };
            Member {
                name: NAMES[usize::from(name) % NAMES.len()],
                body,
                flags,
                extra: input.take(extra),
            }
        })
        .collect()
}

fuzz_target!(|input: &[u8]| {
    let mut raw = b"PK".to_vec();
    raw.extend_from_slice(input);
    let _ = Yard::new().extract(&raw[..], ArchiveFormat::Conda);

    let mut input = Input(input);
    let mut members = members(&mut input);
    let mut file = zip(&members);
    let by_local_headers = Yard::new().extract(&file[..], ArchiveFormat::Conda);
    // The same by the central directory.
    for member in &mut members {
        member.flags |= 8;
    }
    let by_directory = Yard::new().extract(&zip(&members)[..], ArchiveFormat::Conda);
    if let (Ok((one, _)), Ok((other, _))) = (&by_local_headers, &by_directory) {
        assert!(same(one, other));
    }
    // And damaged, as the rest of the input says.
    while input.0.len() >= 3 {
        let at = usize::from(input.byte()) << 8 | usize::from(input.byte());
        let length = file.len();
        file[at % length] ^= input.byte();
    }
    let _ = Yard::new().extract(&file[..], ArchiveFormat::Conda);
});
