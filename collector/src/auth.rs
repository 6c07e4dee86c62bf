//! Who may come in: a bearer token, read from a file.
//!
//! In: a request's headers. Out: yes or no. Without a token everybody may, which [`crate::config`] allows on loopback,
//! and elsewhere when it is asked for by name.

use std::path::Path;

use axum::http::{HeaderMap, header};
use subtle::ConstantTimeEq;

/// The token that requests must carry, if any.
#[derive(Clone, Default)]
pub struct Token(Option<Vec<u8>>);

impl Token {
    /// The token in a file; white space around it is not part of it.
    ///
    /// # Errors
    /// A message that names the file, when it cannot be read or holds no token.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("token file `{}`: {error}", path.display()))?;
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!(
                "token file `{}`: one token of visible ASCII characters is allowed, and nothing else",
                path.display()
            ));
        }
        Ok(Self(Some(token.as_bytes().to_vec())))
    }

    /// Whether a request with these headers may come in.
    #[must_use]
    pub fn allows(&self, headers: &HeaderMap) -> bool {
        let Some(expected) = &self.0 else { return true };
        let given = headers.get(header::AUTHORIZATION).map_or(&[][..], |value| value.as_bytes());
        let Some((scheme, token)) = given.split_at_checked("bearer ".len()) else { return false };
        // In constant time, so that the time taken does not tell how much of a guess was right.
        scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(token.ct_eq(expected))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(if self.0.is_some() { "Token(set)" } else { "Token(none)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_token_is_let_in() {
        let token = Token(Some(b"s3cret".to_vec()));
        let cases = [
            ("Bearer s3cret", true),
            ("bearer s3cret", true),
            ("Bearer s3cre", false),
            ("Bearer s3crets", false),
            ("Basic s3cret", false),
            ("s3cret", false),
            ("", false),
        ];
        for (value, expected) in cases {
            let headers = [(header::AUTHORIZATION, value.parse().unwrap())].into_iter().collect();
            assert_eq!(token.allows(&headers), expected, "{value}");
        }
        assert!(!token.allows(&HeaderMap::new()));
        assert!(Token::default().allows(&HeaderMap::new()));
    }
}
