//! Content encodings, with the bound on what comes out.
//!
//! In: a body as it came. Out: its protobuf bytes, of which never more than the limit are in memory: the limit holds
//! while the stream is decoded, not after it, since one kilobyte of gzip can become a megabyte.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::MultiGzDecoder;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    Identity,
    /// RFC 1952.
    Gzip,
}

/// Why a body cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// More comes out than is allowed.
    #[error("the body is larger than {limit} bytes after decompression")]
    TooLarge {
        /// What is allowed.
        limit: usize,
    },
    /// The body is not gzip.
    #[error("the body is not valid gzip: {0}")]
    Gzip(std::io::Error),
}

impl Encoding {
    /// The name in `Content-Encoding` and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
        }
    }

    /// The encoding of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Identity, Self::Gzip].into_iter().find(|encoding| name.eq_ignore_ascii_case(encoding.as_str()))
    }

    /// Decodes a body to at most `limit` bytes.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(self, body: &[u8], limit: usize) -> Result<Cow<'_, [u8]>, DecodeError> {
        let too_large = DecodeError::TooLarge { limit };
        match self {
            Self::Identity if body.len() > limit => Err(too_large),
            Self::Identity => Ok(Cow::Borrowed(body)),
            Self::Gzip => {
                let mut decoded = Vec::new();
                let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
                MultiGzDecoder::new(body).take(most).read_to_end(&mut decoded).map_err(DecodeError::Gzip)?;
                if decoded.len() > limit { Err(too_large) } else { Ok(Cow::Owned(decoded)) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn the_limit_is_on_what_comes_out() {
        for encoding in [Encoding::Identity, Encoding::Gzip] {
            let body = |length| match encoding {
                Encoding::Identity => vec![0; length],
                Encoding::Gzip => gzip(&vec![0; length]),
            };
            assert_eq!(encoding.decode(&body(999), 1000).unwrap().len(), 999);
            assert_eq!(encoding.decode(&body(1000), 1000).unwrap().len(), 1000);
            assert!(matches!(encoding.decode(&body(1001), 1000), Err(DecodeError::TooLarge { limit: 1000 })));
        }
    }

    #[test]
    fn members_after_each_other_are_one_body() {
        let body = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(Encoding::Gzip.decode(&body, 100).unwrap().as_ref(), b"one two");
    }

    #[test]
    fn cut_and_foreign_bytes_are_an_error() {
        let whole = gzip(b"something");
        for body in [&whole[..whole.len() - 1], b"plain", b""] {
            assert!(matches!(Encoding::Gzip.decode(body, 100), Err(DecodeError::Gzip(_))), "{body:?}");
        }
    }
}
