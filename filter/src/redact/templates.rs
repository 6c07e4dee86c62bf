//! Segments of paths that are secrets by the name of their parameter in a template, wherever such a path stands: the
//! request's own, and those of URLs in its query and its headers (the `referer` of a reset link is one).

use std::borrow::Cow;
use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use memchr::{memchr, memmem};
use percent_encoding::percent_decode;

use super::escape::{Depth, MAX_DEPTH, Text, decoded_once, is_short_escape};
use super::finding::{Finding, Kind, told};
use crate::config::ConfigError;
use crate::route::Routes;

/// How much of a request's texts is tried as paths, each of its bytes as often as a path may begin before it. What is behind is
/// not told, for nobody has looked at it.
const MAX_TRIED_BYTES: usize = 32 * 1024;

/// What a try costs at least, in the time that a byte takes.
const MIN_TRY_BYTES: usize = 32;

/// Shorter segments are not looked for in other values: nobody could read what is left of these.
const MIN_SEGMENT_BYTES: usize = 4;

/// The templates' parameters that are secrets.
#[derive(Debug)]
pub(super) struct Templates {
    routes: Arc<Routes>,
    secrets: Vec<String>,
    /// Of the request at hand: what stood in the secret parameters' places, as [`comparable`] has it.
    segments: Vec<Vec<u8>>,
    /// Of the request at hand: how much of it was tried.
    tried_bytes: Cell<usize>,
}

impl Templates {
    /// Whether all of them are parameters.
    ///
    /// # Errors
    /// When a name is no template's: the segment that it is meant for would be told.
    pub(super) fn check(secrets: &[String], routes: &Routes) -> Result<(), ConfigError> {
        match secrets.iter().enumerate().find(|(_, name)| !routes.have_parameter(name)) {
            Some((index, name)) => Err(ConfigError::new(format!(
                "configuration: `redact.path_params[{index}]`: is `{name}`, allowed are names of parameters in the templates of `routes`"
            ))),
            None => Ok(()),
        }
    }

    /// `None` where no parameter is a secret.
    pub(super) fn new(secrets: &[String], routes: &Arc<Routes>) -> Option<Self> {
        (!secrets.is_empty()).then(|| Self {
            routes: Arc::clone(routes),
            secrets: secrets.to_vec(),
            segments: Vec::new(),
            tried_bytes: Cell::new(0),
        })
    }

    /// The secrets of the path of a request, of which [`Templates::segments`] knows the segments from then on.
    pub(super) fn request_path(&mut self, path: &[u8]) -> Vec<Finding> {
        self.segments.clear();
        self.tried_bytes.set(0);
        let Some(secrets) = self.find(path) else { return Vec::new() };
        let segments = secrets.places.iter().filter_map(|place| secrets.path.get(place.clone()));
        let segments = segments.map(|segment| comparable(&Text::new(segment.as_bytes())).0);
        self.segments.extend(segments.filter(|segment| segment.len() >= MIN_SEGMENT_BYTES));
        self.findings(path.len(), secrets)
    }

    /// Where the secret segments of the request's own path stand in `text`, however they are encoded there.
    pub(super) fn segments(&self, text: &Text<'_>) -> Vec<Finding> {
        if self.segments.is_empty() {
            return Vec::new();
        }
        let (decoded, begins) = comparable(text);
        let begin_of = |at: usize| match &begins {
            Some(begins) => begins.get(at).copied().unwrap_or(text.bytes.len()),
            None => at,
        };
        let places = self.segments.iter().flat_map(|segment| {
            memmem::find_iter(&decoded, segment).map(|at| begin_of(at)..begin_of(at + segment.len()))
        });
        places.map(|place| Finding { place, kind: Kind::Segment }).collect()
    }

    /// The secrets of all paths in `text`. A path begins at a slash that is behind no other part of a path: the word before it may be a
    /// host, or the path's first segment.
    pub(super) fn paths(&self, text: &Text<'_>) -> Vec<Finding> {
        let mut found = Vec::new();
        let (mut at, mut before) = (0, b' ');
        let (mut is_behind_path, mut word_at) = (false, 0);
        while let Some(unit) = text.unit(at) {
            let is_begin = is_slash(unit.byte)
                && !is_slash(before)
                && (!is_behind_path || !before.is_ascii_alphanumeric());
            if is_begin {
                let ends = path_ends(text, at, unit.depth);
                let tried_bytes = self.tried_bytes.get() + (ends.0 - at).max(MIN_TRY_BYTES);
                if tried_bytes > MAX_TRIED_BYTES {
                    found.push(Finding::secret(word_at..text.bytes.len()));
                    break;
                }
                self.tried_bytes.set(tried_bytes);
                let is_relative = !is_behind_path && word_at < at && before != b':';
                let relative = || self.path_at(text, word_at, ends).filter(|_| is_relative);
                if let Some((end, secrets)) = self.path_at(text, at, ends).or_else(relative) {
                    found.extend(secrets);
                    (at, before, is_behind_path, word_at) = (end, b' ', false, end);
                    continue;
                }
            }
            let next = at + unit.len();
            let is_word = matches!(unit.byte, b'.' | b':' | b'@' | b'-' | b'_' | b'~' | b'[' | b']' | b'%')
                || unit.byte.is_ascii_alphanumeric() && !is_short_escape(before, unit.byte);
            if !is_word {
                // A host follows two slashes.
                is_behind_path = is_slash(unit.byte) && !is_slash(before);
                word_at = next;
            }
            before = if is_short_escape(before, unit.byte) { b' ' } else { unit.byte };
            at = next;
        }
        found
    }

    /// Where the path ends that begins at `at`, with or without a slash, and its secrets; `None` when it has none.
    fn path_at(&self, text: &Text<'_>, at: usize, ends: (usize, usize)) -> Option<(usize, Vec<Finding>)> {
        [ends.0, ends.1].into_iter().find_map(|end| {
            let path = text.bytes.get(at..end)?;
            let is_absolute = text.unit(at).is_some_and(|unit| is_slash(unit.byte));
            let path = if is_absolute { Cow::Borrowed(path) } else { Cow::Owned([b"/", path].concat()) };
            let found = self.findings(path.len(), self.find(&path)?);
            let added = path.len() - (end - at);
            Some((end, found.into_iter().map(|finding| finding.moved(at, added)).collect()))
        })
    }

    fn findings(&self, len: usize, secrets: Secrets<'_>) -> Vec<Finding> {
        if secrets.is_as_written {
            return secrets.places.into_iter().map(Finding::secret).collect();
        }
        let path = told(secrets.path.as_bytes(), secrets.places.into_iter().map(Finding::secret).collect());
        let path = told(&path, self.segments(&Text::new(&path)));
        vec![Finding { place: 0..len, kind: Kind::Path(path) }]
    }

    /// A path's secrets, when it matches a template that has some: as it is on the wire, or decoded, or with its slashes put in
    /// order.
    fn find<'p>(&self, path: &'p [u8]) -> Option<Secrets<'p>> {
        let mut path = Cow::Borrowed(path);
        for depth in 0..=MAX_DEPTH {
            // Templates are ASCII: what is not UTF-8 can only be in a parameter's place.
            let is_as_written = depth == 0 && str::from_utf8(&path).is_ok();
            let text = match path {
                Cow::Borrowed(path) => String::from_utf8_lossy(path),
                Cow::Owned(ref path) => Cow::Owned(String::from_utf8_lossy(path).into_owned()),
            };
            if let Some(places) = self.secrets_in(&text) {
                return Some(Secrets { path: text, places, is_as_written });
            }
            if let Some(tidy) = tidy(&text)
                && let Some(places) = self.secrets_in(&tidy)
            {
                return Some(Secrets { path: Cow::Owned(tidy), places, is_as_written: false });
            }
            path = Cow::Owned(decoded_once(&path)?);
        }
        None
    }

    /// The places of the secrets in a path that matches a template that has some.
    fn secrets_in(&self, path: &str) -> Option<Vec<Range<usize>>> {
        let parameters = self.routes.parameters(path).into_iter();
        let secrets = parameters.filter(|(name, _)| self.secrets.iter().any(|secret| secret == name));
        Some(secrets.map(|(_, place)| place).collect()).filter(|places: &Vec<_>| !places.is_empty())
    }
}

/// The secrets of a path, as it matched a template.
struct Secrets<'p> {
    path: Cow<'p, str>,
    places: Vec<Range<usize>>,
    /// Whether the places are the path's as it is on the wire, too.
    is_as_written: bool,
}

/// Some take a backslash for a slash, and JSON may have one before it.
fn is_slash(byte: u8) -> bool {
    matches!(byte, b'/' | b'\\')
}

/// Where a path ends that begins at `at`, with a slash of that depth: at what ends it for whoever reads it at that depth, or at whatever
/// may end it for anybody, as before the next element of a list.
fn path_ends(text: &Text<'_>, at: usize, depth: Depth) -> (usize, usize) {
    let (mut first_end, mut before) = (None, (at, 0));
    for (place, unit) in text.units(at..) {
        let ends_path = matches!(unit.byte, b'&' | b'?' | b'#' | b'"' | b'<' | b'>' | ..=b' ');
        if ends_path && !unit.depth.is_within(depth) {
            return (place, first_end.unwrap_or(place));
        }
        if ends_path || matches!(unit.byte, b',' | b';') {
            first_end = first_end.or(Some(place));
        } else if before.0 > at && is_short_escape(before.1, unit.byte) {
            first_end = first_end.or(Some(before.0));
        }
        before = (place, unit.byte);
    }
    (text.bytes.len(), first_end.unwrap_or(text.bytes.len()))
}

/// A path with single slashes and none at its end, each segment decoded but for the slashes in it, and without the parameters behind
/// its `;`; `.` and `..` are resolved. `None` when it is no other.
fn tidy(path: &str) -> Option<String> {
    let is_tidy = !path.contains(['%', '\\', ';'])
        && !path.contains("//")
        && !path.contains("/.")
        && !path.ends_with('/');
    let segments = path.split(['/', '\\']).filter(|segment| !segment.is_empty());
    (!is_tidy).then(|| {
        segments.fold(String::with_capacity(path.len()), |mut path, segment| {
            let segment = segment.split(';').next().unwrap_or_default();
            let decoded = percent_decode(segment.as_bytes()).decode_utf8_lossy();
            match &*decoded {
                "." => {}
                ".." => path.truncate(path.rfind('/').unwrap_or_default()),
                _ => {
                    path.push('/');
                    path.push_str(&decoded.replace('/', "%2F"));
                }
            }
            path
        })
    })
}

/// `text` as every server reads it, in lower case and without backslashes, and where each byte of it begins; `None` where that is
/// its own place.
fn comparable(text: &Text<'_>) -> (Vec<u8>, Option<Vec<usize>>) {
    let byte_of = |byte: u8| if byte == b'+' { b' ' } else { byte.to_ascii_lowercase() };
    if !text.has_escapes() && memchr(b'\\', text.bytes).is_none() {
        return (text.bytes.iter().copied().map(byte_of).collect(), None);
    }
    let told = text.units(0..).filter(|(_, unit)| unit.byte != b'\\');
    let (bytes, begins) = told.map(|(at, unit)| (byte_of(unit.byte), at)).unzip();
    (bytes, Some(begins))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn text(text: &str) -> Text<'_> {
        Text::new(text.as_bytes())
    }

    fn routes() -> Arc<Routes> {
        let route = |template: &str| config::Route {
            template: template.to_owned(),
            sample_ratio: None,
            keep_slower_than: None,
        };
        let routes = ["/reset/{token}", "/a/{id}/{token}.pdf", "/files/{*rest}", "/{*all}"].map(route);
        Arc::new(Routes::new(&routes).unwrap())
    }

    fn templates(secrets: &[&str]) -> Option<Templates> {
        Templates::new(&secrets.iter().map(|&name| name.to_owned()).collect::<Vec<_>>(), &routes())
    }

    #[test]
    fn secret_parameters_of_the_requests_path_are_replaced() {
        let mut templates = templates(&["token", "rest"]).unwrap();
        for (path, expected) in [
            ("/reset/s3cret", "/reset/REDACTED"),
            ("/reset/s3%2Fcret", "/reset/REDACTED"),
            ("/a/7/s3cret.pdf", "/a/7/REDACTED.pdf"),
            ("/files/a/b", "/files/REDACTED"),
            ("/other/s3cret", "/other/s3cret"),
            // As servers read them, who take more for the same path than a template does.
            ("/reset/s3cret/", "/reset/REDACTED"),
            ("//reset//s3cret", "/reset/REDACTED"),
            ("/%72eset%2Fs3cret", "/reset/REDACTED"),
            ("/%72eset/s3%2Fcret", "/reset/REDACTED"),
            ("/%2572eset/s3cret", "/reset/REDACTED"),
            (r"\reset\s3cret", "/reset/REDACTED"),
            ("/x/../reset/./s3cret", "/reset/REDACTED"),
            ("/../%2e/reset/s3cret", "/reset/REDACTED"),
            ("/reset;v=1/s3cret", "/reset/REDACTED"),
        ] {
            let found = templates.request_path(path.as_bytes());
            assert_eq!(String::from_utf8(told(path.as_bytes(), found)).unwrap(), expected);
        }
        let path = b"/reset/\xff";
        assert_eq!(told(path, templates.request_path(path)), b"/reset/REDACTED");
    }

    #[test]
    fn paths_in_other_values_lose_them_too() {
        let templates = templates(&["token"]).unwrap();
        for (text, expected) in [
            ("", ""),
            ("text/html, */*", "text/html, */*"),
            ("https://shop/reset/s3cret?a=1", "https://shop/reset/REDACTED?a=1"),
            ("https://shop:80/reset/s3=,cret", "https://shop:80/reset/REDACTED"),
            ("https://a/reset/s3cret,https://b/c", "https://a/reset/REDACTED,https://b/c"),
            ("/reset/s3cret", "/reset/REDACTED"),
            ("</reset/s3cret>; rel=next", "</reset/REDACTED>; rel=next"),
            ("a=1&next=%2Freset%2Fs3cret&b", "a=1&next=/reset/REDACTED&b"),
            (
                "next=https%3A%2F%2Fshop%2Freset%2Fs3%252Fcret%3Fa",
                "next=https%3A%2F%2Fshop/reset/REDACTED%3Fa",
            ),
            ("url=/reset/s3cret", "url=/reset/REDACTED"),
            ("/reset/s3%3Ccret%26", "/reset/REDACTED"),
            // With no scheme before the host.
            ("shop.example/reset/s3cret", "shop.example/reset/REDACTED"),
            ("to=shop:80/reset/s3cret&b", "to=shop:80/reset/REDACTED&b"),
            ("to=localhost/reset/s3cret", "to=localhost/reset/REDACTED"),
            ("a/b/reset/s3cret", "a/b/reset/s3cret"),
            // Relative to another one.
            ("reset/s3cret", "reset/REDACTED"),
            ("../reset/s3cret", "../reset/REDACTED"),
            ("a=1&to=%72eset%2Fs3cret&b", "a=1&to=/reset/REDACTED&b"),
            // As JSON has it.
            (
                r#"{"to":"https:\/\/shop\/reset\/s3cret","a":1}"#,
                r#"{"to":"https:\/\/shop/reset/REDACTED","a":1}"#,
            ),
            (r#""\u002freset\u002fs3cret""#, r#""/reset/REDACTED""#),
            (r#"{"m":"see\n/reset/s3cret"}"#, r#"{"m":"see\n/reset/REDACTED"}"#),
            (r#"{"m":"see\tshop.example/reset/s3cret"}"#, r#"{"m":"see\tshop.example/reset/REDACTED"}"#),
            (r#"{"m":"/reset/s3cret\n/a/b"}"#, r#"{"m":"/reset/REDACTED\n/a/b"}"#),
            (r#""\u002freset\u002fs3cret%26x""#, r#""/reset/REDACTED""#),
            (r"https:\\shop\reset\s3cret", r"https:\\shop/reset/REDACTED"),
        ] {
            let found = templates.paths(&Text::new(text.as_bytes()));
            assert_eq!(String::from_utf8(told(text.as_bytes(), found)).unwrap(), expected);
        }
    }

    #[test]
    fn a_secret_segment_of_the_request_is_told_in_none_of_its_values() {
        let mut templates = templates(&["token", "rest"]).unwrap();
        templates.request_path(b"/reset/s3cret");
        let without = |text: &str| {
            let found = templates.segments(&Text::new(text.as_bytes()));
            String::from_utf8(told(text.as_bytes(), found)).unwrap()
        };
        for (text, expected) in [
            ("/api/v2/reset/s3cret", "/api/v2/reset/REDACTED"),
            ("s3cret S3CRET", "REDACTED REDACTED"),
            ("a=%73%33cret&b=%2573%33%63ret%20", "a=REDACTED&b=REDACTED%20"),
            (r"\u00733cret\/", "REDACTED/"),
            ("s3cre", "s3cre"),
        ] {
            assert_eq!(without(text), expected);
        }
        templates.request_path(b"/files/one%2Ftwo%20three");
        let place = |text: &Text<'_>| {
            templates.segments(text).into_iter().map(|finding| finding.place).collect::<Vec<_>>()
        };
        assert_eq!(place(&text(r"one/two+three one\/two\u0020three")), [0..13, 14..33]);
        templates.request_path(b"/reset/7");
        assert_eq!(templates.segments(&text("7 s3cret")), [], "too short, and another request's");
    }

    #[test]
    fn what_is_not_tried_is_not_told() {
        let mut templates = templates(&["token"]).unwrap();
        templates.request_path(b"/");
        let ordinary = "https://shop/a,".repeat(40) + "https://shop/reset/s3cret";
        let found = templates.paths(&text(&ordinary));
        assert_eq!(found.len(), 1, "many are no reason to take out more");
        assert_eq!(&ordinary[found[0].place.clone()], "s3cret");
        let long = "/-".repeat(MAX_TRIED_BYTES / 2);
        let found = templates.paths(&text(&long));
        assert_eq!(found.iter().map(|finding| finding.place.end).collect::<Vec<_>>(), [long.len()]);
        assert!(found[0].place.start < 200, "each byte counts as often as it is tried");
        templates.request_path(b"/");
        assert_eq!(templates.paths(&text(&format!("/{}", "a".repeat(MAX_TRIED_BYTES - 2)))), []);
        assert_eq!(templates.paths(&text("/a")), [Finding::secret(0..2)], "all of a request's texts count");
        templates.request_path(b"/");
        assert_eq!(templates.paths(&text("/a")), []);
    }

    #[test]
    fn a_name_that_no_template_has_is_refused() {
        let secrets = ["token", "tokn"].map(str::to_owned);
        let error = Templates::check(&secrets, &routes()).unwrap_err().to_string();
        assert!(
            error.contains("`redact.path_params[1]`: is `tokn`, allowed are names of parameters"),
            "{error}"
        );
        assert!(templates(&[]).is_none());
    }
}
