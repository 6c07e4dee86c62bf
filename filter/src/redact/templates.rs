//! Segments of paths that are secrets by the name of their parameter in a template, wherever such a path stands: the
//! request's own, and those of URLs in its query and its headers (the `referer` of a reset link is one).

use std::borrow::Cow;
use std::ops::Range;
use std::rc::Rc;

use memchr::memmem;
use percent_encoding::percent_decode;

use super::escape::{MAX_DEPTH, Unit, unit, units};
use super::replaced;
use crate::config::ConfigError;
use crate::route::Routes;

/// As many places of a text are tried as the begin of a path.
const MAX_BEGINS: usize = 32;

/// Shorter segments are not looked for in other values: nobody could read what is left of these.
const MIN_SEGMENT_BYTES: usize = 4;

/// The templates' parameters that are secrets.
#[derive(Debug)]
pub(super) struct Templates {
    routes: Rc<Routes>,
    secrets: Vec<String>,
    /// Of the request at hand: what stood in the secret parameters' places.
    segments: Vec<Vec<u8>>,
}

impl Templates {
    /// `None` where no parameter is a secret.
    ///
    /// # Errors
    /// When a name is no template's: the segment that it is meant for would be told.
    pub(super) fn new(secrets: &[String], routes: &Rc<Routes>) -> Result<Option<Self>, ConfigError> {
        if let Some((index, name)) = secrets.iter().enumerate().find(|(_, name)| !routes.have_parameter(name))
        {
            return Err(ConfigError::new(format!(
                "configuration: `redact.path_params[{index}]`: is `{name}`, allowed are names of parameters in the templates of `routes`"
            )));
        }
        let templates = Self { routes: Rc::clone(routes), secrets: secrets.to_vec(), segments: Vec::new() };
        Ok(Some(templates).filter(|_| !secrets.is_empty()))
    }

    /// The path of a request, of which [`Templates::segment_places`] knows the secret segments from then on.
    pub(super) fn request_path<'p>(&mut self, path: &'p [u8]) -> Cow<'p, [u8]> {
        self.segments.clear();
        let Some((path, places)) = self.find(path) else { return Cow::Borrowed(path) };
        let segments = places.iter().filter_map(|place| path.as_bytes().get(place.clone()));
        self.segments
            .extend(segments.filter(|segment| segment.len() >= MIN_SEGMENT_BYTES).map(<[u8]>::to_vec));
        Cow::Owned(replaced(path.as_bytes(), &places))
    }

    /// Where the secret segments of the request's own path stand in `text`.
    pub(super) fn segment_places(&self, text: &[u8]) -> impl Iterator<Item = Range<usize>> {
        self.segments
            .iter()
            .flat_map(move |segment| memmem::find_iter(text, segment).map(|at| at..at + segment.len()))
    }

    /// `text` with each path replaced that matches a template with a secret parameter. A path begins at a slash behind no
    /// other part of a path.
    pub(super) fn paths<'t>(&self, text: &'t [u8]) -> Cow<'t, [u8]> {
        let mut out = Vec::new();
        let (mut at, mut told_to, mut begins) = (0, 0, 0);
        let (mut before, mut is_behind_authority) = (b' ', false);
        while let Some(unit) = text.get(at..).and_then(unit) {
            let is_slash = unit.byte == b'/';
            let is_within_path = before.is_ascii_alphanumeric() || before == b'/';
            if is_slash && (is_behind_authority || !is_within_path) && begins < MAX_BEGINS {
                begins += 1;
                if let Some((len, told)) = self.path_at(text.get(at..).unwrap_or_default(), unit.depth) {
                    out.extend_from_slice(text.get(told_to..at).unwrap_or_default());
                    out.extend_from_slice(&told);
                    at += len;
                    (told_to, before, is_behind_authority) = (at, b' ', false);
                    continue;
                }
            }
            is_behind_authority = if is_slash { before == b'/' } else { is_behind_authority };
            before = unit.byte;
            at += unit.len;
        }
        if told_to == 0 {
            return Cow::Borrowed(text);
        }
        out.extend_from_slice(text.get(told_to..).unwrap_or_default());
        Cow::Owned(out)
    }

    /// How long the path is that `rest` begins with, by a slash of that depth, and as what it may be told; `None` when it has no
    /// secret.
    fn path_at(&self, rest: &[u8], depth: u8) -> Option<(usize, Vec<u8>)> {
        let ends_path = |unit: &Unit| matches!(unit.byte, b'&' | b'?' | b'#' | b'"' | b'<' | b'>' | ..=b' ');
        let end = units(rest).find(|(_, unit)| ends_path(unit) && unit.depth <= depth);
        let path = rest.get(..end.map_or(rest.len(), |(at, _)| at))?;
        // A list's next element may follow.
        let element = path.iter().position(|byte| b",;".contains(byte)).and_then(|end| path.get(..end));
        [Some(path), element].into_iter().flatten().find_map(|path| {
            let (told, places) = self.find(path)?;
            Some((path.len(), replaced(told.as_bytes(), &places)))
        })
    }

    /// The path as it is when it matches a template that has a secret, and the secrets' places in it: as it is on the wire, or
    /// decoded, or with its slashes put in order.
    fn find(&self, path: &[u8]) -> Option<(String, Vec<Range<usize>>)> {
        let mut path = Cow::Borrowed(path);
        for _ in 0..=MAX_DEPTH {
            // Templates are ASCII: what is not UTF-8 can only be in a parameter's place.
            let text = String::from_utf8_lossy(&path);
            if let Some(places) = self.secrets_in(&text) {
                return Some((text.into_owned(), places));
            }
            let tidy = tidy(&text);
            if let Some(places) = self.secrets_in(&tidy) {
                return Some((tidy, places));
            }
            let Cow::Owned(decoded) = Cow::from(percent_decode(&path)) else { break };
            path = Cow::Owned(decoded);
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

/// A path with single slashes and none at its end, each segment decoded but for the slashes in it.
fn tidy(path: &str) -> String {
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    segments.fold(String::new(), |path, segment| {
        let decoded = percent_decode(segment.as_bytes()).decode_utf8_lossy();
        path + "/" + &decoded.replace('/', "%2F")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn templates(secrets: &[&str]) -> Result<Option<Templates>, ConfigError> {
        let route = |template: &str| config::Route {
            template: template.to_owned(),
            sample_ratio: None,
            keep_slower_than: None,
        };
        let routes = ["/reset/{token}", "/a/{id}/{token}.pdf", "/files/{*rest}", "/{*all}"].map(route);
        let secrets: Vec<_> = secrets.iter().map(|&name| name.to_owned()).collect();
        Templates::new(&secrets, &Rc::new(Routes::new(&routes).unwrap()))
    }

    #[test]
    fn secret_parameters_of_the_requests_path_are_replaced() {
        let mut templates = templates(&["token", "rest"]).unwrap().unwrap();
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
        ] {
            assert_eq!(String::from_utf8_lossy(&templates.request_path(path.as_bytes())), expected);
        }
        assert_eq!(templates.request_path(b"/reset/\xff"), &b"/reset/REDACTED"[..]);
    }

    #[test]
    fn paths_in_other_values_lose_them_too() {
        let templates = templates(&["token"]).unwrap().unwrap();
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
        ] {
            assert_eq!(String::from_utf8_lossy(&templates.paths(text.as_bytes())), expected);
        }
    }

    #[test]
    fn a_secret_segment_of_the_request_is_told_in_none_of_its_values() {
        let mut templates = templates(&["token"]).unwrap().unwrap();
        templates.request_path(b"/reset/s3cret");
        let places = |text: &[u8]| templates.segment_places(text).collect::<Vec<_>>();
        assert_eq!(places(b"/api/v2/reset/s3cret"), vec![14..20; 1]);
        assert_eq!(places(b"s3cret s3cret"), [0..6, 7..13]);
        templates.request_path(b"/reset/7");
        let places = templates.segment_places(b"7 s3cret").count();
        assert_eq!(places, 0, "too short, and another request's");
    }

    #[test]
    fn a_name_that_no_template_has_is_refused() {
        let error = templates(&["token", "tokn"]).unwrap_err().to_string();
        assert!(
            error.contains("`redact.path_params[1]`: is `tokn`, allowed are names of parameters"),
            "{error}"
        );
        assert!(templates(&[]).unwrap().is_none());
    }
}
