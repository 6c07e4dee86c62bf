//! Attributes that a user has named: how each is asked for, and what its answer says.
//!
//! An expression comes in; a term of a stage's list goes out, which evaluates to nothing where the request lacks the value,
//! and which says of what type it is: an answer's bytes alone do not. Headers and attributes of Envoy's that are known to
//! be text need no such thing, and are asked for as all others are.

use super::field::{Presence, is_text};
use super::stage::{NamedExpression, Value};
use super::{Pairs, bytes_in};
use crate::config::{Attribute, Step};

/// Paths of more steps are not guarded: each guard repeats all steps before it.
const MAX_GUARDED_STEPS: usize = 8;

/// How an answer is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Bytes of text.
    Text,
    /// A list of a type's letter and a value.
    Typed,
}

/// The value of an attribute that a user has named.
#[derive(Debug, Clone, PartialEq)]
pub enum AttributeValue<'c> {
    /// Any bytes.
    Text(&'c [u8]),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Double(f64),
    /// True or false.
    Bool(bool),
    /// Several texts.
    Texts(Vec<&'c [u8]>),
}

/// An answer that is no value that an attribute can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAnAttribute;

/// How to ask for `attribute`, and how to read the answer. A request header is looked for in the header map, unless
/// `is_header_map_full`: there is no place for more then.
pub(super) fn wanted(attribute: &Attribute, is_header_map_full: bool) -> (Value, Form) {
    let path = attribute.expression.path.as_deref();
    if let Some(value) = path.and_then(|path| text_value(path, is_header_map_full)) {
        return (value, Form::Text);
    }
    let text = &attribute.expression.text;
    let term = match path.filter(|path| (2..=MAX_GUARDED_STEPS).contains(&path.len())) {
        Some(path) => format!("({}?{}:\"\")", guard(path), typed(&written(path))),
        None => typed(text),
    };
    let expression = NamedExpression { name: attribute.name.clone(), text: text.clone(), term };
    (Value::expression(expression), Form::Typed)
}

/// What is known to be text.
fn text_value(path: &[Step], is_header_map_full: bool) -> Option<Value> {
    let names: Vec<&str> = path.iter().map(Step::name).collect::<Option<_>>()?;
    match names.as_slice() {
        ["request", "headers", name] if is_header_name(name) => {
            let name = name.to_ascii_lowercase();
            let by_name = Value::header("request", &name);
            Some(if is_header_map_full { by_name } else { Value::request_header(&name) })
        }
        ["response", "headers", name] if is_header_name(name) => {
            Some(Value::response_header(&name.to_ascii_lowercase()))
        }
        [group, name] => {
            let name = format!("{group}.{name}");
            is_text(&name).then(|| Value::attribute(&name, Presence::Optional))
        }
        _ => None,
    }
}

/// RFC 9110, section 5.6.2, and the names of HTTP/2's pseudo headers: nothing that would have to be escaped.
fn is_header_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:".contains(&byte))
}

/// Whether a path leads anywhere: each of its steps but the first.
fn guard(path: &[Step]) -> String {
    let step = |(before, step): (usize, &Step)| {
        let before = written(path.get(..=before).unwrap_or_default());
        match step {
            Step::Name(name) => format!("has({before}.{name})"),
            Step::Key(literal) => format!("{literal} in {before}"),
        }
    };
    path.iter().skip(1).enumerate().map(step).collect::<Vec<_>>().join("&&")
}

/// A path as CEL.
fn written(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Name(name) if text.is_empty() => text.push_str(name),
            Step::Name(name) => text.extend([".", name]),
            Step::Key(literal) => text.extend(["[", literal, "]"]),
        }
    }
    text
}

/// The value of `expression` with its type, evaluated once. It may end in a comment.
fn typed(expression: &str) -> String {
    format!(
        "[({expression}\n)].map(v,type(v)==string||type(v)==bytes?[\"s\",v]:type(v)==int||type(v)==uint?[\"i\",v]:\
         type(v)==double?[\"d\",v]:type(v)==bool?[\"b\",v]:type(v)==null_type?[\"n\",\"\"]:\
         type(v)==list&&v.all(t,type(t)==string)?[\"l\",v]:[\"\",\"\"])[0]"
    )
}

/// Reads an answer; `None` where the request lacks the value.
pub(super) fn read(answer: &[u8], form: Form) -> Result<Option<AttributeValue<'_>>, NotAnAttribute> {
    if answer.is_empty() {
        return Ok(None);
    }
    match form {
        Form::Text => Ok(Some(AttributeValue::Text(answer))),
        Form::Typed => typed_value(answer),
    }
}

fn typed_value(answer: &[u8]) -> Result<Option<AttributeValue<'_>>, NotAnAttribute> {
    let mut parts = items(answer)?;
    let (Some(letter), Some(value), None) = (parts.next(), parts.next(), parts.next()) else {
        return Err(NotAnAttribute);
    };
    let (letter, value) = (letter?, value?);
    let number = || value.try_into().map_err(|_| NotAnAttribute);
    Ok(Some(match letter {
        b"s" => AttributeValue::Text(value),
        b"i" => AttributeValue::Int(i64::from_le_bytes(number()?)),
        b"d" => AttributeValue::Double(f64::from_le_bytes(number()?)),
        b"b" => AttributeValue::Bool(value != [0]),
        b"l" => AttributeValue::Texts(items(value)?.collect::<Result<_, _>>()?),
        b"n" => return Ok(None),
        _ => return Err(NotAnAttribute),
    }))
}

/// The items of a list.
fn items(list: &[u8]) -> Result<impl Iterator<Item = Result<&[u8], NotAnAttribute>>, NotAnAttribute> {
    let pairs = Pairs::of(list).map_err(|_| NotAnAttribute)?;
    Ok(pairs.map(|pair| pair.map(|(item, _)| bytes_in(list, item)).map_err(|_| NotAnAttribute)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Expression;
    use crate::testing::list;
    use proptest::prelude::*;

    fn wanted_of(text: &str) -> (Value, Form) {
        let expression = Expression::parse(text).unwrap();
        wanted(&Attribute { name: "a".to_owned(), expression }, false)
    }

    fn term(text: &str) -> String {
        wanted_of(text).0.named().unwrap().term.clone()
    }

    #[test]
    fn what_is_known_to_be_text_is_asked_for_as_the_records_own_fields_are() {
        for (text, path) in [
            ("request.headers['X-A']", &b"request\0headers\0x-a"[..]),
            ("request.headers.referer", b"request\0headers\0referer"),
            ("response . headers[\"x-b\"]", b"response\0headers\0x-b"),
            ("connection.tls_version", b"connection\0tls_version"),
        ] {
            let (value, form) = wanted_of(text);
            assert_eq!((value.property_path.as_slice(), form), (path, Form::Text), "{text}");
            assert!(value.named().is_none());
        }
        assert!(wanted_of("request.headers['x-a']").0.is_in_headers());
        let expression = Expression::parse("request.headers['x-a']").unwrap();
        let (value, _) = wanted(&Attribute { name: "a".to_owned(), expression }, true);
        assert!(!value.is_in_headers(), "there is no place for it");
    }

    #[test]
    fn a_path_is_guarded_step_by_step_and_an_expression_guards_itself() {
        assert!(term("connection.mtls").starts_with("(has(connection.mtls)?[(connection.mtls\n)].map("));
        assert!(term("metadata.filter_metadata['a'].b").starts_with(
            "(has(metadata.filter_metadata)&&'a' in metadata.filter_metadata&&has(metadata.filter_metadata['a'].b)?"
        ));
        for text in ["1 / 2 // comment", "plugin_name", "a.b.c.d.e.f.g.h.i"] {
            assert!(term(text).starts_with(&format!("[({text}\n)].map(")), "{text}");
        }
        // What would end the string that a header's name is put into.
        assert!(term("request.headers['a\"b']").starts_with("(has(request.headers)&&"));
    }

    #[test]
    fn an_answer_says_of_what_type_it_is() {
        let number = (-7_i64).to_le_bytes();
        let texts = list(&[b"a", b""]);
        let cases: [(&[&[u8]], _); 11] = [
            (&[b"s", b"text"], Ok(Some(AttributeValue::Text(b"text")))),
            (&[b"i", &number], Ok(Some(AttributeValue::Int(-7)))),
            (&[b"d", &1.5_f64.to_le_bytes()], Ok(Some(AttributeValue::Double(1.5)))),
            (&[b"b", &[1]], Ok(Some(AttributeValue::Bool(true)))),
            (&[b"b", &[0]], Ok(Some(AttributeValue::Bool(false)))),
            (&[b"l", &texts], Ok(Some(AttributeValue::Texts(vec![b"a", b""])))),
            (&[b"n", b""], Ok(None)),
            (&[b"", b""], Err(NotAnAttribute)),
            (&[b"i", b"7"], Err(NotAnAttribute)),
            (&[b"l", b"text"], Err(NotAnAttribute)),
            (&[b"s"], Err(NotAnAttribute)),
        ];
        for (parts, expected) in cases {
            assert_eq!(read(&list(parts), Form::Typed), expected, "{parts:?}");
        }
        assert_eq!(read(b"", Form::Typed), Ok(None));
        assert_eq!(read(b"text", Form::Text), Ok(Some(AttributeValue::Text(b"text"))));
    }

    proptest! {
        #[test]
        fn any_answer_is_read(answer in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = read(&answer, Form::Typed);
        }
    }
}
