//! What is secret by its name: the built-in lists, and what the configuration adds to them.

use std::ops::Range;

use super::escape::{Text, is_short_escape};

/// Query parameters whose values are secrets, in lower case: those that OpenTelemetry's `url.query` names, and those
/// that clients use for tokens, passwords and sessions. `access_token` is `accessToken` and `access-token`, too.
const SECRET_QUERY_PARAMS: [&str; 49] = [
    "access_key",
    "access_token",
    "api_key",
    "api_token",
    "assertion",
    "auth",
    "auth_token",
    "authorization",
    "awsaccesskeyid",
    "bearer",
    "client_assertion",
    "client_secret",
    "code",
    "code_verifier",
    "credentials",
    "csrf",
    "device_code",
    "id_token",
    "id_token_hint",
    "jsessionid",
    "jwt",
    "key",
    "oauth_signature",
    "oauth_token",
    "oauth_verifier",
    "otp",
    "passphrase",
    "passwd",
    "password",
    "phpsessid",
    "private_token",
    "pwd",
    "refresh_token",
    "samlresponse",
    "secret",
    "secret_key",
    "session",
    "session_id",
    "sid",
    "sig",
    "signature",
    "ticket",
    "token",
    "x-amz-credential",
    "x-amz-security-token",
    "x-amz-signature",
    "x-goog-credential",
    "x-goog-signature",
    "x-ms-signature",
];

/// Headers whose values are credentials, in lower case.
const CREDENTIAL_HEADERS: [&str; 9] = [
    "authorization",
    "cookie",
    "proxy-authorization",
    "set-cookie",
    "x-amz-security-token",
    "x-api-key",
    "x-auth-token",
    "x-csrf-token",
    "x-forwarded-client-cert",
];

/// The longest name of a query parameter, decoded.
pub const MAX_PARAM_NAME_BYTES: usize = 64;

/// A longer name, as it is on the wire, is a secret's.
const MAX_ENCODED_BYTES: usize = 512;

/// Names of query parameters, compared as a server would read them.
#[derive(Debug)]
pub(super) struct ParamNames {
    /// By their first byte, of which only these bits count, so that case does not.
    by_initial: [Bucket; 32],
}

/// Names with the same initial. Nearly every other name is told from them by its length alone.
#[derive(Debug, Default)]
struct Bucket {
    /// Bit `n` is for names of `n` bytes; the last one is for all longer ones too.
    lengths: u64,
    /// Without what [`letters`] leaves out.
    names: Vec<Vec<u8>>,
}

impl ParamNames {
    /// The built-in list and `added`.
    pub(super) fn new(added: &[String]) -> Self {
        let mut by_initial: [Bucket; 32] = Default::default();
        for name in SECRET_QUERY_PARAMS.iter().copied().chain(added.iter().map(String::as_str)) {
            let name: Vec<u8> = letters(name.as_bytes()).collect();
            if let Some(bucket) = by_initial.get_mut(initial(&name)) {
                bucket.lengths |= 1 << name.len().min(63);
                bucket.names.push(name);
            }
        }
        Self { by_initial }
    }

    /// Whether the value of a parameter with the name that stands there in `text`, as it is on the wire, is a secret: the name is decoded up to three
    /// times; in `user[token]`, `user.token` and `"token"`, `token` is a name, too. What is too long to be looked at is one.
    pub(super) fn are_secret(&self, text: &Text<'_>, name: Range<usize>) -> bool {
        let begin = name.start;
        let Some(name) = text.bytes.get(name) else { return false };
        if name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')) {
            return self.contain(name);
        }
        if name.len() > MAX_ENCODED_BYTES {
            return true;
        }
        let units = text.units(begin..).take_while(|(at, _)| at - begin < name.len());
        let mut decoded = [0; MAX_ENCODED_BYTES];
        let mut len = 0;
        for (place, (_, unit)) in decoded.iter_mut().zip(units) {
            *place = unit.byte;
            len += 1;
        }
        let decoded = decoded.get_mut(..len).unwrap_or_default();
        if self.contain_part(decoded) {
            return true;
        }
        // In JSON `\n` is a blank, elsewhere it may be the `n` of a name.
        let mut before = 0;
        for byte in &mut *decoded {
            if is_short_escape(before, *byte) {
                *byte = b' ';
            }
            before = *byte;
        }
        self.contain_part(decoded)
    }

    /// Whether one of the words in `name`, or a part of one, is a name.
    fn contain_part(&self, name: &[u8]) -> bool {
        let is_blank = |byte: &u8| matches!(byte, b'+' | ..=b' ');
        name.split(is_blank).any(|word| {
            self.contain(word)
                || word.split(|byte| b"[].:\"'\\".contains(byte)).any(|part| self.contain(part))
        })
    }

    fn contain(&self, name: &[u8]) -> bool {
        self.by_initial.get(initial(name)).is_some_and(|bucket| {
            let len = letters(name).count();
            bucket.lengths >> len.min(63) & 1 == 1
                && bucket.names.iter().any(|known| known.iter().copied().eq(letters(name)))
        })
    }
}

fn initial(name: &[u8]) -> usize {
    letters(name).next().map_or(0, |byte| usize::from(byte & 0x1f))
}

/// What names are compared by: neither case nor `_` nor `-` tells one from another.
fn letters(name: &[u8]) -> impl Iterator<Item = u8> {
    name.iter().filter(|byte| !matches!(byte, b'_' | b'-')).map(u8::to_ascii_lowercase)
}

/// Names of headers that are told as [`super::REDACTED`] only: the built-in list and `added`, in lower case, sorted.
pub(super) fn secret_headers(added: &[String]) -> Vec<String> {
    let added = added.iter().map(String::as_str);
    // Some hundred names, in a small module: the library's sort would be 5 KB of it.
    let mut sorted: Vec<String> = Vec::new();
    for name in CREDENTIAL_HEADERS.into_iter().chain(added) {
        if let Err(place) = sorted.binary_search_by(|known| known.as_str().cmp(name)) {
            sorted.insert(place, name.to_owned());
        }
    }
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_in_lower_case() {
        for name in SECRET_QUERY_PARAMS.iter().chain(&CREDENTIAL_HEADERS) {
            assert_eq!(*name, name.to_lowercase());
            assert!(name.len() <= MAX_PARAM_NAME_BYTES, "{name}");
        }
    }

    #[test]
    fn names_are_compared_as_a_server_would_read_them() {
        let longest = "x".repeat(MAX_PARAM_NAME_BYTES);
        let names = ParamNames::new(&["app.pin".to_owned(), "naïve".to_owned(), longest.clone()]);
        let are_secret = |name: &str| names.are_secret(&Text::new(name.as_bytes()), 0..name.len());
        for secret in [
            "token",
            "ToKeN",
            "%74oken",
            "%2574oken",
            "%252574oken",
            "%54%4F%4b%45%4e",
            "user[token]",
            "token[]",
            "user%5Btoken%5d",
            "user.token",
            "+token",
            "token%20",
            "%2Btoken",
            "%22token%22",
            r#"\"token\" "#,
            r#""\u0074oken""#,
            r"a\ttoken",
            r"a\\n\ttoken",
            r"\token",
            "x:token",
            "accessToken",
            "session_id",
            "x-api-key.API-Key",
            "app.pin",
            "APP%2Epin",
            "na%C3%AFve",
            &longest,
            &longest.to_uppercase(),
        ] {
            assert!(are_secret(secret), "{secret}");
        }
        for told in [
            "",
            "tokens",
            "my_token",
            "toke",
            "%25252574oken",
            "%",
            "%zz",
            "pin",
            "app",
            &format!("{longest}x"),
        ] {
            assert!(!are_secret(told), "{told}");
        }
        let buried = format!("token{}", "%20".repeat(1000));
        assert!(are_secret(&buried), "too long to be looked at");
    }
}
