//! The format's integers: little-endian base 128, with the stop bit on the *last* byte.
//!
//! The continuation bit is the inverse of LEB128's: after a byte below 0x80 more bytes follow.

use crate::error::{Error, Field};

/// The longest encoding of a `u64`: ⌊64/7⌋ + 1 bytes.
pub(crate) const MAX_LEN: usize = 10;

/// Appends `value` in its shortest form.
pub(crate) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8);
        value >>= 7;
    }
    out.push(value as u8 | 0x80);
}

/// Reads one integer from the front of `bytes`: its value and its length in bytes.
///
/// `Ok(None)`: the bytes end before the integer. Encodings that are longer than needed are accepted, as
/// in the C library, up to [`MAX_LEN`] bytes.
pub(crate) fn get(bytes: &[u8], field: Field, offset: u64) -> Result<Option<(u64, usize)>, Error> {
    let mut value: u64 = 0;
    for (i, &byte) in bytes.iter().take(MAX_LEN).enumerate() {
        let part = u64::from(byte & 0x7f);
        // The tenth byte holds bit 63 and nothing else.
        if i == MAX_LEN - 1 && part > 1 {
            return Err(Error::Integer { field, offset });
        }
        value |= part << (7 * i);
        if byte & 0x80 != 0 {
            return Ok(Some((value, i + 1)));
        }
    }
    if bytes.len() >= MAX_LEN {
        Err(Error::Integer { field, offset })
    } else {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, value);
        out
    }

    #[test]
    fn the_examples_of_the_specification_are_encoded_correctly() {
        assert_eq!(encoded(0), [0x80]);
        assert_eq!(encoded(61), [0xbd]);
        assert_eq!(encoded(97), [0xe1]);
        assert_eq!(encoded(2654), [0x5e, 0x94]);
        assert_eq!(encoded(15246), [0x0e, 0xf7]);
        assert_eq!(encoded(44754), [0x52, 0x5d, 0x82]);
        assert_eq!(encoded(u64::MAX).len(), MAX_LEN);
    }

    #[test]
    fn an_integer_over_64_bits_is_refused() {
        let mut bytes = [0x7f; 10];
        assert!(matches!(
            get(&bytes, Field::Flags, 3),
            Err(Error::Integer { offset: 3, .. })
        ));
        bytes[9] = 0x82;
        assert!(get(&bytes, Field::Flags, 0).is_err());
        bytes[9] = 0x81;
        assert_eq!(get(&bytes, Field::Flags, 0).unwrap(), Some((u64::MAX, 10)));
        // Eleven bytes are refused even if the high ones are zero.
        assert!(get(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80], Field::Flags, 0).is_err());
    }

    proptest! {
        #[test]
        fn any_integer_round_trips(value: u64, shift in 0u32..64) {
            let value = value >> shift;
            let bytes = encoded(value);
            prop_assert_eq!(bytes.len(), (64 - (value | 1).leading_zeros() as usize).div_ceil(7));
            for cut in 0..bytes.len() {
                prop_assert_eq!(get(&bytes[..cut], Field::Flags, 0).unwrap(), None);
            }
            prop_assert_eq!(get(&bytes, Field::Flags, 0).unwrap(), Some((value, bytes.len())));
        }
    }
}
