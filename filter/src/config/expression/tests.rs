//! What is read as an expression, and where one that is wrong is wrong.

use super::*;
use proptest::prelude::*;

#[test]
fn expressions_are_read() {
    for text in [
        "request.headers['x-tenant']",
        " request . path // the whole of it",
        r#"request.headers["a\"b"] + r'\' + b"""x "quoted" \""" """ + rb'' "#,
        "-1 + --2.5e-3 * .5 - 0x1Fu / 7U % 1e9",
        "!!has(a.b) && (a in [1, 2,] || a.exists(x, x.startsWith('y'))) ? {'k': 1, 2: [3]} : size({})",
        "a ? b : c ? d : e",
        ".google.protobuf.Duration == type(request.duration)",
        "[]",
        "f()",
        "inner in inset",
        "'ä€' + \"日本\"",
        "int(response.code)/100==5",
    ] {
        let read = Expression::parse(text);
        assert!(read.is_ok(), "{text}: {read:?}");
    }
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    for (text, position, expected) in [
        ("", 1, "a value"),
        ("  ", 3, "a value"),
        ("request.", 9, "a name"),
        ("request.headers['x", 17, "a string that ends"),
        ("request.headers['x']]", 21, "an operator, or the end"),
        ("request.headers['x'", 20, "`]`"),
        ("a b", 3, "an operator, or the end"),
        ("a ? b", 6, "`:`"),
        ("a ? b ? c : d : e", 7, "`:`"),
        ("f(a,,b)", 5, "a value"),
        ("f(a b)", 5, "`,` or `)`"),
        ("[1, 2", 6, "`,` or `]`"),
        ("{'a' 1}", 6, "`:`"),
        ("a = b", 3, "an operator, or the end"),
        ("a == @", 6, "a value"),
        ("'ä' + #", 8, "a value"),
        ("12ab", 3, "a number that ends"),
        ("0x", 3, "a number that ends"),
        ("1e+", 4, "a number that ends"),
        ("a.1", 3, "a name"),
        ("'a\nb'", 1, "a string that ends"),
        (r"'\'", 1, "a string that ends"),
        ("%{REQ(:path)}%", 1, "a value"),
        ("a in", 5, "a value"),
        ("1],[2", 2, "an operator, or the end"),
    ] {
        let error = Expression::parse(text).unwrap_err();
        assert_eq!((error.position, error.expected), (position, expected), "{text}");
    }
}

#[test]
fn a_path_is_known_by_its_steps() {
    let path = |text| Expression::parse(text).unwrap().path;
    let name = |name: &str| Step::Name(name.to_owned());
    let key = |literal: &str| Step::Key(literal.to_owned());
    let header = vec![name("request"), name("headers"), key("'X-A'")];
    assert_eq!(path("request . headers [ 'X-A' ] // comment"), Some(header));
    assert_eq!(path("a[\"b\\\"\"].c"), Some(vec![name("a"), key("\"b\\\"\""), name("c")]));
    assert_eq!(path("plugin_name"), Some(vec![name("plugin_name")]));
    for none in ["a.b()", "a[1]", "a + b", "(a.b)", "'x'", "a[b]"] {
        assert_eq!(path(none), None, "{none}");
    }
    assert_eq!((key("'X-A'").name(), key("\"b\\\"\"").name(), key("r'x'").name()), (Some("X-A"), None, None));
}

#[test]
fn words_are_all_that_a_value_may_be_taken_from() {
    let words = Expression::parse("'Authorization' in request.headers ? f(a['b'].C) : r'x'").unwrap().words;
    assert_eq!(words, ["authorization", "request", "headers", "f", "a", "b", "c", "x"]);
}

#[test]
fn headers_that_are_taken_without_their_names_are_noticed() {
    let has_unnamed = |text| Expression::parse(text).unwrap().has_unnamed_headers;
    for text in [
        "request.headers['x-a']",
        "request.headers.referer + response.trailers [ \"x\" ]",
        "'x-a' in request.headers ? request.headers['x-a'].upperAscii() : 'none'",
        "headers.map(h, h)",
        "request['headers']['x-a'] + xs[0]",
        "'x-a' in request['headers']",
    ] {
        assert!(!has_unnamed(text), "{text}");
    }
    for text in [
        "request.headers",
        "request.headers.map(name, request.headers[name])",
        "response.headers['x-' + request.method]",
        r"request.headers['\x61uthorization']",
        "'x' in request.headers ? response.trailers.filter(k, true) : []",
        "[request.headers][0]['authorization']",
        "request['headers']",
        "request['headers'].map(name, name)",
        "request['headers']['author' + 'ization']",
        "request['headers'][request.headers['x-pick']]",
        "request['head' + 'ers']['x-a']",
        r"request['\x68eaders']['x-a']",
        "request['use' + 'ragent']",
    ] {
        assert!(has_unnamed(text), "{text}");
    }
}

proptest! {
    #[test]
    fn any_text_is_an_expression_or_wrong_somewhere_in_it(text in "[a-b0-1.'\"\\\\(){}\\[\\]?:,!+ -/uxeä\n]{0,40}") {
        if let Err(error) = Expression::parse(&text) {
            prop_assert!((1..=text.len() + 1).contains(&error.position));
        }
    }
}
